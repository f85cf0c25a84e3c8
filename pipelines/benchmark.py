"""Stage benchmark: runs every selector and retrains a model on its top k fields, over a grid of k and seeds.

Retrains are cached in the runs folder by (data, model, seed, fields): methods and later runs that need the
same one share it, and a killed benchmark goes on where it was.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.text import Text

from pipelines import select_features
from pipelines.benchmark_results import Benchmark, Found
from pipelines.benchmark_settings import Settings, benchmark_settings
from pipelines.config import RunConfig
from pipelines.node import NOT_HASHED, Node, make_node, run_node, settings_read
from pipelines.retrains import Retrained, device_name, retrain
from pipelines.stage import Result, Stage
from recsys.config.factory import Part
from recsys.errors import ConfigError
from recsys.events import Reporters, raise_if_cancelled
from recsys.features.schema import Schema
from recsys.selection.reports.curve import checked_grid
from recsys.selection.reports.find import read
from recsys.selection.reports.report import Report
from recsys.selection.scores import KeepsNothing
from recsys.terminal import console

__all__ = ["run", "search_node"]

_console = console()
_NOT_HASHED = (
    *NOT_HASHED,
    "pipelines.config",
    "pipelines.stage",
    "recsys.selection.reports.report_page",
)
"""Code that no search depends on."""


def search_node(config: RunConfig, folder: Path, done: Mapping[str, Path]) -> Node:
    """All that a report depends on: settings, model, rows, device, and the code of the method and its measures."""
    settings, device = settings_read("select", config), device_name(config)
    return make_node("select", settings, folder, done, ["pipelines.select_features"], _NOT_HASHED, device)


def _search(stage: Stage, name: str, method: Part, seed: int, model: Path, no_cut: int) -> Report:
    """The method's report on the model in that folder; searched once, unless settings or code have changed since."""
    raise_if_cancelled(stage.reporter)
    folder, done = stage.folder / "searches" / name / str(seed), {"prepare": stage.done["prepare"], "train": model}
    select = replace(stage.config.select, no_cut=no_cut)
    config = replace(stage.config, seed=seed, selection=method, select=select)
    reporter = Reporters(stage.reporter, metrics=False)
    run_node(search_node(config, folder, done), folder, lambda: _without_page(Stage(config, folder, done, reporter)))
    return read(folder / "report.json")


def _without_page(stage: Stage) -> Result:
    """Search without a page: the benchmark writes one over all seeds at its end."""
    result = select_features.run(stage)
    (stage.folder / "report.html").unlink()
    return replace(result, artifacts=[p for p in result.artifacts if p.name != "report.html"])


def _kept_at(
    stage: Stage, name: str, method: Part, seed: int, model: Path, share: float
) -> tuple[int, Retrained | None]:
    """How many fields the method keeps at another price, and a model on them; None if it keeps none."""
    priced = {**method, "price": None, "gain_share": share}
    try:
        names = _search(stage, f"{name}_at_{share:g}", priced, seed, model, 1).kept
    except KeepsNothing:
        return 0, None
    return len(names), retrain(stage, names, seed)


def _try(
    stage: Stage, settings: Settings, benchmark: Benchmark, name: str, method: Part, seed: int, model: Path
) -> None:
    """One method under one seed: its search, and models on its top k, on what it keeps, and at each price."""
    result, fields = benchmark.methods[name], len(benchmark.schema.fields)
    try:
        report = _search(stage, name, method, seed, model, settings.no_cut or max(1, fields // 2))
    except ConfigError as error:
        result.failed = str(error)
        _console.print(Text(f"{name} has no answer:", "yellow"), str(error), soft_wrap=True)
        return
    ranking = list(report.fields)
    result.reports.append(report)
    result.at_grid.append([retrain(stage, ranking[:k], seed) for k in benchmark.grid])
    result.kept.append(retrain(stage, report.kept, seed))
    for share in settings.gain_shares or () if "gain_share" in method else ():
        result.at_price.setdefault(share, []).append(_kept_at(stage, name, method, seed, model, share))


def run(stage: Stage) -> Result:
    """Benchmark the methods of `config.benchmark` → a table, a page, and each one's report with its retrain curve."""
    settings = benchmark_settings(stage.config.benchmark)
    schema = Schema.load(stage.data / "schema.json")
    grid, methods = checked_grid(settings.grid, len(schema.fields)), settings.selectors()
    results, reference = {name: Found() for name in methods}, settings.reference or next(iter(methods))
    benchmark = Benchmark(stage, schema, settings.metric, grid, settings.seeds, reference, results)
    for i, seed in enumerate(settings.seeds):
        _console.print(Text(f"seed {seed}", "bold"), f"({i + 1} of {len(settings.seeds)})")
        benchmark.full.append(retrain(stage, schema.names, seed))
        for j, name in enumerate(results):
            if not results[name].failed:
                counts = f"({j + 1} of {len(results)} methods, seed {i + 1} of {len(settings.seeds)})"
                _console.print(Text(name, "bold"), counts)
                _try(stage, settings, benchmark, name, methods[name], seed, benchmark.full[-1].folder)
    return benchmark.conclude()

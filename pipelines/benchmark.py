"""Stage benchmark: every selector searches, its top k are retrained from scratch, over a grid of k and seeds.

Retrains are kept in the runs folder by (data, model, seed, fields): methods, seeds and later runs that
ask for the same one share it, and a killed benchmark goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import OmegaConf
from rich.console import Console

import recsys
from pipelines import CONF, select_features, train
from pipelines.evaluate import measure
from pipelines.stage import Result, Stage, write_json
from recsys import checkpoint
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.factory import make, make_dataclass
from recsys.lock import locked
from recsys.schema import Schema
from recsys.selection.benchmark_page import write_page
from recsys.selection.curve import checked_grid, curve_summary
from recsys.selection.find import read
from recsys.selection.over_seeds import kept_names, over_seeds
from recsys.selection.savings import savings
from recsys.versions import code_version, targets

__all__ = ["Settings", "run"]

_console = Console(stderr=True)
_METRICS = ("auc", "logloss")
_NO_PART = ("recsys.html", "recsys.data.baseline", "recsys.selection")  # of a retrain: pages and what picks its fields


@dataclass(frozen=True)
class Settings:
    """What a benchmark goes through.

    Args:
        methods: Names of options of the group selection; None is all of them.
        settings: By name, what differs from its conf file.
        seeds: Of searches and retrains; each search is on the model trained with its seed.
        grid: Climbing counts of fields; None chooses them.
        metric: `auc` or `logloss`, of the test split.
        no_cut: Fields kept by a method that gives an order and no cut; None is half of all.
    """

    methods: list[str] | None = None
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    grid: list[int] | None = None
    metric: str = "auc"
    no_cut: int | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"benchmark.seeds: expected different seeds, got {self.seeds}: for example [0, 1, 2]")
        if self.metric not in _METRICS:
            raise ConfigError(f"benchmark.metric: expected auc or logloss, got {self.metric!r}: change it")

    def selectors(self) -> dict[str, dict[str, Any]]:
        """Name → configuration of each method.

        Raises:
            ConfigError: If there is no such selector, or one of its settings cannot be.
        """
        options = {p.stem: p for p in sorted((CONF / "selection").glob("*.yaml"))}
        names = list(options) if self.methods is None else self.methods
        unknown = [n for n in (*names, *self.settings) if n not in options]
        if unknown or not names:
            named = unknown or "named"
            raise ConfigError(f"benchmark.methods: no selector {named}: expected some of {', '.join(options)}")
        found: dict[str, dict[str, Any]] = {}
        for name in names:
            own = OmegaConf.to_container(OmegaConf.load(options[name]))
            found[name] = {**cast(dict[str, Any], own), **self.settings.get(name, {})}
            make(found[name], f"benchmark.settings.{name}")
        return found


@dataclass
class _Found:
    """What one method has come to, a value a seed.

    Args:
        reports: Its searches.
        at_grid: Test figures of its top k, by k.
        kept: Of what it keeps.
        failed: Why it has no answer.
    """

    reports: list[dict[str, Any]] = field(default_factory=list)
    at_grid: list[list[dict[str, float]]] = field(default_factory=list)
    kept: list[dict[str, float]] = field(default_factory=list)
    failed: str = ""


def _retrain_name(stage: Stage, names: Sequence[str], seed: int) -> str:
    """Names a retrain: all that its weights and figures depend on, the code included."""
    parts = {k: stage.config[k] for k in ("model", "embedding", "sequence", "train")}
    code = code_version("pipelines.train", "pipelines.evaluate", *targets(parts), without=_NO_PART)
    versions = [recsys.__version__, torch.__version__, checkpoint.VERSION, code]
    key = json.dumps([stage.data.name, parts, seed, sorted(names), versions], sort_keys=True)
    return hashlib.sha256(key.encode()).hexdigest()[:20]


def _retrain(stage: Stage, names: Sequence[str], seed: int) -> tuple[Path, dict[str, float]]:
    """The folder and the figures of a model trained on these fields alone, from the cache if it is there."""
    config = stage.config
    folder = Path(config["runs"]) / "cache" / "retrains" / _retrain_name(stage, names, seed)
    done, label = folder / "metrics.json", f"  {len(names)} fields"
    with locked(folder.with_suffix(".lock")):
        if done.exists():
            found = json.loads(done.read_text())
            _console.print(f"{label}: test AUC {found['auc']:.4f} (known)", highlight=False)
            return folder, found
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        apply = {**config["select"], "apply": list(names)}
        own = Stage({**config, "seed": seed, "select": apply}, folder, stage.done)
        train.run(own)
        (folder / "resume.pt").unlink(missing_ok=True)
        found, _, _ = measure(folder, own)
        if len(names) < len(Schema.load(stage.data / "schema.json").fields):
            (folder / "model.pt").unlink()  # only searches need weights
        write_json(done, found)
        _console.print(f"{label}: test AUC {found['auc']:.4f}, {time.perf_counter() - started:.0f} s", highlight=False)
    return folder, found


def _search(stage: Stage, name: str, method: dict[str, Any], seed: int, model: Path, no_cut: int) -> dict[str, Any]:
    """The method's report on the model in that folder; searched once."""
    folder = stage.folder / "searches" / name / str(seed)
    if not (folder / "kept.yaml").exists():  # the last thing that is written
        folder.mkdir(parents=True, exist_ok=True)
        config = {**stage.config, "seed": seed, "selection": method}
        config["select"] = {**stage.config["select"], "no_cut": no_cut}
        select_features.run(Stage(config, folder, {**stage.done, "train": model}))
        (folder / "report.html").unlink()  # the page over all seeds is written at the end
    return read(folder / "report.json")


def run(stage: Stage) -> Result:
    """Benchmark what `config.benchmark` names → a table, a page, and a report for each with its retrain curve."""
    if "benchmark" not in stage.config:
        raise ConfigError("stage benchmark needs the key benchmark: start from experiment=selection_benchmark")
    settings = make_dataclass(Settings, stage.config["benchmark"], "benchmark")
    schema = Schema.load(stage.data / "schema.json")
    grid = checked_grid(settings.grid, len(schema.fields))
    no_cut = settings.no_cut or max(1, len(schema.fields) // 2)
    methods = settings.selectors()
    found = {name: _Found() for name in methods}
    full: list[dict[str, float]] = []
    models: list[Path] = []
    for i, seed in enumerate(settings.seeds):
        _console.print(f"[bold]seed {seed}[/] ({i + 1} of {len(settings.seeds)})", highlight=False)
        model, figures = _retrain(stage, schema.names, seed)
        models.append(model)
        full.append(figures)
        for j, (name, of) in enumerate(found.items()):
            if of.failed:
                continue
            about = f"({j + 1} of {len(found)} methods, seed {i + 1} of {len(settings.seeds)})"
            _console.print(f"[bold]{name}[/] {about}", highlight=False)
            try:
                report = _search(stage, name, methods[name], seed, model, no_cut)
            except ConfigError as error:
                of.failed = str(error)
                _console.print(f"[yellow]{name} has no answer:[/] {error}", highlight=False, soft_wrap=True)
                continue
            ranking = list(report["fields"])
            of.reports.append(report)
            of.at_grid.append([_retrain(stage, _ordered(schema, ranking[:k]), seed)[1] for k in grid])
            of.kept.append(_retrain(stage, _ordered(schema, kept_names(report)), seed)[1])
    return _conclude(stage, settings, schema, grid, found, full, models)


def _ordered(schema: Schema, names: Sequence[str]) -> list[str]:
    return [n for n in schema.names if n in set(names)]


def _curve(
    settings: Settings, grid: list[int], of: _Found, full: list[dict[str, float]], metric: str
) -> dict[str, Any]:
    seeds = [str(s) for s in settings.seeds]
    return {
        "metric": metric,
        "grid": grid,
        "by_seed": {s: [m[metric] for m in row] for s, row in zip(seeds, of.at_grid, strict=True)},
        "full": {s: m[metric] for s, m in zip(seeds, full, strict=True)},
        "kept": {s: m[metric] for s, m in zip(seeds, of.kept, strict=True)},
    }


def _conclude(
    stage: Stage,
    settings: Settings,
    schema: Schema,
    grid: list[int],
    found: Mapping[str, _Found],
    full: list[dict[str, float]],
    models: Sequence[Path],
) -> Result:
    """Reports over all seeds, the table over all methods, the page."""
    valid = Shards(stage.data, "valid", schema)
    whole, spec = checkpoint.load(models[0])
    answered = {name: of for name, of in found.items() if not of.failed}
    chance = found.get("random")
    by_chance = (
        _curve(settings, grid, chance, full, settings.metric)["by_seed"] if chance and not chance.failed else None
    )
    methods: dict[str, dict[str, Any]] = {n: {"failed": of.failed} for n, of in found.items() if of.failed}
    metrics: dict[str, float] = {}
    artifacts: list[Path] = []
    for name, of in answered.items():
        curves = {m: _curve(settings, grid, of, full, m) for m in _METRICS}
        curve: dict[str, Any] = {**curves[settings.metric], "random": by_chance}
        report = over_seeds(of.reports)
        kept = _ordered(schema, kept_names(report))
        report["savings"] = savings(
            whole, lambda s: checkpoint.build(s, spec), kept, valid, stage.config["train"]["precision"]
        )
        report["curve"] = {**curve, "summary": curve_summary(curve)}
        folder = stage.folder / "reports" / name
        folder.mkdir(parents=True, exist_ok=True)
        select_features.write_report(folder, report, kept)
        artifacts.append(folder)
        summary = curve_summary(curve)
        methods[name] = {
            **summary,
            "kept": [len(kept_names(r)) for r in of.reports],
            "logloss_kept_change": curve_summary(curves["logloss"])["kept_change"],
            "search_seconds": report["search"]["seconds"],
            "health": report["health"],
            "curve": curve,
            "report": f"reports/{name}/report.html",
        }
        metrics |= {f"{name}.{settings.metric}_at_{k}": v["mean"] for k, v in summary["at_k"].items()}
        metrics |= {
            f"{name}.kept_change": summary["kept_change"]["mean"],
            f"{name}.seconds": report["search"]["seconds"],
        }
        if summary["area"]:
            metrics[f"{name}.aukc"] = summary["area"]["mean"]
    about = {
        "data": stage.data.name,
        "fields": len(schema.fields),
        "metric": settings.metric,
        "grid": grid,
        "seeds": settings.seeds,
        "methods": methods,
    }
    table = write_json(stage.folder / "benchmark.json", about)
    page = stage.folder / "benchmark.html"
    write_page(about, page)
    return Result(metrics, artifacts=[table, page, *artifacts])

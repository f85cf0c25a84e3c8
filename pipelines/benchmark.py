"""Stage benchmark: every selector searches, its top k are retrained from scratch, over a grid of k and seeds.

Retrains are kept in the runs folder by (data, model, seed, fields): methods, seeds and later runs that
ask for the same one share it, and a killed benchmark goes on where it was.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import recsys
from pipelines import select_features, train
from pipelines.benchmark_settings import Settings, benchmark_settings
from pipelines.evaluate import measure
from pipelines.stage import Result, Stage, write_json
from recsys import checkpoint
from recsys.data.shards import Shards, read_array
from recsys.errors import ConfigError
from recsys.files import read_json, whole
from recsys.lock import locked
from recsys.schema import Schema
from recsys.selection.agreement import holm, influence, mean_with_interval, paired_difference
from recsys.selection.benchmark_page import write_page
from recsys.selection.curve import checked_grid, curve_summary
from recsys.selection.find import read
from recsys.selection.over_seeds import kept_names, over_seeds
from recsys.selection.savings import savings
from recsys.train import logits
from recsys.versions import code_version, targets

__all__ = ["run"]

_console = Console(stderr=True)
_METRICS = ("auc", "logloss")
_LOGITS = "test_logits.npy"
_NO_PART = ("recsys.html", "recsys.data.baseline", "recsys.selection")  # of a retrain: pages and what picks its fields


@dataclass
class _Found:
    """What one method has come to, a value a seed.

    Args:
        reports: Its searches.
        at_grid: Test figures of its top k, by k.
        folders: Of the models of `at_grid`, which hold their test logits.
        kept_folders: The same of `kept`.
        kept: Of what it keeps.
        at_price: By share of the gain: a list of (fields kept, figures of a retrain on them).
        failed: Why it has no answer.
    """

    reports: list[dict[str, Any]] = field(default_factory=list)
    at_grid: list[list[dict[str, float]]] = field(default_factory=list)
    kept: list[dict[str, float]] = field(default_factory=list)
    folders: list[list[Path]] = field(default_factory=list)
    kept_folders: list[Path] = field(default_factory=list)
    at_price: dict[float, list[tuple[int, dict[str, float]]]] = field(default_factory=dict)
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
        if done.exists() and (folder / _LOGITS).exists():
            found = read_json(done, "the figures of a retrain", f"remove {folder}, and it is trained again")
            (folder / "resume.pt").unlink(missing_ok=True)  # if a kill came just before that
            _console.print(f"{label}: test AUC {found['auc']:.4f} (known)", highlight=False)
            return folder, found
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        apply = {**config["select"], "apply": list(names)}
        own = Stage({**config, "seed": seed, "select": apply}, folder, stage.done)
        train.run(own)
        found, _, _ = measure(folder, own)
        model, _ = checkpoint.load(folder)
        with whole(folder / _LOGITS, "wb") as file:
            np.save(file, logits(model, Shards(stage.data, "test", model.schema)).astype(np.float32))
        if len(names) < len(Schema.load(stage.data / "schema.json").fields):
            (folder / "model.pt").unlink()  # only searches need weights
        write_json(done, found)
        (folder / "resume.pt").unlink(missing_ok=True)
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


def _kept_at(
    stage: Stage, name: str, method: dict[str, Any], seed: int, model: Path, share: float, report: dict[str, Any]
) -> list[str]:
    """What the method keeps at another price; permutation's scores do not depend on it and are cut anew."""
    if name == "permutation" and method["price"] is None:
        price = report["search"]["price"] * share / method["gain_share"]
        chosen = [n for n, f in report["fields"].items() if f["score"] > price] or list(report["fields"])[:1]
    else:
        priced = {**method, "price": None, "gain_share": share}
        chosen = kept_names(_search(stage, f"{name}_at_{share:g}", priced, seed, model, 1))
    return _ordered(Schema.load(stage.data / "schema.json"), chosen)


class _Rows:
    """The test rows, and how far each moves a figure of a retrained model."""

    def __init__(self, data: Path):
        self.test = Shards(data, "test")
        self.influence = cache(self._influence)

    def _influence(self, folder: Path, metric: str) -> np.ndarray:
        logit_B = read_array(folder / _LOGITS, f"remove {folder}, and it is trained again")
        return influence(metric, logit_B, self.test.label_B, self.test.weight_B)

    def of(self, folders: Sequence[Path], metric: str) -> np.ndarray:
        """Of the mean over seeds → [R]."""
        return np.mean([self.influence(f, metric) for f in folders], 0)


def _differences(rows: _Rows, settings: Settings, grid: list[int], found: Mapping[str, _Found]) -> dict[str, Any]:
    """LeAP − each other method at each k, with p corrected by Holm for all of them together."""
    leap, made = found["leap"], dict[str, dict[str, Any]]()
    for name, of in found.items():
        if name == "leap":
            continue
        made[name] = {}
        for i, k in enumerate(grid):
            change_S = [
                a[i][settings.metric] - b[i][settings.metric] for a, b in zip(leap.at_grid, of.at_grid, strict=True)
            ]
            ours, theirs = (rows.of([f[i] for f in m.folders], settings.metric) for m in (leap, of))
            made[name][str(k)] = paired_difference(change_S, ours - theirs)
    flat = [d for by_k in made.values() for d in by_k.values()]
    for d, p in zip(flat, holm([d["p"] for d in flat]), strict=True):
        d["p_holm"] = p
    return made


def run(stage: Stage) -> Result:
    """Benchmark what `config.benchmark` names → a table, a page, and a report for each with its retrain curve."""
    settings = benchmark_settings(stage.config)
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
            retrained = [_retrain(stage, _ordered(schema, ranking[:k]), seed) for k in grid]
            of.folders.append([folder for folder, _ in retrained])
            of.at_grid.append([figures for _, figures in retrained])
            kept_folder, kept_figures = _retrain(stage, _ordered(schema, kept_names(report)), seed)
            of.kept.append(kept_figures)
            of.kept_folders.append(kept_folder)
            for share in settings.gain_shares or () if "gain_share" in methods[name] else ():
                names = _kept_at(stage, name, methods[name], seed, model, share, report)
                of.at_price.setdefault(share, []).append((len(names), _retrain(stage, names, seed)[1]))
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


def _frontier(of: _Found, full: list[dict[str, float]], metric: str) -> list[dict[str, Any]]:
    """At each price, the fields kept and the change of a retrain on them, paired over seeds."""
    return [
        {
            "gain_share": share,
            "kept": [count for count, _ in at],
            "change": mean_with_interval([m[metric] - f[metric] for (_, m), f in zip(at, full, strict=True)]),
        }
        for share, at in sorted(of.at_price.items())
    ]


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
    rows, metric = _Rows(stage.data), settings.metric
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
        change_S = [a[metric] - b[metric] for a, b in zip(of.kept, full, strict=True)]
        moved_R = rows.of(of.kept_folders, metric) - rows.of(models, metric)
        summary["kept_change"] = paired_difference(change_S, moved_R)
        report["curve"]["summary"]["kept_change"] = summary["kept_change"]
        methods[name] = {
            **summary,
            "frontier": _frontier(of, full, metric),
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
        "differences": _differences(rows, settings, grid, answered) if "leap" in answered else {},
    }
    table = write_json(stage.folder / "benchmark.json", about)
    page = stage.folder / "benchmark.html"
    write_page(about, page)
    return Result(metrics, artifacts=[table, page, *artifacts])

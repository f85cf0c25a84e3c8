"""The results of a benchmark: reports over all seeds, the table over all methods, the page."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipelines import select_features
from pipelines.retrains import Changes, Retrained, ordered
from pipelines.stage import Result, Stage, write_json
from recsys.data.shards import Shards
from recsys.features.schema import Schema
from recsys.selection.reports.agreement import holm
from recsys.selection.reports.benchmark_page import Answer, Benchmarked, NoAnswer, Priced, write_page
from recsys.selection.reports.curve import curve_summary
from recsys.selection.reports.over_seeds import over_seeds
from recsys.selection.reports.report import Curve, Difference, Report
from recsys.selection.reports.savings import savings
from recsys.training import checkpoint
from recsys.training.device import Device

__all__ = ["Benchmark", "Found"]


@dataclass
class Found:
    """The results of one method, one entry for each seed.

    Args:
        reports: Reports of its searches.
        at_grid: Models retrained on its top k fields, one for each k.
        kept: Models retrained on the fields that it keeps.
        at_price: Share of the gain → entries (fields kept, a model on them; None if it keeps none).
        failed: Why it has no answer; empty if it has one.
    """

    reports: list[Report] = field(default_factory=list[Report])
    at_grid: list[list[Retrained]] = field(default_factory=list)
    kept: list[Retrained] = field(default_factory=list)
    at_price: dict[float, list[tuple[int, Retrained | None]]] = field(default_factory=dict)
    failed: str = ""


@dataclass
class Benchmark:
    """All searches and retrains of a benchmark.

    Args:
        stage: Its folder takes the results.
        schema: All fields.
        metric: Of the test split.
        grid: Numbers of fields.
        seeds: In the order of the lists in `full` and `methods`.
        reference: Name of the method that each other one is compared with.
        methods: Name of a method → its results.
        full: Models on all fields.
    """

    stage: Stage
    schema: Schema
    metric: str
    grid: list[int]
    seeds: list[int]
    reference: str
    methods: dict[str, Found]
    full: list[Retrained] = field(default_factory=list)

    def conclude(self) -> Result:
        """Write the reports, the table and the page."""
        answered = {name: method for name, method in self.methods.items() if not method.failed}
        change = Changes(self.stage.data)
        by_chance = self._curve(answered["random"])["by_seed"] if "random" in answered else None
        answers = {name: self._method(name, method, change, by_chance) for name, method in answered.items()}
        failed: dict[str, NoAnswer] = {n: {"failed": m.failed} for n, m in self.methods.items() if m.failed}
        benchmarked: Benchmarked = {
            "data": self.stage.data.name,
            "fields": len(self.schema.fields),
            "metric": self.metric,
            "grid": self.grid,
            "seeds": self.seeds,
            "methods": {**failed, **answers},
            "differences": self._differences(change, answered),
        }
        table = write_json(self.stage.folder / "benchmark.json", benchmarked)
        page = self.stage.folder / "benchmark.html"
        write_page(benchmarked, page)
        metrics = {k: v for n in answered for k, v in self._metrics(n, answers[n]).items()}
        return Result(metrics, artifacts=[table, page, *(self._folder(n) for n in answered)])

    def _folder(self, name: str) -> Path:
        return self.stage.folder / "reports" / name

    def _curve(self, method: Found) -> Curve:
        seeds, metric = [str(s) for s in self.seeds], self.metric
        return {
            "metric": metric,
            "grid": self.grid,
            "by_seed": {s: [m.figures[metric] for m in row] for s, row in zip(seeds, method.at_grid, strict=True)},
            "full": {s: m.figures[metric] for s, m in zip(seeds, self.full, strict=True)},
            "kept": {s: m.figures[metric] for s, m in zip(seeds, method.kept, strict=True)},
        }

    def _method(self, name: str, method: Found, change: Changes, by_chance: dict[str, list[float]] | None) -> Answer:
        """A method's row of the table; writes its report over all seeds."""
        curve: Curve = {**self._curve(method), "random": by_chance}
        summary = curve_summary(curve)
        summary["kept_change"] = change(method.kept, self.full, self.metric)
        report = over_seeds(method.reports)
        self._write_report(name, report, {**curve, "summary": summary})
        return {
            **summary,
            "frontier": self._frontier(method, change),
            "kept": [len(r.kept) for r in method.reports],
            "logloss_kept_change": change(method.kept, self.full, "logloss"),
            "search_seconds": report.search.seconds,
            "health": asdict(report.health),
            "curve": curve,
            "report": f"reports/{name}/report.html",
        }

    def _write_report(self, name: str, report: Report, curve: Curve) -> None:
        """Write the report with the retrain curve, and with savings measured for the fields kept over all seeds."""
        kept = ordered(self.schema, report.kept)
        device = Device.choose(self.stage.config.device, self.stage.config.train["precision"])
        whole, spec = checkpoint.load(self.full[0].folder, device)
        valid = Shards(self.stage.data, "valid", self.schema)
        optimizer = self.stage.config.optimizer
        saved = savings(whole, lambda s: checkpoint.build(s, spec, device), kept, valid, optimizer, device)
        report = replace(report, savings=saved, curve=curve)
        self._folder(name).mkdir(parents=True, exist_ok=True)
        select_features.write_report(self._folder(name), report, kept)

    def _frontier(self, method: Found, change: Changes) -> list[Priced]:
        """At each price, the fields kept and the change of a retrain on them; none if a seed keeps no field."""
        points: list[Priced] = []
        for share, tried in sorted(method.at_price.items()):
            models = [m for _, m in tried if m is not None]
            changed = change(models, self.full, self.metric) if len(models) == len(tried) else None
            points.append({"gain_share": share, "kept": [count for count, _ in tried], "change": changed})
        return points

    def _differences(self, change: Changes, answered: Mapping[str, Found]) -> dict[str, dict[str, Difference]]:
        """The reference − each other method at each k, with p corrected by Holm for all; empty without a reference."""
        models = {name: list(zip(*method.at_grid, strict=True)) for name, method in answered.items()}
        reference = models.pop(self.reference, None)
        if reference is None:
            return {}
        differences = {
            name: {str(k): change(reference[i], at_grid[i], self.metric) for i, k in enumerate(self.grid)}
            for name, at_grid in models.items()
        }
        flat = [d for by_k in differences.values() for d in by_k.values()]
        for d, p in zip(flat, holm([d["p"] for d in flat]), strict=True):
            d["p_holm"] = p
        return differences

    def _metrics(self, name: str, method: Answer) -> dict[str, float]:
        area = {f"{name}.aukc": method["area"]["mean"]} if method["area"] else {}
        return {
            **{f"{name}.{self.metric}_at_{k}": v["mean"] for k, v in method["at_k"].items()},
            f"{name}.kept_change": method["kept_change"]["mean"],
            f"{name}.seconds": method["search_seconds"],
            **area,
        }

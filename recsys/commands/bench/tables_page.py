"""The results of `recsys bench tables`: a table's figures as JSON, and all of them as Markdown and as a page."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

import plotly.graph_objects as go

from recsys.data.sets.package_tables import NEW
from recsys.errors import DataError
from recsys.files import Json, read_json
from recsys.pages.html import page, table

__all__ = [
    "OURS",
    "TABLES_VERSION",
    "Asked",
    "ModelFigures",
    "TableFigures",
    "markdown",
    "read_figures",
    "summary_row",
    "tables_page",
]

TABLES_VERSION = 1  # of OUT/NAME.json
OURS, LINEAR, TREES = "ours", "logistic regression", "LightGBM"
_FAR = 0.002  # AUC; tables that lose more than this, and more than noise, are named
_HEAD = (
    *("table", "rows", "fields", "ids", "label", "LR AUC", "LightGBM AUC", "ours AUC", "LR logloss"),
    *("LightGBM logloss", "ours logloss", "Δ AUC to LR", "Δ logloss to LR", "Δ logloss to LightGBM"),
)


@dataclass(frozen=True)
class Asked:
    """What a table's figures depend on, apart from the table.

    Args:
        seeds: Seeds of our runs.
        overrides: Overrides of `recsys run`.
        code: Version of the code that trains.
    """

    seeds: tuple[int, ...]
    overrides: tuple[str, ...]
    code: str

    @property
    def digest(self) -> str:
        """8 hexadecimal digits of what a single run depends on."""
        return hashlib.sha256(repr((self.overrides, self.code)).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class ModelFigures:
    """Test figures: means over seeds, sample deviations, and seconds of one fit."""

    auc: float
    logloss: float
    auc_deviation: float
    logloss_deviation: float
    seconds: float


@dataclass(frozen=True)
class TableFigures:
    """One table.

    Args:
        name: Name of the table.
        asked: What it was run with.
        rows: Number of training rows.
        test_rows: Number of test rows.
        fields: Number of fields.
        ids: Rows of all embedding tables.
        label_rate: Label rate of training.
        by_time: Whether the rows have times and are split by them.
        models: Name → figures.
        against: Baseline → metric → ours minus it: `mean`, standard `error`, `low` and `high` of 95 %.
    """

    name: str
    asked: Asked
    rows: int
    test_rows: int
    fields: int
    ids: int
    label_rate: float
    by_time: bool
    models: dict[str, ModelFigures]
    against: dict[str, dict[str, dict[str, float]]]


def read_figures(path: Path) -> TableFigures | None:
    """Read an earlier benchmark's figures of a table; None if there are none that this code can read."""
    try:
        value: Json = read_json(path, "figures of a table", "run it again", TABLES_VERSION)
    except DataError:
        return None
    del value["version"]
    asked, models = value.pop("asked"), value.pop("models")
    asked = Asked(tuple(asked["seeds"]), tuple(asked["overrides"]), asked["code"])
    return TableFigures(asked=asked, models={n: ModelFigures(**m) for n, m in models.items()}, **value)


def _interval(d: Mapping[str, float]) -> str:
    return f"{d['mean']:+.4f} [{d['low']:+.4f}, {d['high']:+.4f}]"


def _cells(t: TableFigures) -> list[str]:
    """A table's row of the results."""
    name = t.name + (" (new)" if t.name in NEW else "") + (", by time" if t.by_time else "")
    cells = [name, f"{t.rows:,}", f"{t.fields}", f"{t.ids:,}", f"{100 * t.label_rate:.1f} %"]
    for metric in ("auc", "logloss"):
        cells += [f"{asdict(t.models[n])[metric]:.4f}" for n in (LINEAR, TREES)]
        ours = asdict(t.models[OURS])
        cells.append(f"{ours[metric]:.4f} ± {ours[f'{metric}_deviation']:.4f}")
    linear = t.against[LINEAR]
    return [*cells, _interval(linear["auc"]), _interval(linear["logloss"]), _interval(t.against[TREES]["logloss"])]


def _ranks(tables: Sequence[TableFigures], metric: str) -> dict[str, float]:
    """Mean rank of each model, 1 the best; equal figures share their ranks."""
    ranks: dict[str, list[float]] = {}
    for t in tables:
        loss = {n: asdict(m)[metric] * (-1 if metric == "auc" else 1) for n, m in t.models.items()}
        for name, x in loss.items():
            better, same = sum(y < x for y in loss.values()), sum(y == x for y in loss.values())
            ranks.setdefault(name, []).append(better + (same + 1) / 2)
    return {n: mean(r) for n, r in ranks.items()}


def _compared(tables: Sequence[TableFigures], metric: str) -> str:
    """Counts of tables on which ours is as good as, or better than, the baselines, and the worst loss."""
    sign = -1 if metric == "auc" else 1

    def losses(baseline: str) -> dict[str, tuple[float, float]]:
        differences = {t.name: t.against[baseline][metric] for t in tables}
        return {n: (sign * d["mean"], d["error"]) for n, d in differences.items()}

    linear, trees, n = losses(LINEAR), losses(TREES), len(tables)
    worst = max(linear, key=lambda name: linear[name][0])
    as_good, better = sum(x <= e for x, e in linear.values()), sum(x < 0 for x, _ in linear.values())
    beats = sum(x < 0 for x, _ in trees.values())
    return (
        f"{metric}: no worse than logistic regression by more than one standard error on {as_good} of {n}, better than "
        f"it on {better}, better than LightGBM on {beats}; worst against logistic regression "
        f"{sign * linear[worst][0]:+.4f} ({worst})"
    )


def summary_row(group: str, tables: Sequence[TableFigures]) -> str:
    """Sum up a group of tables in one line: ours against logistic regression and LightGBM, ranks, large losses."""
    ranks = {m: ", ".join(f"{n} {r:.2f}" for n, r in _ranks(tables, m).items()) for m in ("auc", "logloss")}
    aucs = {t.name: t.against[LINEAR]["auc"] for t in tables}
    far = [n for n, d in aucs.items() if d["mean"] < -_FAR and d["high"] < 0]
    return (
        f"{group}, {len(tables)} tables. {_compared(tables, 'logloss')}. {_compared(tables, 'auc')}. Worse than "
        f"logistic regression by more than {_FAR} AUC, beyond noise: {', '.join(far) or 'none'}. Mean ranks by AUC: "
        f"{ranks['auc']}; by logloss: {ranks['logloss']}."
    )


def _notes(missing: Mapping[str, str]) -> list[str]:
    return [f"not run: {name}: {why}" for name, why in missing.items()]


_LEAD = (
    "Test split; `recsys data guess` and `recsys run` with nothing set but the seed, before recalibration: mean ± "
    "sample deviation over seeds. Δ is ours minus the baseline, with the 95 % interval over seeds and test rows. "
    "Logistic regression's C, LightGBM's leaves and trees are chosen on validation; ours stops on it."
)


def markdown(groups: Mapping[str, Sequence[TableFigures]], missing: Mapping[str, str]) -> str:
    """Everything as Markdown."""
    parts = [_LEAD, *_notes(missing)]
    for group, tables in groups.items():
        if tables:
            lines = [_HEAD, ("---",) * len(_HEAD), *map(_cells, tables)]
            shown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
            parts += [f"## Tables that {group}", summary_row(group, tables), shown]
    return "\n\n".join(parts) + "\n"


def _plot(tables: Sequence[TableFigures]) -> go.Figure:
    """Ours minus each baseline, with its interval; below 0 ours is better."""
    figure = go.Figure()
    for baseline in (LINEAR, TREES):
        differences = [t.against[baseline]["logloss"] for t in tables]
        above, below = [d["high"] - d["mean"] for d in differences], [d["mean"] - d["low"] for d in differences]
        bars = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
        names, means = [t.name for t in tables], [d["mean"] for d in differences]
        figure.add_scatter(x=names, y=means, error_y=bars, mode="markers", name=f"ours − {baseline}")
    figure.update_layout(yaxis_title="Δ logloss, test", height=460)
    return figure


def tables_page(groups: Mapping[str, Sequence[TableFigures]], missing: Mapping[str, str]) -> str:
    """The page; its first sentence is the summary of the tables that judge, or of the others if none did."""
    shown = {g: t for g, t in groups.items() if t}
    summaries = {g: summary_row(g, t) for g, t in shown.items()}
    sections: list[tuple[str, str | go.Figure]] = []
    for group, tables in shown.items():
        sections += [(f"Tables that {group}: logloss against the baselines", _plot(tables))]
        sections += [(f"Tables that {group}", table(_HEAD, [_cells(t) for t in tables]))]
    sections += [("In words", "\n".join(summaries.values())), ("How", _LEAD.replace("`", ""))]
    return page("Unlike tables", next(iter(summaries.values())), _notes(missing), sections)

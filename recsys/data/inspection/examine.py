"""What a person should know about a data set before training: facts of every field, and warnings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.config.factory import make
from recsys.data.inspection.field_stats import LARGE, FieldStats, number_stats, value_stats
from recsys.data.inspection.leakage import single_auc, suspects
from recsys.data.inspection.sample import labels, plain, sample
from recsys.data.inspection.times import as_time, read_times
from recsys.data.preparation.columns import collide, instants, too_large
from recsys.data.preparation.fields import FieldConfig, data_fields, label_names
from recsys.data.preparation.split import SPLITS, split_codes
from recsys.data.preparation.spool import ABSENT_CODE, NO_TIME
from recsys.data.sources.scan import Scan
from recsys.errors import DataError
from recsys.features.derived import PARTS
from recsys.progress import progress

__all__ = ["Examined", "examine", "worries"]


@dataclass
class Examined:
    """The content of the page.

    Args:
        name: Name of the data set.
        total: Rows of the table.
        label_B: Labels of the sample.
        splits: Split → its rows in the sample.
        time_B: Times of the sample, datetime64, or None.
        fields: Statistics of each field, in order of the configuration.
        suspects: Column → why it gives the label away.
        named: Column → why it may give the label away.
        repeated: Share of rows whose read columns all equal those of an earlier row.
        crossing: Share of test rows that are in training too.
        dropped: Column → reason, from the configuration.
        skipped: Fields that preparation makes, which are therefore not in the sample.
    """

    name: str
    total: int
    label_B: np.ndarray
    splits: dict[str, np.ndarray]
    time_B: np.ndarray | None
    fields: list[FieldStats] = field(default_factory=list)
    suspects: dict[str, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    repeated: float = 0.0
    crossing: float = 0.0
    dropped: dict[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


class _Values:
    """The distinct values of a column, in the form that `split_codes` reads."""

    def __init__(self, column: pl.Series):
        self.column = column.cast(pl.String)
        self.distinct = self.column.drop_nulls().unique(maintain_order=True)

    def values(self) -> pl.Series:
        return self.distinct

    def codes(self) -> np.ndarray:
        numbered = pl.DataFrame({"v": self.distinct, "i": np.arange(len(self.distinct), dtype=np.int32)})
        code = self.column.to_frame("v").join(numbered, on="v", how="left", maintain_order="left")["i"]
        return code.fill_null(ABSENT_CODE).to_numpy()


class _Sampled:
    """The sample in the form of a `Spool`, so that the code of preparation splits it."""

    def __init__(self, table: pa.Table, frame: pl.DataFrame):
        self.rows, self._table, self._frame = len(table), table, frame

    def dictionary(self, column: str) -> _Values:
        return _Values(self._frame[column])

    def read(self, what: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        kind, column = what.split("/", 1)
        if kind == "codes":
            return self.dictionary(column).codes()[start:stop]
        us_B, there_B = instants(self._table[column].combine_chunks(), column, None)
        return np.where(there_B, us_B, NO_TIME)[start:stop]


def _columns(config: Mapping[str, Any], fields: list[FieldConfig], have: list[str]) -> list[str]:
    """The raw columns that preparation reads, in order."""
    split = config.get("split") or {}
    roles = [*label_names(config), config.get("time"), config.get("group"), split.get("column"), split.get("by")]
    wanted = [c for c in roles if c]
    for f in fields:
        wanted += f.past.by if f.past is not None else f.inputs
    wanted = list(dict.fromkeys(wanted))
    if absent := [c for c in wanted if c not in have]:
        raise DataError(
            f"data: expected columns {', '.join(absent)}, the table has {', '.join(have[:40])}: name some of these"
        )
    return wanted


def examine(config: Mapping[str, Any], rows: int = 1_000_000) -> Examined:
    """Read at most `rows` rows, drawn at random, split them as preparation would, and examine them.

    Raises:
        ConfigError, DataError: If something in the configuration or the table cannot work.
    """
    fields = data_fields(config)
    source = make(config["source"], "data.source")()
    if isinstance(source, pa.Table):
        source = Scan.of(source)
    table, total = sample(source, rows, 0, _columns(config, fields, source.schema.names))
    label_B, frame = labels(table, label_names(config)[0]), plain(table)
    split_of = _Sampled(table, frame)
    code_B = split_codes(split_of, config)  # type: ignore[arg-type]  # it has the methods of a Spool that are used
    splits = {s: np.flatnonzero(code_B == i) for i, s in enumerate(SPLITS)}
    time = config.get("time")
    time_B = split_of.read(f"us/{time}").astype("datetime64[us]") if time else None
    examined = Examined(str(config["name"]), total, label_B, splits, time_B, dropped=dict(config.get("dropped") or {}))
    with progress() as bar:
        task = bar.add_task("fields", total=len(fields))
        for f in fields:
            stats = _field(f, frame, splits, label_B)
            if stats is None:
                examined.skipped.append(f.name)
            else:
                examined.fields.append(stats)
            bar.advance(task)
    _leaks(examined, frame, config)
    column = (config.get("split") or {}).get("column")
    _repeats(examined, frame.drop(column) if column else frame)
    return examined


def _field(
    f: FieldConfig, frame: pl.DataFrame, splits: dict[str, np.ndarray], label_B: np.ndarray
) -> FieldStats | None:
    if f.past is not None:
        return None
    values = frame[f.inputs[0]]
    kind = f.kind if f.kind == f.encoding else f"{f.kind} · {f.encoding}"
    if f.kind == "vector":
        return FieldStats(f.name, kind, values.null_count() / len(values), values.drop_nulls().hash().n_unique())
    if f.kind == "numeric" or f.encoding in ("bucket", "learned_bucket"):
        if not values.dtype.is_numeric():
            raise DataError(
                f"data.fields.{f.name}: expected numbers, column {values.name!r} has {values.dtype}: cast it"
            )
        if collide(values):
            raise too_large(values.name)
        return number_stats(f.name, kind, values, splits, label_B)
    if len(f.inputs) > 1:
        values = frame.select(pl.struct(f.inputs)).to_series()
    elif f.encoding in PARTS:
        values = _part(values, f)
    elif f.kind == "text":
        values = values.cast(pl.String).str.to_lowercase().str.extract_all(r"\w+")
    elif f.separator:
        values = values.cast(pl.String).str.split(f.separator)
    if isinstance(values.dtype, pl.Array):
        values = values.cast(pl.List(values.dtype.inner))
    return value_stats(f.name, kind, values, splits, label_B, f.min_count if f.encoding == "vocabulary" else 1)


def _part(values: pl.Series, f: FieldConfig) -> pl.Series:
    return getattr(read_times(values).dt, f.encoding)()


def _leaks(examined: Examined, frame: pl.DataFrame, config: Mapping[str, Any]) -> None:
    """Apply the rules of `recsys.data.inspection.leakage` to the raw columns that fields read."""
    aside = {*label_names(config), config.get("time"), config.get("group"), (config.get("split") or {}).get("column")}
    seen = frame.select([c for c in frame.columns if c not in aside])
    plain_types = [c.name for c in seen.iter_columns() if not isinstance(c.dtype, pl.Struct | pl.Binary | pl.Object)]
    seen = seen.select(plain_types)
    aucs = {c.name: single_auc(c, examined.label_B) for c in seen.iter_columns()}
    times = {c.name: t for c in seen.iter_columns() if (t := as_time(c)) is not None}
    event = pl.Series(examined.time_B) if examined.time_B is not None else None
    label = label_names(config)[0]
    examined.suspects, examined.named = suspects(seen, examined.label_B, label, aucs, times, event)


def _repeats(examined: Examined, frame: pl.DataFrame) -> None:
    key_B = frame.hash_rows(0).to_numpy()
    examined.repeated = 1 - len(np.unique(key_B)) / len(key_B)
    examined.crossing = float(np.isin(key_B[examined.splits["test"]], key_B[examined.splits["train"]]).mean())


def _names(ranked: list[tuple[float, str]], most: int = 4) -> str:
    ranked = sorted(ranked, reverse=True)
    first = ", ".join(f"{n} ({v:.2f})" for v, n in ranked[:most])
    return first + (f" and {len(ranked) - most} more" if len(ranked) > most else "")


def worries(x: Examined) -> list[str]:
    """What to look at before training, the worst first."""
    ranked: list[tuple[int, str]] = []
    for name, why in x.suspects.items():
        ranked.append((100, f"{name}: {why}. Is it known when the prediction is made? If not, remove the field."))
    ranked += [(25, f"{name}: {why}.") for name, why in x.named.items()]
    rate = {s: float(x.label_B[r].mean()) for s, r in x.splits.items()}
    for s, least in (("train", 500), ("valid", 100), ("test", 100)):
        both = min(x.label_B[x.splits[s]].sum(), (1 - x.label_B[x.splits[s]]).sum())
        if both < least:
            ranked.append((70, f"{s} has {both:.0f} rows of its rarer label: figures will be noisy below {least}."))
    for s in ("valid", "test"):
        if abs(rate[s] - rate["train"]) > 0.2 * rate["train"]:
            ranked.append((60, f"The label rate is {rate['train']:.2%} in training and {rate[s]:.2%} in {s}: why?"))
    ranked += _of_fields(x)
    if x.crossing > 0.01:
        ranked.append(
            (45, f"{x.crossing:.1%} of the test rows are in training too, label and all: the test is too easy.")
        )
    if x.repeated > 0.01:
        ranked.append((35, f"{x.repeated:.1%} of the rows repeat another in everything that is read."))
    return [t for _, t in sorted(ranked, key=lambda t: -t[0])]


def _of_fields(x: Examined) -> list[tuple[int, str]]:
    ranked = []
    parts = tuple(f"· {p}" for p in PARTS)  # days and months of a later split differ by nature
    drifting = [
        (max(f.drift.values()), f.name)
        for f in x.fields
        if f.drift and max(f.drift.values()) > LARGE and not f.kind.endswith(parts)
    ]
    if drifting:
        ranked.append((50, f"Drift: PSI against training above {LARGE} in {_names(drifting)}."))
    new = [
        (max(f.unseen.values()), f.name)
        for f in x.fields
        if f.unseen and np.isfinite(f.kept) and max(f.unseen.values()) > 0.2
    ]
    if new:
        ranked.append((40, f"Unseen: over a fifth of later rows hold values that training has not, in {_names(new)}."))
    rare = [(1 - f.kept, f.name) for f in x.fields if f.kept < 0.8]
    if rare:
        ranked.append((30, f"Rare values: over a fifth of training rows fall below min_count in {_names(rare)}."))
    empty = [(f.missing, f.name) for f in x.fields if f.missing > 0.9]
    if empty:
        ranked.append((20, f"Mostly missing: {_names(empty)}."))
    return ranked

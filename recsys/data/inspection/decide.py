"""A sample of a table → a data configuration: fields, their encodings, dropped columns and the split. B rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from recsys.data.inspection.guess_split import choose
from recsys.data.inspection.leakage import single_auc, suspects
from recsys.data.inspection.profile import Guess, Profile, guess_kind, profile, timestamp
from recsys.data.inspection.sample import labels, plain, sample
from recsys.data.inspection.times import NAMES, as_time, read_times, untaken
from recsys.data.inspection.useless import useless
from recsys.data.preparation.fields import label_names
from recsys.data.sources.scan import scan
from recsys.errors import DataError
from recsys.files import Json
from recsys.progress import progress

__all__ = ["Given", "Guessed", "guess"]


_WEIGHTS = ("weight", "weights", "sample_weight", "row_weight", "instance_weight", "importance")
_LEAST_ROWS, _MOST_NUMBERS = 1000, 100  # limits for a table whose numbers become piecewise
_ABOUT_LABELS = "Of several, with head=several: [click, buy], the main one first. No field may read one of them."
_ABOUT_WEIGHT = "A column with the weight of each row in training, or null."
_WEIGHT_FOUND = " Found by its name; if it is something that the model should know of, set null and move it to fields."


@dataclass(frozen=True)
class Given:
    """What the user said.

    Args:
        path: A path, several, or one for each split.
        label: Column to predict; several are separated by commas, the main one first.
        time: Column with the time of each row; searched for if not given.
        group: Column that groups rows (for GAUC, and for the split if there is no time).
        split: Column with the split of each row.
        name: Name of the data set.
        rows: Most rows of the sample.
    """

    path: str | list[str] | dict[str, str | list[str]]
    label: str
    time: str | None = None
    group: str | None = None
    split: str | None = None
    name: str = ""
    rows: int = 500_000


@dataclass
class Guessed:
    """A configuration, the comments on it, and what a person should look at.

    Args:
        config: The `data` group.
        comments: See `write_yaml`.
        cautions: Column → what to look at, for the columns that are kept.
        profiles: Column → its facts, for every column of the table.
        aucs: Column → its AUC alone, for every candidate.
    """

    config: Json
    comments: dict[str, str]
    cautions: dict[str, str] = field(default_factory=dict)
    profiles: dict[str, Profile] = field(default_factory=dict)
    aucs: dict[str, float] = field(default_factory=dict)


def _check_columns(given: Given, frame: pl.DataFrame) -> None:
    for option in ("label", "time", "group", "split"):
        name = getattr(given, option)
        if name and name not in frame.columns:
            have = ", ".join(frame.columns[:40])
            raise DataError(f"--{option}: expected a column of the table, got {name!r}: it has {have}")


def guess(given: Given) -> Guessed:
    """Read a sample and decide on kinds, encodings, dropped columns and the split.

    Raises:
        DataError: If the table does not read, a named column is absent, or the label is not 0 and 1.
    """
    table, total = sample(scan(given.path), given.rows)
    names = label_names({"labels": [given.label] if given.label in table.column_names else given.label.split(",")})
    label_B, *_ = [labels(table, name, observed=name == names[0]) for name in names]
    given, frame = replace(given, label=names[0]), plain(table)
    facts = {c: profile(frame[c]) for c in frame.columns}
    frame = frame.drop(names[1:])
    _check_columns(given, frame)
    split = given.split or ("split" if isinstance(given.path, dict) else None)
    times = _times(given, frame.drop([c for c in (given.label, split) if c]))
    spared = {c for c in (*times, given.group, split) if c}
    kept, dropped = useless(frame.drop(split) if split else frame, facts, label_B, given.label, spared, total)
    aucs = _aucs(frame.select(kept), label_B)
    time, why_time = _time(given, facts, {c: times[c] for c in kept if c in times})
    apart = {n: a for n, a in aucs.items() if n not in (time, given.group)}
    event = times[time] if time else None
    leaking, cautions = suspects(frame.select(list(apart)), label_B, given.label, apart, times, event)
    dropped |= leaking
    almost = _almost_times(frame.drop([c for c in (given.label, split, *leaking) if c]), facts, times, time)
    cautions = {c: "; ".join(w[c] for w in (cautions, almost) if c in w) for c in cautions | almost}
    guessed = Guessed({}, {}, cautions, facts, aucs)
    fields = _fields(frame, [c for c in kept if c not in leaking], times, time, label_B, total, guessed, dropped)
    if not fields:
        raise DataError(
            f"no column is left for a field: {'; '.join(f'{c}: {w}' for c, w in list(dropped.items())[:5])}"
        )
    weight = _weight(frame, [c for c in fields if c not in (time, given.group, split)], facts)
    if weight:
        del fields[weight]
        del guessed.comments[f"fields.{weight}"]
    if not fields:
        raise DataError(f"no column is left for a field but the weight {weight!r}: give the table more columns")
    roles = {"time": time, "group": given.group, "split": split}
    chosen, why_split = choose(frame, times, label_B, roles, dropped)
    decided = {"time": time, "weight": weight, "split": chosen, "fields": fields, "dropped": dropped}
    _assemble(guessed, given, {**decided, "labels": names if len(names) > 1 else None})
    _comment(guessed, {"time": why_time, "split": why_split}, label_B, total)
    return guessed


def _times(given: Given, frame: pl.DataFrame) -> dict[str, pl.Series]:
    """The columns that read as times; for the column that the user named, all times that preparation reads."""
    times = {c.name: t for c in frame.iter_columns() if c.name != given.time and (t := as_time(c)) is not None}
    if given.time:
        try:
            times[given.time] = read_times(frame[given.time])
        except DataError as error:
            raise DataError(f"--time: {error}") from error
    return times


def _aucs(frame: pl.DataFrame, label_B: np.ndarray) -> dict[str, float]:
    aucs = {}
    with progress() as bar:
        task = bar.add_task("look at columns", total=frame.width)
        for column in frame.iter_columns():
            known = not isinstance(column.dtype, pl.Struct | pl.Object | pl.Binary)
            aucs[column.name] = single_auc(column, label_B) if known else 0.5
            bar.advance(task)
    return aucs


def _time(given: Given, facts: Mapping[str, Profile], times: Mapping[str, pl.Series]) -> tuple[str | None, str]:
    """The time column: as given, else one without gaps: the best by name, then the one with most distinct values."""
    if given.time:
        return given.time, "as given"
    full = [c for c in times if facts[c].missing == 0 and facts[c].distinct > 2]
    if not full:
        return None, "no column reads as a time in every row"
    order = {n: i for i, n in enumerate(NAMES)}
    best = min(full, key=lambda c: (order.get(c.lower(), len(NAMES)), -facts[c].distinct))
    others = [c for c in full if c != best]
    rest = f"; {', '.join(others)} would do too" if others else ""
    return best, f"found, as --time was not given: it reads as a time in every row{rest}"


def _almost_times(
    frame: pl.DataFrame, facts: Mapping[str, Profile], times: Mapping[str, pl.Series], time: str | None
) -> dict[str, str]:
    """Columns that look like a time and were not taken as one, with the reason."""
    reasons = {}
    for column in frame.iter_columns():
        name, missing = column.name, facts[column.name].missing
        if name not in times and facts[name].distinct > 2 and (why := untaken(column)):
            reasons[name] = why
        elif name in times and not time and missing:
            reasons[name] = f"it tells no order of the rows, as {missing:.1%} of them have no time there"
    return reasons


def _weight(frame: pl.DataFrame, names: Sequence[str], facts: Mapping[str, Profile]) -> str | None:
    """The column whose name and numbers are those of a row weight: all positive, and not all the same."""
    for name in names:
        x = frame[name]
        if name.lower() not in _WEIGHTS or not x.dtype.is_numeric() or facts[name].missing:
            continue
        if bool(((x > 0) & x.cast(pl.Float64).is_finite()).all()):
            return name
    return None


def _fields(
    frame: pl.DataFrame,
    names: Sequence[str],
    times: Mapping[str, pl.Series],
    time: str | None,
    label_B: np.ndarray,
    total: int,
    everything: Guessed,
    dropped: dict[str, str],
) -> dict[str, Json]:
    """`data.fields`, looked-up fields first; a column that no kind takes goes to `dropped`."""
    fields: dict[str, Json] = {}
    for name in names:
        guessed = (
            timestamp(times[name])
            if name == time
            else guess_kind(frame[name], everything.profiles[name], label_B, total)
        )
        if guessed.settings is None:
            dropped[name] = "; ".join(guessed.cautions)
            continue
        if name == time:
            parts = [p for p in guessed.settings["parts"] if p in ("hour", "weekday")]
            if not parts:
                continue
            guessed = Guess({"kind": "timestamp", "parts": parts}, "when it happened; later months are not in training")
        fields[name] = guessed.settings or {}
        everything.comments[f"fields.{name}"] = _about(
            everything.profiles[name], guessed.why, everything.aucs.get(name), everything.cautions
        )
    _in_pieces(fields, total)
    return dict(sorted(fields.items(), key=lambda f: f[1].get("kind") in ("numeric", "vector")))


def _in_pieces(fields: Mapping[str, Json], total: int) -> None:
    """Make numbers piecewise, unless there are too few rows to learn from, or so many numbers that it would be slow."""
    numbers = [f for f in fields.values() if f.get("kind") == "numeric"]
    if total >= _LEAST_ROWS and len(numbers) <= _MOST_NUMBERS:
        for f in numbers:
            f["encoding"] = "piecewise_log" if f.get("encoding") == "log" else "piecewise"


def _about(p: Profile, why: str, auc: float | None, cautions: Mapping[str, str]) -> str:
    missing = f"{p.missing:.1%} missing" if p.missing else "none missing"
    alone = f"; AUC {auc:.3f} alone" if auc is not None else ""
    look = f" LOOK: {cautions[p.name]}." if p.name in cautions else ""
    return f"{p.distinct:,} values, {missing}, such as {', '.join(p.examples)}{alone}. Read as {why}.{look}"


def _assemble(guessed: Guessed, given: Given, decided: Mapping[str, Any]) -> None:
    """Fill in the configuration, in the order in which a person reads it."""
    source = {"_target_": "recsys.data.sources.scan.scan", "path": given.path, "format": "auto", "on_bad_rows": "stop"}
    guessed.config = {
        "name": given.name,
        "source": source,
        "label": given.label,
        "labels": decided["labels"],
        "time": decided["time"],
        "group": given.group,
        "weight": decided["weight"],
        "split": decided["split"],
        "fields": decided["fields"],
        "dropped": decided["dropped"],
    }


def _comment(guessed: Guessed, why: Mapping[str, str], label_B: np.ndarray, total: int) -> None:
    """Write the comment above each key."""
    name, group = guessed.config["name"], guessed.config["group"]
    seen = "all of them were looked at" if len(label_B) == total else f"{len(label_B):,} drawn at random were looked at"
    head = (
        f"{name}: {total:,} rows and {len(guessed.profiles)} columns; {seen}. Written by `recsys data guess`; edit it "
    )
    head += f"freely. Next: recsys data report {name}, recsys data baseline {name}, recsys run data={name}"
    head += " head=several" if guessed.config["labels"] else ""
    grouped = f"Rows of one {group} are ranked against each other (GAUC)" if group else "No --group: no GAUC"
    guessed.comments |= {
        "": head,
        "label": f"{100 * label_B.mean():.2f} % of the rows looked at have 1.",
        "labels": _ABOUT_LABELS,
        "time": f"When a row happened: {why['time']}.",
        "group": f"{grouped}.",
        "weight": _ABOUT_WEIGHT + (_WEIGHT_FOUND if guessed.config["weight"] else ""),
        "split": why["split"],
        "fields": "Entries: kind, encoding and their settings. `{}` is a categorical field with a vocabulary; "
        "`piecewise` a number, and how far it has come through each of 16 bins.",
        "dropped": "Not read. To take one back, move it under fields.",
    }

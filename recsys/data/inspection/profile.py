"""The facts of a raw column, and the kind and encoding that follow from them.

The rules, in order; the first that fits decides:

1. a list of floats is a vector if all have one length; any other list is multi;
2. a date or timestamp gives those of its parts that vary; so do text and numbers that read as one (`as_time`);
3. text: a JSON list is read as its words; values with a separator between them are multi (`separator_of`);
   values that are mostly distinct and have four words or more on average are text; others are categorical;
4. whole numbers are categorical if their name is one of codes (`id`, `code`, `zip` …), if they have at most 20
   values, if floats cannot tell them apart (past 2^53), if few values spread evenly over a huge range
   (`scattered`), or if the label rate jumps from value to value (`jumps`); others are numeric;
5. other numbers are numeric, with `log` if it shortens a long tail (`heavy_tail`) or squares would overflow.

Numeric columns become piecewise if the table has 1,000 rows or more and at most 100 of them (see `decide`).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from recsys.data.inspection.codes import jumps, mean, named_as_code, scattered
from recsys.data.inspection.times import as_time, days, untaken
from recsys.data.preparation.columns import collide
from recsys.files import Json

__all__ = ["Guess", "Profile", "guess_kind", "heavy_tail", "min_count", "profile", "separator_of"]

FEW = 20  # whole numbers of at most this many values are categories
HUGE = 200_000  # a column with at least so many distinct values in the sample is hashed
_SQUARED = 1e150  # the squares of larger numbers cannot be summed
_ROWS = 100_000  # most rows that a rule reads, if it needs no more
_SEPARATORS = ("|", ";", "\t", ",", "^", " ")


@dataclass(frozen=True)
class Profile:
    """Facts of one column of the sample.

    Args:
        name: The column.
        rows: Rows of the sample.
        missing: Share of rows without a value.
        distinct: Count of distinct values, without missing.
        examples: Frequent values, as text.
    """

    name: str
    rows: int
    missing: float
    distinct: int
    examples: tuple[str, ...]

    @property
    def present(self) -> int:
        """Rows with a value."""
        return self.rows - round(self.missing * self.rows)


@dataclass
class Guess:
    """How to read one column.

    Args:
        settings: Its entry in `data.fields`; None if no kind takes the column.
        why: The reason, for a comment.
        cautions: What a person should look at.
    """

    settings: Json | None
    why: str
    cautions: list[str] = field(default_factory=list)


def _short(value: object) -> str:
    shown = " ".join(str(value).split())
    return shown if len(shown) <= 24 else shown[:23] + "…"


def profile(values: pl.Series) -> Profile:
    """Count the values of a column; a list counts as one value."""
    if isinstance(values.dtype, pl.List | pl.Array | pl.Struct | pl.Binary | pl.Object):
        present = values.drop_nulls()
        shown = tuple(_short(v) for v in present.head(2).to_list())
        return Profile(
            values.name, len(values), values.null_count() / len(values), int(present.hash().n_unique()), shown
        )
    counts = values.drop_nulls().value_counts(sort=True)
    shown = tuple(_short(v) for v in counts[values.name].head(3).to_list())
    return Profile(values.name, len(values), values.null_count() / len(values), counts.height, shown)


def min_count(rows: int) -> int:
    """Training rows that a value needs for an id of its own: 2; in 20,000 rows or more 5, in 200,000 or more 10."""
    return 10 if rows >= 200_000 else 5 if rows >= 20_000 else 2


def heavy_tail(values: pl.Series) -> tuple[bool, float, float]:
    """Whether log helps: skewness is above 2, sign·log1p at least halves it, and hardly a value is below 0.

    Returns:
        The verdict, the skewness, and the skewness of the logarithm.
    """
    x = values.cast(pl.Float64).drop_nulls()
    x = x.filter(x.is_finite())
    if len(x) < 8 or x.n_unique() < 3:
        return False, 0.0, 0.0
    before = float(x.skew() or 0.0)
    after = float((x.sign() * x.abs().log1p()).skew() or 0.0)
    low: Any = x.quantile(0.01)
    return before > 2 and abs(after) < before / 2 and low >= 0, before, after


def separator_of(values: pl.Series) -> tuple[str, float]:
    """The separator of a list written as text ("" if there is none), and the mean count of parts.

    A separator occurs in at least a fifth of the values, and there are fewer distinct parts than distinct values.
    For `,`, `^` and a space, which prose and names contain too, there are fewer than half as many. If the
    separator is a space, most parts hold a digit or `_`.
    """
    whole = values.drop_nulls().head(_ROWS)
    distinct = whole.n_unique()
    for mark in _SEPARATORS:
        if len(whole) == 0 or mean(whole.str.contains(mark, literal=True)) < 0.2:
            continue
        split = whole.str.split(mark)
        parts = split.explode(empty_as_null=True, keep_nulls=False).drop_nulls()
        kinds = parts.n_unique()
        if kinds >= distinct * (1.0 if mark in "|;\t" else 0.5):
            continue
        if mark == " " and mean(parts.str.contains(r"[\d_]")) < 0.5:
            continue
        return mark, mean(split.list.len())
    return "", 1.0


def _length(lengths: pl.Series) -> int:
    """A length that cuts the lists of one row in a hundred, at most 50."""
    top: Any = lengths.drop_nulls().quantile(0.99, interpolation="higher")
    return int(min(50, max(1, top or 1)))


def _looked_up(distinct: int, rows: int) -> tuple[Json, str]:
    """Settings of a vocabulary, or of a hash if the vocabulary would be huge; and the reason."""
    if distinct >= HUGE:
        buckets = 2 ** int(np.ceil(np.log2(2 * distinct)))
        return {"encoding": "hash", "buckets": min(buckets, 2**22)}, f"so many that they are hashed to {buckets:,} ids"
    least = min_count(rows) if distinct > 100 else 2
    return {"min_count": least}, f"values with fewer than {least} rows share one id"


def _list(values: pl.Series, p: Profile, rows: int) -> Guess:
    lengths = values.list.len()
    inner: pl.Series = values.explode(empty_as_null=True, keep_nulls=False).drop_nulls()
    lasting = lengths.drop_nulls().n_unique() == 1
    if inner.dtype.is_float() and lasting and (lengths.drop_nulls().head(1).to_list() or [0])[0] > 1:
        return Guess({"kind": "vector"}, f"a list of {lengths.drop_nulls()[0]} floats in every row")
    if not (inner.dtype.is_integer() or isinstance(inner.dtype, pl.String | pl.Boolean)):
        return Guess(None, "", [f"lists of {inner.dtype} of many lengths: no kind takes them"])
    settings, why = _looked_up(inner.n_unique(), rows)
    longest = _length(lengths)
    return Guess(
        {"kind": "multi", **settings, "max_length": longest},
        f"lists of {inner.n_unique():,} values, {longest} long at most but for 1 % of rows; {why}",
    )


def _parts(moments: pl.Series) -> list[str]:
    span = days(moments)
    parts = ["hour"] if moments.dt.hour().n_unique() > 1 else []
    parts += ["weekday"] if span >= 7 else []
    parts += ["day"] if span >= 60 else []
    return parts + (["month"] if span >= 730 else [])


def timestamp(values: pl.Series) -> Guess:
    """The parts of a timestamp that vary; months only if times span two years, so that later months were seen."""
    parts = _parts(values.drop_nulls())
    if not parts:
        return Guess(None, "", ["all its times are within one hour of the day and one week: no part varies"])
    return Guess({"kind": "timestamp", "parts": parts}, f"a time: {', '.join(parts)} as categories")


def _text(values: pl.Series, p: Profile, rows: int) -> Guess:
    head = values.drop_nulls().head(_ROWS)
    if mean(head.str.contains(r"^\s*\[.*\]\s*$")) >= 0.95:
        settings = {"kind": "text", "buckets": 2**16, "max_length": _length(head.str.count_matches(r"\w+"))}
        return Guess(settings, "a JSON list written as text: read as a bag of its words")
    mark, parts = separator_of(values)
    if mark:
        kinds = values.drop_nulls().str.split(mark).explode(empty_as_null=True, keep_nulls=False).n_unique()
        settings, why = _looked_up(kinds, rows)
        longest = _length(head.str.count_matches(mark, literal=True) + 1)
        return Guess(
            {"kind": "multi", "separator": mark, **settings, "max_length": longest},
            f"{parts:.1f} values with {mark!r} between, of {kinds:,}; {why}",
        )
    words = head.str.count_matches(r"\w+")
    if mean(words) >= 4 and p.distinct > 0.2 * p.present and p.distinct > FEW:
        size = 2**18 if rows >= 200_000 else 2**15
        settings = {"kind": "text", "ngrams": [1, 2], "buckets": size, "max_length": min(50, 2 * _length(words))}
        return Guess(settings, f"free text, {mean(words):.0f} words each: words and pairs of words, hashed")
    settings, why = _looked_up(p.distinct, rows)
    return Guess(settings, f"text of {p.distinct:,} values; {why}")


def _number(values: pl.Series, p: Profile, why: str) -> Guess:
    top: Any = values.cast(pl.Float64).abs().max()
    if top is not None and top > _SQUARED:
        return Guess({"kind": "numeric", "encoding": "log"}, f"{why} to {top:.0e}, whose squares overflow, so in log")
    log, before, after = heavy_tail(values)
    if log:
        return Guess(
            {"kind": "numeric", "encoding": "log"}, f"{why}; a long tail: skewness {before:.1f}, {after:.1f} in log"
        )
    return Guess({"kind": "numeric"}, why)


def guess_kind(values: pl.Series, p: Profile, label_B: np.ndarray, rows: int) -> Guess:
    """Choose kind and encoding by the rules above.

    Args:
        values: The column in the sample, with empty text and NaN as null.
        p: The profile of the column.
        label_B: The labels of the sample.
        rows: Rows of the whole table.

    Returns:
        The guess; if no kind takes the column, a caution says why.
    """
    if isinstance(values.dtype, pl.List | pl.Array):
        return _list(values.cast(pl.List(values.dtype.inner)), p, rows)
    if isinstance(values.dtype, pl.Struct | pl.Binary | pl.Object | pl.Decimal | pl.Time | pl.Duration):
        return Guess(None, "", [f"values are {values.dtype}: no kind takes them"])
    moments = as_time(values)
    if moments is not None:
        return timestamp(moments)
    if values.dtype.is_temporal():
        return Guess(None, "", [untaken(values) or "no values"])
    if values.dtype == pl.String:
        return _text(values, p, rows)
    if values.dtype == pl.Boolean:
        return Guess({}, "true or false") if p.distinct else Guess({}, "", ["no values"])
    if values.dtype.is_float() and not ((values == values.round()) & (values.abs() <= 2**53)).all():
        hashes = (values == values.round()) & (values.abs() < 2**64)
        if p.distinct > FEW and hashes.all() and scattered(values):
            settings, why = _looked_up(p.distinct, rows)
            caution = "whole numbers past 2^53 as floats have lost digits: write them as text, or as integers"
            return Guess(settings, f"whole numbers spread evenly over a huge range, so codes; {why}", [caution])
        return _number(values, p, "numbers")
    return _whole(values, p, label_B, rows)


def _whole(values: pl.Series, p: Profile, label_B: np.ndarray, rows: int) -> Guess:
    settings, why = _looked_up(p.distinct, rows)
    if named_as_code(p.name):
        return Guess(settings, f"whole numbers whose name says they are codes; {why}")
    if p.distinct <= FEW:
        return Guess(settings, f"whole numbers of {p.distinct} values only: categories")
    if collide(values):
        return Guess(settings, f"whole numbers past 2^53, which are the same number to a model, so codes; {why}")
    if scattered(values):
        return Guess(settings, f"whole numbers spread over a huge range, yet repeated, so codes; {why}")
    if jumps(values, label_B):
        return Guess(settings, f"whole numbers whose label rate jumps from value to value, so codes; {why}")
    return _number(values, p, "whole numbers whose order tells as much as their values")

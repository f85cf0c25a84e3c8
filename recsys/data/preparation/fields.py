"""The settings of a data set, and those of a field in `data.fields`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import psutil

from recsys.data.preparation.split_settings import check_split
from recsys.errors import ConfigError
from recsys.features.derived import PARTS, WHATS, WHERES, Past
from recsys.files import Json

__all__ = [
    "ENCODINGS",
    "FIELD_KEYS",
    "KEYS",
    "FieldConfig",
    "check_name",
    "data_fields",
    "field_configs",
    "label_names",
]

KEYS = ("name", "source", "label", "labels", "weight", "time", "group", "split", "fields", "grow_from", "dropped")
ENCODINGS = {
    "categorical": ("vocabulary", "hash", "bucket", "learned_bucket", *PARTS),
    "multi": ("vocabulary", "hash"),
    "sequence": ("vocabulary", "hash"),
    "text": ("words",),
    "numeric": ("standardise", "log", "piecewise", "piecewise_log"),
    "vector": ("standardise", "log"),
}
_MOST = {"buckets": 2**31 - 1, "max_size": 2**31 - 1, "seed": 2**32 - 1, "max_length": 2**20}  # ids are int32
_MOST_BUCKETS = 2**20  # for a number: all its quantiles are computed at once
_MOST_BINS = 1024  # for a piecewise number: each bin is an input of the model
_ROWS = 65_536  # rows of a table that are read at once, every list at its full length
_MENDS = {
    "fields": "write them as {column: {kind: numeric}}",
    "split": "write shares: [0.8, 0.1, 0.1]",
    "name": "give a word, in quotes if it is a number",
}
_LEAST = {"min_count": 1, "max_size": 0, "buckets": 0, "seed": 0, "max_length": 1}


@dataclass(frozen=True)
class FieldConfig:
    """One entry of `data.fields`.

    Args:
        name: The field's name.
        kind: `categorical`, `multi`, `sequence`, `text`, `numeric` or `vector` (a list of floats of
            one length). `timestamp` with `parts` stands for a categorical field for each part.
        encoding: `vocabulary` | `hash` | `bucket` (a number cut at quantiles) | `learned_bucket` (cut
            where a decision tree on the label cuts) | `hour` | `weekday` | `day` | `month` for
            categorical, `vocabulary` | `hash` for multi and sequence, `words` for text, `standardise` |
            `log` (then standardised) for the others. `piecewise` and `piecewise_log`, for a numeric field, give that
            number and how far it has come through each of its bins.
        inputs: Raw columns; by default the one with the field's name. Several make a cross.
        min_count: A vocabulary keeps values seen at least this often in training rows.
        max_size: A vocabulary keeps at most this many, the most frequent; 0 is no limit.
        buckets: Ids of a hash or of text, buckets of a number, or bins of a piecewise number.
        seed: Seed of the hash.
        max_length: Longest list that is kept: the first of a multi-value field, the newest of a
            sequence.
        separator: The raw value is one string that holds a list, such as `a|b`.
        reverse: The raw sequence has its oldest value first.
        weights: Column with a list of weights, one for each value of a multi-value field.
        table: Field whose encoder and table this one shares; for a sequence, its candidate.
        ngrams: Lengths of a text's n-grams, in words.
        past: How the column is made from earlier rows instead of read: see `recsys.features.derived.Past`.

    Raises:
        ConfigError: If a value is unknown, out of range, or contradicts another.
    """

    name: str
    kind: str = "categorical"
    encoding: str = ""
    inputs: tuple[str, ...] = ()
    min_count: int = 2
    max_size: int = 0
    buckets: int = 0
    seed: int = 0
    max_length: int = 20
    separator: str = ""
    reverse: bool = False
    weights: str = ""
    table: str = ""
    ngrams: tuple[int, ...] = (1,)
    past: Past | None = None

    @property
    def is_list(self) -> bool:
        """Whether the raw value is a list."""
        return self.kind in ("multi", "sequence", "vector")

    def __post_init__(self) -> None:
        place = f"data.fields.{self.name}"
        if self.kind not in ENCODINGS:
            kinds = ", ".join([*ENCODINGS, "timestamp"])
            raise ConfigError(f"{place}.kind: expected one of {kinds}, got {self.kind!r}: name one of them")
        if isinstance(self.inputs, str):
            raise ConfigError(f"{place}.inputs: expected a list of columns, got {self.inputs!r}: write [{self.inputs}]")
        for key, least in _LEAST.items():
            value: object = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(
                    f"{place}.{key}: expected a whole number of at least {least}, got {value!r}: give one"
                )
            if value > (most := _MOST.get(key, value)):
                raise ConfigError(f"{place}.{key}: expected at most {most:,}, got {value:,}: lower it")
        for key in ("separator", "weights", "table", "encoding"):
            value = getattr(self, key)
            if not isinstance(value, str):
                raise ConfigError(f"{place}.{key}: expected text, got {value!r}: put it in quotes")
        allowed = ENCODINGS[self.kind]
        object.__setattr__(self, "inputs", tuple(self.inputs) or (self.name,))
        object.__setattr__(self, "ngrams", tuple(self.ngrams))
        object.__setattr__(self, "encoding", self.encoding or allowed[0])
        if self.encoding not in allowed:
            raise ConfigError(f"{place}.encoding: {self.kind} takes {', '.join(allowed)}, got {self.encoding!r}")
        self._check_size(place)
        self._check_together(place)

    def _check_size(self, place: str) -> None:
        most = {"bucket": _MOST_BUCKETS, "learned_bucket": _MOST_BUCKETS}
        most |= {"piecewise": _MOST_BINS, "piecewise_log": _MOST_BINS}
        if self.buckets > (limit := most.get(self.encoding, self.buckets)):
            raise ConfigError(f"{place}.buckets: expected at most {limit:,}, got {self.buckets:,}: lower it")
        needed, memory = 8 * _ROWS * self.max_length, psutil.virtual_memory().total // 2
        if needed > memory:
            raise ConfigError(
                f"{place}.max_length: {_ROWS:,} rows are read at once, {self.max_length:,} values each, which take "
                f"{needed / 2**30:,.0f} GiB; half of this machine has {memory / 2**30:,.0f}: lower it"
            )

    def _check_together(self, place: str) -> None:
        if self.encoding in ("hash", "bucket", "learned_bucket", "words") and self.buckets < 2 and not self.table:
            raise ConfigError(f"{place}.buckets: expected at least 2 for {self.encoding}, got {self.buckets}: set it")
        if len(self.inputs) > 1 and self.encoding != "hash":
            raise ConfigError(f"{place}: a cross of {len(self.inputs)} columns must have encoding: hash")
        if len(self.inputs) > 1 and self.kind != "categorical":
            raise ConfigError(f"{place}: only a categorical field crosses columns, this is {self.kind}: use one input")
        if self.weights and self.kind != "multi":
            raise ConfigError(f"{place}.weights: only a multi field has weights, this is {self.kind}: remove them")
        if self.weights and self.separator:
            raise ConfigError(f"{place}.weights: expected two list columns, got a separated string: make it a list")
        lengths: list[Any] = list(self.ngrams)
        if any(not isinstance(n, int) or n < 1 for n in lengths) or not lengths:
            raise ConfigError(f"{place}.ngrams: expected lengths from 1, got {list(self.ngrams)}: write [1, 2]")
        if (self.past is not None and self.past.what == "last") and self.kind not in ("sequence", "multi"):
            raise ConfigError(f"{place}.past: last gives a list, this field is {self.kind}: set kind to sequence")
        if self.past is not None and self.past.what != "last" and self.is_list:
            raise ConfigError(f"{place}.past: {self.past.what} gives a number, this field is {self.kind}: set numeric")


_KNOWN = sorted(f.name for f in fields(FieldConfig) if f.name != "name")
FIELD_KEYS = {*_KNOWN, "parts"}  # keys of an entry of data.fields; only a timestamp has parts


def _past(given: Any, place: str) -> Past | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigError(f"{place}.past: expected settings like {{what: count, by: [user]}}, got {given!r}")
    known = ("what", "by", "of", "where", "delay_days", "prior")
    if unknown := sorted(set(given) - set(known)):
        raise ConfigError(f"{place}.past: unknown {unknown}: expected some of {', '.join(known)}")
    what, by, source, where = given.get("what"), given.get("by"), given.get("of", ""), given.get("where", "")
    if what not in WHATS:
        raise ConfigError(f"{place}.past.what: expected one of {', '.join(WHATS)}, got {what!r}: name one of them")
    if isinstance(by, str) or not by or not all(isinstance(c, str) for c in by):
        raise ConfigError(f"{place}.past.by: expected a list of columns, got {by!r}: write [user]")
    if (what == "last") != bool(source):
        raise ConfigError(
            f"{place}.past.of: last, and only last, needs the column whose values it gives: got {source!r}"
        )
    if where not in WHERES or (where and what == "rate"):
        kinds = "nothing, since a rate counts both" if what == "rate" else "positive or negative"
        raise ConfigError(f"{place}.past.where: expected {kinds}, got {where!r}: write that, or leave it out")
    for key in ("delay_days", "prior"):
        value = given.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise ConfigError(f"{place}.past.{key}: expected a number from 0 to below 1e9, got {value!r}: give one")
    delay_days, prior = float(given.get("delay_days", 0)), float(given.get("prior", 10))
    return Past(what, tuple(by), (), source, delay_days, prior, where=where)


def _expanded(name: str, entry: Json) -> list[tuple[str, Json]]:
    """The entry itself; a `timestamp` entry becomes one categorical field for each part."""
    if entry.get("kind") != "timestamp":
        return [(name, entry)]
    place = f"data.fields.{name}"
    parts = entry.get("parts", ["hour", "weekday"])
    if isinstance(parts, str) or not set(parts) <= set(PARTS) or not parts:
        raise ConfigError(f"{place}.parts: expected some of {', '.join(PARTS)}, got {parts!r}: write [hour, weekday]")
    if unknown := sorted(set(entry) - {"kind", "parts", "inputs"}):
        raise ConfigError(f"{place}: unknown {unknown}: a timestamp takes parts and inputs")
    inputs = entry.get("inputs") or [name]
    return [(f"{name}_{p}", {"encoding": p, "inputs": inputs}) for p in parts]


def data_fields(config: Mapping[str, Any]) -> list[FieldConfig]:
    """Check the configuration of a data set as far as possible without the table → its fields.

    Args:
        config: The `data` group: see `KEYS` and docs/data.md.

    Raises:
        ConfigError: If a setting is invalid.
    """
    if unknown := sorted(set(config) - set(KEYS)):
        raise ConfigError(f"data: unknown {', '.join(unknown)}: expected some of {', '.join(KEYS)}")
    for key in ("name", "split", "fields"):
        if not config.get(key):
            raise ConfigError(f"data.{key}: expected a value, got {config.get(key)!r}: {_MENDS[key]}")
    label_names(config)
    for key, kind in (("fields", Mapping), ("split", Mapping), ("name", str)):
        if not isinstance(config[key], kind):
            expected = "settings of its own" if kind is Mapping else "text"
            raise ConfigError(f"data.{key}: expected {expected}, got {config[key]!r}: {_MENDS[key]}")
    check_name(config["name"], "data.name")
    seed = config["split"].get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= _MOST["seed"]:
        raise ConfigError(f"data.split.seed: expected a whole number from 0 to {_MOST['seed']:,}, got {seed!r}: set it")
    check_split(config["split"], config.get("time"))
    fields = field_configs(config["fields"])
    _check_roles(config, fields)
    return fields


def label_names(config: Mapping[str, Any]) -> list[str]:
    """The label columns of a data set, the main one first: `labels`, or `label` alone.

    Raises:
        ConfigError: If there is none, or `label` and `labels` disagree.
    """
    label, names = config.get("label"), config.get("labels")
    if names is None:
        if not label:
            raise ConfigError(f"data.label: expected a column, got {label!r}: name it, as in data.label=click")
        names = [label]
        if not isinstance(label, str):
            raise ConfigError(f"data.label: expected text, got {label!r}: name one column, or several in data.labels")
    listed = isinstance(names, list | tuple) and all(isinstance(n, str) and n for n in names)
    if not listed or not names or len(set(names)) < len(names):
        raise ConfigError(f"data.labels: expected different columns, got {names!r}: write [{label or 'click'}, buy]")
    if label and label != names[0]:
        raise ConfigError(
            f"data.labels: expected data.label ({label}) first, then the others, got {list(names)}: put it there"
        )
    return list(names)


_NAME_BYTES = 200  # a folder's name has 255 at most, and there is a date before it and a number after it


def check_name(name: Any, place: str) -> None:
    """Check a name that a folder or a file will have: nothing in it may lead to another folder.

    Raises:
        ConfigError: If it is not text, or could lead elsewhere.
    """
    text = isinstance(name, str)
    size = len(name.encode(errors="replace")) if text else 0
    if (
        not text
        or not 0 < len(name) <= 100
        or size > _NAME_BYTES
        or name.startswith(".")
        or re.search(r"[/\\:\x00-\x1f\x7f]", name)
    ):
        shown = name if not text or len(name) <= 100 else f"{name[:20]}…"
        raise ConfigError(
            f"{place}: expected up to 100 letters of text without / \\ : and no dot in front, in at most {_NAME_BYTES} "
            f"bytes, got {shown!r}: rename it"
        )


def _check_roles(config: Mapping[str, Any], fields: Sequence[FieldConfig]) -> None:
    """Refuse fields that read a label or the weight: these are not known when a row is scored."""
    main, *others = label_names(config)
    for role, column in (("label", main), *(("labels", n) for n in others), ("weight", config.get("weight"))):
        if reader := next((c.name for c in fields if c.past is None and column and column in c.inputs), None):
            raise ConfigError(
                f"data.fields.{reader}: reads {column!r}, which is data.{role}: remove the field "
                f"(~data.fields.{reader})" + (", or set data.weight: null" if role == "weight" else "")
            )


def field_configs(entries: Mapping[str, Any]) -> list[FieldConfig]:
    """Read `data.fields`, the looked-up fields first.

    Raises:
        ConfigError: If an entry is invalid.
    """
    fields: list[FieldConfig] = []
    for name, entry in entries.items():
        if not isinstance(entry or {}, Mapping):
            raise ConfigError(f"data.fields.{name}: expected settings like {{kind: numeric}}, got {entry!r}")
        for each, settings in _expanded(name, dict(entry or {})):
            if unknown := set(settings) - set(_KNOWN):
                raise ConfigError(f"data.fields.{each}: unknown {sorted(unknown)}: expected some of {_KNOWN}")
            past = _past(settings.pop("past", None), f"data.fields.{each}")
            fields.append(FieldConfig(each, **settings, past=past))
    if not fields:
        raise ConfigError("data.fields is empty: list the fields, or let `recsys data guess` write them")
    names = [c.name for c in fields]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"data.fields: {', '.join(twice)} twice: rename one")
    return _with_owners(sorted(fields, key=lambda c: c.kind in ("numeric", "vector")))


def _with_owners(fields: list[FieldConfig]) -> list[FieldConfig]:
    """Check that shared tables exist and can be shared."""
    by_name = {c.name: c for c in fields}
    for c in fields:
        if not c.table:
            continue
        owner = by_name.get(c.table)
        place = f"data.fields.{c.name}.table"
        if owner is None:
            raise ConfigError(
                f"{place}: expected the name of a field, got {c.table!r}: expected one of {list(by_name)}"
            )
        if c.kind not in ("categorical", "multi", "sequence"):
            raise ConfigError(f"{place}: a {c.kind} field reads no table: remove it")
        if owner.table or owner.encoding not in ("vocabulary", "hash") or len(owner.inputs) > 1:
            raise ConfigError(f"{place}: {c.table} must itself be a vocabulary or a hash of one column: choose another")
    return fields

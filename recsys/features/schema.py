"""Field and Schema: the columns of a row. All code uses the schema's order of fields.

Needs numpy and xxhash only, so that a scoring machine can read a bundle.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from recsys.errors import ConfigError
from recsys.features.derived import Past
from recsys.files import Json, read_json

__all__ = ["DTYPES", "KINDS", "Field", "Schema"]

Kind = Literal["categorical", "multi", "sequence", "numeric", "vector"]
KINDS = ("categorical", "multi", "sequence", "numeric", "vector")
DTYPES = ("string", "int", "float", "bool", "time")


@dataclass(frozen=True)
class Field:
    """One input of the model.

    Args:
        name: Unique name, which tables, gates and reports use.
        kind: `categorical` (one id a row), `multi` (up to `max_length` ids, mean-pooled),
            `sequence` (up to `max_length` past ids, newest first; the model chooses how to
            pool them), `numeric` (one number a row; a bucketed number is `categorical`) or
            `vector` (a list of `max_length` numbers a row).
        inputs: The raw columns that it is made from; several make a crossed field.
        dtypes: The type of each raw column: `string`, `int`, `float`, `bool` or `time`.
        cardinality: Count of ids, the reserved ones included; 0 for `numeric` and `vector`.
        max_length: Most ids of a row (longer lists keep their first ids), floats of a vector, or columns that
            encode a number: 1, unless it is piecewise.
        table: Name of the field whose encoder and table it reads; "" means its own. A sequence of
            past products reads the table of the field `product`, which is its candidate.
        separator: Separator of a list that a request holds as one string, `a|b`; "" if it holds a list.
        reverse: Whether the raw list has its oldest value first.
        weighted: Whether it is a `multi` field whose second input is a list of weights, one for each id.
            It is pooled to Σ w·x / Σ w. The weights follow all numbers in dense_BN.
        past: How the raw column is made from earlier rows. A request may contain it, or leave it out if
            the bundle holds the past.
    """

    name: str
    kind: Kind
    inputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    cardinality: int = 0
    max_length: int = 1
    table: str = ""
    separator: str = ""
    reverse: bool = False
    weighted: bool = False
    past: Past | None = None

    @property
    def is_sparse(self) -> bool:
        """Whether the field is looked up in a table."""
        return self.kind in ("categorical", "multi", "sequence")


def _field(value: Json) -> Field:
    past = value.get("past")
    if past is not None:
        past = Past(**Json(past, by=tuple(past["by"]), dtypes=tuple(past["dtypes"])))
    values: Json = {**value, "inputs": tuple(value["inputs"]), "dtypes": tuple(value["dtypes"]), "past": past}
    return Field(**values)


def _side_by_side(widths: list[tuple[str, int]], start: int = 0) -> dict[str, range]:
    placed: dict[str, range] = {}
    for name, width in widths:
        placed[name] = range(start, start + width)
        start += width
    return placed


@dataclass(frozen=True)
class Schema:
    """The fields in order, and the columns that are not inputs.

    Args:
        fields: All fields, the looked-up ones first, then the numeric ones.
        label: Raw name of the 0/1 label column, or of the main one of several.
        group: Raw name of the column that GAUC groups by, or None.
        weight: Raw name of the column of sample weights, or None.
        time: Raw name of the column of event times, or None.
        other_labels: Raw names of further label columns, whose values may be missing.

    Raises:
        ConfigError: If two fields share a name, there are no fields, or a numeric field comes before a looked-up one.
    """

    fields: tuple[Field, ...]
    label: str
    group: str | None = None
    weight: str | None = None
    time: str | None = None
    other_labels: tuple[str, ...] = ()
    _index: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("a schema needs at least one field, got none: list some under data.fields")
        self._index.update({f.name: i for i, f in enumerate(self.fields)})
        if len(self._index) != len(self.fields):
            names = [f.name for f in self.fields]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ConfigError(f"field names must be unique, got {twice} twice: rename one")
        if [f.is_sparse for f in self.fields] != sorted((f.is_sparse for f in self.fields), reverse=True):
            raise ConfigError(f"numeric fields must come after all others, got {self.names}: reorder")

    @property
    def names(self) -> list[str]:
        """All field names in order."""
        return [f.name for f in self.fields]

    @property
    def labels(self) -> list[str]:
        """All labels, the main one first."""
        return [self.label, *self.other_labels]

    @property
    def sparse(self) -> list[Field]:
        """The fields that are looked up, in order."""
        return [f for f in self.fields if f.is_sparse]

    @property
    def numeric(self) -> list[Field]:
        """The fields that are floats (numbers and vectors), in order."""
        return [f for f in self.fields if not f.is_sparse]

    @property
    def id_columns(self) -> dict[str, range]:
        """Looked-up field → its columns of ids_BL."""
        return _side_by_side([(f.name, f.max_length) for f in self.sparse])

    @property
    def float_columns(self) -> dict[str, range]:
        """Numeric or vector field → its columns of dense_BN."""
        return _side_by_side([(f.name, f.max_length) for f in self.numeric])

    @property
    def weight_columns(self) -> dict[str, range]:
        """Weighted field → the columns of its weights in dense_BN, after all numbers."""
        start = sum(f.max_length for f in self.numeric)
        return _side_by_side([(f.name, f.max_length) for f in self.fields if f.weighted], start)

    @property
    def raw_columns(self) -> list[str]:
        """All raw columns of a row, in order of first use; a request may leave out past-only ones."""
        return list(dict.fromkeys(c for f in self.fields for c in f.inputs))

    @property
    def lookup_columns(self) -> dict[str, str]:
        """Column → dtype of the columns by which past-only columns are looked up, if a request lacks these."""
        pasts = [f.past for f in self.fields if f.past]
        dtypes = {c: t for past in pasts for c, t in zip(past.by, past.dtypes, strict=True)}
        if self.time and any(past.what == "days_since" for past in pasts):
            dtypes[self.time] = "time"
        return dtypes

    def __getitem__(self, name: str) -> Field:
        if name not in self._index:
            raise ConfigError(f"no field named {name!r}: this schema has {', '.join(self.names)}")
        return self.fields[self._index[name]]

    def subset(self, names: Iterable[str]) -> "Schema":
        """Keep only the named fields, in this schema's order.

        Raises:
            ConfigError: If a name is unknown or no field is left.
        """
        keep = {self[n].name for n in names}
        return replace(self, fields=tuple(f for f in self.fields if f.name in keep))

    def to_json(self) -> Json:
        """A JSON-ready form; `from_json` reads it back."""
        return {
            "fields": [asdict(f) for f in self.fields],
            "labels": self.labels,
            "group": self.group,
            "weight": self.weight,
            "time": self.time,
        }

    @classmethod
    def from_json(cls, value: Json) -> "Schema":
        """Read what `to_json` wrote."""
        label, *others = value["labels"]
        fields = tuple(_field(f) for f in value["fields"])
        return cls(fields, label, value["group"], value.get("weight"), value.get("time"), tuple(others))

    @classmethod
    def load(cls, path: Path) -> "Schema":
        """Read a schema from a JSON file.

        Raises:
            DataError: If there is no such file, or it is damaged.
        """
        shape = {"fields": [{"name": str, "inputs": [str], "dtypes": [str]}], "labels": [str]}
        return cls.from_json(read_json(path, "a schema", "prepare the data, or export the bundle, again", shape=shape))

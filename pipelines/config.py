"""The configuration of a run, typed; conf/config.yaml explains each setting.

Imports nothing slow, so that a mistake is reported at once.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_type_hints

from pydantic import BeforeValidator, Field

from pipelines.benchmark_settings import Settings
from pipelines.daily_settings import Daily
from pipelines.places import check_runs, check_uri
from pipelines.stages import STAGES
from recsys.config.factory import Part, check_value, make_dataclass
from recsys.config.ranges import Count, Natural, Seed, Tau, Unit
from recsys.data.preparation.fields import check_name
from recsys.errors import ConfigError
from recsys.files import Json

__all__ = ["Distill", "Distributed", "Evaluate", "Export", "Merge", "RunConfig", "Select", "Tracking"]


def _by(check: Callable[[Any, str], None], place: str) -> BeforeValidator:
    """A validator from a check that raises its own error."""

    def checked(value: Any) -> Any:
        check(value, place)
        return value

    return BeforeValidator(checked)


def _check_list(value: Any, place: str) -> None:
    if not isinstance(value, list) or not value or not all(isinstance(s, str) for s in value):
        raise ConfigError(f"{place}: expected a list of some of {', '.join(STAGES)}, got {value!r}: write [train]")


def _check_option(value: Any, place: str) -> None:
    if not isinstance(value, Mapping):
        option = value if isinstance(value, str) else "OPTION"
        raise ConfigError(
            f"{place}: expected settings, got {value!r}: write {place.rpartition('.')[2]}@{place}={option}"
        )


def _check_trusted(value: Any, place: str) -> None:
    if isinstance(value, str):
        raise ConfigError(f"{place}: expected a list of packages, got {value!r}: write [{value}]")


_NOT_SET = ("benchmark", "daily", "launcher")  # keys that only some experiments or command lines set
_Id = Annotated[str, Field(coerce_numbers_to_str=True)]  # a folder may be called 3


@dataclass(frozen=True)
class Select:
    """How a selector's scores decide, and which earlier selection stage train applies."""

    top_k: Count | None
    no_cut: Count | None
    protect: list[str]
    repeats: Literal["keep", "drop"]
    apply: str | list[str] | None
    probes: Natural


@dataclass(frozen=True)
class Distill:
    """The student of stage distill, and how it learns."""

    weight: Unit
    temperature: Tau
    model: Annotated[Part, _by(_check_option, "distill.model")]
    embedding: Annotated[Part, _by(_check_option, "distill.embedding")]


@dataclass(frozen=True)
class Merge:
    """Ids of the finished runs whose models stage merge combines into one."""

    runs: list[_Id]


@dataclass(frozen=True)
class Evaluate:
    """What stage evaluate shows beside the figures of each model on all test rows."""

    slices: list[str]


@dataclass(frozen=True)
class Export:
    """What a bundle holds beside the model."""

    golden: Literal["synthetic", "rows", "none"]
    past: bool


def _check_sharding(value: Any, place: str) -> None:
    if value in ("column_wise", "table_column_wise"):
        raise ConfigError(
            f"{place}: expected auto, table_wise, row_wise or data_parallel, got {value}: each part of a row would "
            "have its own state of row-wise Adagrad, which is another optimiser: set row_wise"
        )


@dataclass(frozen=True)
class Distributed:
    """How tables are spread over the processes that torchrun started."""

    sharding: Annotated[
        Literal["auto", "table_wise", "row_wise", "data_parallel"], _by(_check_sharding, "distributed.sharding")
    ]


@dataclass(frozen=True)
class Tracking:
    """The MLflow server of a run, and the names under which it is logged."""

    uri: Annotated[str | None, _by(check_uri, "tracking.uri")]
    experiment: Annotated[str, _by(check_name, "tracking.experiment")]
    register: Annotated[str, _by(check_name, "tracking.register")]


@dataclass(frozen=True)
class RunConfig:
    """The resolved configuration of a run.

    Its keys are those of conf/config.yaml and the groups of conf/; a group that is left out is None.
    """

    data: Part
    train: Part
    model: Part
    embedding: Part
    head: Part
    optimizer: Part
    table_optimizer: Part
    sequence: Part | None
    selection: Part | None
    compression: Part | None
    quantization: Part | None
    heal: Part | None
    name: Annotated[str, _by(check_name, "name")]
    seed: Seed
    device: Literal["auto", "cpu", "cuda"]
    stages: Annotated[list[str], _by(_check_list, "stages")]
    from_run: _Id | None
    trusted: Annotated[list[str], _by(_check_trusted, "trusted")]
    runs: Annotated[str, _by(check_runs, "runs")]
    select: Select
    merge: Merge
    distill: Distill
    calibrate: bool
    evaluate: Evaluate
    export: Export
    tracking: Tracking
    distributed: Distributed
    benchmark: Settings | None = None
    launcher: Part | None = None
    daily: Daily | None = None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunConfig":
        """Check the configuration that Hydra has composed.

        Raises:
            ConfigError: If a key is unknown or missing, or a value is of the wrong type or out of range.
        """
        hints = get_type_hints(cls, include_extras=True)
        if unknown := sorted(map(str, set(values) - set(hints))):
            raise ConfigError(f"unknown {', '.join(unknown)}: expected some of {', '.join(sorted(hints))}")
        may_lack = {*_NOT_SET, *(name for name, hint in hints.items() if hint in (Part, Part | None))}
        if lacking := sorted(set(hints) - may_lack - set(values)):
            raise ConfigError(f"no value for {', '.join(lacking)}: leave it as it is, or set it")
        _refuse_nan(values, "")
        data = _read(values.get("data"), hints["data"], "data")
        check_name(data.get("name"), "data.name")  # first: a run has that name by default
        return cls(**{name: _read(values.get(name), hint, name) for name, hint in hints.items()})

    def to_json(self) -> Json:
        """All of it, as JSON holds it."""
        return {key: value for key, value in asdict(self).items() if key not in _NOT_SET or value is not None}


def _refuse_nan(value: Any, place: str) -> None:
    """Refuse NaN: it differs from itself, so that a stage with such a setting could never be resumed."""
    if isinstance(value, float) and value != value:
        raise ConfigError(f"{place}: expected a number, got nan: give one")
    inside = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        _refuse_nan(part, f"{place}.{key}" if place else str(key))


def _read(value: Any, hint: Any, place: str) -> Any:
    """Check the value of a key by its type hint."""
    may_lack = NoneType in get_args(hint)
    kind = get_args(hint)[0] if may_lack else hint
    if kind == Part:
        if not isinstance(value, Mapping) and (value or not may_lack):  # null and false leave it out
            raise ConfigError(f"{place}: expected an option of the group, got {value!r}: name one")
        return dict(value) if isinstance(value, Mapping) else None
    if isinstance(kind, type) and is_dataclass(kind) and not (may_lack and value is None):
        if not isinstance(value, Mapping):
            known = ", ".join(f.name for f in fields(kind))
            raise ConfigError(f"{place}: expected {known}, got {value!r}: set one of them")
        return make_dataclass(kind, value, place)
    return check_value(value, hint, place)

"""A comparison as lines of a table: one for each group of seeds, or one for each run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.files import Json
from recsys.service.figures import is_higher_better, kind_of

__all__ = ["Line", "best_first", "brief", "columns", "lines", "short", "usual"]

_FIRST = ("auc", "logloss", "valid_auc", "bytes", "us_per_row", "seconds", "valid_logloss")
_WORDS = {"auc": "AUC", "gauc": "GAUC", "ne": "NE", "ece": "ECE"}
_OF_NO_ROWS = ("bytes", "table_bytes", "us_per_row", "fields")  # figures of stage evaluate that are none of test rows
_MOST = 6  # figures that are shown unasked


@dataclass(frozen=True)
class Line:
    """A line of the comparison.

    Args:
        ids: Its runs.
        name: What it is called.
        state: State of its runs, if it is one.
        seeds: Seeds of those that have finished, each once.
        finished: How many of its runs have.
        repeated: How many of these repeat a seed.
        config: Key → value, of the keys that differ.
        figures: Name → `mean`, and `low` and `high` if there are several seeds; of a line that stands for one run
            which has not finished, the newest that it has told.
        against: Name → difference to the baseline's, with `p` if there are common seeds.
        is_baseline: Whether the others are held against it.
    """

    ids: list[str]
    name: str
    state: str | None
    seeds: list[Any]
    finished: int
    repeated: int
    config: dict[str, Any]
    figures: dict[str, Json]
    against: dict[str, Json]
    is_baseline: bool

    @property
    def id(self) -> str:
        """The first of its runs, by which it is pinned."""
        return self.ids[0]

    def mean(self, name: str) -> float | None:
        """The mean of a figure over finished runs; None if there is none."""
        return self.figures.get(name, {}).get("mean") if self.finished else None

    @property
    def means(self) -> dict[str, float]:
        """The mean of each figure over finished runs."""
        return {name: figure["mean"] for name, figure in self.figures.items()} if self.finished else {}

    @property
    def note(self) -> str:
        """How many of its runs count, and how often: `2 of 3 finished, 1 repeated`; "" if each does, once."""
        some = f"{self.finished} of {len(self.ids)} finished" if self.finished < len(self.ids) else ""
        return ", ".join(filter(None, [some, f"{self.repeated} repeated" if self.repeated else ""]))


def lines(compared: Json, grouped: bool) -> list[Line]:
    """The lines of what `compare` gives."""
    runs: dict[str, Json] = {r["id"]: r for r in compared["runs"]}
    if grouped:
        return [
            Line(
                g["runs"], runs[g["runs"][0]]["name"], _one_state([runs[id]["state"] for id in g["runs"]]), g["seeds"],
                g["finished"], g["repeated"], g["config"], g["figures"], g["against"], number == compared["baseline"],
            )
            for number, g in enumerate(compared["groups"])
        ]  # fmt: skip
    first = runs[compared["groups"][compared["baseline"]]["runs"][0]]

    def against(run: Json) -> dict[str, Json]:
        alike = run["data"] is not None and run["data"] == first["data"]
        alike = alike and run["state"] == first["state"] == "finished"
        common = [n for n in run["figures"] if n in first["figures"]] if alike else []
        return {} if run is first else {n: {"mean": run["figures"][n] - first["figures"][n]} for n in common}

    return [
        Line(
            [r["id"]], r["name"], r["state"], [r["seed"]], int(r["state"] == "finished"), 0, r["config"],
            {name: {"mean": value, "count": 1} for name, value in r["figures"].items()},
            against(r), r is first,
        )
        for r in compared["runs"]
    ]  # fmt: skip


def _one_state(states: Sequence[str]) -> str | None:
    return states[0] if len(set(states)) == 1 else None


def usual(names: Sequence[str]) -> list[str]:
    """The figures that people look at first, one of each kind: of test rows, and before recalibration."""

    def rank(name: str) -> tuple[bool, bool, int]:
        kind = kind_of(name)
        return ("recalibrated" in name, kind.startswith("valid_") and not name.startswith("train/"), len(name))

    kinds = [[n for n in names if kind_of(n) == kind] for kind in _FIRST]
    kinds = [[n for n in one if not n.startswith("evaluate/constant.")] for one in kinds]
    return ([min(one, key=rank) for one in kinds if one] or list(names))[:_MOST]


def best_first(every: Sequence[Line], by: str) -> list[Line]:
    """Lines by a figure, the best first, or by a setting; those without it last."""

    def order(line: Line) -> tuple[bool, Any]:
        value = line.mean(by)
        if value is not None:
            return False, (0, -value if is_higher_better(by) else value, "")
        setting = line.config.get(by)
        if isinstance(setting, int | float):
            return False, (0, float(setting), "")
        return setting is None, (1, 0.0, str(setting))

    return sorted(every, key=order)


def short(key: str) -> str:
    """A key or figure as a heading: without what goes without saying, and with the rows that it was measured on.

    >>> short("model._target_"), short("train/valid_auc"), short("train/valid_logloss.click")
    ('model', 'validation AUC', 'validation logloss, click')
    >>> short("evaluate/train.auc"), short("evaluate/select.logloss"), short("evaluate/train.bytes")
    ('test AUC', 'test logloss, select', 'bytes')
    """
    stage, _, name = key.removesuffix("._target_").rpartition("/")
    kind = kind_of(name)
    others = [part for part in name.split(".") if part != kind]
    if kind.startswith("valid_"):
        measure, others = f"validation {_word(kind.removeprefix('valid_'))}", [o for o in others if o != "train"]
    elif stage == "evaluate":
        rows = "" if kind in _OF_NO_ROWS else "test "
        measure, others = f"{rows}{_word(kind)}", [o for o in others if o != "train"]
    else:
        return f"{stage}/{name}" if stage else name
    return ", ".join([measure, *others])


def _word(kind: str) -> str:
    return _WORDS.get(kind, kind)


def brief(key: str, value: Any) -> Any:
    """A value that names code, without its package."""
    return value.rpartition(".")[2] if key.endswith("_target_") and isinstance(value, str) else value


def columns(every: Sequence[Line], keys: Sequence[str], figures: Sequence[str]) -> list[tuple[str, Mapping[int, Any]]]:
    """Key or figure → row → value, for axes."""
    settings = [(k, {i: brief(k, one.config[k]) for i, one in enumerate(every) if k in one.config}) for k in keys]
    measured = [(n, {i: one.means[n] for i, one in enumerate(every) if n in one.means}) for n in figures]
    return [*settings, *measured]

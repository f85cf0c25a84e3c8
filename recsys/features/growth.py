"""A vocabulary that follows ids over time: new ids get rows, ids that stay away lose theirs, and no two share one.

The i-th value has id i + 2, as in `Vocabulary`; None is a free row. V values seen in a period, R rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.errors import DataError
from recsys.features.encoders import Vocabulary
from recsys.files import Json

__all__ = ["FIRST_ID", "Change", "Growing", "Rule", "Seen"]

FIRST_ID = 2  # 0 is missing, 1 is unseen


@dataclass(frozen=True)
class Rule:
    """When an id gets a row, and when it loses it.

    Args:
        admit: Rows with the id, over all periods since it was last forgotten, from which it gets a table row, ≥ 1.
        evict_days: Days without the id after which it is forgotten; None never forgets one.
        max_size: Most ids with a row; 0 is no limit. Ids that have a row keep it.
    """

    admit: int
    evict_days: int | None = None
    max_size: int = 0


@dataclass(frozen=True)
class Seen:
    """The values of a column in a period.

    Args:
        values: Different spellings.
        count_V: Rows with each.
        last_V: The last day with each, in days since 1970.
    """

    values: Sequence[str]
    count_V: np.ndarray
    last_V: np.ndarray

    def items(self) -> "zip[tuple[str, int, int]]":
        """Value, count and last day of each."""
        return zip(self.values, self.count_V.tolist(), self.last_V.tolist(), strict=True)


@dataclass(frozen=True)
class Change:
    """How a period changes a vocabulary; a row may be in both, since a freed row is given away first.

    Args:
        admitted: Id → the value that has it from now on.
        evicted: Id → the value that had it; the value is unseen from now on.
    """

    admitted: dict[int, str] = field(default_factory=dict[int, str])
    evicted: dict[int, str] = field(default_factory=dict[int, str])

    @property
    def fresh(self) -> list[int]:
        """The table rows that must be drawn anew, with the state of their optimiser at 0, ascending."""
        return sorted({*self.admitted, *self.evicted})


class Growing:
    """The ids of one table over time.

    Args:
        rule: When ids come and go.
        day: Days since 1970 until which rows have been seen, this day excluded.
        values: Value of each row from id 2 on; None is a free row.
        last: The last day on which each row's value was seen; −1 for a free row.
        waiting: Value without a row → rows with it so far, and the last day with it.
    """

    def __init__(
        self,
        rule: Rule,
        day: int,
        values: Sequence[str | None],
        last: Sequence[int],
        waiting: Mapping[str, tuple[int, int]],
    ):
        self.rule, self.day = rule, day
        self.values, self.last, self.waiting = list(values), list(last), dict(waiting)
        self._row = {v: i for i, v in enumerate(self.values) if v is not None}

    @classmethod
    def begin(cls, rule: Rule, day: int, values: Sequence[str | None] = (), seen: Seen | None = None) -> "Growing":
        """Begin with a fitted vocabulary; values that the rows before `day` held and it lacks wait with their count.

        Args:
            rule: When ids come and go from now on.
            day: Days since 1970 at which the fitted rows end.
            values: The fitted vocabulary; none begins empty.
            seen: The values in the rows that it was fitted on.
        """
        last_day = {v: last for v, _, last in seen.items()} if seen else {}
        known = {v for v in values if v is not None}
        waiting = {v: (count, last) for v, count, last in seen.items() if v not in known} if seen else {}
        last = [-1 if v is None else last_day.get(v, day - 1) for v in values]
        return cls(rule, day, values, last, waiting)

    def __len__(self) -> int:
        """Ids that have a row."""
        return len(self._row)

    @property
    def vocabulary(self) -> Vocabulary:
        """The encoder as it is now."""
        return Vocabulary(self.values)

    def observe(self, day: int, seen: Seen) -> Change:
        """Follow the rows of the next period: first ids are forgotten, then others take the free rows, lowest first.

        Of several ids that are due a row, the most frequent comes first, then the one that sorts first.

        Args:
            day: Days since 1970 at which the period ends, this day excluded.
            seen: The values of its rows.

        Raises:
            DataError: If the period does not end after the one before.
        """
        if day <= self.day:
            raise DataError(
                f"expected rows after day {self.day} since 1970, which the vocabulary has seen, got day {day}: give "
                "days in order"
            )
        self.day = day
        for value, count, last in seen.items():
            if (row := self._row.get(value)) is not None:
                self.last[row] = max(self.last[row], last)
            else:
                before, last_before = self.waiting.get(value, (0, last))
                self.waiting[value] = before + count, max(last, last_before)
        evicted = self._forget()
        return Change(self._admit(), evicted)

    def _forget(self) -> dict[int, str]:
        """Free the rows of stale ids, and stop the count of those that wait."""
        if self.rule.evict_days is None:
            return {}
        oldest = self.day - self.rule.evict_days  # the first day that still counts
        evicted: dict[int, str] = {}
        for value, row in [(v, r) for v, r in self._row.items() if self.last[r] < oldest]:
            evicted[row + FIRST_ID] = value
            self.values[row], self.last[row] = None, -1
            del self._row[value]
        self.waiting = {v: w for v, w in self.waiting.items() if w[1] >= oldest}
        return evicted

    def _admit(self) -> dict[int, str]:
        """Give rows to the ids that were seen often enough."""
        due = sorted((-count, v) for v, (count, _) in self.waiting.items() if count >= self.rule.admit)
        if self.rule.max_size:
            due = due[: max(0, self.rule.max_size - len(self))]
        free = [i for i, v in enumerate(self.values) if v is None][: len(due)]
        free += range(len(self.values), len(self.values) + len(due) - len(free))
        new = max(0, max(free, default=-1) + 1 - len(self.values))
        self.values += [None] * new
        self.last += [-1] * new
        admitted: dict[int, str] = {}
        for row, (_, value) in zip(free, due, strict=True):
            self.values[row], self.last[row] = value, self.waiting.pop(value)[1]
            self._row[value] = row
            admitted[row + FIRST_ID] = value
        return admitted

    def to_json(self) -> Json:
        """All that the next period depends on except the rule."""
        return {"day": self.day, "values": self.values, "last": self.last, "waiting": self.waiting}

    @classmethod
    def from_json(cls, rule: Rule, value: Mapping[str, Any]) -> "Growing":
        """Read what `to_json` wrote."""
        waiting = {v: (int(count), int(last)) for v, (count, last) in value["waiting"].items()}
        return cls(rule, value["day"], value["values"], value["last"], waiting)

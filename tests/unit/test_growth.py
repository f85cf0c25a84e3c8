"""Growing vocabularies against a slow formula: every answer is worked out anew from the log of all that was seen."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.features.encoders import MISSING, UNSEEN, Vocabulary, encoder_from_json
from recsys.features.growth import FIRST_ID, Growing, Rule, Seen
from recsys.features.row_encoder import encoders_to_json, read_encoders
from recsys.files import write_json

IDS = "abcdefg"


def seen(rows: dict[str, tuple[int, int]]) -> Seen:
    return Seen(list(rows), np.array([c for c, _ in rows.values()], int), np.array([d for _, d in rows.values()], int))


class Slow:
    """Which id has which row, from the log of (period, id, count, last day) alone."""

    def __init__(self, rule: Rule):
        self.rule, self.log, self.rows, self.from_period, self.most = rule, [], {}, dict.fromkeys(IDS, 0), 0

    def period(self, number: int, end: int, rows: dict[str, tuple[int, int]]) -> tuple[dict, dict]:
        self.log += [(number, v, count, last) for v, (count, last) in rows.items()]
        mine = {v: [e for e in self.log if e[1] == v and e[0] >= self.from_period[v]] for v in IDS}
        evicted = {}
        for v, entries in mine.items():
            stale = self.rule.evict_days is not None and (
                not entries or max(e[3] for e in entries) < end - self.rule.evict_days
            )
            if stale:
                mine[v], self.from_period[v] = [], number + 1
                if v in self.rows:
                    evicted[self.rows.pop(v)] = v
        count = {v: sum(e[2] for e in entries) for v, entries in mine.items()}
        due = [v for v in sorted(IDS, key=lambda v: (-count[v], v)) if count[v] >= self.rule.admit]
        due = [v for v in due if v not in self.rows]
        if self.rule.max_size:
            due = due[: max(0, self.rule.max_size - len(self.rows))]
        admitted = {}
        for v in due:
            self.rows[v] = next(i for i in range(FIRST_ID, 99) if i not in self.rows.values())
            admitted[self.rows[v]] = v
        return admitted, evicted


ROWS = st.dictionaries(st.sampled_from(IDS), st.tuples(st.integers(1, 4), st.integers(0, 4)))
PERIODS = st.lists(st.tuples(st.integers(1, 5), ROWS), max_size=12)


@settings(max_examples=150, deadline=None)
@given(PERIODS, st.integers(1, 6), st.none() | st.integers(1, 12), st.integers(0, 5))
def test_ids_come_and_go_as_the_log_of_all_rows_says(periods, admit, evict_days, max_size):
    rule = Rule(admit, evict_days, max_size)
    fast, slow, day = Growing.begin(rule, 0), Slow(rule), 0
    for number, (length, rows) in enumerate(periods):
        ends = day + length
        rows = {v: (count, max(day, ends - 1 - back)) for v, (count, back) in rows.items()}
        day, before = ends, dict(fast._row)
        change = fast.observe(day, seen(rows))
        assert (change.admitted, change.evicted) == slow.period(number, day, rows)
        encoder, spelled = fast.vocabulary, {v: fast.vocabulary.id([v]) for v in IDS}
        assert {v: i for v, i in spelled.items() if i != UNSEEN} == slow.rows
        assert len(set(slow.rows.values())) == len(slow.rows) == len(fast)  # never two ids on a row
        assert encoder.cardinality == len(fast.values) + 2 > max(slow.rows.values(), default=0)
        assert all(fast._row[v] == row for v, row in before.items() if v in fast._row)  # who stays keeps its row
        changed = {r + FIRST_ID for v, r in before.items() if v not in fast._row} | {
            r + FIRST_ID for v, r in fast._row.items() if v not in before
        }
        assert change.fresh == sorted(changed)
        fast = Growing.from_json(rule, json.loads(json.dumps(fast.to_json())))


def test_a_fitted_vocabulary_keeps_its_ids_and_rare_values_keep_their_count():
    fitted = Vocabulary(["x", "y"])
    growing = Growing.begin(Rule(3, 10), 100, fitted.values, seen({"x": (9, 99), "y": (5, 85), "z": (2, 98)}))
    assert [growing.vocabulary.id([v]) for v in "xyz"] == [2, 3, UNSEEN]
    change = growing.observe(101, seen({"z": (1, 100)}))
    assert (change.evicted, change.admitted, change.fresh) == ({3: "y"}, {3: "z"}, [3])
    assert [growing.vocabulary.id([v]) for v in "xyz"] == [2, UNSEEN, 3]


def test_an_evicted_id_waits_from_zero_again():
    growing = Growing.begin(Rule(2, 1), 0)
    growing.observe(1, seen({"a": (5, 0)}))
    assert growing.observe(9, seen({})).evicted == {2: "a"}
    assert growing.observe(10, seen({"a": (1, 9)})).admitted == {}
    assert growing.observe(11, seen({"a": (1, 10)})).admitted == {2: "a"}


@pytest.mark.parametrize("day", [4, 5])
def test_time_does_not_run_backwards(day):
    with pytest.raises(DataError, match="expected rows after day 5"):
        Growing.begin(Rule(1), 5).observe(day, seen({}))


def test_a_free_id_is_nobodys_and_is_stored_as_such(tmp_path):
    encoder = Vocabulary(["7", None, "9"])
    again = encoder_from_json(json.loads(json.dumps(encoder.to_json())))
    assert [again.id([v]) for v in ("7", "9", "8", None)] == [2, 4, UNSEEN, MISSING]
    assert again.ids_by_value(int) == {7: 2, 9: 4} and again.ids_by_value(str) == {"7": 2, "9": 4, "": MISSING}
    assert again.cardinality == 5
    stored = encoders_to_json({"item": encoder})
    assert stored["version"] == 3 and encoders_to_json({"item": Vocabulary(["7"])})["version"] == 2
    write_json(tmp_path / "encoders.json", stored)
    assert read_encoders(tmp_path)["item"]["values"] == ["7", None, "9"]

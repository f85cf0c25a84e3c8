"""The front, the shares of variance and the axes, against slow formulas; selection reports side by side."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import QueryParams

from recsys.service.pages.parts.axes import dimensions, kept_of
from recsys.service.pages.parts.charts import nice_axis
from recsys.service.pages.parts.front import scatter
from recsys.service.pages.parts.history import history, importance
from recsys.service.pages.parts.words import ago, duration, shown
from tests.reports import report_json
from tests.service.http.conftest import Caller
from tests.service.pages.conftest import Bench


@pytest.mark.parametrize(("x", "y"), [("bytes", "auc"), ("bytes", "logloss"), ("auc", "seconds")])
def test_the_front_is_what_no_other_point_beats(x: str, y: str) -> None:
    draw = random.Random(0)
    drawn = [{x: float(draw.randint(0, 9)), y: float(draw.randint(0, 9))} for _ in range(30)]
    points = [*drawn, *drawn, {x: 1.0}]
    plane = scatter(x, y, points)
    assert plane is not None and 60 not in plane.points

    def cost(i: int, name: str) -> float:
        return -points[i][name] if name == "auc" else points[i][name]

    def beaten(i: int) -> bool:
        mine = (cost(i, x), cost(i, y))
        theirs = [(cost(j, x), cost(j, y)) for j in range(60)]
        return any(a <= mine[0] and b <= mine[1] and (a, b) != mine for a, b in theirs)

    assert sorted(plane.front) == [i for i in range(60) if not beaten(i)]  # equal points too: each or none
    assert all(0 <= v <= 100 for i in plane.points for v in plane.place(i))


def test_importance_is_omega_squared() -> None:
    draw = random.Random(1)
    settings = [{"model": draw.choice(["a", "b", "c"]), "noise": draw.choice([1, 2])} for _ in range(40)]
    y = [{"a": 0.0, "b": 1.0, "c": 2.0}[str(s["model"])] + draw.gauss(0, 0.3) for s in settings]
    shares = {one.key: one.share for one in importance(settings, y)}
    mean = sum(y) / 40
    groups = [[v for s, v in zip(settings, y, strict=True) if s["model"] == name] for name in "abc"]
    within = sum((v - sum(g) / len(g)) ** 2 for g in groups for v in g) / 37
    total = sum((v - mean) ** 2 for v in y)
    assert shares["model"] == pytest.approx((total - within * 37 - 2 * within) / (total + within))
    assert shares["model"] > 0.8 and shares["noise"] < 0.1
    assert importance(settings[:5], y[:5]) == []


def test_importance_of_a_setting_that_does_nothing_is_zero_on_average() -> None:
    draw, seen = random.Random(2), list[float]()
    for _ in range(1500):
        settings = [{"model": draw.choice("abc"), "lr": i} for i in range(12)]
        seen += [one.share for one in importance(settings, [draw.gauss(0, 1) for _ in range(12)])]
    assert abs(sum(seen) / len(seen)) < 0.02 and min(seen) < -0.05
    assert sum(max(0.0, share) for share in seen) / len(seen) > 0.05  # as it would be if it ended at 0


def test_a_setting_of_one_model_is_judged_among_its_runs() -> None:
    """`layers` explains all among runs of dcn; those of mlp, which have none, say nothing of it."""
    settings: list[dict[str, Any]] = [{"model": "dcn", "layers": i % 2} for i in range(8)]
    settings += [{"model": "mlp", "rare": 1 + i % 2} if i < 4 else {"model": "mlp"} for i in range(8)]
    y = [float(s["layers"]) if "layers" in s else 9.0 + i / 10 for i, s in enumerate(settings)]
    shares = {one.key: (one.share, one.runs) for one in importance(settings, y)}
    assert shares["layers"] == (pytest.approx(1), 8) and shares["model"][1] == 16 and "rare" not in shares
    numbers = [{"rate": i / 7, "model": "m"} if i % 2 else {"model": "fm"} for i in range(40)]
    rate = next(one for one in importance(numbers, [float(i) for i in range(40)]) if one.key == "rate")
    assert rate.runs == 20 and rate.share > 0.8


@pytest.mark.parametrize("count", [7, 40])
def test_importance_of_numbers_that_never_repeat(count: int) -> None:
    """As random search draws them: both tell all runs apart, and one alone explains the figure."""
    draw = random.Random(1)
    settings = [{"idle": draw.random(), "lr": draw.random()} for _ in range(count)]
    for one in settings[::2]:
        one["seldom"] = draw.random()
    shares = {one.key: one.share for one in importance(settings, [one["lr"] for one in settings])}
    seldom = {"seldom"} if count > 7 else set[str]()  # four runs that have it say nothing
    assert next(iter(shares)) == "lr" and shares["lr"] > 0.75 and set(shares) == {"idle", "lr"} | seldom
    assert shares["idle"] < 0.3


def test_history_keeps_the_record() -> None:
    told = history([0.5, None, 0.7, 0.6], True, "auc")
    assert told is not None and told.steps == [(0, 0.5), (0, 0.5), (2, 0.5), (2, 0.7), (3, 0.7), (3, 0.7)]
    assert history([0.5, None], True, "auc") is None


def test_axes_of_numbers_logarithms_and_texts_and_what_an_address_leaves() -> None:
    columns = [("lr", {0: 0.001, 1: 0.01, 2: 1.0}), ("model", {0: "fm", 1: "dcn"}), ("same", {0: 1, 1: 1})]
    lr, model = dimensions(columns)
    assert lr.log and not lr.categories and [text for _, text in lr.ticks][:2] == ["0.001", "0.003"]
    at = [lr.share(i) for i in range(3)]
    assert at[1] is not None and at[0] is not None and at[2] is not None
    assert (at[1] - at[0]) == pytest.approx((at[2] - at[1]) / 2)  # one decade, two decades
    assert model.share(2) is None and model.categories == ["fm", "dcn"]
    kept = kept_of(QueryParams("min:lr=0.005&only:model=dcn&max:lr=x"))
    assert [kept.takes(i, [lr, model]) for i in range(3)] == [False, True, False]


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-3e9, 2e-9], [0.7361, 0.7362], [1e-12, 3e-12]])
def test_an_axis_has_round_ticks_inside(values: list[float]) -> None:
    axis = nice_axis(values)
    assert axis.low < axis.high and 1 <= len(axis.ticks) <= 8
    assert all(axis.low <= t <= axis.high for t in axis.ticks) and all(0 <= axis.share(v) <= 1 for v in values)


def test_numbers_and_times_in_words() -> None:
    assert [duration(s) for s in (0.04, 9.94, 59, 61, 3600, 3725, 90_000)] == [
        "0.0 s", "9.9 s", "59 s", "1 min", "1 h", "1 h 2 min", "1 d 1 h",
    ]  # fmt: skip
    assert duration(None) == duration(float("inf")) == "" and ago(99.0, 100.0) == "just now"
    assert [shown(v) for v in (None, True, 1234567, 0.123456, 3e6, [1, "a"], {"b": 0.5})] == [
        "null", "true", "1,234,567", "0.12346", "3,000,000", "[1, a]", "{b: 0.5}",
    ]  # fmt: skip


def test_selection_reports_stand_side_by_side(here: Caller, bench: Bench, place: Path) -> None:
    ids = [f"2026010{i}-000000-demo-{i}" for i in (1, 2, 3)]
    evil = "<img src=x onerror=alert(1)>"
    fields = [{"user": {}, evil: {"verdict": "drop"}}, {evil: {}, "user": {"verdict": "uncertain"}}]
    for id, report in zip(ids, (report_json(f) for f in fields), strict=False):
        bench.whole(id)
        (place / "runs" / id / "select").mkdir()
        (place / "runs" / id / "select" / "report.json").write_text(json.dumps(report))
    bench.whole(ids[2])
    (place / "runs" / ids[2] / "select").mkdir()
    (place / "runs" / ids[2] / "select" / "report.json").write_text("{")  # damaged: left out
    text = here.get("/compare?id=" + ",".join(ids), headers={"accept": "text/html"}).text
    assert "Selection reports" in text and "keeps 1 of 2" in text and "keeps 2 of 2" in text
    assert "RBO" in text and "uncertain" in text and "&lt;img src=x" in text and "<img" not in text

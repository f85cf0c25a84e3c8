"""Retrain curves, reports merged over seeds, repeats: against definitions worked by hand."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import t

from recsys.data.sets.decoys import add
from recsys.errors import ConfigError
from recsys.evaluation.metrics import auc
from recsys.selection.figures import SearchNotes, ShuffledCost
from recsys.selection.reports.agreement import (
    area,
    area_weights,
    holm,
    influence,
    mean_with_interval,
    paired_difference,
)
from recsys.selection.reports.benchmark_page import columns, rows, write_page
from recsys.selection.reports.curve import checked_grid, curve_summary
from recsys.selection.reports.over_seeds import over_seeds
from recsys.selection.reports.report import Report
from recsys.selection.scores import FieldScores, Verdict, decide, without_repeats
from tests.pages import SCRIPT, runs
from tests.reports import report_json


def curve(by_seed: dict, full: dict, kept: dict, metric: str = "auc") -> dict:
    return {"metric": metric, "grid": [2, 4, 8], "by_seed": by_seed, "full": full, "kept": kept, "random": None}


CURVE = curve({"0": [0.70, 0.74, 0.76], "1": [0.72, 0.75, 0.76]}, {"0": 0.76, "1": 0.761}, {"0": 0.758, "1": 0.762})


def test_the_area_is_the_trapezoid_over_the_grid():
    found = curve_summary(CURVE)
    by_hand = [((0.70 + 0.74) / 2 * 2 + (0.74 + 0.76) / 2 * 4) / 6, ((0.72 + 0.75) / 2 * 2 + (0.75 + 0.76) / 2 * 4) / 6]
    assert found["area"]["mean"] == pytest.approx(np.mean(by_hand))
    half = t.ppf(0.975, 1) * abs(by_hand[0] - by_hand[1]) / 2
    assert found["area"]["high"] - found["area"]["mean"] == pytest.approx(half)
    assert found["at_k"]["4"]["mean"] == pytest.approx(0.745)
    assert found["kept_change"]["mean"] == pytest.approx((-0.002 + 0.001) / 2)
    assert found["smallest_k"] == 8


def test_the_smallest_k_follows_the_direction_of_the_metric():
    loss = curve({"0": [0.50, 0.4505, 0.45]}, {"0": 0.45}, {"0": 0.45}, "logloss")
    assert curve_summary(loss)["smallest_k"] == 4
    assert curve_summary(loss, within=1e-4)["smallest_k"] == 8
    assert curve_summary(curve({"0": [0.5, 0.6, 0.7]}, {"0": 0.9}, {"0": 0.9}))["smallest_k"] is None


def test_a_grid_of_one_k_has_no_area():
    one = {**CURVE, "grid": [2], "by_seed": {"0": [0.7], "1": [0.7]}}
    assert curve_summary(one)["area"] is None


def test_the_grid():
    assert checked_grid(None, 24) == [3, 6, 12, 18]
    assert checked_grid(None, 2) == [1, 2]
    assert checked_grid([1, 24], 24) == [1, 24]
    for wrong in ([], [4, 2], [2, 2], [0, 3], [3, 25]):
        with pytest.raises(ConfigError, match="climbing counts of fields from 1 to 24"):
            checked_grid(wrong, 24)


def report(verdicts: dict[str, str], scores: dict[str, float], seed: int = 0, health: str = "sound") -> Report:
    order = sorted(scores, key=lambda n: -scores[n])
    fields = {n: {"score": scores[n], "verdict": verdicts[n], "gate": scores[n] / 2} for n in order}
    return Report.from_json(report_json(fields, health, seed))


def test_over_seeds_the_mean_ranks_and_disagreement_is_uncertain():
    a = report({"x": "keep", "y": "keep", "z": "drop"}, {"x": 0.9, "y": 0.8, "z": 0.1}, 0)
    b = report({"x": "keep", "y": "drop", "z": "drop"}, {"x": 0.5, "y": 0.2, "z": 0.3}, 1, "inconclusive")
    c = report({"x": "keep", "y": "drop", "z": "drop"}, {"x": 0.7, "y": 0.8, "z": 0.2}, 2)
    found = over_seeds([a, b, c])
    assert list(found.fields) == ["x", "y", "z"]
    assert {n: f.verdict for n, f in found.fields.items()} == {"x": "keep", "y": "uncertain", "z": "drop"}
    assert found.fields["y"].reason == "kept under 1 of 3 seeds"
    x = found.fields["x"]
    assert x.score == pytest.approx(0.7) and x.figures["gate"] == pytest.approx(0.35) and x.rank == 1
    assert x.interval[1] - 0.7 == pytest.approx(t.ppf(0.975, 2) * 0.2 / np.sqrt(3))
    assert found.health.verdict == "inconclusive" and found.provenance.seed == [0, 1, 2]
    assert found.search.seconds == pytest.approx(2.0) and found.kept == ["x", "y"]


def test_over_seeds_a_figure_is_the_mean_of_the_seeds_that_have_it():
    kept = [report({"x": v, "y": "keep"}, {"x": 0.2, "y": 0.9}, i) for i, v in enumerate(["keep", "uncertain", "keep"])]
    kept[1].fields["x"].figures["delta_logloss"] = 0.25
    kept[1] = replace(kept[1], shuffled=ShuffledCost(0.1, 0.01, -0.5))
    found = over_seeds(kept)
    assert found.fields["x"].figures["delta_logloss"] == 0.25 and found.fields["x"].verdict == "keep"
    assert found.shuffled == kept[1].shuffled and "delta_logloss" not in found.fields["y"].figures


def test_one_seed_is_the_report_itself():
    a = report({"x": "protected", "y": "drop"}, {"x": 0.9, "y": 0.8})
    assert over_seeds([a]) == replace(a, provenance=replace(a.provenance, seed=[0]))


def test_of_fields_that_repeat_each_other_the_most_important_stays():
    said = [
        Verdict(n, v, "")
        for n, v in zip("abcdef", ["keep", "keep", "drop", "protected", "uncertain", "keep"], strict=True)
    ]
    found = without_repeats(said, [["b", "d", "e", "f"], ["a", "c"]])
    assert [v.verdict for v in found] == ["keep", "keep", "drop", "protected", "drop", "drop"]
    assert found[-1].reason == found[-2].reason == "repeats b"


def test_a_method_without_a_cut_keeps_no_cut_fields_and_others_do_not():
    order = FieldScores({"x": 3.0, "y": 2.0, "z": 1.0}, None, {}, SearchNotes("sfs"))
    assert [v.verdict for v in decide(order, no_cut=2)] == ["keep", "keep", "drop"]
    cut = FieldScores(order.score, {"x": True, "y": False, "z": False}, {}, SearchNotes("leap"))
    assert [v.verdict for v in decide(cut, no_cut=2)] == ["keep", "drop", "drop"]


def test_the_page_leads_with_the_best_method_and_tells_who_has_no_answer(tmp_path):
    better = {**CURVE, "by_seed": {s: [v + 0.01 for v in row] for s, row in CURVE["by_seed"].items()}}
    methods = {
        n: {**curve_summary(c), "kept": [4, 5], "search_seconds": 1.0, "health": {"verdict": "sound", "reason": ""},
            "curve": c, "report": "r.html", "frontier": []}
        for n, c in (("leap", CURVE), ("sfs", better))
    }  # fmt: skip
    methods["lasso"] = {"failed": "selection keeps no field"}
    about = {"data": "d", "fields": 9, "metric": "auc", "grid": [2, 4, 8], "seeds": [0, 1], "methods": methods}
    about["differences"] = {}
    made = rows(about)
    assert [r[0] for r in made] == ["sfs", "leap", "lasso", "all fields"]
    assert all(len(r) == len(columns(about)) for r in made) and made[1][5] == "4 to 5"
    write_page(about, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "sfs ranks best" in page and "lasso has no answer: selection keeps no field" in page
    assert "What sfs keeps (4 / 5 of 9 fields) changes" in page


def test_decoys_are_the_same_values_in_another_order_and_in_the_same():
    table = pa.table({"a": np.arange(1000), "b": np.arange(1000) % 7})
    found = add(table, ["a", "b"], ["b"], 0)
    assert found.column_names == ["a", "b", "noise_a", "noise_b", "copy_b"]
    assert sorted(found["noise_a"].to_pylist()) == list(range(1000)) != found["noise_a"].to_pylist()
    assert found["copy_b"] == found["b"]
    with pytest.raises(ConfigError, match=r"no column \['c'\]"):
        add(table, ["c"], [], 0)


def rows_of(seed: int, n: int = 60):
    """Two correlated scores with ties, labels and whole weights."""
    r = np.random.default_rng(seed)
    label = (r.random(n) < 0.4).astype(np.float32)
    a = (label + r.normal(0, 1, n)).round(1)
    return a, (a + r.normal(0, 0.5, n)).round(1), label, r.integers(0, 3, n).astype(np.float64)


def slow_auc(score, label, weight):
    pairs = [
        (wi * wj, float(si > sj) + 0.5 * float(si == sj))
        for si, yi, wi in zip(score, label, weight, strict=True)
        for sj, yj, wj in zip(score, label, weight, strict=True)
        if yi > yj
    ]
    return sum(w * hit for w, hit in pairs) / sum(w for w, _ in pairs)


@pytest.mark.parametrize("weighted", [False, True])
def test_influence_is_the_slope_of_the_metric_in_a_rows_weight(weighted):
    """Against all pairs, with each row's weight moved a little: d metric / d w_r · w_r."""
    score, _, label, weight = rows_of(0)
    weight = weight if weighted else np.ones(len(score))

    def logloss(w):
        loss = np.log1p(np.exp(-score * (2 * label - 1)))
        return float(w @ loss / w.sum())

    for metric, value in (("auc", lambda w: slow_auc(score, label, w)), ("logloss", logloss)):
        found = influence(metric, score, label, weight if weighted else None)
        for r in range(0, len(score), 7):
            step = np.zeros(len(score))
            step[r] = 1e-4
            slope = (value(weight + step) - value(weight - step * (weight[r] > 0))) / (1e-4 * (1 + (weight[r] > 0)))
            assert found[r] == pytest.approx(weight[r] * slope, abs=1e-7), (metric, r)


def test_row_noise_of_a_difference_is_that_of_resampled_rows():
    """DeLong's paired error against 2,000 bootstraps of the rows; an unpaired one would be twice as wide."""
    a, b, label, _ = rows_of(1, 400)
    r, ones = np.random.default_rng(2), np.ones(400)
    changes = []
    for _ in range(2000):
        rows = r.integers(0, 400, 400)
        changes.append(auc(b[rows], label[rows]) - auc(a[rows], label[rows]))
    moved = influence("auc", b, label) - influence("auc", a, label)
    assert np.sqrt(np.square(moved).sum()) == pytest.approx(np.std(changes), rel=0.1)
    assert auc(a, label) == pytest.approx(slow_auc(a, label, ones))


def test_an_interval_of_seeds_and_rows_holds_the_truth_as_often_as_it_says():
    """Means over three seeds that share their rows' noise, made here: 95 % of 4,000 intervals hold 0."""
    r, rows = np.random.default_rng(0), 50
    hits = rejected = 0
    for _ in range(4000):
        noise_R = r.normal(0, 1, rows) / rows
        change_S = r.normal(0, 0.1, 3) + noise_R.sum()
        found = paired_difference(change_S, noise_R)
        hits += found["low"] <= 0 <= found["high"]
        rejected += found["p"] < 0.05
    assert hits / 4000 == pytest.approx(0.95, abs=0.025) and rejected == 4000 - hits
    assert paired_difference([0.2], np.array([0.06, 0.08]))["error"] == pytest.approx(0.1)
    assert paired_difference([0.2, 0.4], np.zeros(2)) == pytest.approx(
        {**mean_with_interval([0.2, 0.4]), "error": 0.1, "p": float(2 * t(1).sf(3))}
    )


def test_holm_is_the_step_down_of_its_definition():
    p = [0.04, 0.001, 0.03, 0.01, 0.8]
    for level in (0.004, 0.01, 0.03, 0.05, 0.1, 0.5, 0.9):
        rejected = set()
        for rank, i in enumerate(sorted(range(5), key=lambda i: p[i])):
            if p[i] > level / (5 - rank):
                break
            rejected.add(i)
        assert {i for i, q in enumerate(holm(p)) if q <= level} == rejected


def test_points_of_the_grid_count_in_the_area_as_the_trapezoid_says():
    value = np.random.default_rng(0).random((3, 4))
    assert value @ area_weights([1, 3, 4, 9]) == pytest.approx(area([1, 3, 4, 9], value))


def test_no_name_in_the_page_runs(tmp_path):
    name = f'"x{SCRIPT}'
    found = {
        **curve_summary(CURVE),
        "kept": [4, 5],
        "search_seconds": 1.0,
        "curve": CURVE,
        "report": name,
        "frontier": [],
    }
    found["health"] = {"verdict": "sound", "reason": name}
    methods = {name: found, f"lasso{SCRIPT}": {"failed": name}}
    about = {"data": name, "fields": 9, "metric": "auc", "grid": [2, 4, 8], "seeds": [0, 1], "methods": methods}
    write_page({**about, "differences": {}}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert runs(page) == []
    assert page.count("alert(1)") > 6
    assert SCRIPT not in page

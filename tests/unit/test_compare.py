"""Agreement of rankings, sets and curves against the definitions, by hand and by chance."""

import copy
import json
import random
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ttest_rel

from recsys.commands.cli import main
from recsys.errors import ConfigError
from recsys.selection.reports.agreement import jaccard, jaccard_by_chance, paired_curves, rbo, stability
from recsys.selection.reports.compare import Comparison, compare, together
from recsys.selection.reports.report import VERSION, Report
from tests.pages import SCRIPT, renamed, runs
from tests.reports import report_json

NAMES = [f"f{i}" for i in range(12)]


def report(ranking: list[str], keep: int, data: str = "d", health: str = "sound", **more) -> dict:
    fields = {n: {"score": 1 / (i + 1), "verdict": "keep" if i < keep else "drop"} for i, n in enumerate(ranking)}
    return {**report_json(fields, health, data=data), **more}


def curve(*values: list[float], grid: list[int] | None = None, metric: str = "auc") -> dict:
    by_seed = {str(i): v for i, v in enumerate(values)}
    return {"metric": metric, "grid": grid or [2, 4, 8], "by_seed": by_seed, "full": {}, "kept": {}}


def compared(a: dict, b: dict) -> Comparison:
    return compare(Report.from_json(a), Report.from_json(b))


def test_a_report_with_itself_agrees_fully():
    found = compared(report(NAMES, 5), report(NAMES, 5))
    assert [found.rbo, found.jaccard, *found.correlations] == pytest.approx([1] * 5)
    assert not found.flips and not found.movers and not found.warnings


def test_a_reversed_ranking_has_tau_of_minus_one():
    found = compared(report(NAMES, 5), report(NAMES[::-1], 5))
    assert found.correlations.kendall_tau == pytest.approx(-1) and found.correlations.spearman == pytest.approx(-1)
    assert found.jaccard == 0
    assert len(found.flips) == 10


def test_rbo_is_its_definition():
    rng = random.Random(3)
    for a, b, p in [(["x", "y", "z"], ["y", "x", "w"], 0.9), (NAMES, rng.sample(NAMES, 12), 0.7)]:
        overlap = [len(set(a[:d]) & set(b[:d])) / d for d in range(1, len(a) + 1)]
        weight = [p**d for d in range(len(a))]
        assert rbo(a, b, p) == pytest.approx(np.dot(weight, overlap) / sum(weight))


def test_random_rankings_meet_the_chance_level():
    shuffle = random.Random(0).sample
    drawn = [jaccard(shuffle(NAMES, 12), shuffle(NAMES, 12), 5) for _ in range(4000)]
    expected = jaccard_by_chance(5, 12)
    assert np.mean(drawn) == pytest.approx(expected, abs=4 * np.std(drawn) / 4000**0.5)
    assert jaccard_by_chance(12, 12) == pytest.approx(1)


def test_kendall_tau_b_counts_ties_as_its_definition_does():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, 12), rng.integers(0, 4, 12)
    a, b = report(NAMES, 5), report(NAMES, 5)
    for found, values in ((a, x), (b, y)):
        for n, v in zip(NAMES, values, strict=True):
            found["fields"][n]["score"] = float(v)
    pairs = list(combinations(range(12), 2))
    agree = sum(np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs)
    untied = [sum(v[i] != v[j] for i, j in pairs) for v in (x, y)]
    assert compared(a, b).correlations.kendall_tau == pytest.approx(agree / np.sqrt(untied[0] * untied[1]))
    for f in b["fields"].values():
        f["score"] = 0.0
    assert compared(a, b).correlations.kendall_tau is None


def test_stability_of_sets_of_one_size_is_kunchevas_index():
    rng, fields, k = np.random.default_rng(1), 20, 7
    kept = np.array([rng.permutation(fields) < k for _ in range(6)])
    pairs = [((a & b).sum() - k * k / fields) / (k - k * k / fields) for a, b in combinations(kept, 2)]
    assert stability(kept)["index"] == pytest.approx(np.mean(pairs))
    assert stability(np.tile(kept[:1], (5, 1))) == pytest.approx({"index": 1, "low": 1, "high": 1})
    assert "low" not in stability(kept[:2]) and stability(np.ones((3, 4))) is None


def test_the_interval_of_stability_covers_as_often_as_it_says():
    rng = np.random.default_rng(2)
    chance = np.array([0.95] * 6 + [0.5] * 4 + [0.1] * 20)
    true = stability(rng.random((20_000, 30)) < chance)["index"]
    drawn = [stability(rng.random((60, 30)) < chance) for _ in range(400)]
    covered = np.mean([d["low"] <= true <= d["high"] for d in drawn])
    assert 0.89 < covered < 0.99


def test_paired_changes_have_the_interval_of_a_paired_t_test():
    a, b = curve([0.70, 0.74, 0.75], [0.71, 0.73, 0.76]), curve([0.72, 0.745, 0.75], [0.72, 0.74, 0.77], [9, 9, 9])
    found = compared(report(NAMES, 5, curve=a), report(NAMES, 5, curve=b)).curves
    assert found.seeds == ["0", "1"]
    want = ttest_rel([0.72, 0.72], [0.70, 0.71]).confidence_interval(0.95)
    assert (found.at_k[2]["low"], found.at_k[2]["high"]) == pytest.approx((want.low, want.high))

    def area(v):
        return (2 * (v[0] + v[1]) / 2 + 4 * (v[1] + v[2]) / 2) / 6

    change = [area(b["by_seed"][s]) - area(a["by_seed"][s]) for s in ("0", "1")]
    assert found.area["mean"] == pytest.approx(np.mean(change))
    assert "low" not in paired_curves(a, curve([0.7, 0.7, 0.7])).area


def test_curves_that_cannot_be_paired():
    a = report(NAMES, 5, curve=curve([0.7, 0.7, 0.7]))
    with pytest.raises(ConfigError, match="grids of k differ"):
        compared(a, report(NAMES, 5, curve=curve([0.7, 0.7], grid=[2, 4])))
    found = compared(a, report(NAMES, 5, curve=curve([0.7, 0.7, 0.7], metric="logloss")))
    assert found.curves is None and "metric of the curves differs" in found.warnings[0]
    other_seed = {**curve(), "by_seed": {"9": [1, 1, 1]}}
    assert compared(a, report(NAMES, 5, curve=other_seed)).curves is None
    assert compared(a, report(NAMES, 5)).curves is None


def test_differences_that_forbid_trust_are_named():
    a, b = report(NAMES, 5), report([*NAMES[1:], "new"], 5, data="other", health="overfit")
    b["provenance"] |= {"model": {"seed": 1, "model": "fm"}, "split": {"gap_days": 1}, "policy": {"top_k": 5}}
    b["search"]["price"], a["search"]["price"] = 1e-3, 1e-4
    found = compared(a, b)
    assert found.added == ["new"] and found.removed == ["f0"]
    words = ("data differs", "split differs", "models differ in model", "policy differs", "price differs", "overfit")
    assert [w in n for w, n in zip(words, found.warnings, strict=True)] == [True] * 6
    same_but_for_the_seed = copy.deepcopy(a)
    same_but_for_the_seed["provenance"]["model"]["seed"] = 7
    assert not compared(a, same_but_for_the_seed).warnings
    with pytest.raises(ConfigError, match="share no field"):
        compared(a, report(["z"], 1))


def test_movers_say_whether_intervals_overlap():
    a, b = report(NAMES, 5), report([*NAMES[1:], "f0"], 5)
    for n, of_a, of_b in (("f0", [1, 2], [3, 4]), ("f1", [1, 2], [1.5, 4])):
        a["fields"][n]["interval"], b["fields"][n]["interval"] = of_a, of_b
    movers = {m[0]: m for m in compared(a, b).movers}
    assert movers["f0"] == ("f0", 1, 12, False)
    assert movers["f1"][3] is True and movers["f2"][3] is None
    b["method"] = "permutation"
    assert {m[3] for m in compared(a, b).movers} == {None}


def test_three_reports_by_the_command(tmp_path, capsys):
    made = [report(NAMES, 5), report([*NAMES[1:], "f0"], 6), report(NAMES[::-1], 5)]
    for name, r in zip("abc", made, strict=True):
        r["curve"] = curve([0.7, 0.71, 0.72], [0.71, 0.71, 0.73])
        (tmp_path / "runs" / name / "select").mkdir(parents=True)
        (tmp_path / "runs" / name / "select" / "report.json").write_text(json.dumps(r))
    runs, out = tmp_path / "runs", tmp_path / "page.html"
    by_name = ["a", str(runs / "b"), str(runs / "c" / "select" / "report.json")]
    assert main(["compare", *by_name, "--runs", str(runs), "--out", str(out)]) == 0
    said, html = capsys.readouterr().out, out.read_text()
    phi = together([Report.from_json(r) for r in made])
    for text in ("A → C", "f0: keep → drop", "f0: rank 1 → 12", "Δauc@4 +0.00000", f"{phi['index']:.3f}"):
        assert text in said
    assert html.count("Plotly.newPlot") == 3 and "Stability of the kept sets over 3 reports" in html
    assert "http://" not in html.split("<script")[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is damaged: expected a selection report, got no JSON"),
        ("{}", "expected a selection report of version"),
        ('{"version": 2, "fields": {}}', f"expected a selection report of version {VERSION}, got 2"),
    ],
)
def test_what_is_no_report_of_this_version_is_one_line(tmp_path, capsys, text, message):
    (tmp_path / "report.json").write_text(json.dumps(report(NAMES, 5)))
    (tmp_path / "bad.json").write_text(text)
    assert main(["compare", str(tmp_path / "report.json"), str(tmp_path / "bad.json")]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("part", ["method", "fields", "provenance.model", "health.verdict", "search", "savings", "f0"])
def test_a_report_that_lacks_something_is_one_line(tmp_path, capsys, part):
    """Whole JSON of the right version, edited by hand or by another program."""
    damaged = report(NAMES, 5)
    inside, _, key = part.rpartition(".")
    at = damaged[inside] if inside else damaged["fields"] if part == "f0" else damaged
    at[key] = None
    (tmp_path / "report.json").write_text(json.dumps(report(NAMES, 5)))
    (tmp_path / "bad.json").write_text(json.dumps(damaged))
    assert main(["compare", str(tmp_path / "report.json"), str(tmp_path / "bad.json")]) == 2
    said = capsys.readouterr().err
    place = f"fields.{part}" if part == "f0" else part
    assert f"bad.json is damaged: expected a selection report, {place} is missing or of another type" in said
    assert len(said.strip().splitlines()) == 1


def test_too_few_reports_and_unknown_ones(tmp_path, capsys):
    (tmp_path / "report.json").write_text(json.dumps(report(NAMES, 5)))
    path = str(tmp_path / "report.json")
    for arguments, message in (
        ([path], "needs 2 to 26"),
        ([path, "none"], "no selection report for 'none'"),
        ([path, "0" * 32, "--runs", str(tmp_path)], "there is no database"),
    ):
        assert main(["compare", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_no_name_in_the_page_runs_and_the_terminal_shows_it(tmp_path, capsys):
    hostile = [*NAMES, "d", "leap"]
    made = [renamed(report(NAMES, 5), hostile), renamed(report(NAMES[::-1], 6), hostile)]
    for name, r in zip("ab", made, strict=True):
        (tmp_path / "runs" / f"{name}[b]").mkdir(parents=True)
        (tmp_path / "runs" / f"{name}[b]" / "report.json").write_text(json.dumps(r))
    paths, out = [str(tmp_path / "runs" / f"{n}[b]" / "report.json") for n in "ab"], tmp_path / "page.html"
    assert main(["compare", *paths, "--out", str(out)]) == 0
    assert "a[b]" in capsys.readouterr().out
    page = out.read_text()
    assert runs(page) == []
    assert page.count("alert(1)") > len(NAMES)
    assert SCRIPT not in page

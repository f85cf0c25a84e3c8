"""Curves of a run: what it wrote while it trained, read while it goes on, thinned without losing a peak."""

import json
import math
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import CURVES, RunFile
from recsys.results import Process, Run
from recsys.service.curves import Curves, thinned

BEGUN = Run("0" * 32, {"seed": 0}, "d" * 16, None, Process.this(), "2026-01-01T00:00:00+00:00", "")


def begin(runs: Path, id: str = "r") -> RunFile:
    (runs / id).mkdir(exist_ok=True)
    file = RunFile(runs / id, BEGUN)
    file.stage("train")
    return file


def test_each_look_of_a_run_is_a_point(tmp_path: Path) -> None:
    file, curves = begin(tmp_path), Curves()
    for step in (10, 20):
        file.metrics({"valid_auc": step / 100, "train_loss": math.inf}, step)
    file.stage("daily")
    file.metrics({"auc": 0.6}, 1)
    drawn = curves.of(tmp_path, "r")
    assert drawn["train"]["valid_auc"] == {
        "steps": [10.0, 20.0],
        "values": [0.1, 0.2],
        "means": [0.1, 0.2],
        "points": 2,
    }
    assert drawn["daily"]["auc"]["values"] == [0.6] and "train_loss" not in drawn["train"]
    assert curves.of(tmp_path, "r", names=frozenset({"auc"}))["train"] == {}


def test_a_resumed_run_draws_its_steps_once(tmp_path: Path) -> None:
    file, curves = begin(tmp_path), Curves()
    for step in (10, 20, 30):
        file.metrics({"valid_auc": 0.1}, step)
    assert curves.of(tmp_path, "r")["train"]["valid_auc"]["points"] == 3
    with (tmp_path / "r" / CURVES).open("a") as damaged:  # it was killed while it wrote
        damaged.write('\n{"stage": "train", "ste')
    assert curves.of(tmp_path, "r")["train"]["valid_auc"]["points"] == 3
    again = begin(tmp_path)  # from its checkpoint at step 15
    again.metrics({"valid_auc": 0.2}, 20)
    drawn = curves.of(tmp_path, "r")["train"]["valid_auc"]
    assert (drawn["steps"], drawn["values"], drawn["points"]) == ([10.0, 20.0], [0.1, 0.2], 2)


def test_a_run_whose_curves_cannot_be_written_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = begin(tmp_path)
    (tmp_path / "r" / CURVES).symlink_to("/etc/passwd")
    file.metrics({"valid_auc": 0.1}, 1)
    assert "goes on" in capsys.readouterr().err
    assert Curves().of(tmp_path, "r") == {}


def test_a_run_of_an_earlier_version_shows_the_history_of_its_stages(tmp_path: Path) -> None:
    (tmp_path / "old" / "train").mkdir(parents=True)
    history = [{"step": 5, "valid_auc": 0.5}, {"step": 9, "valid_auc": 0.6}]
    (tmp_path / "old" / "train" / "result.json").write_text(json.dumps({"history": history}))
    (tmp_path / "old" / "result.json").write_text(json.dumps({"stages": {"train": {}}}))
    assert Curves().of(tmp_path, "old")["train"]["valid_auc"]["values"] == [0.5, 0.6]
    assert Curves().of(tmp_path, "nothing") == {}
    assert Curves().of(tmp_path, "../old") == {}


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 5000), st.integers(16, 300), st.integers(0, 2**32 - 1))
def test_a_thinned_curve_keeps_ends_least_and_largest_of_each_stretch(count: int, points: int, seed: int) -> None:
    value_N = np.random.default_rng(seed).normal(size=count)
    drawn = thinned(array("d", range(count)), array("d", value_N), points)
    assert len(drawn["steps"]) == len(drawn["values"]) <= max(points, count if count <= points else points)
    assert drawn["steps"] == sorted(set(drawn["steps"]))
    assert all(value_N[int(s)] == v for s, v in zip(drawn["steps"], drawn["values"], strict=True))
    if count:
        assert {0, count - 1} <= {int(s) for s in drawn["steps"]}
        assert min(drawn["values"]) == value_N.min() and max(drawn["values"]) == value_N.max()


def test_what_a_page_smooths_has_the_mean_of_all_steps_however_skewed_they_are() -> None:
    """Least and largest values alone lie far above the mean of exponential noise, which is 1."""
    value_N = np.random.default_rng(0).exponential(size=40_000)
    drawn = thinned(array("d", range(40_000)), array("d", value_N), 2000)
    assert np.mean(drawn["values"]) > 1.8
    smoothed, sum_, mass = [], 0.0, 0.0
    for mean in drawn["means"]:  # as run.js smooths
        sum_, mass = 0.99 * sum_ + 0.01 * mean, 0.99 * mass + 0.01
        smoothed.append(sum_ / mass)
    # 1 % of each new point: about 100 stretches of 40 steps are averaged, of which each counts twice
    assert smoothed[-1] == pytest.approx(1, abs=4 / (40 * 100) ** 0.5)
    assert np.mean(drawn["means"]) == pytest.approx(value_N.mean(), abs=0.01)
    for step, mean in zip(drawn["steps"][::97], drawn["means"][::97], strict=True):
        stretch = next(i for i in range(999) if i * 40_000 // 999 <= step < (i + 1) * 40_000 // 999)
        assert mean == pytest.approx(value_N[stretch * 40_000 // 999 : (stretch + 1) * 40_000 // 999].mean())

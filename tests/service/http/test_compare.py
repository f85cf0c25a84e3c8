"""What differs between runs, and how sure the seeds are, against SciPy's own tests."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from recsys.errors import ConfigError
from recsys.service.compare import compare, differences, over_seeds
from recsys.service.outcomes import Figures
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Live, NewRun, QueuedRun
from tests.service.http.conftest import Caller, new_run

CONFIG: dict[str, Any] = {"seed": 0, "model": {"_target_": "m", "hidden": [8], "deep": {}}, "train": {"lr": 0.1}}


def row(id: str, seed: int, lr: float = 0.1, **changes: Any) -> QueuedRun:
    config = {**CONFIG, "seed": seed, "train": {"lr": lr}, **changes}
    return QueuedRun(NewRun(id, [], config, "d", "/", "/", id), 1, "finished")


def finished(runs: Path, id: str, data: str = "d-1", **metrics: float) -> None:
    prepare_as(runs, id, data)
    parts = {"prepare": {"seconds": 1.0, "metrics": {"rows": 3.0}}, "evaluate": {"seconds": 2.5, "metrics": metrics},
             "train": {"seconds": None, "metrics": None}}  # fmt: skip
    (runs / id / "result.json").write_text(json.dumps({"version": 2, "stages": parts}))


def prepare_as(runs: Path, id: str, data: str) -> None:
    (runs / id / "prepare").mkdir(parents=True)
    (runs / id / "prepare" / "data.json").write_text(json.dumps({"version": 1, "folder": f"../../cache/{data}"}))


def test_seeds_are_one_row_with_interval_and_paired_significance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    auc = {
        (lr, seed): 0.7 + 0.01 * seed + lr / 100 + rng.normal(0, 1e-3) for lr in (0.1, 0.2, 0.3) for seed in range(4)
    }
    runs = [row(f"{lr}-{seed}", seed, lr) for lr, seed in auc]
    for (lr, seed), value in auc.items():
        finished(tmp_path, f"{lr}-{seed}", auc=value, bytes=8.0)
    seen = compare(runs, Figures(lambda run: tmp_path))
    assert seen["keys"] == ["seed", "train.lr"] and seen["same"] == 3
    assert seen["figures"] == ["evaluate/auc"] and seen["same_figures"] == {"evaluate/bytes": 8.0, "seconds": 2.5}
    assert [g["config"] for g in seen["groups"]] == [{"train.lr": 0.1}, {"train.lr": 0.2}, {"train.lr": 0.3}]
    base = [auc[0.1, s] for s in range(4)]
    p = []
    for group, lr in zip(seen["groups"], (0.1, 0.2, 0.3), strict=True):
        values = [auc[lr, s] for s in range(4)]
        low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
        figure = group["figures"]["evaluate/auc"]
        assert (figure["low"], figure["high"]) == pytest.approx((low, high)) and figure["count"] == 4
        if lr > 0.1:
            p.append(stats.ttest_rel(values, base).pvalue)
    first, second = sorted(p)
    corrected = sorted(g["against"]["evaluate/auc"]["p"] for g in seen["groups"][1:])
    assert corrected == pytest.approx(sorted([min(1, 2 * first), max(min(1, 2 * first), second)]))
    assert seen["groups"][0]["against"] == {}
    other = compare(runs, Figures(lambda run: tmp_path), baseline="0.3-2")
    assert other["baseline"] == 2 and other["groups"][0]["against"]["evaluate/auc"]["mean"] < 0


def test_only_shared_seeds_are_paired(tmp_path: Path) -> None:
    runs = [row("a0", 0), row("a1", 1), row("b1", 1, 0.2), row("b2", 2, 0.2)]
    for run, auc in zip(runs, (0.1, 0.5, 0.6, 0.9), strict=True):
        finished(tmp_path, run.id, auc=auc)
    change = compare(runs, Figures(lambda run: tmp_path))["groups"][1]["against"]["evaluate/auc"]
    assert change["count"] == 1 and change["mean"] == pytest.approx(0.1) and "p" not in change


def test_runs_on_other_data_are_other_groups_and_are_not_tested(tmp_path: Path) -> None:
    """The table was replaced under its path: configurations are the same, data are not."""
    runs = [row(f"{data}{seed}", seed, lr) for data, lr in (("a", 0.1), ("b", 0.1), ("c", 0.2)) for seed in range(3)]
    for i, run in enumerate(runs):
        finished(tmp_path, run.id, "d-2" if run.id.startswith("b") else "d-1", auc=0.5 + i * i / 100)
    (tmp_path / "c0" / "prepare" / "data.json").unlink()  # an earlier run had prepared them: from_run
    (tmp_path / "c0" / "evaluate").mkdir()
    (tmp_path / "c0" / "evaluate" / "node.json").write_text(json.dumps({"inputs": {"prepare": {"digest": "d-1"}}}))
    runs[6] = row("c0", 0, 0.2, stages=["train", "evaluate"])
    runs[7:] = [row(r.id, r.new.config["seed"], 0.2, stages=["train", "evaluate"]) for r in runs[7:]]
    waiting = [QueuedRun(row(id, 0).new, 1, "queued") for id in ("w0", "w1")]
    seen = compare([*runs, *waiting], Figures(lambda run: tmp_path))
    assert seen["keys"] == ["seed", "train.lr", "stages", "data"]
    assert [len(g["runs"]) for g in seen["groups"]] == [3, 3, 3, 1, 1]
    assert [g["config"].get("data") for g in seen["groups"]] == ["d-1", "d-2", "d-1", None, None]
    same, other, tuned, *_ = (g["against"].get("evaluate/auc") for g in seen["groups"])
    assert same is None and other is None
    wanted = stats.ttest_rel([0.86, 0.99, 1.14], [0.5, 0.51, 0.54])
    assert tuned is not None and tuned["p"] == pytest.approx(wanted.pvalue) and tuned["count"] == 3


def test_a_repeated_seed_is_one_value_and_what_has_not_finished_is_none(tmp_path: Path) -> None:
    auc = {"a0": 0.70, "a0-retry": 0.72, "a1": 0.75, "a2": 0.79, "b0": 0.74, "b1": 0.77, "b1-retry": 0.79, "b2": 0.80}
    runs = [row(id, int(id[1]), 0.1 if id[0] == "a" else 0.2) for id in auc]
    for run, value in zip(runs, auc.values(), strict=True):
        finished(tmp_path, run.id, auc=value)
    for id, state in (("a3", "running"), ("a4", "cancelled"), ("a5", "failed")):
        prepare_as(tmp_path, id, "d-1")
        live = Live("evaluate", None, {"evaluate": {"step": 3.0, "auc": 0.1}})
        runs.append(QueuedRun(row(id, int(id[1])).new, 1, state, live=live))
    base, tuned = compare(runs, Figures(lambda run: tmp_path))["groups"]
    a, b = [0.71, 0.75, 0.79], [0.74, 0.78, 0.80]
    assert (base["finished"], base["repeated"], base["seeds"], len(base["runs"])) == (4, 1, [0, 1, 2], 7)
    figure, change = base["figures"]["evaluate/auc"], tuned["against"]["evaluate/auc"]
    assert figure["count"] == change["count"] == 3 and figure["mean"] == pytest.approx(0.75)
    assert (figure["low"], figure["high"]) == pytest.approx(stats.t.interval(0.95, 2, 0.75, stats.sem(a)))
    assert change["p"] == pytest.approx(stats.ttest_rel(b, a).pvalue)


def test_a_run_without_a_result_shows_what_it_has_told(tmp_path: Path) -> None:
    live = Live("train", None, {"train": {"step": 3.0, "valid_auc": 0.6, "bad": math.nan}})
    running = QueuedRun(row("r", 0).new, 1, "running", live=live)
    assert compare([running], Figures(lambda run: tmp_path))["runs"][0]["figures"]["train/valid_auc"] == 0.6
    json.dumps(compare([running], Figures(lambda run: tmp_path)), allow_nan=False)
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "result.json").write_text("{")
    assert "train/valid_auc" in compare([running], Figures(lambda run: tmp_path))["figures"]


def test_one_figure_alone_has_no_interval() -> None:
    assert over_seeds([0.5]) == {"mean": 0.5, "count": 1} and over_seeds([]) == {"count": 0}
    assert over_seeds([0.5, 0.5]) == {"mean": 0.5, "low": 0.5, "high": 0.5, "count": 2}


def test_a_stage_that_has_ended_has_the_figures_of_its_result_alone(tmp_path: Path) -> None:
    told = {"train": {"step": 9.0, "valid_auc": 0.7, "train_loss": 0.3}, "evaluate": {"step": 1.0, "auc": 0.5}}
    running = QueuedRun(row("r", 0).new, 1, "running", live=Live("evaluate", None, told))
    (tmp_path / "r" / "train").mkdir(parents=True)
    (tmp_path / "r" / "train" / "result.json").write_text('{"version": 2, "metrics": {"valid_auc": 0.72}}')
    seen = compare([running], Figures(lambda run: tmp_path))["runs"][0]["figures"]
    assert seen == {"train/valid_auc": 0.72, "evaluate/auc": 0.5}
    stages = {"train": {"seconds": 2.0, "metrics": {"valid_auc": 0.73}}, "evaluate": {"seconds": 1.0, "metrics": {}}}
    (tmp_path / "r" / "result.json").write_text(json.dumps({"version": 2, "stages": stages}))
    seen = compare([running], Figures(lambda run: tmp_path))["runs"][0]["figures"]
    assert seen == {"train/valid_auc": 0.73, "seconds": 3.0}


def test_times_are_shown_and_not_tested(tmp_path: Path) -> None:
    runs = [row(f"{name}{seed}", seed, lr) for name, lr in (("a", 0.1), ("b", 0.2)) for seed in range(3)]
    times = "train.us_per_row", "latency.graph_us_b1", "seconds_search"
    others = "train.auc", "slices.seconds.latency.auc"
    for i, run in enumerate(runs):
        finished(tmp_path, run.id, **{name: i + 10.0 for name in (*times, *others)})
    change = compare(runs, Figures(lambda run: tmp_path))["groups"][1]["against"]
    for name in times:
        assert change[f"evaluate/{name}"] == {"mean": 3.0, "count": 3}
    assert all("p" in change[f"evaluate/{name}"] for name in others)


def test_what_a_configuration_sets_otherwise() -> None:
    new = {"seed": 0, "model": {"_target_": "m", "hidden": [9]}, "extra": 1}
    assert differences(new, CONFIG) == [
        {"key": "model.hidden", "value": [9], "base": [8]}, {"key": "extra", "value": 1},
        {"key": "model.deep", "base": {}}, {"key": "train.lr", "base": 0.1},
    ]  # fmt: skip


def test_too_many_and_none(tmp_path: Path) -> None:
    for wrong in ([], [row(str(i), i) for i in range(501)]):
        with pytest.raises(ConfigError, match="1 to 500"):
            compare(wrong, Figures(lambda run: tmp_path))
    with pytest.raises(ConfigError, match="baseline"):
        compare([row("a", 0)], Figures(lambda run: tmp_path), baseline="b")


def test_the_endpoint_takes_runs_and_sweeps(here: Caller, queue: Queue, place: Path) -> None:
    parent = new_run(place, "s", kind="sweep", config={})
    children = [new_run(place, f"s/{i}", parent="s", config={**CONFIG, "seed": i}) for i in range(3)]
    queue.submit([parent, *children, new_run(place, "lone", config={**CONFIG, "train": {"lr": 0.5}})])
    for id in ("s/0", "s/1", "s/2"):
        prepare_as(place / "runs", id, "d-1")
    seen = here.get("/api/compare", params={"ids": "s,lone,s/1", "baseline": "lone"}).json()
    assert [r["id"] for r in seen["runs"]] == ["s/0", "s/1", "s/2", "lone"]
    assert seen["keys"] == ["seed", "train.lr"] and len(seen["groups"]) == 2 and seen["baseline"] == 1
    assert here.get("/api/compare", params={"ids": "absent"}).status_code == 404
    assert here.get("/api/compare", params={"ids": ","}).status_code == 422
    assert here.get("/api/compare").status_code == 422

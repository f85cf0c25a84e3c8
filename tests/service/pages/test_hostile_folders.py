"""What folders of runs and arguments of commands may hold: it is shown, escaped or refused."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from recsys.commands.cli import main
from recsys.errors import ConfigError
from recsys.lock import locked
from recsys.results import Process, Run, write_run
from recsys.service.queue.folders import read_folders
from recsys.service.queue.sql import SqlQueue
from tests.service.http.conftest import Caller, new_run

OLD = "20260101-000000-demo-0"
START, LATE = "2026-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00"
RUN = Run("0" * 32, {"seed": 0, "name": "x"}, "d" * 16, ["seed=0"], Process(1, 1.0), START, START, "finished")
WRONG: dict[str, dict[str, object]] = {
    "pid": {"process": {"pid": 10**30, "started": 1.0}},
    "date": {"started": LATE},
    "no date": {"updated": "x"},
    "progress": {"progress": {"done": "x", "total": 1, "unit": "rows"}},
    "progress without end": {"state": "running", "progress": {"done": 10**400, "total": 1, "unit": "rows"}},
    "figures": {"metrics": {"train": {"auc": "x", "loss": [1]}}},
    "state of the queue": {"state": "queued"},
    "state": {"state": "banana<script>"},
    "depth": {"config": json.loads("[" * 400 + "]" * 400)},
}
ODD: dict[str, dict[str, object]] = {  # what a run of `recsys run` may be, with code of somebody's own
    "stages": {"config": {"stages": 7, "seed": [1]}},
    "no text": {
        "overrides": ["experiment=\udce9"],
        "digest": "\udce9",
        "note": "\udce9\0",
        "config": {"\udce9": ["\udce9"]},
    },
    "figures": {"metrics": {"train": {"auc": float("nan"), "loss": float("inf")}}},
}


def shown(who: Caller, id: str) -> str:
    """What all pages and answers that name a run say of it; each of them succeeds."""
    paths = ("/", f"/runs/{id}", f"/compare?ids={id}", "/api/runs", f"/api/runs/{id}", f"/api/compare?ids={id}",
             "/api/events", f"/api/runs/{id}/curves")  # fmt: skip
    answers = {path: who.get(path) for path in paths}
    assert {path: a.status_code for path, a in answers.items()} == dict.fromkeys(paths, 200)
    return "".join(a.text for a in answers.values())


def test_a_byte_that_is_no_text_is_refused_and_an_older_run_with_it_is_shown(
    here: Caller, queue: SqlQueue, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    override = os.fsdecode(b'data.source.path="caf\xe9.csv"')
    (place / os.fsdecode(b"caf\xe9.csv")).write_text("a,x\n1,0\n")
    for command in ("submit", "run"):
        assert main([command, "data=table", "data.label=x", "+data.fields={a: {}}", override]) == 2
        said = capfd.readouterr().err
        assert said.startswith("error: overrides: expected text in UTF-8") and "caf\\udce9.csv" in said
    assert not list((place / "runs").glob("2*"))
    with pytest.raises(ConfigError, match="folder: expected text in UTF-8"):
        queue.submit([replace(new_run(place), cwd=os.fsdecode(b"/caf\xe9"))])
    queue.submit([new_run(place)])
    with queue.changing() as connection:  # as an earlier version queued it
        pair = {"o": json.dumps([override]), "c": json.dumps({"path": override, "smile": "\U0001f600"})}
        connection.execute(text("UPDATE runs SET overrides = :o"), pair)
        connection.execute(text("UPDATE run_configs SET config = :c"), pair)
    assert "caf\\\\udce9.csv" in shown(here, OLD) and queue.get(OLD).new.config["smile"] == "\U0001f600"


def test_a_folder_may_hold_anything(here: Caller, queue: SqlQueue, place: Path) -> None:
    """Each bad run.json makes one run `unknown`; the others are followed, and all pages answer."""
    runs = place / "runs"
    for name, change in [*WRONG.items(), *((f"odd {name}", change) for name, change in ODD.items())]:
        (runs / name).mkdir()
        said = json.loads((write_run(runs / name, RUN)).read_text())
        (runs / name / "run.json").write_text(json.dumps({**said, **change}))
    (runs / "pipe").mkdir()
    os.mkfifo(runs / "pipe" / "run.json")
    no_text = os.fsdecode(bytes(runs) + b"/caf\xe9")
    os.mkdir(no_text)
    write_run(Path(no_text), RUN)
    damaged = {"metrics": [1], "artifacts": 7, "seconds": 10**400, "stages": 7, "history": 7, "mlflow": 7}
    (runs / "good").mkdir()
    write_run(runs / "good", replace(RUN, state="running", config={**RUN.config, "stages": ["train"]}))
    for file in ("result.json", "train/result.json"):
        (runs / "good" / file).parent.mkdir(exist_ok=True)
        (runs / "good" / file).write_text(json.dumps(damaged))
    huge = json.dumps({"stage": "train", "step": 1, "auc": 10**400})
    (runs / "good" / "curves.jsonl").write_text(f"{huge}\n" + huge.replace("1,", f"{10**400},"))
    with locked(runs / "good" / ".lock", wait=False):
        assert read_folders(queue, runs) == len(WRONG) + len(ODD) + 2
        assert queue.get("good").state == "running"
    assert read_folders(queue, runs) == 1  # and they are read once
    states = {run.id: run.state for run in queue.find(limit=100)}
    odd, wrong = [f"odd {name}" for name in ODD], [*WRONG, "pipe"]
    assert states == {"good": "killed", **dict.fromkeys(odd, "finished"), **dict.fromkeys(wrong, "unknown")}
    assert "no plain file" in (queue.get("pipe").reason or "")
    for id in states:
        shown(here, id)
    assert here.get("/api/compare?ids=" + ",".join(states)).status_code == 200
    assert set(here.get("/api/runs").json()["counts"]) == {"killed", "unknown", "finished"}

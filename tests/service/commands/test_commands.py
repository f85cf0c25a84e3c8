"""The service's commands through the command line, on a queue without a worker: the test plays the worker."""

import json
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from recsys.commands.cli import main
from recsys.events import run_file
from recsys.results import Process, Run, utc_now
from recsys.service.queue.records import Live, Needs
from recsys.service.worker.watch import Watch
from tests.docs.test_imports import run_without
from tests.pipeline.test_submit import HEAVY
from tests.service.begun import begun_by_run

ROOM = Needs(64, 1 << 40, 0)


def claimed(queue, host=None):
    return queue.claim("box-1", host or socket.gethostname(), ROOM)


def test_a_run_is_submitted_listed_shown_cancelled_and_retried(recsys, queue, place, refused):
    code, (id,), _ = recsys("submit", "experiment=demo", "seed=3", "--name", "first", "--priority", 2, "--cores", 2)
    assert code == 0 and id.endswith("-demo-3")
    run = queue.get(id)
    assert run.state == "queued" and run.new.priority == 2 and run.new.needs == Needs(2, 2 << 30, 0)
    assert run.new.config["seed"] == 3 and run.new.overrides == ["experiment=demo", "seed=3"]
    assert run.new.runs == str(place / "runs") and run.new.cwd == str(place) and run.new.name == "first"
    code, (head, line), _ = recsys("runs")
    assert code == 0 and head.split() == ["id", "state"] and line.split()[:2] == [id, "queued"]
    _, shown, _ = recsys("runs", id)
    facts = dict(line.split(maxsplit=1) for line in shown)
    assert facts["name"] == "first" and facts["command"].startswith("recsys submit experiment=demo seed=3 ")
    assert facts["needs"] == "2 cores, 2 GiB, 0 GPUs"
    assert recsys("cancel", id) == (0, [f"{id} cancelled"], "")
    refused(recsys("cancel", id), id, "has ended already")
    code, (again,), _ = recsys("retry", id)
    assert code == 0 and again != id and queue.get(again).new.config == run.new.config


def test_a_sweep_is_children_under_one_parent_whatever_the_order_of_words(recsys, queue):
    code, ids, _ = recsys("submit", "experiment=demo", "-m", "seed=1,2", "--memory", "512M", "model=fm,dcn")
    parent, *children = ids
    assert code == 0 and children == [f"{parent}/{i}" for i in range(4)]
    assert queue.get(parent).new.kind == "sweep"
    chosen = [(run.new.config["seed"], run.new.config["model"]["_target_"].rpartition(".")[2])
              for run in map(queue.get, children)]  # fmt: skip
    assert sorted(chosen) == [(1, "DCN"), (1, "FM"), (2, "DCN"), (2, "FM")]
    assert {run.new.needs.memory for run in map(queue.get, children)} == {512 << 20}
    _, lines, _ = recsys("runs", "--parent", parent, "--json")
    assert [json.loads(line)["id"] for line in lines] == children[::-1]
    _, lines, _ = recsys("runs", "--text", "seed=2", "--json")
    assert len(lines) == 2
    _, lines, _ = recsys("runs", parent)
    assert sorted(line.split()[2:] for line in lines if line.startswith(f"{parent}/")) == [
        ["seed=1", "model=dcn"], ["seed=1", "model=fm"], ["seed=2", "model=dcn"], ["seed=2", "model=fm"],
    ]  # fmt: skip
    code, printed, said = recsys("logs", parent)
    assert (code, printed) == (
        0,
        [],
    ) and f"a sweep and has no log: recsys logs shows those of its runs, {parent}/0," in said
    assert "the nearest are" in recsys("logs", parent[9:])[2] and "the newest are" in recsys("logs", "nope")[2]
    assert recsys("cancel", parent)[0] == 0
    assert {queue.get(id).state for id in ids} == {"cancelled"}


@pytest.mark.parametrize("multirun", [[], ["-m", "seed=1,2"]])
def test_the_command_that_is_shown_does_it_again(recsys, queue, multirun):
    _, (before,), _ = recsys("submit", "experiment=demo")
    words = ["experiment=demo", "train.max_epochs=2", "stages=[prepare, train]", *multirun, "--name", "my run",
             "--priority", "3", "--cores", "2", "--memory", "512M", "--after", before]  # fmt: skip
    _, first, _ = recsys("submit", *words)
    _, shown, _ = recsys("runs", first[0])
    (command,) = (line.split(maxsplit=1)[1] for line in shown if line.startswith("command "))
    program, *typed = shlex.split(command)
    _, second, _ = recsys(*typed)
    assert program == "recsys" and len(second) == len(first)
    for a, b in zip(queue.get_all(first), queue.get_all(second), strict=True):
        same = ("kind", "overrides", "config", "name", "priority", "needs", "after")
        assert all(getattr(a.new, key) == getattr(b.new, key) for key in same)


def test_several_runs_stand_side_by_side(recsys, queue, refused):
    _, (first,), _ = recsys("submit", "experiment=demo", "seed=1")
    _, (second,), _ = recsys("submit", "experiment=demo", "seed=1", "train.lr=.01")
    for auc in (0.7, 0.75):
        claim = claimed(queue)
        queue.note(claim, Live("train", None, {"train": {"step": 4.0, "valid_auc": auc, "rows": 9.0}}))
        queue.end(claim, "cancelled", 0, "stopped")
    code, printed, _ = recsys("runs", first, second)
    lines = [line.split() for line in printed]
    assert code == 0 and lines[:2] == [["A", first, "cancelled"], ["B", second, "cancelled"]]
    assert ["train.lr", "0.002", "0.01"] in lines and ["train/valid_auc", "0.7", "0.75"] in lines and len(lines) == 6
    assert "1 figures" in printed[-1]
    _, (answer,), _ = recsys("runs", first, second, "--json")
    assert json.loads(answer)["keys"] == ["train.lr"]
    _, sweep, _ = recsys("submit", "experiment=demo", "seed=range(0,13)", "-m")
    refused(recsys("runs", sweep[0], first), "2 to 12 runs", "got 14", "--json")
    refused(recsys("runs", first, "absent"), "absent")
    refused(recsys("runs", first, second, "--watch"), "--watch")


@pytest.mark.parametrize("command", ["submit", "run"])
def test_a_sweep_is_counted_before_it_is_written_out(recsys, refused, command):
    for values, word in {"range(0,1e308,1e-300)": "STEP", "range(0,10001)": "10,000", "range(10,0)": "none",
                         "1,range(0,300)": "a range among"}.items():  # fmt: skip
        refused(recsys(command, "experiment=demo", f"seed={values}", "-m"), word)


def test_the_same_key_is_the_same_run(recsys, refused):
    first = recsys("submit", "experiment=demo", "--key", "monday")
    assert recsys("submit", "experiment=demo", "--key", "monday") == first
    refused(recsys("submit", "experiment=demo", "seed=9", "--key", "monday"), "monday", first[1][0])


def test_the_table_shows_what_the_worker_tells(recsys, queue, monkeypatch, refused):
    _, (id,), _ = recsys("submit", "experiment=demo")
    claim = claimed(queue)
    queue.began(claim, os.getpid(), os.getpid(), "boot", 1)
    progress = {"done": 250, "total": 1000, "unit": "rows", "per_second": 125.0}
    queue.note(claim, Live("train", progress, {"train": {"step": 4.0, "valid_auc": 0.71234}}, "epoch 1"))
    _, (_, line), _ = recsys("runs", "--state", "running")
    words = line.split()
    assert words == [id, "running", "train", "━━╌╌╌╌╌╌", "25%", "125", "6s", "0.7123", "epoch", "1"]
    assert recsys("cancel", id)[1] == [f"{id} stopping"]
    refused(recsys("resume", id), id, "running")
    queue.end(claim, "cancelled", 0, "stopped by the file cancel")
    assert recsys("resume", id)[1] == [f"{id} queued"]
    assert queue.get(id).state == "queued" and recsys("runs", "--state", "running")[1] == ["no runs match"]


def test_the_auc_is_that_of_the_best_look_and_then_that_of_the_kept_model(recsys, queue, place):
    _, (id,), _ = recsys("submit", "experiment=demo")
    claim, folder = claimed(queue), place / "runs" / id
    folder.mkdir(parents=True)
    watch = Watch(folder)

    def shown():
        queue.note(claim, watch.live())
        return recsys("runs", "--state", "running")[1][1].split()[-1]

    with run_file(folder, Run("0" * 32, {}, "", [], Process.this(), utc_now(), utc_now())) as file:
        file.stage("train")
        for step, logloss, auc in ((1, 0.5, 0.71), (2, 0.4, 0.75), (3, 0.6, 0.79)):
            file.metrics({"valid_logloss": logloss, "valid_auc": auc}, step)
        file.stage("train")  # writes run.json at once
        assert shown() == "0.7500" and queue.get(id).live.metrics["train"]["valid_auc"] == 0.79
        file.metrics({"valid_logloss": 0.5, "valid_auc": 0.72}, 1)  # the checkpoint was lost, and it trains anew
        file.stage("train")
        assert shown() == "0.7200"
        file.stage_ended({"valid_auc": 0.75, "best_step": 2})
        file.stage("export")
        file.stage_ended({"bytes": 9.0})
        file.stage("export")
        assert shown() == "0.7500" and set(queue.get(id).live.metrics) == {"train"}


def test_logs_follow_a_run_that_begins_later_through_truncation_to_its_end(recsys, queue, place, capfd):
    _, (id,), _ = recsys("submit", "experiment=demo")
    code, printed, said = recsys("logs", id)
    assert (code, printed) == (0, []) and "has said nothing yet: it is queued" in said
    codes, shown = list[int](), {"out": "", "err": ""}
    reader = threading.Thread(target=lambda: codes.append(main(["logs", id, "-f"])))
    reader.start()

    def seen(stream, text):
        until = time.monotonic() + 60
        while text not in shown[stream]:
            assert time.monotonic() < until, shown
            time.sleep(0.02)
            out, err = capfd.readouterr()
            shown["out"], shown["err"] = shown["out"] + out, shown["err"] + err

    seen("err", f"{id} is queued\n")
    claim = claimed(queue)
    log = place / "runs" / id / "log.txt"
    log.parent.mkdir(parents=True)
    log.write_text("one, which is long\n")
    seen("out", "one, which is long\n")
    log.write_text("two\n")  # shorter than before: somebody has cut it
    seen("out", "two\n")
    with log.open("a") as more:
        more.write("three\n")
    queue.end(claim, "failed", 3, "it broke")
    seen("err", f"{id} failed: it broke\n")
    reader.join(60)
    assert codes == [3] and shown["out"] == "one, which is long\ntwo\nthree\n"


def test_the_log_of_a_run_on_another_machine_is_not_silently_empty(recsys, queue, refused):
    _, (id,), _ = recsys("submit", "experiment=demo")
    claimed(queue, host="elsewhere")
    refused(recsys("logs", id), "ran on elsewhere", "RECSYS_URL")


def test_a_log_that_is_a_link_is_not_followed(recsys, queue, place):
    _, (id,), _ = recsys("submit", "experiment=demo")
    (place / "secret").write_text("secret")
    folder = place / "runs" / id
    folder.mkdir(parents=True)
    (folder / "log.txt").symlink_to(place / "secret")
    assert recsys("logs", id)[1] == []


def test_watching_one_run_ends_with_it(recsys, queue, monkeypatch):
    from recsys.commands.service import runs

    _, (id,), _ = recsys("submit", "experiment=demo")
    claim = claimed(queue)
    monkeypatch.setattr(runs, "time", SimpleNamespace(sleep=lambda _: queue.end(claim, "finished", 0, None)))
    code, lines, _ = recsys("runs", id, "--watch", "--json")
    assert code == 0 and json.loads(lines[0])["state"] == "running" and json.loads(lines[-1])["state"] == "finished"
    assert "state" in "".join(recsys("runs", id, "--watch")[1])


@pytest.fixture
def begun(place):
    """A run that `recsys run` has begun, which runs while the lock of its folder is held → its folder."""
    return begun_by_run("experiment=demo", "train.lr=0.002")


def test_runs_begun_by_recsys_run_are_listed_and_stopped_by_a_file(recsys, begun, refused):
    from recsys.lock import locked

    id = begun.name
    with locked(begun / ".lock"):
        (begun / "submit.log").write_text("hello\n")
        _, (_, line), _ = recsys("runs")
        assert line.split() == [id, "running", "train"]
        assert recsys("logs", id)[1] == ["hello"]
        refused(recsys("resume", id), "is running", f"recsys cancel {id}")
        assert recsys("cancel", id)[0] == 0 and (begun / "cancel").exists()
    _, lines, _ = recsys("runs", id)
    assert any(line.split()[:2] == ["state", "killed"] for line in lines)
    refused(recsys("retry", id), "recsys submit experiment=demo train.lr=0.002")
    refused(recsys("cancel", id), "has ended already")


def test_the_queue_goes_on_with_a_run_of_recsys_run_that_was_killed(recsys, queue, begun, place, refused):
    from recsys.lock import locked
    from recsys.service.worker.attempt import prepare

    id = begun.name
    recsys("runs")
    with locked(begun / ".lock"):
        refused(recsys("resume", id), "is being run", f"recsys cancel {id}")
    assert recsys("resume", id)[1] == [f"{id} queued"]
    run = queue.get(id)
    assert (run.new.kind, run.new.cwd, run.new.overrides) == ("run", str(place), ["experiment=demo", "train.lr=0.002"])
    assert run.new.config["train"]["lr"] == 0.002 and run.new.config["stages"]
    claim = claimed(queue)
    assert claim.run.id == id and prepare(claim) == begun
    queue.end(claim, "cancelled", 2, "stopped on request")
    assert recsys("resume", id)[1] == [f"{id} queued"]


def test_a_run_of_recsys_run_that_cannot_go_on_stays_as_it_is(recsys, begun, refused):
    (begun / ".hydra" / "overrides.yaml").write_text('["experiment=dmo"]')
    run = json.loads((begun / "run.json").read_text())
    (begun / "run.json").write_text(json.dumps({**run, "overrides": ["experiment=dmo"]}))
    refused(recsys("resume", begun.name), "no option 'dmo'")
    assert not (begun / "frozen.json").exists()
    (begun / "run.json").write_text(json.dumps({**run, "state": "finished"}))
    refused(recsys("resume", begun.name), "is finished", "recsys submit")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("submit experiment=demo resume=ID", ["recsys resume ID"]),
        ("submit experiment=demo from_run=absent", ["no finished run 'absent'"]),
        ("submit experiment=demo --memory lots", ["--memory", "invalid size, such as 8G or 500M value: 'lots'"]),
        ("submit experiment=demo --cores 0", ["--cores", "whole number of at least 1"]),
        ("submit experiment=demo --name a\x1bb", ["name: expected printable letters"]),
        ("submit experiment=demo --key schedule:nightly:x", ["key: expected", "'schedule:'", "give another key"]),
        ("runs --limit 2000", ["--limit", "whole number from 1 to 1000"]),
        ("runs absent", ["got 'absent'"]),
        ("runs ID --state queued", ["leave one out"]),
        ("logs absent", ["absent"]),
        ("runs --state begun", ["invalid choice: 'begun'"]),
        ("submit experiment=demo --prio 3", ["unrecognized arguments: --prio"]),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_queued(recsys, place, typed, words, refused):
    refused(recsys(*typed.split(" ")), *words)
    assert recsys("runs")[1] == ["no runs yet: recsys submit experiment=demo"]


def test_one_that_cannot_be_cancelled_keeps_none_from_being_cancelled(recsys):
    _, (id,), _ = recsys("submit", "experiment=demo")
    code, printed, said = recsys("cancel", "absent", id)
    assert code == 2 and printed == [f"{id} cancelled"] and said.startswith("error: ") and "absent" in said


def test_a_database_of_another_version_or_on_a_full_disk_is_named(recsys, queue, place, monkeypatch, refused):
    from sqlalchemy import text

    with queue.engine.begin() as connection:
        connection.execute(text("UPDATE meta SET value = '999' WHERE key = 'version'"))
    refused(recsys("runs"), "version 999")
    monkeypatch.setenv("RECSYS_DATABASE", "mysql://user:secret@host/db")
    said = refused(recsys("runs"), "RECSYS_DATABASE")
    assert "secret" not in said
    monkeypatch.setenv("RECSYS_DATABASE", "sqlite:////dev/full/service.db")
    refused(recsys("runs"), "/dev/full")


def test_a_full_disk_refuses_a_submission_and_loses_none(recsys, place):
    _, (id,), _ = recsys("submit", "experiment=demo")
    code = "import sys; from tests.pipeline.forks import fill_disk; fill_disk(); "
    code += "from recsys.commands.cli import main; sys.exit(main(['submit', 'experiment=demo', 'seed=1']))"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert ran.returncode in (2, 75) and ran.stdout == "", ran.stderr
    assert ran.stderr.startswith("error: ") and len(ran.stderr.splitlines()) == 1 and "full" in ran.stderr
    assert [json.loads(line)["id"] for line in recsys("runs", "--json")[1]] == [id]


def test_a_file_of_ones_own_may_not_say_what_to_trust(recsys, refused, place):
    (place / "experiment").mkdir()
    (place / "experiment" / "mine.yaml").write_text("# @package _global_\ntrusted: [os]\n")
    refused(recsys("submit", "experiment=mine"), "trusted: a file may not say")
    (place / "experiment").rename(place / "elsewhere")
    refused(
        recsys("submit", f"experiment={'../' * 30}{place}/elsewhere/mine"), "experiment: expected the name of an option"
    )


def test_an_option_outside_the_folders_of_options_is_refused(recsys, refused, place):
    """Whoever names it: the command line, a list or sweep on it, or a file."""
    (place / "outside.yaml").write_text("secret: [unclosed")
    for typed in (
        "model=../../outside",
        f"model={place}/outside",
        "+experiment=[demo,../outside]",
        "model=dcn,../x -m",
    ):
        said = refused(recsys("submit", "experiment=demo", *typed.split()), "expected the name of an option", ".yaml")
        assert "secret" not in said
    (place / "outside.yaml").write_text("_target_: recsys.models.dcn.DCN\n_partial_: true\n")
    (place / "experiment").mkdir()
    said = "# @package _global_\ndefaults:\n  - override /model: {}{}/outside\n"
    (place / "experiment" / "mine.yaml").write_text(said.format("../" * 30, place))
    refused(recsys("submit", "experiment=mine"), "model: expected the name of an option")
    assert recsys("runs")[1] == ["no runs yet: recsys submit experiment=demo"]


def test_a_service_that_does_not_answer_is_named(recsys, monkeypatch, refused):
    monkeypatch.setenv("RECSYS_URL", "http://127.0.0.1:9")
    refused(recsys("runs"), "no service answers at http://127.0.0.1:9")
    refused(recsys("submit", "experiment=demo"), "RECSYS_URL")
    monkeypatch.setenv("RECSYS_URL", "box:8081")
    refused(recsys("runs"), "expected an address such as http://HOST:8081, got 'box:8081'")


def test_submit_and_runs_import_nothing_that_takes_long(place):
    """Neither torch and its like, nor FastAPI, nor drivers of Postgres; `recsys runs` needs no Hydra either."""
    code = "from recsys.commands.cli import main; import sys; sys.exit(main({!r}))"
    heavy = [*HEAVY, "fastapi", "uvicorn", "numpy", "sqlalchemy.dialects.postgresql"]
    ran = run_without([*heavy, "rich"], code.format(["submit", "experiment=demo"]))
    assert ran.returncode == 0, ran.stderr
    ran = run_without([*heavy, "hydra", "omegaconf", "pydantic"], code.format(["runs"]))
    assert ran.returncode == 0 and "-demo-0" in ran.stdout, ran.stderr
    assert sorted(p.name for p in Path("runs").iterdir()) == ["service.db"]

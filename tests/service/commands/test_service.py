"""`recsys service` as a process tree, asked by other commands through RECSYS_URL."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[3]


def until(condition, seconds=60.0):
    """Wait for something → it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.05)
    return value


@pytest.fixture
def service(place):
    """A service with a worker → its process and its address."""
    command = [sys.executable, "-m", "recsys", "service", "--port=0", "--cores=2", "--memory=4G", "--grace=7"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (place / "said").open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=env, cwd=place)
    line = process.stdout.readline()
    address = re.search(r"http://\S+", line)
    assert address, line + (place / "said").read_text()
    yield process, address[0]
    for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else ():
        child.kill()
    process.kill()
    process.wait()
    process.stdout.close()


def workers(process):
    children = psutil.Process(process.pid).children()
    return [p for p in children if p.status() != psutil.STATUS_ZOMBIE and "worker" in p.cmdline()]


def test_commands_ask_the_service_whose_worker_comes_back_and_that_ends_in_order(
    service, recsys, refused, place, monkeypatch
):
    process, address = service
    refused(recsys("service", "--port", address.rpartition(":")[2]), "cannot listen", "another host or port")
    refused(recsys("service", "--host", "0.0.0.0"), "RECSYS_TOKEN")
    (first,) = until(lambda: workers(process))
    assert "--grace=7" in first.cmdline()
    first.kill()
    (second,) = until(lambda: [w for w in workers(process) if w.pid != first.pid])
    until(lambda: "is started again" in (place / "said").read_text() and "takes runs" in (place / "said").read_text())
    second.suspend()  # what follows begins no run, which would take seconds
    monkeypatch.setenv("RECSYS_URL", address)
    code, ids, _ = recsys("submit", "experiment=demo", "seed=1,2", "-m", "--key", "k", "--cores", 2)
    assert code == 0 and len(ids) == 3
    refused(recsys("submit", "experiment=dmo"), "experiment: no option 'dmo'")
    refused(recsys("submit", "experiment=demo", "model._target_=os.system"), "_target_")
    refused(recsys("runs", "absent"), "absent")
    refused(recsys("worker"), "unset RECSYS_URL")
    refused(recsys("service"), "unset RECSYS_URL")
    _, lines, _ = recsys("runs", "--text", "seed=2")
    assert lines[1].split()[:2] == [ids[2], "queued"]
    _, compared, _ = recsys("runs", ids[1], ids[2])
    assert compared[:2] == [f"A  {ids[1]}  queued", f"B  {ids[2]}  queued"]
    assert ["seed", "1", "2"] in [line.split() for line in compared] and "0 figures are alike" in compared[-1]
    refused(recsys("runs", ids[1], "absent"), "absent")
    _, (schedule,), _ = recsys("submit", "experiment=demo", "--every", "day@03:00")
    assert recsys("schedules")[1][0].startswith(f"{schedule}  every day@03:00")
    assert recsys("schedules", "remove", schedule)[0] == 0
    assert recsys("cancel", ids[0])[0] == 0
    assert [line.split()[1] for line in recsys("runs")[1][1:]] == ["cancelled"] * 3
    monkeypatch.delenv("RECSYS_URL")
    assert len(recsys("runs", "--json")[1]) == 3
    process.send_signal(signal.SIGTERM)
    second.resume()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not second.is_running()


@pytest.mark.slow
def test_a_worker_ends_after_its_service_was_killed(service, place):
    process, _ = service
    (worker,) = until(lambda: workers(process))
    until(lambda: "takes runs" in (place / "said").read_text())
    process.kill()
    process.wait()
    until(lambda: not worker.is_running())

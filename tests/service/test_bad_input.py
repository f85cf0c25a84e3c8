"""Bad input is answered in the same words by the commands, with or without RECSYS_URL, and by the HTTP port.

What damages the place itself (another version, a network disk, a full disk) is in commands/test_commands.py and
queue/test_open.py, too; a clock that jumps in queue/test_queue.py.
"""

import os
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import text

from recsys.commands.cli import main
from recsys.service.http.app import make_app
from recsys.service.http.settings import Settings
from recsys.service.queue import open as opening
from recsys.service.queue.open import address, open_queue
from recsys.service.queue.records import Needs
from recsys.service.queue.sql import SqlQueue

DEMO = "experiment=demo"


@dataclass(frozen=True)
class Place:
    """A service in the current folder, with one worker of 2 cores and 4 GiB in its table.

    Args:
        queue: Its queue.
        url: Its address.
        cancelled: A run that never started.
        finished: A run that has finished.
    """

    queue: SqlQueue
    url: str
    cancelled: str
    finished: str

    def post(self, path: str, body: Any = None) -> httpx.Response:
        """Its answer."""
        return post(self.url + path, body)


def post(address: str, body: Any = None) -> httpx.Response:
    """The answer of a service, which may take long on a busy machine."""
    return httpx.post(address, json=body, timeout=120)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    folder, before, environment = tmp_path_factory.mktemp("bad"), Path.cwd(), dict(os.environ)
    os.chdir(folder)
    for name in ("RECSYS_URL", "RECSYS_TOKEN", "RECSYS_DATABASE"):
        os.environ.pop(name, None)
    queue = open_queue(address("runs"))
    app = make_app(queue, Settings(folder / "runs", folder))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finished, cancelled = (
        post(f"{url}/api/runs", {"overrides": [DEMO], "client_key": key}).json()["runs"][0]["id"]
        for key in ("one", "two")
    )
    queue.attend("box-1", "box", Needs(2, 4 << 30))
    claim = queue.claim("box-1", "box", Needs(2, 4 << 30))
    assert claim is not None and claim.run.id == finished
    queue.end(claim, "finished", 0, None)
    queue.cancel(cancelled)
    yield Place(queue, url, cancelled, finished)
    server.should_exit = server.force_exit = True
    thread.join()
    queue.close()
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


SUBMITTED = {  # after `recsys submit`; more of the body → what is said
    DEMO.replace("demo", "dmeo"): ({}, "experiment: no option 'dmeo': expected one of daily, ", "the nearest is demo"),
    f"{DEMO} train.batch_sise=3": ({}, "train.batch_sise: no such key: expected some of batch_size, ",
                                   "the nearest is train.batch_size"),
    f"{DEMO} lr=.1": ({}, "lr: no such key: expected some of calibrate, ", "perhaps train.lr is meant"),
    f"{DEMO} train.lr=fast": ({}, "train.lr: input should be a valid number, got 'fast'"),
    f"{DEMO} train.lr=[1": ({}, "cannot read ", "train.lr", "expected KEY=VALUE, with quotes around what holds , = ["),
    f"{DEMO} seed=1,2": ({}, "seed", "add -m", "or write a list: "),
    f"{DEMO} stages=[evalute]": ({}, "stages: unknown ['evalute']: expected some of prepare, ",
                                 "the nearest is evaluate"),
    f"{DEMO} --after absent": ({"after": ["absent"]}, "expected the id of a run, got 'absent': the newest are "),
    f"{DEMO} --cores 5000": ({"needs": {"cores": 5000}}, "cores: expected a whole number from 1 to 4096, got 5000"),
    f"{DEMO} --priority 2000000": ({"priority": 2_000_000}, "priority: expected a whole number from -1000000 to "),
    f"{DEMO} --cores 3": ({"needs": {"cores": 3}}, "needs 3 cores, 2 GiB, 0 GPUs, which no worker can ever give: ",
                          "ask for less (--cores, --memory, --gpus)"),
}  # fmt: skip
ASKED = {
    "cancel FINISHED": (409, "run FINISHED has ended already (finished): there is nothing to cancel"),
    "cancel CANCELLED": (409, "run CANCELLED has ended already (cancelled): there is nothing to cancel"),
    "resume CANCELLED": (409, "run CANCELLED never started, so there is nothing to go on from: recsys retry CANCELLED"),
    "resume FINISHED": (409, "run FINISHED: expected one that failed or was cancelled, it is finished: recsys retry "),
    "resume absent": (404, "expected the id of a run, got 'absent': the newest are "),
    "cancel absent": (404, "expected the id of a run, got 'absent': the newest are "),
    "retry absent": (404, "expected the id of a run, got 'absent': the newest are "),
}


def refused(typed: list[str], capfd: Any) -> str:
    """What a command says: one line, and exit code 2."""
    capfd.readouterr()
    code = main(typed)
    printed, wrong = capfd.readouterr()
    assert code == 2 and not printed and wrong.startswith("error: ") and len(wrong.splitlines()) == 1, (typed, wrong)
    return wrong


@pytest.mark.parametrize("typed", SUBMITTED)
def test_a_submission(typed: str, place: Place, capfd: Any) -> None:
    more, *words = SUBMITTED[typed]
    before = len(place.queue.find())
    said = refused(["submit", *typed.split()], capfd)
    overrides = typed.partition(" --")[0].split()
    answer = place.post("/api/runs", {"overrides": overrides, **more})
    assert answer.status_code == 422
    for one in (said, answer.json()["error"]):
        assert all(word in one for word in words), one
    assert len(place.queue.find()) == before


@pytest.mark.parametrize("typed", ASKED)
def test_a_change(typed: str, place: Place, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def named(words: str) -> str:
        return words.replace("FINISHED", place.finished).replace("CANCELLED", place.cancelled)

    status, words = ASKED[typed]
    what, id = named(typed).split()
    answer = place.post(f"/api/runs/{id}/{what}")
    assert answer.status_code == status
    for url in ("", place.url):
        monkeypatch.setenv("RECSYS_URL", url)
        assert named(words) in refused([what, id], capfd)
    assert named(words) in answer.json()["error"]


def test_runs_cannot_wait_for_each_other(place: Place, capfd: Any) -> None:
    """Only a client key names a run that is there already: it would have to wait for the one that waits for it."""
    body: dict[str, Any] = {"overrides": [DEMO, "seed=7"], "client_key": "first"}
    (first,) = place.post("/api/runs", body).json()["runs"]
    (second,) = place.post("/api/runs", {"overrides": [DEMO], "after": [first["id"]]}).json()["runs"]
    said = refused(["submit", *body["overrides"], "--key=first", f"--after={second['id']}"], capfd)
    answer = place.post("/api/runs", {**body, "after": [second["id"]]})
    assert answer.status_code == 422
    for one in (said, answer.json()["error"]):
        assert f"key 'first': run {first['id']} has it, and does not wait for {second['id']}: leave" in one, one
    again = place.post("/api/runs", body)
    assert [row["id"] for row in again.json()["runs"]] == [first["id"]]


def test_a_service_does_not_start_on_another_version_or_a_network_disk(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch, place: Place
) -> None:
    monkeypatch.setenv("RECSYS_DATABASE", f"sqlite:///{tmp_path / 'other.db'}")
    other = open_queue(os.environ["RECSYS_DATABASE"])
    with other.changing() as connection:
        connection.execute(text("UPDATE meta SET value = '999' WHERE key = 'version'"))
    other.close()

    commands = (["service", "--port=0", "--workers=0"], ["worker"], ["runs"])
    words = "expected a queue of version 1, got version 999: use the recsys that made it, or name another database"
    assert all(words in refused(command, capfd) for command in commands)
    (tmp_path / "mounts").write_text(f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {tmp_path} rw - nfs4 box:/x rw")
    monkeypatch.setattr(opening, "_MOUNTS", tmp_path / "mounts")
    words = "expected a disk of this machine, got nfs4, a network file system"
    assert all(words in refused(command, capfd) for command in commands)

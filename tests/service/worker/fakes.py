"""Runs of the tests of the worker: a script of a few lines instead of a training, and workers to kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Needs, NewRun, QueuedRun
from recsys.service.queue.sql import SqlQueue

ROOT = Path(__file__).parents[3]
LEASE = 1.5  # seconds
SCRIPT = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
config = json.loads((folder / "frozen.json").read_text())["config"]
if "does" not in config:
    os.execv(sys.executable, [sys.executable, "-P", "-m", "recsys.commands.frozen", str(folder)])
does = config["does"]
(folder / "pids").open("a").write(f"{os.getpid()}\\n")
kept = {}
def state(name, **more):
    kept.update(more)
    told = {"version": 2, "mark": "0" * 32, "config": {}, "digest": "0" * 16, "overrides": None,
            "process": {"pid": os.getpid(), "started": 0.0}, "started": "", "updated": "", "state": name, **kept}
    (folder / ".new").write_text(json.dumps(told)), (folder / ".new").replace(folder / "run.json")
def work(steps, slow=0.0):
    for i in range(steps):
        progress = {"done": i, "total": steps, "unit": "steps"}
        state("running", stage="train", progress=progress, metrics={"train": {"step": float(i), "auc": 0.5}})
        if (folder / "cancel").exists():
            time.sleep(slow)  # the step ends, and the checkpoint is written
            (folder / "checkpoint").write_text(str(i))
            state("cancelled", note="stopped by the file cancel")
            sys.exit(2)
        time.sleep(0.05)
(folder / "cancel").unlink(missing_ok=True)
exec(does)
"""
DEAF = "signal.signal(15, signal.SIG_IGN); state('running'); time.sleep(600)"
LOG = "(folder.parent / 'ran').open('a').write(folder.name + chr(10))"


def command(folder: Path) -> list[str]:
    """What a worker starts instead of a training."""
    script = folder / "run.py"
    if not script.exists():  # else runs may be reading it
        script.write_text(SCRIPT)
    return [sys.executable, "-S", "-E", str(script)]


def new(folder: Path, id: str, does: str = "state('finished')", needs: Needs = Needs(1, 0, 0)) -> NewRun:  # noqa: B008
    """A run that does what these lines of Python say."""
    return NewRun(id, [], {"seed": 0, "does": does}, "0" * 16, str(folder / "runs"), str(folder), id, needs=needs)


CLOCK = """
import os, time
if offset := os.environ.get("TEST_CLOCK"):  # a file: seconds that the clocks of database and process are ahead
    import recsys.service.queue.tables as tables
    def ahead():
        return float(open(offset).read() or 0)
    right, time_here = tables.clock, time.time
    tables.clock = lambda connection: right(connection) + ahead()
    time.time = lambda: time_here() + ahead()
"""
WORKER = f"""{CLOCK}
import json, logging, sys
from recsys.commands.service.worker import end_with_service
from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Needs
from recsys.service.worker.worker import Settings, Worker
url, lease, room, settings, host = json.loads(sys.argv[1])
logging.basicConfig(level="INFO", stream=sys.stderr)
worker = Worker(open_queue(url, lease), Needs(**room), Settings(**settings), host)
worker.obey_signals()
end_with_service()
print("ready", flush=True)
worker.run()
"""
SERVICE = f"""{CLOCK}
import sys
import recsys.commands.service.workers as workers
from recsys.commands.cli import main
begin = workers.Workers.__init__
def with_ours(self, arguments, count):
    begin(self, arguments, count)
    self._command = [sys.executable, *sys.argv[1:]]
workers.Workers.__init__ = with_ours
sys.exit(main(["service", "--port=0"]))
"""  # `recsys service` with a worker of short leases, whose runs may be scripts


def _words(url: str, folder: Path, cores: int, host: str, lease: float, **settings: Any) -> str:
    """How a worker works, for WORKER."""
    told = {"command": command(folder), "grace": 1.6, "overdue": 0.3, "look": 0.1, "claim": 0.1, **settings}
    return json.dumps([url, lease, {"cores": cores, "memory": 1 << 40, "gpus": 0}, told, host])


def begin_worker(
    url: str, folder: Path, cores: int = 1, host: str = "here", lease: float = LEASE, **settings: Any
) -> subprocess.Popen[bytes]:
    """Start a worker in a process of its own; it says `ready` once it works."""
    with (folder / "worker.err").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, _words(url, folder, cores, host, lease, **settings)],
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )


def begin_service(
    url: str, folder: Path, cores: int = 1, host: str = "here", lease: float = LEASE, **settings: Any
) -> subprocess.Popen[bytes]:
    """Start `recsys service` in a folder, with such a worker; `service.out` there gets its address."""
    words = ["-c", WORKER, _words(url, folder, cores, host, lease, **settings)]
    with (folder / "worker.err").open("ab") as errors, (folder / "service.out").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-c", SERVICE, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RECSYS_DATABASE": url},
        )


@contextmanager
def worker(
    url: str, folder: Path, cores: int = 1, host: str = "here", lease: float = LEASE, **settings: Any
) -> Generator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, which is stopped in the end if it lives."""
    process = begin_worker(url, folder, cores, host, lease, **settings)
    try:
        assert process.stdout and process.stdout.readline() == b"ready\n", (folder / "worker.err").read_text()
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            if process.stdout is not None:
                process.stdout.close()


def wait(right: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is true → what it gave."""
    until = time.monotonic() + seconds
    while not (value := right()):
        assert time.monotonic() < until, "it has not become true"
        time.sleep(0.02)
    return value


def state_of(queue: SqlQueue, id: str) -> str:
    return queue.get(id).state


def ended(queue: SqlQueue, id: str, seconds: float = 60.0) -> QueuedRun:
    """Wait until a run has ended → its row."""
    wait(lambda: queue.get(id).state in ("finished", "failed", "cancelled"), seconds)
    return queue.get(id)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def pids(folder: Path, id: str) -> list[int]:
    """The first process of each attempt at a run."""
    file = folder / "runs" / id / "pids"
    return [int(line) for line in file.read_text().split()] if file.exists() else []


def opened(folder: Path, lease: float = LEASE) -> tuple[str, SqlQueue]:
    """A queue on SQLite → its address and itself."""
    url = f"sqlite:///{folder / 'service.db'}"
    return url, open_queue(url, lease)

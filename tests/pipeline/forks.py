"""The command in forks of one process that has imported everything: a test can afford to kill a hundred of them.

A fork is a process of its own, which real signals end, and it starts in no time: importing takes seven seconds.
What it cannot show is what happens while Python starts and imports: the fixture `finished` runs the real command,
and `test_resume` kills it.
"""

import atexit
import ctypes
import errno
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

_EVERYTHING = ["mlflow.pyfunc", "onnxruntime", "torchrec", "pipelines.run", "pipelines.submit", "recsys.commands.cli"]
_EVERYTHING += ["recsys.training.memory", "recsys.selection.reports.compare", "recsys.tracking", "lightgbm"]
_EVERYTHING += ["mlflow.store.tracking.sqlalchemy_store", "torch._inductor.package", "networkx", "plotly.io"]
ROOT = Path(__file__).parents[2]
# No compiler: ONNX alone, for a graph.pt2 takes half a minute.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CXX": "no-such-compiler"}
ENVIRONMENT.pop("MLFLOW_TRACKING_URI", None)
_WRITES = {"x86_64": (1, 18, 20, 296), "aarch64": (64, 68, 66, 70)}  # write, pwrite64, writev, pwritev
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_MKDIRS = {"x86_64": (83, 258), "aarch64": (34,)}  # mkdir, mkdirat
_OPENAT = {"x86_64": 257, "aarch64": 56}
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.mkdir": 0}  # audit event → which argument is the path


def fill_disk(above: int = 2) -> None:
    """From now on every write of this process to a file of a number above this one fails as on a full disk."""
    _refuse(_WRITES[platform.machine()], errno.ENOSPC, above)


def fill_disk_for_new_files() -> None:
    """From now on writes to files that are opened later fail as on a full disk; open sockets and pipes still work."""
    handle = os.open(os.devnull, os.O_WRONLY)
    above = max(handle, *map(int, os.listdir("/proc/self/fd")))
    while os.dup(handle) <= above:  # no number below is free now
        pass
    fill_disk(above)


def forbid_folders() -> None:
    """From now on this process can make no folder, as on a disk that may only be read."""
    _refuse(_MKDIRS[platform.machine()], errno.EROFS)


def forbid_files() -> None:
    """From now on this process can open no file to write to, and make no folder, as on a disk that may only be read."""
    forbid_folders()
    _refuse([_OPENAT[platform.machine()]], errno.EROFS, os.O_WRONLY | os.O_RDWR, argument=2, code=0x45)


def _refuse(calls: Sequence[int], error: int, value: int = 2, argument: int = 0, code: int = 0x25) -> None:
    """From now on these system calls fail in every thread if an argument is above a value, or (code 0x45) has its bits.

    A seccomp filter, which needs no rights: the kernel answers with the error, to SQLite and torch as well.
    """

    def op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        return struct.pack("HBBI", code, yes, no, value)

    lines = [op(0x20, 0)]  # load the number of the call
    lines += [op(0x15, call, len(calls) - i, 0) for i, call in enumerate(calls)]  # one of these → load its argument
    lines += [op(0x06, 0x7FFF0000), op(0x20, 16 + 8 * argument), op(code, value, 0, 1)]  # else allow; refuse it?
    lines += [op(0x06, 0x00050000 | error), op(0x06, 0x7FFF0000)]
    program = ctypes.create_string_buffer(b"".join(lines))
    about = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    assert libc.syscall(_SECCOMP[platform.machine()], 1, 1, about) == 0, os.strerror(ctypes.get_errno())


def _changed(event: str, arguments: tuple[Any, ...]) -> str | None:
    """The path that an audit event says is about to be written, renamed to, made or removed."""
    if event == "open":
        path, _, flags = arguments
        return str(path) if isinstance(path, str | Path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None
    return str(arguments[_CHANGES[event]]) if event in _CHANGES else None


def _watch(runs: str, act: Callable[[str, str], None]) -> None:
    """Call `act(event, path)` before each change below the folder of runs."""
    inside = False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal inside
        if inside or (event != "open" and event not in _CHANGES):
            return
        path = os.path.abspath(_changed(event, arguments) or "/")
        if not path.startswith(f"{runs}/"):
            return
        inside = True  # what act itself opens is not told
        act(event, path)
        inside = False

    sys.addaudithook(hook)


def _watch_calls(method: str, act: Callable[[str, str], None]) -> None:
    """Call `act("call", method)` in each call of a method, such as `torch.UntypedStorage.__getitem__`."""
    module, owner, name = method.rsplit(".", 2)
    kind = getattr(import_module(module), owner)
    usual = getattr(kind, name)

    def watched(*arguments: object) -> object:
        act("call", method)
        return usual(*arguments)

    setattr(kind, name, watched)


def _prepare_fault(order: dict[str, Any]) -> None:
    """Arrange that something happens at a change.

    `at` is the change: event, end of its path, number of such changes; or "call", a method and the number of the call.
    `how` is what happens before it: a signal to this process, "full" or "read-only" for the disk, or the path of a
    file to make.
    """
    runs, at, seen = f"{order['folder']}/runs", order.get("at"), 0
    if order.get("trace"):
        trace = os.open(order["trace"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _watch(runs, lambda event, path: (os.write(trace, f"{event}\t{path}\n".encode()), None)[1])
    if not at:
        return
    wanted, end, number = at

    def act(event: str, path: str) -> None:
        nonlocal seen
        seen += event == wanted and path.endswith(end)
        if seen < number:
            return
        seen = -(10**9)
        how = order["how"]
        if how == "full":
            fill_disk()
        elif how == "read-only":
            forbid_folders()
        elif isinstance(how, int):
            os.kill(os.getpid(), how)
        else:
            Path(how).touch()

    if wanted == "call":
        _watch_calls(end, act)
    else:
        _watch(runs, act)


def _child(order: dict[str, Any]) -> None:
    """Run the command and end."""
    code = 1
    try:
        os.dup2(os.open(order["stdin"], os.O_RDONLY), 0)
        said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(os.open(order["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if "errors" in order else said, 2)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["env"])
        time.tzset()
        _prepare_fault(order)
        from recsys.commands.cli import main

        sys.argv = ["recsys", *order["arguments"]]
        code = main(order["arguments"])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt:  # recsys had ended, and listened no longer
        code = 128 + signal.SIGINT
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def serve() -> None:
    """Read orders, a line of JSON each; answer with the fork's process id, then with how it ended."""
    for name in _EVERYTHING:
        import_module(name)
    from pipelines.stages import STAGES
    from recsys.versions import code_version

    for stage in STAGES.values():
        module = f"pipelines.{stage.call.partition('.')[0]}"
        import_module(module)
        code_version(module)  # reads the source of all that it imports, which is then known
    print("ready", flush=True)
    while line := sys.stdin.readline():
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _child(order)
        print(child, flush=True)
        sys.stdin.readline()  # until then a fork that has ended keeps its number, so that no signal goes astray
        _, status, used = os.wait4(child, 0)
        seconds = used.ru_utime + used.ru_stime
        print(json.dumps([os.waitstatus_to_exitcode(status), seconds, used.ru_maxrss * 1024]), flush=True)


@dataclass(frozen=True)
class Ended:
    """How a fork ended.

    Args:
        code: Exit code, or minus the signal that ended it.
        said: Standard output and error together.
        seconds: Of processor time.
        peak: Most bytes of memory that it held at once.
    """

    code: int
    said: str
    seconds: float
    peak: int


class Forks:
    """The client of `serve`: one fork at a time."""

    def __init__(self, said: Path):
        command = [sys.executable, "-c", "from tests.pipeline.forks import serve; serve()"]
        self.said = said
        self.server = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        assert self.server.stdin and self.server.stdout
        self._in, self._out = self.server.stdin, self.server.stdout
        assert self._out.readline() == "ready\n"

    def begin(self, folder: Path, arguments: Sequence[str], **order: Any) -> int:
        """Begin a command in a folder → its process id."""
        whole = {"folder": str(folder), "arguments": list(arguments), "said": str(self.said), "stdin": os.devnull}
        self._in.write(json.dumps({**whole, "env": ENVIRONMENT, **order}) + "\n")
        self._in.flush()
        return int(self._out.readline())

    def end(self) -> Ended:
        """Wait for the fork that was begun."""
        self._in.write("\n")
        self._in.flush()
        code, seconds, peak = json.loads(self._out.readline())
        return Ended(code, self.said.read_text(), seconds, peak)

    def run(self, folder: Path, *arguments: str, **order: Any) -> Ended:
        """Begin and wait."""
        self.begin(folder, arguments, **order)
        return self.end()

    def shoot(self, folder: Path, arguments: Sequence[str], number: int, stage: Path, wait: float) -> Ended:
        """Send a signal some seconds after a stage is begun or taken up, or once its result is there if that is sooner.

        `stage` may be the run's own folder: then the seconds count from when it is made.
        """
        mark = self.said.with_name("mark")
        mark.unlink(missing_ok=True)
        at = ("os.mkdir", str(stage), 1) if stage.parent.name == "runs" else ("open", f"/.{stage.name}.lock", 1)
        child = self.begin(folder, arguments, at=at, how=str(mark))
        while not mark.exists() and _alive(child):
            time.sleep(0.005)
        until = time.monotonic() + wait
        while time.monotonic() < until and _alive(child) and not (stage / "result.json").exists():
            time.sleep(0.005)
        os.kill(child, number)  # of a fork that has ended, a zombie, this does nothing
        return self.end()

    def close(self) -> None:
        """End the server."""
        self._in.close()
        assert self.server.wait(30) == 0
        self._out.close()


def _alive(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@cache
def server() -> Forks:
    """The server of this process, begun when first asked for."""
    folder = tempfile.TemporaryDirectory(prefix="forks")
    made = Forks(Path(folder.name) / "said")
    atexit.register(lambda: (made.close(), folder.cleanup()))
    return made


@pytest.fixture(scope="session")
def forks() -> Forks:
    """The server, for a whole session."""
    return server()

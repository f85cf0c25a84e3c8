"""Hostile tables through the command: each works or ends in exit code 2 with one short line, replacing nothing."""

import os
import signal
import warnings
from pathlib import Path

import pytest

from recsys.commands.cli import main
from recsys.commands.data.configs import load_config
from recsys.config.factory import make
from recsys.data.preparation.prepare import prepare
from recsys.errors import RecsysError, in_one_line
from tests.hostile_tables import tables

SECONDS = 20  # a table may take
SECRET = "sesame-4711"


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, links not followed: path → its inode and time of change."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in folders + files:
            about = (Path(place) / name).lstat()
            found[os.path.relpath(os.path.join(place, name), folder)] = (about.st_ino, about.st_mtime_ns)
    return found


def _told(capfd: pytest.CaptureFixture, code: object) -> str:
    """Fault of what a command printed; "" if there is none."""
    said = capfd.readouterr()
    last = said.err.replace("\r", "\n").splitlines()[-1:] or [""]
    if SECRET in said.out + said.err:
        return "told a secret"
    if code == 0:
        return ""
    if code != 2 or not last[0].startswith("error: ") or len(last[0]) > 1100:
        return f"code {code!r}: {last[0][:300]}"
    return f"traceback: {said.err[-300:]}" if "Traceback" in said.err else ""


def _prepared(folder: Path) -> str:
    """Fault of preparing what `guess` wrote; "" if it works or refuses in one line."""
    config = load_config("t", folder)
    try:
        prepare(config, make(config["source"], "data.source"), folder / "runs" / "cache")
    except RecsysError as error:
        return "" if len(in_one_line(error)) < 1100 else "a long message"
    return ""


def _fault(folder: Path, capfd: pytest.CaptureFixture) -> tuple[str, bool]:
    """→ what is wrong with how a table is taken, and whether it was taken at all."""
    place = next((p for p in folder.iterdir() if p.name.startswith("t.")), folder / "t.csv")
    code = main(["data", "guess", place.name, "--label", "y", "--name", "t", "--rows", "1000"])
    if (fault := _told(capfd, code)) or code:
        return fault and f"guess: {fault}", False
    code = main(["data", "report", "t"])
    if fault := _told(capfd, code):
        return f"report: {fault}", True
    return _prepared(folder), True


def _through(folder: Path, capfd: pytest.CaptureFixture) -> tuple[str, bool]:
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a user sees none of NumPy's: they are told once, if at all
            return _fault(folder, capfd)
    except BaseException as error:
        capfd.readouterr()
        return f"{type(error).__name__}: {str(error)[:300]}", False
    finally:
        signal.alarm(0)


def check(some: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> dict[str, bool]:
    """Table → whether it was taken; fails with all faults at once."""
    monkeypatch.setenv("HOSTILE", SECRET)
    before = signal.signal(signal.SIGALRM, _too_long)
    faults, taken = {}, {}
    for number, (name, build) in enumerate(some):
        folder = tmp_path / "inside" / str(number)
        folder.mkdir(parents=True)
        build(folder)
        monkeypatch.chdir(folder)
        around = _state(folder)
        fault, taken[name] = _through(folder, capfd)
        after = _state(folder)
        new = {p.split("/")[0] for p in after if p not in around} - {"data", "runs"}
        if gone := [p for p, state in around.items() if after.get(p) != state]:
            fault = fault or f"{gone} were replaced"
        if new or sorted(p.name for p in tmp_path.iterdir()) != ["inside"]:
            fault = fault or f"{sorted(new)} were written outside data/"
        if any(SECRET in f.read_text(errors="replace") for f in folder.glob("data/*")):
            fault = fault or "wrote a secret"
        if fault:
            faults[name] = fault
    signal.signal(signal.SIGALRM, before)
    assert not faults, "\n".join(f"{n}: {f}" for n, f in faults.items())
    return taken


@pytest.mark.slow
def test_two_hundred_hostile_tables(tmp_path, monkeypatch, capfd):
    every = list(tables())
    taken = check(every, tmp_path, monkeypatch, capfd)
    assert len(taken) >= 200
    assert 50 < sum(taken.values()) < len(taken) - 50, "the set holds both kinds"


def test_a_few_hostile_tables(tmp_path, monkeypatch, capfd):
    check(list(tables())[::20], tmp_path, monkeypatch, capfd)

"""Files and folders appear whole or not at all; what another process is making is left alone."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recsys.errors import DataError
from recsys.files import followed, read_json, unfinished_folder, whole, write_json, write_text
from recsys.lock import locked


def test_a_file_that_is_not_finished_leaves_the_earlier_one(tmp_path):
    path = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(RuntimeError), whole(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """The order that a power cut must find: file, name, folder."""
    seen = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda h: (seen.append("folder" if stat.S_ISDIR(os.fstat(h).st_mode) else "file"), fsync(h))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (seen.append("name"), replace(a, b)))
    write_json(tmp_path / "a.json", {})
    assert seen == ["file", "name", "folder"]


def test_a_link_that_a_user_names_stays_and_its_target_is_replaced(tmp_path):
    target, link = write_text(tmp_path / "target", "old"), tmp_path / "link"
    target.chmod(0o640)
    link.symlink_to(target)
    write_text(followed(link), "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_link_in_a_run_is_replaced_and_leads_nowhere(tmp_path):
    target, folder = write_text(tmp_path / "target", "theirs"), tmp_path / "folder"
    folder.mkdir()
    for to in (target, tmp_path / "absent", folder):
        link = tmp_path / f"link to {to.name}"
        link.symlink_to(to)
        write_text(link, "ours")
        assert not link.is_symlink() and link.read_text() == "ours"
    assert target.read_text() == "theirs" and not (tmp_path / "absent").exists() and not list(folder.iterdir())


def test_a_pipe_is_written_to_and_stays(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "said")
    reader.join(10)
    assert got == ["said"] and stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_stays():
    before = os.stat("/dev/null")
    write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and os.stat("/dev/null").st_ino == before.st_ino


def test_where_nothing_can_be_written_is_one_line(tmp_path):
    for path, said in ((tmp_path / "no" / "a", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(DataError, match=said) as error:
            write_text(path, "")
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged"),
        ('{"version": 1', "is damaged"),
        ("[]", "got none"),
        ('{"version": 2}', "got 2"),
        (None, "found none"),
    ],
)
def test_reading_says_what_is_wrong_and_the_mend(tmp_path, text, said):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=said) as error:
        read_json(path, "a card", "export again", 1)
    assert "export again" in str(error.value) and len(str(error.value).splitlines()) == 1


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError), unfinished_folder(target) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with unfinished_folder(target) as folder:
        (folder / "inside").mkdir()
        (folder / "inside" / "a").write_text("whole")
        assert not target.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["made"] and (target / "inside" / "a").read_text() == "whole"
    with pytest.raises(FileExistsError), unfinished_folder(target):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


HOLD = (
    "import sys, time; from pathlib import Path; from recsys.files import unfinished_folder\n"
    "with unfinished_folder(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'mine').write_text('x'); print(folder, flush=True); time.sleep(60)"
)


def test_work_of_the_living_stays_and_of_the_dead_goes(tmp_path):
    """By lock, not by process number: in two containers both are process 1."""
    target = tmp_path / "made"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        theirs = Path(other.stdout.readline().strip())
        with unfinished_folder(tmp_path / "made") as ours:
            (ours / "mine").write_text("y")
            assert (theirs / "mine").exists() and ours != theirs
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert theirs.exists()
    with pytest.raises(FileExistsError), unfinished_folder(target):
        assert not theirs.exists()


def test_what_a_kill_left_of_a_file_goes_when_it_is_written_again(tmp_path):
    code = "import sys, time; from pathlib import Path; from recsys.files import whole\n"
    code += "with whole(Path(sys.argv[1])) as f:\n    f.write('half'); f.flush(); print(1, flush=True); time.sleep(60)"
    target = tmp_path / "a.json"
    other = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE, text=True)
    try:
        other.stdout.readline()
        write_text(target, "whole")
        assert len(list(tmp_path.iterdir())) == 2, "the other one is alive: its work stays"
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    write_text(target, "again")
    assert list(tmp_path.iterdir()) == [target] and target.read_text() == "again"


def test_what_cannot_be_swept_away_stops_no_write(tmp_path, monkeypatch):
    """Whoever may write into the folder could stop every write there: a pipe that nobody opens held it up for ever."""
    theirs = [tmp_path / f".a.json.{name}.unfinished" for name in ("pipe", "link", "file")]
    os.mkfifo(theirs[0])
    theirs[1].symlink_to(tmp_path / "nowhere")
    theirs[2].touch()
    unlink = Path.unlink

    def refuse(path, missing_ok=False):
        if path == theirs[2]:  # another user's file, in a folder that all may write to
            raise PermissionError(1, "Operation not permitted", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert write_text(tmp_path / "a.json", "whole").read_text() == "whole"
    assert theirs[1].is_symlink() and theirs[2].exists()


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"), whole(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_sigterm_ends_a_process_in_order(tmp_path):
    code = HOLD.replace("import sys", "from pipelines.signals import obey_signals; obey_signals(); import sys", 1)
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "made")], stdout=subprocess.PIPE, text=True)
    other.stdout.readline()
    other.send_signal(signal.SIGTERM)
    assert other.wait(20) == 143
    other.stdout.close()
    assert not list(tmp_path.iterdir())


def test_a_lock_that_is_held_is_told_at_once(tmp_path):
    with locked(tmp_path / "lock"), pytest.raises(BlockingIOError), locked(tmp_path / "lock", wait=False):
        pass
    with locked(tmp_path / "lock", wait=False):
        pass


def test_json_is_as_it_was(tmp_path):
    value = {"ü": [1, None, 0.5]}
    assert read_json(write_json(tmp_path / "a", value, 3), "x", "y", 3) == {"version": 3, **value}
    assert json.loads((tmp_path / "a").read_text()) == {"version": 3, **value}

"""A folder of its own, its queue, and the commands."""

import pytest

from recsys.commands.cli import main
from recsys.service.queue.open import address, open_queue


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty folder to submit in, and no service named by the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("RECSYS_URL", "RECSYS_TOKEN", "RECSYS_DATABASE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def queue(place):
    queue = open_queue(address("runs"))
    yield queue
    queue.close()


@pytest.fixture
def recsys(capfd):
    """Run a command → exit code, lines of standard output, standard error."""

    def call(*arguments):
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        printed, said = capfd.readouterr()
        return code, printed.splitlines(), said

    return call


@pytest.fixture
def refused():
    """Check that an answer of `recsys` is an error of one line with exit code 2, which holds some words → the line."""

    def check(answer, *words):
        code, printed, said = answer
        assert code == 2 and printed == [], (code, printed, said)
        assert said.startswith("error: ") and len(said.splitlines()) == 1, said
        assert all(word in said for word in words), said
        return said

    return check

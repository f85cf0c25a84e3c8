"""`recsys doctor --service` names what is wrong with a service, and the command that mends it; it shows no secret."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys.commands.cli import main
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Needs
from recsys.service.queue.sql import SqlQueue
from tests.service.http.conftest import new_run


@pytest.fixture
def doctor(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    for name in ("RECSYS_URL", "RECSYS_TOKEN", "RECSYS_TOKEN_SUBMIT", "RECSYS_TOKEN_VIEW"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")

    def ask(**environment: str) -> tuple[int, str]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(["doctor", "--service"])
        return code, capsys.readouterr().out

    return ask


def test_a_sound_service(doctor: Callable[..., tuple[int, str]], queue: Queue, place: Path) -> None:
    assert isinstance(queue, SqlQueue)
    queue.attend("w1", "host-a", Needs(4, 8 << 30, 1))
    queue.submit([new_run(place)])
    code, said = doctor(RECSYS_TOKEN="a" * 32)
    assert code == 0 and "blocks" not in said and "less" not in said, said
    assert "w1 (4 cores, 8 GiB, 1 GPUs)" in said and "1 runs wait" in said and "set for admin" in said
    assert "a" * 32 not in said


def test_nothing_was_submitted_yet_and_nothing_is_written(doctor: Callable[..., tuple[int, str]], place: Path) -> None:
    code, said = doctor()
    assert code == 0 and "none yet" in said and not list((place / "runs").iterdir())


def test_each_problem_has_a_name_and_a_mend(
    doctor: Callable[..., tuple[int, str]], queue: Queue, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue.submit([new_run(place)])
    claim = queue.claim("w", "h", Needs(4, 8 << 30))
    assert claim
    rows = [replace(queue.get(claim.run.id), state="unknown")]
    monkeypatch.setattr(SqlQueue, "find", lambda *_, **__: rows)
    clock = time.time
    monkeypatch.setattr("recsys.commands.service.doctor.time.time", lambda: clock() - 100)
    usage: Any = shutil.disk_usage(place)
    monkeypatch.setattr("recsys.commands.service.doctor.shutil.disk_usage", lambda _: usage._replace(free=1 << 20))
    code, said = doctor(RECSYS_TOKEN="short")
    assert code == 2
    for words in ("recsys worker", "100 s ahead", "--dead", "du -xsh", "openssl rand", "nothing is submitted"):
        assert words in said, (words, said)


def test_a_database_of_another_version_or_none_at_all(
    doctor: Callable[..., tuple[int, str]], queue: Queue, place: Path
) -> None:
    assert isinstance(queue, SqlQueue)
    with queue.changing() as connection:
        connection.exec_driver_sql("UPDATE meta SET value = '999'")
    code, said = doctor()
    assert code == 2 and "999" in said and "version" in said
    code, said = doctor(RECSYS_DATABASE="postgresql+psycopg://user:secret@127.0.0.1:1/x")
    assert code == 2 and "secret" not in said and "refused" in said.lower()
    code, said = doctor(RECSYS_URL="http://127.0.0.1:1")
    assert code == 2 and "no service answers" in said

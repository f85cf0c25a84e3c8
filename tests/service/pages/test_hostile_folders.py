"""What folders of runs and arguments of commands may hold: it is shown, escaped or refused."""

import json
import os
from pathlib import Path

import pytest
from sqlalchemy import text

from recsys.commands.cli import main
from recsys.service.queue.sql import SqlQueue
from tests.service.http.conftest import Caller, new_run

OLD = "20260101-000000-demo-0"


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
    assert main(["submit", "data=table", "data.label=x", "+data.fields={a: {}}", override]) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: overrides: expected text in UTF-8") and "caf\\udce9.csv" in said
    queue.submit([new_run(place)])
    with queue.changing() as connection:  # as an earlier version queued it
        pair = {"o": json.dumps([override]), "c": json.dumps({"path": override, "smile": "\U0001f600"})}
        connection.execute(text("UPDATE runs SET overrides = :o"), pair)
        connection.execute(text("UPDATE run_configs SET config = :c"), pair)
    assert "caf\\\\udce9.csv" in shown(here, OLD) and queue.get(OLD).new.config["smile"] == "\U0001f600"

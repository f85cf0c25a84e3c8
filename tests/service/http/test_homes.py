"""Runs that were submitted to the service's database from elsewhere, into another folder of runs than the service's."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from recsys.events import CURVES
from recsys.service.http.settings import Settings
from recsys.service.pages.site import make_site
from recsys.service.queue.queue import Queue
from tests.service.http.conftest import Caller, new_run

ASKED = ("/api/runs/r/log", "/api/runs/r/log/stream", "/api/runs/r/files/log.txt", "/api/runs/r/curves", "/runs/r",
         "/api/compare?ids=r", "/compare?id=r")  # fmt: skip


def test_they_are_read_where_they_are_if_the_service_may_show_that(
    queue: Queue, settings: Settings, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    queue.submit([replace(new_run(place, "r"), runs=str(other))])
    folder = other / "r"
    folder.mkdir()
    (folder / "log.txt").write_text("hello\n")
    (folder / CURVES).write_text('{"stage": "train", "step": 1, "valid_auc": 0.75}\n')
    stage = {"seconds": 1.0, "metrics": {"auc": 0.625}}
    (folder / "result.json").write_text(json.dumps({"stages": {"evaluate": stage}}))
    queue.cancel("r")
    shut = Caller(make_site(queue, settings))
    for path in ASKED:
        answer = shut.get(path)
        assert answer.status_code == 409 and f"--root {other}" in answer.json()["error"], (path, answer.text)
    shown = Caller(make_site(queue, replace(settings, roots=(other,))))
    log, stream, file, curves, page, compared, _ = answers = [shown.get(path) for path in ASKED]
    assert [a.status_code for a in answers] == [200] * len(ASKED)
    assert log.text == file.text == "hello\n" and "hello" in stream.text and "hello" in page.text
    assert curves.json()["curves"]["train"]["valid_auc"]["values"] == [0.75]
    assert compared.json()["runs"][0]["figures"]["evaluate/auc"] == 0.625

"""A real service with real trainings, walked through as its users do: by commands, by curl, by clicking.

Each time a sweep of 3 × 2 short trainings of the demo is submitted and watched, one is cancelled and resumed, two are
compared. RECSYS_SHOTS names a folder for pictures of the pages, at the widths of a desktop and a phone, light and dark.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
import pytest

from tests.service.pages.conftest import opened, serious_faults

pytestmark = pytest.mark.slow  # 18 trainings

T = TypeVar("T")
ROOT = Path(__file__).parents[3]
SHORT = [
    "experiment=demo", "stages=[prepare,train,evaluate]", "train.batch_size=256", "train.patience=100",
    "train.max_epochs=4",
    "data.split.train=[2017-07-24,2017-08-01]", "data.split.valid=[2017-08-29,2017-09-01]",
    "data.split.test=[2017-10-24,2017-10-28]",
]  # fmt: skip
SWEPT = ["seed=1,2,3", "model=fm,dcn"]
PATIENCE = 900.0  # seconds; a training takes a quarter of a minute on a machine that does nothing else


def until(condition: Callable[[], T | None]) -> T:
    """Wait until something is there → it."""
    end = time.monotonic() + PATIENCE
    while (value := condition()) is None:
        assert time.monotonic() < end, "it has not happened"
        time.sleep(0.1)
    return value


@dataclass(frozen=True)
class Service:
    """A service with a worker of two slots.

    Args:
        address: Of its HTTP interface.
        folder: That it was started in.
    """

    address: str
    folder: Path

    def recsys(self, *words: str, code: int = 0) -> list[str]:
        """Run a command in another terminal, in the same folder → the lines that it prints."""
        ended = subprocess.run(_command(*words), capture_output=True, text=True, cwd=self.folder, env=_environment())
        assert ended.returncode == code, (words, ended.stdout, ended.stderr)
        return ended.stdout.splitlines()

    def curl(self, path: str, body: Any = None) -> Any:
        """Ask it by curl → the JSON that it answers."""
        sent = [] if body is None else ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        command = ["curl", "-sS", "--fail-with-body", *sent, f"{self.address}{path}"]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, (path, ended.stdout, ended.stderr)
        return json.loads(ended.stdout)

    def ended(self, id: str) -> dict[str, Any]:
        """Wait until a run has ended → it."""

        def look() -> dict[str, Any] | None:
            row = self.curl(f"/api/runs/{id}")
            return row if row["state"] in ("finished", "failed", "cancelled") else None

        return until(look)

    def has_checkpoint(self, id: str) -> bool:
        return any((self.folder / "runs" / id / "train" / "checkpoints").glob("step-*"))

    def check_results(self, sweep: str, children: Sequence[str], resumed: str) -> None:
        """All six have finished, each with its result once: in its folder, in the queue's events, in MLflow."""
        rows = [json.loads(line) for line in self.recsys("runs", sweep, "--json")]
        assert {row["id"]: row["state"] for row in rows} == dict.fromkeys([sweep, *children], "finished")
        assert {row["id"]: row["attempt"] for row in rows[1:]} == {id: 1 + (id == resumed) for id in children}
        tracked = set[str]()
        for id in children:
            result = json.loads((self.folder / "runs" / id / "result.json").read_text())
            assert list(result["stages"]) == ["prepare", "train", "evaluate"] and result["id"] == id
            assert result["stages"]["evaluate"]["metrics"]["train.auc"] > 0.6
            tracked.add(result["mlflow"]["run_id"])
            events = self.curl(f"/api/events?run={quote(id)}&limit=1000")["events"]
            states = [e["payload"]["state"] for e in events if e["kind"] == "state"]
            assert states.count("finished") == 1 and states.count("cancelled") == (id == resumed), states
        assert len(tracked) == 6
        assert not [p for p in (self.folder / "runs" / sweep).glob("*") if p.is_dir() and p.name not in "012345"]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "recsys", *words]


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RECSYS_", "MLFLOW_TRACKING"))}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Generator[Service]:
    folder = tmp_path_factory.mktemp("walk")
    said = (folder / "said").open("wb")
    command = _command("service", "--port=0", "--cores=2", "--memory=4G")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True, env=_environment(), cwd=folder)
    assert process.stdout is not None
    line = process.stdout.readline()
    address = re.search(r"http://\S+", line)
    assert address, line + (folder / "said").read_text()
    yield Service(address[0], folder)
    tree = [process, *psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
    for one in tree:
        one.kill()
    process.wait()
    process.stdout.close()
    said.close()


def _rows(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    return (json.loads(line) for line in lines)


def _trains(row: dict[str, Any]) -> bool:
    """Whether a run has begun to count its rows."""
    live = row["live"]
    return (
        row["state"] == "running" and live["stage"] == "train" and bool(live["progress"] and live["progress"]["done"])
    )


def test_by_commands(service: Service) -> None:
    sweep, *children = service.recsys("submit", *SHORT, *SWEPT, "-m")
    assert children == [f"{sweep}/{i}" for i in range(6)]
    watch = subprocess.Popen(
        _command("runs", sweep, "--json", "--watch"), stdout=subprocess.PIPE, text=True, cwd=service.folder,
        env=_environment(),
    )  # fmt: skip
    assert watch.stdout is not None
    states: dict[str, list[str]] = {id: [] for id in (sweep, *children)}
    done: dict[str, list[int]] = {id: [] for id in children}
    resumed = ""
    for row in _rows(iter(watch.stdout)):
        id, state = row["id"], row["state"]
        if states[id][-1:] != [state]:
            states[id].append(state)
        if row["live"]["stage"] == "train" and row["live"]["progress"]:
            done[id].append(row["live"]["progress"]["done"])
        if not resumed and id != sweep and _trains(row):
            assert service.recsys("cancel", id) == [f"{id} stopping"]
            assert service.ended(id)["state"] == "cancelled"
            assert service.has_checkpoint(id)
            assert re.search(rf"^{id} +cancelled\b", "\n".join(service.recsys("runs", "--parent", sweep)), re.M)
            assert service.recsys("resume", id) == [f"{id} queued"]
            resumed = id
    assert watch.wait() == 0
    watch.stdout.close()
    assert resumed and states[sweep][-1] == "finished" and "running" in states[sweep]
    assert states[children[-1]] == ["queued", "running", "finished"]
    assert all(states[id][-1] == "finished" for id in children)
    assert any(len(set(counts)) > 1 for counts in done.values())  # progress moves
    assert "prepare is done already" in service.recsys("logs", resumed, "-f")
    shown = service.recsys("runs", resumed)
    assert any(re.fullmatch(r"attempt +2", line) for line in shown)
    compared = service.recsys("runs", children[0], children[1])  # fm and dcn of one seed
    settings = [line.split()[0] for line in compared if line.startswith(("seed", "model", "train.", "data."))]
    assert settings and all(key.startswith("model") for key in settings), compared
    assert any(line.startswith("evaluate/train.auc") for line in compared)
    compared = service.recsys("runs", children[0], children[2], "--json")  # two seeds of fm
    assert json.loads(compared[0])["keys"] == ["seed"]
    service.check_results(sweep, children, resumed)


def test_by_curl(service: Service) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    first = service.curl("/api/runs", {"overrides": [*SHORT, *SWEPT], "multirun": True})["runs"]
    sweep, *children = (row["id"] for row in first)
    assert len(children) == 6
    stream = subprocess.Popen(
        ["curl", "-sN", f"{service.address}/api/events/stream?after=0"], stdout=subprocess.PIPE, text=True
    )
    assert stream.stdout is not None
    done: dict[str, list[int]] = {id: [] for id in children}
    resumed = ""
    for line in stream.stdout:
        if not line.startswith("data: "):
            continue
        event = json.loads(line.removeprefix("data: "))
        id = event["run"]
        if id == sweep and event["kind"] == "state" and event["payload"]["state"] == "finished":
            break
        if id not in children or event["kind"] != "progress":
            continue
        done[id].append(event["payload"]["done"])
        if not resumed and _trains(service.curl(f"/api/runs/{id}")):
            assert service.curl(f"/api/runs/{id}/cancel", {})["cancel_asked_at"]
            row = service.ended(id)
            assert row["state"] == "cancelled" and row["attempt"] == 1
            listed = service.curl(f"/api/runs/{id}/files/train/checkpoints")["entries"]
            assert any(entry["name"].startswith("step-") for entry in listed)
            assert service.curl(f"/api/runs/{id}/resume", {})["state"] == "queued"
            resumed = id
    stream.kill()
    stream.wait()
    stream.stdout.close()
    assert resumed and any(len(set(counts)) > 1 for counts in done.values())
    row = service.curl(f"/api/runs/{resumed}")
    assert row["state"] == "finished" and row["attempt"] == 2
    curves = service.curl(f"/api/runs/{resumed}/curves")["curves"]["train"]["valid_auc"]
    assert len(curves["steps"]) > 2 and curves["steps"] == sorted(set(curves["steps"]))  # each look once
    compared = service.curl(f"/api/compare?ids={children[0]},{children[1]}")
    assert compared["keys"] and all(key.startswith("model") for key in compared["keys"])
    assert service.curl(f"/api/compare?ids={children[0]},{children[2]}")["keys"] == ["seed"]
    whole = service.curl(f"/api/compare?ids={sweep}")
    assert sorted(map(len, (group["seeds"] for group in whole["groups"]))) == [3, 3]
    service.check_results(sweep, children, resumed)


def test_by_clicking(service: Service, browser: Any) -> None:
    page, wrong = opened(browser, viewport={"width": 1280, "height": 900})
    page.set_default_timeout(1000 * PATIENCE)
    page.goto(service.address)
    page.click("nav >> text=Submit")
    page.select_option("select[name=experiment]", "demo")
    page.fill("textarea[name=overrides]", "\n".join([*SHORT[1:], *SWEPT]))
    page.check("input[name=multirun]")
    page.wait_for_selector("#checked >> text=A sweep of 6 runs is ready")
    look(browser, service, page.url.removeprefix(service.address), "submit")
    page.click("button.main")
    page.wait_for_selector("h1 >> text=sweep")
    sweep = page.inner_text("h1 small")
    assert page.locator("#rows tbody tr").count() == 6
    page.evaluate("window.stays = true")  # a reload would lose it
    page.wait_for_selector("#rows .state.running")
    moving = page.locator("#rows tbody tr", has=page.locator(".stage:text-is('train') + progress"))
    moving.first.wait_for()
    share = moving.first.locator("progress").get_attribute("value")
    assert page.evaluate("window.stays") and float(share) >= 0
    resumed = moving.first.locator("th small").first.inner_text()
    moving.first.locator("th a").click()
    page.wait_for_selector("#head .state.running")
    page.click("#head >> text=Cancel")
    page.wait_for_selector("#head .state.cancelled")
    assert service.has_checkpoint(resumed)
    assert "stopped" in page.inner_text("#head")
    look(browser, service, f"/runs/{resumed}", "cancelled")
    page.evaluate("window.stays = true")
    page.click("#head >> text=Resume")
    page.wait_for_selector("#head .state.running")
    page.wait_for_selector("#head .state.finished")
    assert re.search(r"Attempt\s+2", page.inner_text("#head"))
    assert page.locator("#charts canvas").count() == 2 and "evaluate" in page.inner_text("#stages")
    page.click("#head dd a[href^='/sweep/']")
    page.wait_for_selector("#head .state.finished")
    assert page.inner_text("#head").count("6 finished") == 1
    children = [page.locator("#rows th small").nth(2 * i).inner_text() for i in range(6)]
    assert sorted(children) == [f"{sweep}/{i}" for i in range(6)]
    for id in children[:2]:
        page.check(f"input[value='{id}']")
    page.click("text=Compare the ticked runs")
    page.wait_for_selector("text=Compare 2 runs")
    heads = page.locator("#differences thead th").all_inner_texts()
    assert "seed" not in heads and any("model" in head for head in heads), heads
    assert page.locator("#differences tbody tr").count() == 2
    service.check_results(sweep, sorted(children), resumed)
    two = page.url.removeprefix(service.address)
    for path, name in {"/": "runs", "/?all=yes": "all", f"/runs/{resumed}": "run", f"/sweep/{sweep}": "sweep",
                       two: "two", f"/compare?id={sweep}": "compare"}.items():  # fmt: skip
        look(browser, service, path, name)
    assert not wrong


def look(browser: Any, service: Service, path: str, name: str) -> None:
    """At both widths and in both themes: no serious fault of access, nothing that scrolls sideways; and a picture."""
    shots = os.environ.get("RECSYS_SHOTS")
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page, wrong = opened(browser, viewport={"width": width, "height": 800}, color_scheme=scheme)
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(service.address + path)
            page.wait_for_timeout(700)
            if shots:
                page.screenshot(path=f"{shots}/{name}-{width}-{scheme}.png", full_page=True)
            page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
            assert serious_faults(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), path
            assert not wrong
            page.close()

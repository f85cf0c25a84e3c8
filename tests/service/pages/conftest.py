"""The service's pages on a queue of their own: called in this process, or served to a browser."""

import json
import math
import shutil
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from recsys.service.http.settings import Settings
from recsys.service.pages.site import make_site
from recsys.service.queue.open import open_queue
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Claim, Live, Needs, NewRun, QueuedRun, State
from tests.service.http.conftest import TOKENS, Caller

CONFIG: dict[str, Any] = {
    "seed": 0,
    "stages": ["prepare", "train", "evaluate"],
    "model": {"_target_": "recsys.models.dcn.DCN", "layers": 2},
    "train": {"lr": 0.001},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The service's folder, which is the current one."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def queue(place: Path) -> Generator[Queue]:
    queue = open_queue(f"sqlite:///{place / 'runs' / 'service.db'}")
    yield queue
    queue.close()


@pytest.fixture
def settings(place: Path) -> Settings:
    return Settings(place / "runs", place, mlflow="http://127.0.0.1:5000")


@pytest.fixture
def here(queue: Queue, settings: Settings) -> Caller:
    """A browser without script, of a service without tokens on loopback."""
    return Caller(make_site(queue, settings))


@pytest.fixture
def guarded(queue: Queue, place: Path) -> Callable[[str | None], Caller]:
    app = make_site(queue, Settings(place / "runs", place, tokens=TOKENS, hosts=None))
    return lambda role: Caller(app, TOKENS.by_role[role] if role else None)


@dataclass
class Bench:
    """Plays a worker: runs go through their states as on a machine, without a process.

    Args:
        queue: The queue.
        place: The service's folder.
    """

    queue: Queue
    place: Path

    def submit(self, id: str, **changes: Any) -> QueuedRun:
        values: dict[str, Any] = {"overrides": [], "config": CONFIG, "digest": "0" * 16, "name": "demo"} | changes
        runs = str(self.place / "runs")
        return self.queue.submit([NewRun(id=id, runs=runs, cwd=str(self.place), needs=Needs(), **values)])[0]

    def sweep(self, id: str, lrs: list[float]) -> list[QueuedRun]:
        values: dict[str, Any] = {
            "digest": "0" * 16,
            "name": "demo",
            "runs": str(self.place / "runs"),
            "cwd": str(self.place),
        }
        parent = NewRun(id=id, overrides=["train.lr=…"], config={}, kind="sweep", **values)
        children = [
            NewRun(
                id=f"{id}/{i}",
                overrides=[f"train.lr={lr}"],
                config={**CONFIG, "train": {"lr": lr}},
                parent=id,
                **values,
            )
            for i, lr in enumerate(lrs)
        ]
        return self.queue.submit([parent, *children])

    def claim(self) -> Claim:
        claim = self.queue.claim("w", "box", Needs(1000, 1 << 50))
        assert claim is not None
        self.queue.began(claim, 42, 42, "boot", 1)
        return claim

    def look(self, claim: Claim, auc: float, step: int = 500) -> None:
        """A look of its training: figures, progress, a point of its curves, a line of its log."""
        folder = self.place / "runs" / claim.run.id
        folder.mkdir(parents=True, exist_ok=True)
        figures = {"valid_auc": auc, "valid_logloss": 1.2 - auc, "train_loss": 1.15 - auc}
        with (folder / "curves.jsonl").open("a") as file:
            file.write(json.dumps({"stage": "train", "step": step, **figures}) + "\n")
        with (folder / "log.txt").open("a") as file:
            file.write(f"step {step}: AUC {auc}\n")
        progress = {"done": 2 * step, "total": 3000, "unit": "rows", "per_second": 250.0}
        self.queue.note(claim, Live("train", progress, {"train": {"step": float(step), **figures}}, "epoch 1 of 3"))

    def end(self, claim: Claim, state: State = "finished", auc: float = 0.75, reason: str | None = None) -> None:
        """End it; a run that finishes leaves its results."""
        if state == "finished":
            self._results(self.place / "runs" / claim.run.id, claim.run.id, auc)
        self.queue.end(claim, state, 0, reason)

    def _results(self, folder: Path, id: str, auc: float) -> None:
        size = 1000.0 * (1 + sum(id.encode()) % 50)
        metrics = {
            "prepare": {"rows": 3000.0},
            "train": {"valid_auc": auc + 0.01, "valid_logloss": 1.19 - auc},
            "evaluate": {"train.auc": auc, "train.logloss": 1.2 - auc, "train.bytes": size, "select.auc": auc - 0.002,
                         "select.bytes": size / 2},
        }  # fmt: skip
        stages: dict[str, Any] = {}
        for name, figures in metrics.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            made = ["evaluation.html"] if name == "evaluate" else []
            result = {
                "version": 2,
                "seconds": 1.5,
                "metrics": figures,
                "tags": {},
                "params": {},
                "history": [],
                "artifacts": made,
            }
            (folder / name / "result.json").write_text(json.dumps(result))
            stages[name] = {"folder": name, "seconds": 1.5, "metrics": figures}
        (folder / "prepare" / "data.json").write_text(json.dumps({"version": 1, "folder": "../../cache/demo-1"}))
        (folder / "evaluate" / "evaluation.html").write_text("<!doctype html><title>Evaluation</title>")
        tracked = {"uri": "sqlite://", "experiment": "recsys", "run_id": "a" * 32}
        whole = {"version": 2, "id": id, "name": "demo", "seed": 0, "mlflow": tracked, "stages": stages}
        (folder / "result.json").write_text(json.dumps(whole))

    def whole(self, id: str, auc: float = 0.75, state: State = "finished", **changes: Any) -> None:
        """Submit a run and play it to its end."""
        self.submit(id, **changes)
        claim = self.claim()
        for i in range(3):
            self.look(claim, auc - 0.1 * math.exp(-i), 100 * (i + 1))
        self.end(claim, state, auc)


@pytest.fixture
def bench(queue: Queue, place: Path) -> Bench:
    return Bench(queue, place)


@pytest.fixture
def served(queue: Queue, settings: Settings) -> Generator[str]:
    """The address of a service that a browser can reach."""
    config = uvicorn.Config(make_site(queue, settings), host="127.0.0.1", port=0, log_config=None, access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture
def browser() -> Generator[Any]:
    """Chromium without a window."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser: Any, **options: Any) -> tuple[Any, list[str]]:
    """A page, and what its console complains of."""
    page = browser.new_page(**options)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    page.set_default_timeout(15_000)
    return page, wrong


def serious_faults(page: Any) -> list[str]:
    """Faults of access that axe calls serious or critical."""
    page.evaluate((Path(__file__).parent / "axe" / "axe.min.js").read_text())
    return page.evaluate("""async () => (await axe.run(document, {resultTypes: ["violations"]})).violations
        .filter(v => ["serious", "critical"].includes(v.impact))
        .map(v => `${v.id}: ${v.nodes.map(n => n.html.slice(0, 160)).slice(0, 3).join(" | ")}`)""")

"""Trials of a sweep in the queue: several at once, stopped early, cancelled, found again after the sweep was killed.

A thread stands for the workers: it claims runs, writes what their processes would, and ends them.
"""

import json
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from pipelines.sweep.executor import Begun, NotOfTheTrial, Ready, Watch
from pipelines.sweep.finals import finals
from pipelines.sweep.settings import Settings
from pipelines.sweep.swept import summarise
from pipelines.sweep.trials import Search
from recsys.commands.cli import main
from recsys.errors import Cancelled, ConfigError
from recsys.events import Reporter, RunFile, run_file
from recsys.lock import locked
from recsys.results import LOCK, Process, Run
from recsys.service.local import LocalDoor
from recsys.service.queue.folders import read_folders
from recsys.service.queue.open import open_queue
from recsys.service.queue.records import Claim, Load, Needs, QueuedRun
from recsys.service.queue.records import Worker as Known
from recsys.service.queue.sql import SqlQueue
from recsys.service.trials import QueuedTrials, Wishes, read_wishes, slots
from tests.configs import run_config
from tests.unit.test_sweep import Runs, finish

MARK, ROOM = "0" * 32, Needs(2, 8 << 30)
SETTINGS = Settings(6, "logloss", 0.0, "random", 0, 1, [1, 2], {"train.lr": {"log": [1e-4, 1e-2]}})
LOOKS = 3  # of a trial


class Hands:
    """Runs what is queued, in a thread: at most two at once, a look of each in turn.

    Args:
        queue: The queue.
        looks: Name of a trial → validation logloss at its looks, or the error that ends it.
    """

    def __init__(self, queue: SqlQueue, looks: Callable[[str], list[float] | str] = lambda name: [0.5] * LOOKS):
        self.queue, self.looks, self.paused = queue, looks, threading.Event()
        self.at_once, self.claimed = 0, list[str]()  # the most that ran at once; names, in their order
        self._held: list[tuple[Claim, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Hands":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(0.005):
            while claim := self.queue.claim("w", "here", ROOM):
                self._held.append((claim, 0))
                self.claimed.append(Path(claim.run.id).name)
            self.at_once = max(self.at_once, len(self._held))
            if not self.paused.is_set():
                self._held = [(c, n + 1) for c, n in self._held if self._step(c, n)]

    def _step(self, claim: Claim, number: int) -> bool:
        """One look of a run → whether it goes on."""
        folder, looks = Path(claim.run.new.runs) / claim.run.id, self.looks(Path(claim.run.id).name)
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(looks, str):
            self.queue.end(claim, "failed", 2, looks)
        elif self.queue.beat(claim):
            self.queue.end(claim, "cancelled", 2, "stopped on request")
        elif number == len(looks):
            finish(folder, min(looks), 1e9)  # seconds in the queue are not those of its steps
            self.queue.end(claim, "finished", 0, None)
        else:
            pace = {"rows": 100 * (number + 1), "step_seconds": 0.25}
            point = {"stage": "train", "step": number + 1.0, "valid_logloss": looks[number], "pace": pace}
            with (folder / "curves.jsonl").open("a") as file:
                file.write(f"\n{json.dumps(point)}")
            return True
        return False


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.service.trials._PAUSE", 0.01)
    monkeypatch.setattr("pipelines.sweep.executor._PAUSE", 0.05)
    monkeypatch.setattr("recsys.events.RunFile.cancelled", lambda file: (file._folder / "cancel").exists())


@pytest.fixture
def queue(tmp_path: Path) -> Generator[SqlQueue]:
    queue = open_queue(f"sqlite:///{tmp_path / 'service.db'}")
    yield queue
    queue.close()


@contextmanager
def sweep(queue: SqlQueue, tmp_path: Path, settings: Settings = SETTINGS, **wishes: Any) -> Generator["Sweep"]:
    """A sweep whose process lives."""
    folder = tmp_path / "runs" / "s"
    begun = Begun(folder, tmp_path / "runs", "s", MARK, settings.timed)
    run = Run(MARK, {"search": {}}, "d", [], Process(1, 0.0), "2026-01-01T00:00:00", "2026-01-01T00:00:00")
    with locked(folder / LOCK), run_file(folder, run) as file:
        yield Sweep(queue, folder, settings, file, QueuedTrials(queue, begun, Wishes(**wishes)))


class Sweep:
    """What `conduct` does with the executor, without training."""

    def __init__(self, queue: SqlQueue, folder: Path, settings: Settings, file: RunFile, trials: QueuedTrials):
        self.queue, self.folder, self.settings, self.file, self.trials = queue, folder, settings, file, trials
        self.told: Callable[[int | None], None] = lambda number: None

    def run(self, changes: Mapping[str, Any], folder: Path, watch: Watch) -> Path:
        seed = int(changes.get("seed", 0))
        typed = [f"{key}={value}" for key, value in changes.items()]
        return self.trials.run(Ready(run_config(seed=seed, runs=str(self.folder.parent)), typed, folder), watch)

    def search(self, study: optuna.Study) -> None:
        def tell(study: optuna.Study, trial: optuna.trial.FrozenTrial | None) -> None:
            done = summarise(study, self.settings, "s", "toy")
            assert trial is None or done.trial(trial.number), "earlier ones may still run"
            self.told(None if trial is None else trial.number)

        Search(self.folder, self.settings, self.run, self.file, tell, several=self.trials.several).run(study)

    def rows(self) -> dict[str, QueuedRun]:
        return {Path(row.id).name: row for row in reversed(self.queue.find(parent="s", limit=100))}


def changes(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.user_attrs["changes"] for trial in study.trials]


def test_random_search_tries_the_same_whatever_runs_at_once(queue: SqlQueue, tmp_path: Path) -> None:
    alone, several = optuna.create_study(), optuna.create_study()
    (tmp_path / "alone").mkdir()

    def silent(study: optuna.Study, trial: optuna.trial.FrozenTrial | None) -> None: ...

    def here(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        return Runs()(changes, folder, reporter)

    with Hands(queue) as hands, sweep(queue, tmp_path, parallel=3) as one:
        Search(tmp_path / "alone", SETTINGS, here, one.file, silent).run(alone)
        one.search(several)
        rows = one.rows()
    assert changes(several) == changes(alone) and len(changes(alone)) == 6
    assert hands.at_once == 2 and hands.claimed[0] == "default", "three wait or run, and the worker has room for two"
    assert sorted(rows, key=lambda name: (name != "default", name)) == ["default", "0", "1", "2", "3", "4", "5"]
    assert {r.state for r in rows.values()} == {"finished"} and {r.attempt for r in rows.values()} == {1}
    figures = several.trials[0].user_attrs["figures"]
    assert figures["seconds"] == 10 * 0.25, "ten steps to the best look, as its own process has timed them"
    read_folders(queue, tmp_path / "runs")
    assert queue.get("s").state == "finished"


def test_a_trial_that_is_behind_is_stopped_and_the_next_one_gets_its_slot(
    queue: SqlQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trial 5 is worse than the five before it, and would never end by itself."""
    bad = {"5": [0.9] * 10_000}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECSYS_DATABASE", f"sqlite:///{tmp_path / 'service.db'}")
    study, settings = optuna.create_study(), replace(SETTINGS, trials=8)
    with Hands(queue, lambda name: bad.get(name, [0.5] * LOOKS)) as hands, sweep(queue, tmp_path, settings) as one:
        one.search(study)
        rows = one.rows()
    swept = summarise(study, settings, "s", "toy")
    stopped = swept.trial(5)
    assert stopped and stopped.state == "stopped early" and {100, 200} <= stopped.looks.keys()
    states = [TrialState.COMPLETE] * 5 + [TrialState.PRUNED] + [TrialState.COMPLETE] * 2
    assert [t.state for t in study.trials] == states
    assert rows["5"].state == "cancelled" and hands.claimed[-2:] == ["6", "7"] and hands.at_once == 1
    assert main(["runs", "s/5"]) == 0 and main(["runs", "--parent", "s"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "state pruned reason pruned by its sweep: worse than the median of the trials before it" in shown
    assert "s/5 pruned" in shown and "s/4 finished" in shown and "stopped on request" not in shown
    assert rows["6"].started_at and rows["5"].ended_at and rows["6"].started_at >= rows["5"].ended_at


def test_a_sweep_that_was_killed_goes_on_and_runs_no_trial_twice(queue: SqlQueue, tmp_path: Path) -> None:
    """Killed while two trials run; one of them ends before the sweep goes on, the other one after that."""
    study = optuna.create_study()

    def die(number: int | None) -> None:
        if number is not None:
            raise KeyboardInterrupt

    slow = {"3": [0.5] * 60}
    with Hands(queue, lambda name: slow.get(name, [0.5] * LOOKS)) as hands:
        with suppress(KeyboardInterrupt), sweep(queue, tmp_path, parallel=2) as one:
            one.told = die
            one.search(study)
        assert (begun := [t.number for t in study.trials]) and len(begun) < 6
        with sweep(queue, tmp_path, parallel=2) as one:
            one.search(study)
            swept = finals(summarise(study, SETTINGS, "s", "toy"), one.run, one.folder, one.file, one.trials.several)
            rows = one.rows()
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 6
    assert len(hands.claimed) == len(set(hands.claimed)) == len(rows), "each was claimed once"
    assert {r.state for r in rows.values()} == {"finished"} and swept.best is None, "all are as good as the default"


def test_a_trial_that_was_stopped_as_the_sweep_died_is_not_run_again(queue: SqlQueue, tmp_path: Path) -> None:
    study, settings = optuna.create_study(), replace(SETTINGS, trials=7)

    def looks(name: str) -> list[float]:
        return [0.9] * 10_000 if name == "5" else [0.5] * LOOKS

    with Hands(queue, looks) as hands:
        with sweep(queue, tmp_path, settings) as one:
            tell = study.tell

            def dies(trial: Any, *values: Any, **state: Any) -> Any:
                if state.get("state") == TrialState.PRUNED:
                    raise KeyboardInterrupt
                return tell(trial, *values, **state)

            study.tell = dies
            with suppress(KeyboardInterrupt):
                one.search(study)
            assert one.rows()["5"].state == "cancelled" and study.trials[5].state == TrialState.RUNNING
        study.tell = tell
        with sweep(queue, tmp_path, settings) as one:
            one.search(study)
            assert one.rows()["5"].attempt == 1 and study.trials[5].state == TrialState.PRUNED
    assert hands.claimed.count("5") == 1 and study.trials[6].state == TrialState.COMPLETE


def test_cancelling_the_sweep_cancels_its_trials_and_it_can_go_on(queue: SqlQueue, tmp_path: Path) -> None:
    study, door = optuna.create_study(), LocalDoor(queue, tmp_path / "runs")
    hands = Hands(queue)
    hands.looks = lambda name: [0.5] * (LOOKS if name in hands.claimed[:2] else 10_000)  # the default and one trial end
    with hands:
        with pytest.raises(Cancelled), sweep(queue, tmp_path, parallel=4) as one:
            one.told = lambda number: None if number is None else hands.paused.set() or _cancel(door, hands)
            one.search(study)
        rows = one.rows()
        stopped = [row for name, row in rows.items() if name not in hands.claimed[:2]]
        assert len(stopped) == 3 and all(row.cancel_asked_at for row in stopped), "some may still be on their way"
        assert door.get("s").state == "cancelled"
        with pytest.raises(ConfigError, match="recsys sweep resume=s goes on with it"):
            door.resume("s")
        hands.looks = lambda name: [0.5] * LOOKS
        with sweep(queue, tmp_path, parallel=4) as one:
            one.search(study)
            assert {r.state for r in one.rows().values()} == {"finished"}
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 6


def _cancel(door: LocalDoor, hands: Hands) -> None:
    """Cancel the sweep while trials run and one waits, which has never begun."""
    until = time.monotonic() + 30
    while len(hands.claimed) < 4 or len(door.runs(states=["queued"], parent="s")) < 1:
        assert time.monotonic() < until
        time.sleep(0.01)
    door.cancel("s")
    hands.paused.clear()


def test_a_trial_that_somebody_cancels_fails_and_the_sweep_goes_on(queue: SqlQueue, tmp_path: Path) -> None:
    study = optuna.create_study()
    with Hands(queue, lambda name: [0.5] * (10_000 if name == "2" else LOOKS)) as hands:

        def look(name: str) -> list[float]:
            if name == "2":
                queue.cancel("s/2")
            return [0.5] * (10_000 if name == "2" else LOOKS)

        hands.looks = look
        with sweep(queue, tmp_path) as one:
            one.search(study)
    assert [t.state for t in study.trials].count(TrialState.COMPLETE) == 5
    assert study.trials[2].user_attrs["error"] == "run s/2 was stopped on request, by itself"


def test_a_full_disk_stops_the_sweep_and_the_trial_goes_on_later(queue: SqlQueue, tmp_path: Path) -> None:
    study = optuna.create_study()
    full = {"1": "[Errno 28] No space left on device"}
    with Hands(queue, lambda name: full.get(name, [0.5] * LOOKS)) as hands:
        with pytest.raises(OSError, match="No space left"), sweep(queue, tmp_path) as one:
            one.search(study)
        assert study.trials[1].state == TrialState.RUNNING
        full.clear()
        with sweep(queue, tmp_path) as one:
            one.search(study)
            assert one.rows()["1"].attempt == 2
    assert hands.claimed.count("1") == 2 and [t.state for t in study.trials] == [TrialState.COMPLETE] * 6


def test_what_the_queue_cannot_take_stops_the_sweep_and_fails_no_trial(queue: SqlQueue, tmp_path: Path) -> None:
    queue.attend("w", "here", ROOM)
    with (
        pytest.raises(NotOfTheTrial, match="which no worker can ever give"),
        sweep(queue, tmp_path, needs=Needs(64)) as one,
    ):
        one.search(optuna.create_study())
    (tmp_path / "runs" / "s" / "default").mkdir()
    with (
        pytest.raises(NotOfTheTrial, match="expected no folder, since the queue has no run s/default"),
        sweep(queue, tmp_path) as one,
    ):
        one.search(optuna.create_study())


def test_seconds_are_measured_one_at_a_time(queue: SqlQueue, tmp_path: Path) -> None:
    timed = replace(SETTINGS, beta=0.05)
    queue.attend("w", "here", ROOM)
    with (
        pytest.raises(ConfigError, match="parallel: expected 1, since seconds count"),
        sweep(queue, tmp_path, timed, parallel=2),
    ):
        pass
    (tmp_path / "timed").mkdir()
    with sweep(queue, tmp_path / "timed", timed, needs=Needs(2)):
        pass
    with (
        pytest.raises(ConfigError, match="cores, gpus: expected 2 and 0, on which .* were timed, .* got 1 and 0"),
        sweep(queue, tmp_path / "timed", timed, needs=Needs(1)),
    ):
        pass
    with sweep(queue, tmp_path, timed) as one:
        assert one.trials.several.room() == 1
    with sweep(queue, tmp_path) as one:
        assert one.trials.several.room() == 2


def test_as_many_trials_as_the_living_workers_have_room_for() -> None:
    workers = [
        Known("a", "here", Needs(8, 10 << 30), 0.0, 990.0), Known("b", "there", Needs(3, 64 << 30), 0.0, 990.0),
        Known("c", "gone", Needs(64, 64 << 30), 0.0, 900.0),
    ]  # fmt: skip
    load = Load(now=1000.0, newest_event=0, waiting_since=None, lost=0, workers=workers, used={}, broken=[])
    assert slots(load, Needs(1, 2 << 30)) == 5 + 3
    assert slots(load, Needs(2, 0)) == 4 + 1 and slots(load, Needs(1, 0, 1)) == 0


def test_how_trials_are_queued_is_remembered(queue: SqlQueue, tmp_path: Path) -> None:
    with sweep(queue, tmp_path, parallel=2, needs=Needs(2, 1 << 30), priority=5):
        pass
    assert read_wishes(tmp_path / "runs" / "s") == Wishes(2, Needs(2, 1 << 30), 5)
    (tmp_path / "runs" / "s" / "queue.json").unlink()
    (tmp_path / "runs" / "s" / "study.db").touch()
    with (
        pytest.raises(ConfigError, match="sweep s was begun in one process: recsys sweep resume=s goes on"),
        sweep(queue, tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "url", "message"),
    [
        (["--parallel", "2"], "", "--parallel is for trials in the queue: add --queue"),
        (["--memory", "1G"], "", "--memory is for trials in the queue: add --queue"),
        (["--queue"], "http://127.0.0.1:1", "RECSYS_URL: a sweep with --queue works on the database"),
        (["--queue", "--parallel", "0"], "", "argument --parallel: invalid whole number of at least 1 value: '0'"),
    ],
)
def test_options_that_cannot_be_are_one_line(
    tmp_path: Path,
    arguments: list[str],
    url: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECSYS_URL", url)
    assert main(["sweep", "data=ml100k", "search=rates", *arguments]) == 2
    assert f"error: {message}" in capsys.readouterr().err.replace("recsys sweep: ", "")
    assert not list(tmp_path.glob("runs/*/*.db")) and not list(tmp_path.glob("runs/*.db"))

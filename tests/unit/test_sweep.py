"""A sweep over a run that a formula stands for: what is tried, stopped, gone on with, refused and shown."""

import math
import re
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml
from omegaconf import OmegaConf
from optuna.trial import TrialState

from pipelines.overrides import compose
from pipelines.sweep.configs import Base, experiment
from pipelines.sweep.executor import Watch
from pipelines.sweep.finals import finals
from pipelines.sweep.page import lead, write_page
from pipelines.sweep.screen import Screen
from pipelines.sweep.settings import Settings
from pipelines.sweep.space import corners, overrides_of, read_space
from pipelines.sweep.swept import Swept, Tried, front, summarise
from pipelines.sweep.trials import Figures, Search, behind, objective, open_study
from recsys.commands.cli import main
from recsys.config.options import CONF, own_options
from recsys.errors import Cancelled, ConfigError, DataError
from recsys.events import SILENT, Reporter
from recsys.results import Process, Run, RunResult, StageOfRun, Tracking, write_result, write_run
from tests.pages import SCRIPT, runs

SPACE = {"model": {"dcn": {"model.layers": {"int": [1, 4]}}, "fm": {}}, "train.lr": {"log": [1e-4, 1e-2]}}
SETTINGS = Settings(8, "logloss", 0.0, "tpe", 0, 3, [1, 2, 3], SPACE)
Toy = Callable[[Mapping[str, Any]], tuple[float, float]]  # settings → validation logloss, seconds


def loss_of_rate(changes: Mapping[str, Any]) -> tuple[float, float]:
    """The best rate is .001, and fm is worse."""
    rate = math.log10(changes.get("train.lr", 3e-3) / 1e-3)
    return 0.5 + 0.1 * rate**2 + 0.05 * (changes.get("model") == "fm"), 1.0


def finish(folder: Path, logloss: float, seconds: float) -> Path:
    """What a run of these figures leaves."""
    folder.mkdir(exist_ok=True)
    metrics = {"valid_logloss": logloss, "best_step": 10.0, "table_bytes": 1000.0, "dense_parameters": 250.0}
    stage = StageOfRun(folder / "train", seconds, metrics)
    return write_result(folder, RunResult("id", "toy", 0, Tracking("uri", "e", None), {"train": stage}))


class Runs:
    """Stands for `execute`: notes what it is asked to run."""

    def __init__(self, toy: Toy = loss_of_rate):
        self.toy, self.ran = toy, list[tuple[str, dict[str, Any]]]()

    def __call__(self, changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        self.ran.append((folder.name, dict(changes)))
        return finish(folder, *self.toy(changes))


def search(folder: Path, runs: Callable[..., Path], settings: Settings = SETTINGS, disk: bool = False) -> optuna.Study:
    """Search with a study in memory, which is faster, or in study.db."""
    study = open_study(folder, settings) if disk else optuna.create_study()
    Search(folder, settings, runs, SILENT, lambda study, trial: None).run(study)
    return study


def test_a_search_finds_the_best_rate(tmp_path: Path) -> None:
    runs = Runs()
    study = search(tmp_path, runs, replace(SETTINGS, trials=25))
    assert runs.ran[0] == ("default", {}) and len(runs.ran) == 26
    assert [set(c) for _, c in runs.ran[1:]] == [
        {"model", "train.lr"} | ({"model.layers"} if c["model"] == "dcn" else set()) for _, c in runs.ran[1:]
    ], "layers are searched with dcn alone"
    swept = summarise(study, SETTINGS, "id", "toy")
    assert swept.winner and swept.winner.changes["model"] == "dcn" and swept.winner.objective
    assert swept.winner.objective < swept.default.logloss
    assert swept.default == Figures(*loss_of_rate({}), 2000.0)
    assert max(swept.importance, key=lambda name: swept.importance[name]) in ("train.lr", "model")


def zdt(changes: Mapping[str, Any]) -> tuple[float, float]:
    """Zitzler, Deb and Thiele's first problem: its front is seconds = 1 − √logloss, where the other rates are 0."""
    x, *others = (changes.get(f"train.x{i}", 0.5) for i in range(4))
    g = 1 + 9 * float(np.mean(others))
    return x, g * (1 - math.sqrt(x / g))


def hypervolume(points: list[tuple[float, float]], corner: float) -> float:
    """The area that the points beat, up to a corner; by counting cells of a fine grid."""
    cell = (np.arange(400) + 0.5) * corner / 400
    beaten = np.zeros((400, 400), bool)
    for x, y in points:
        beaten |= (cell[:, None] >= x) & (cell[None] >= y)
    return float(beaten.mean()) * corner**2


@pytest.mark.slow
def test_the_front_is_nearer_to_the_truth_than_random_search_on_four_of_five_seeds(tmp_path: Path) -> None:
    space = {f"train.x{i}": {"uniform": [0.0, 1.0]} for i in range(4)}
    areas: dict[str, list[float]] = {"tpe": [], "random": []}
    for seed in range(5):
        for sampler in ("tpe", "random"):
            settings = Settings(50, "pareto", 0.0, sampler, seed, 1, [], space)
            study = optuna.create_study(directions=[optuna.study.StudyDirection.MINIMIZE] * 3)
            Search(tmp_path, settings, Runs(zdt), SILENT, lambda study, trial: None).run(study)
            areas[sampler].append(hypervolume([(t.values[0], t.values[1]) for t in study.best_trials], 6.0))
    assert sum(a >= b for a, b in zip(areas["tpe"], areas["random"], strict=True)) >= 4, areas


def test_the_front_is_what_nothing_beats() -> None:
    figures = [Figures(0.5, 2, 9), Figures(0.6, 1, 9), Figures(0.6, 2, 9), Figures(0.7, 3, 8), Figures(0.5, 2, 9)]
    assert front(dict(enumerate(figures))) == [0, 1, 3, 4]


def test_a_sweep_that_was_killed_tries_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while a trial runs, and between two draws of another; what is finished is not run again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    settings, runs = replace(SETTINGS, trials=14), Runs()
    search(whole, runs, settings)
    ran = Runs()

    def dies(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        if folder.name == "12" and len(ran.ran) == 13:
            ran.ran.append(("dead", {}))
            raise KeyboardInterrupt
        return ran(changes, folder, reporter)

    with monkeypatch.context() as patched, pytest.raises(ZeroDivisionError):
        draw = optuna.trial.Trial.suggest_float
        patched.setattr(
            optuna.trial.Trial,
            "suggest_float",
            lambda self, *a, **k: 1 / 0 if self.number == 11 else draw(self, *a, **k),
        )
        search(killed, dies, settings, disk=True)
    with pytest.raises(KeyboardInterrupt):
        search(killed, dies, settings, disk=True)
    search(killed, dies, settings, disk=True)
    assert [r for r in ran.ran if r[0] != "dead"] == runs.ran


def tried(number: int, logloss: float, seconds: float = 1.0) -> Tried:
    return Tried(number, "finished", {"train.lr": number}, Figures(logloss, seconds, 9), logloss)


@pytest.mark.parametrize(
    ("best", "over_seeds"), [(2, {0: 0.5, 1: 0.44, 2: 0.41, 3: 0.1}), (None, {0: 0.5, 1: 0.52, 2: 0.51, 3: 0.1})]
)
def test_the_mean_over_seeds_chooses_among_the_finalists(
    tmp_path: Path, best: int | None, over_seeds: dict[int, float]
) -> None:
    """Trial 3 is behind the best four in the search, and trial 0 was lucky there; trial 4 fails under a seed."""
    ran: list[str] = []

    def run(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        ran.append(folder.name)
        if changes.get("train.lr") == 4 and changes["seed"] == 2:
            raise DataError("the model diverged")
        folder.mkdir()
        return finish(folder, over_seeds.get(changes.get("train.lr", -1), 0.45) + changes["seed"] / 1000, 1.0)

    trials = [tried(0, 0.30), tried(1, 0.32), tried(2, 0.33), tried(3, 0.34), tried(4, 0.31), tried(5, 0.9)]
    settings = replace(SETTINGS, finalists=4, seeds=[1, 2])
    whole = Swept("id", "toy", settings, Figures(0.6, 1, 9), trials, [], {}, 0)
    chosen = finals(whole, run, tmp_path, SILENT)
    assert chosen.best == best and set(chosen.finals) == {"default", "0", "1", "2"}
    assert chosen.finals["default"] == [0.451, 0.452] and "4-seed2" in ran and not any(r[0] in "35" for r in ran)
    write_page(chosen, tmp_path / "sweep.html")
    assert "Validation logloss of the finalists" in (tmp_path / "sweep.html").read_text()
    assert ("None of 6 trials beats the default" in lead(chosen)) == (best is None) and "over 2 seeds" in lead(chosen)


def test_beta_weighs_time_and_zero_ignores_it() -> None:
    default, slow = Figures(0.5, 10, 1), Figures(0.4, 20, 1)
    assert objective(slow, default, SETTINGS) == [0.4] == objective(replace(slow, seconds=1e9), default, SETTINGS)
    assert objective(slow, default, replace(SETTINGS, beta=0.1)) == pytest.approx([0.4 * (1 + 0.1 * math.log(2))])
    assert objective(slow, default, replace(SETTINGS, objective="pareto")) == [0.4, 20, 1]


def test_a_trial_that_is_behind_the_median_at_as_many_rows_is_stopped(tmp_path: Path) -> None:
    """Each has three looks; after five finished ones, the sixth is worse and the seventh is better than the median."""
    asked: list[int] = []

    def runs(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        number = -1 if folder.name == "default" else int(folder.name)
        logloss = {5: 0.9, 6: 0.1}.get(number, 0.5 + number / 100)
        for step in (1, 2, 3):
            reporter.progress(100 * step, 300, "rows")
            reporter.metrics({"valid_logloss": logloss + 1 / step}, step)
            asked.append(number)
            if reporter.cancelled():
                raise Cancelled("the run was asked to stop")
        return finish(folder, logloss, 1.0)

    study = search(tmp_path, runs, replace(SETTINGS, trials=7))
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert asked.count(5) == 2 and asked.count(6) == 3
    assert study.trials[5].intermediate_values == pytest.approx({100: 1.9, 200: 1.4})


def test_behind_compares_best_looks_at_as_many_rows() -> None:
    others = [{100: 0.5, 200: 0.4}, {50: 0.6, 100: 0.5}, {100: 0.52}, {99: 0.51}, {100: 0.49}]
    assert behind({50: 0.9, 100: 0.505}, others) and not behind({50: 0.9, 100: 0.495}, others)
    assert not behind({100: 0.9}, others), "one look is too few"
    assert not behind({50: 0.9, 100: 0.9}, others[1:]), "so are four others"


def test_seconds_are_steps_to_the_best_look_times_the_median_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 100.0, 100.5, 102.5])
    monkeypatch.setattr("recsys.events.time.perf_counter", lambda: next(clock))
    watch = Watch(lambda rows, logloss, seconds: False, SILENT)
    for step in (1, 2, 3):
        watch.progress(10 * step, 40, "rows")
    watch.metrics({"valid_logloss": 0.5}, 3)  # takes until 100
    for step in (4, 5):
        watch.progress(10 * step, 50, "rows")
    assert watch.step_seconds == np.median([1.0, 2.0, 0.5, 2.0])


def test_a_trial_that_fails_ends_no_search(tmp_path: Path) -> None:
    def fails(changes: Mapping[str, Any]) -> tuple[float, float]:
        if changes.get("model") == "fm":
            raise DataError("the model diverged at step 40: lower train.lr") if len(failing.ran) % 2 else RuntimeError()
        return loss_of_rate(changes)

    failing = Runs(fails)
    study = search(tmp_path, failing, replace(SETTINGS, trials=12))
    swept = summarise(study, SETTINGS, "id", "toy")
    states = {t.changes["model"]: t.state for t in swept.trials}
    assert len(swept.trials) == 12 and states == {"fm": "failed", "dcn": "finished"}
    assert {t.error for t in swept.trials} == {"", "the model diverged at step 40: lower train.lr", "RuntimeError"}


def test_five_failures_from_the_start_end_it_with_their_common_cause(tmp_path: Path) -> None:
    def fails(changes: Mapping[str, Any]) -> tuple[float, float]:
        if changes and len(failing.ran) == 3:
            raise OSError("another thing")
        if changes:
            raise DataError(f"the model diverged at step {len(failing.ran)}: lower train.lr")
        return loss_of_rate(changes)

    failing = Runs(fails)
    with pytest.raises(ConfigError, match="first 5 trials failed, 4 of them by: the model diverged at step 2: lower"):
        search(tmp_path, failing, replace(SETTINGS, trials=12))
    assert len(failing.ran) == 6


@pytest.mark.parametrize(
    "error",
    [Cancelled("the run was asked to stop"), ConfigError("tracking.uri: cannot use http://x"), OSError(28, "full")],
)
def test_what_is_no_fault_of_the_trial_stops_the_sweep_and_keeps_it(tmp_path: Path, error: Exception) -> None:
    def stops(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        if folder.name == "2":
            raise error
        return Runs()(changes, folder, reporter)

    study = optuna.create_study()
    with pytest.raises(type(error)):
        Search(tmp_path, SETTINGS, stops, SILENT, lambda study, trial: None).run(study)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]


def test_a_sweep_stops_if_its_table_changes_and_fails_no_trial(tmp_path: Path) -> None:
    done = Runs()

    def unchanged() -> None:
        if len(done.ran) == 3:
            raise DataError("the files have changed")

    study = optuna.create_study()
    with pytest.raises(DataError, match="the files have changed"):
        Search(tmp_path, SETTINGS, done, SILENT, lambda study, trial: None, unchanged).run(study)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING]


def test_a_trial_that_kills_its_process_is_left_at_last(tmp_path: Path) -> None:
    def killed(changes: Mapping[str, Any], folder: Path, reporter: Reporter) -> Path:
        if folder.name == "1":
            raise KeyboardInterrupt  # as the end of a process, nothing below it catches it
        return Runs()(changes, folder, reporter)

    study, settings = optuna.create_study(), replace(SETTINGS, trials=3)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            Search(tmp_path, settings, killed, SILENT, lambda study, trial: None).run(study)
    Search(tmp_path, settings, killed, SILENT, lambda study, trial: None).run(study)
    assert [t.state for t in study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].user_attrs["error"].startswith("begun 5 times")


def test_a_study_that_another_program_holds_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.sweep.trials._WAIT", 1)
    study, held = open_study(tmp_path, SETTINGS), sqlite3.connect(tmp_path / "study.db")
    held.execute("BEGIN EXCLUSIVE")
    with pytest.raises(DataError, match=rf"study.db: expected to write .* recsys sweep resume={tmp_path.name} goes on"):
        Search(tmp_path, SETTINGS, Runs(), SILENT, lambda study, trial: None).run(study)
    held.close()


def test_a_damaged_study_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_text("no database " * 100)
    with pytest.raises(DataError, match="expected the trials of a sweep"):
        open_study(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"train.lr": {"log": [1e-2, 1e-4]}}, r"train.lr: the range log: \[0.01, 0.0001\] is empty: expected 0 < LOW"),
        ({"train.lr": {"log": [0.0, 1.0]}}, "expected 0 < LOW < HIGH"),
        ({"train.lr": {"uniform": [1, 1]}}, "is empty"),
        ({"train.lr": {"int": [1, 2.5]}}, "expected int: .LOW, HIGH., two whole numbers"),
        ({"train.lr": {"lg": [1, 2]}}, "expected a list of values"),
        ({"train.lr": []}, "expected a list of values"),
        ({"train.lr": 3}, "expected a list of values"),
        ({"train.lr": [1, 1]}, "1 stands there twice"),
        ({"seed": [1, 2]}, "expected settings that training reads .*, got 'seed': leave it out"),
        ({"data.split.seed": [1, 2]}, "got 'data.split.seed'"),
        ({"selection": ["leap", "sfs"]}, "got 'selection'"),
        ({"model": {"fm": {"train.lr": [1, 2]}}, "train.lr": [1, 2]}, "train.lr is set by two settings at once"),
        ({"model": {"fm": {"embedding.dim": {"int": [4, 2]}}}}, r"embedding.dim \(model=fm\): the range"),
    ],
)
def test_a_space_that_cannot_be_is_refused(space: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read_space(space)
    assert "\n" not in str(error.value)


def test_each_option_and_each_end_is_checked() -> None:
    space = read_space(
        {"model": {"a": {"model.n": {"int": [1, 3]}}, "b": None}, "train.lr": [1, [2], {"c": "d"}, True]}
    )
    assert corners(space) == [
        {"model": "a", "model.n": 1, "train.lr": 1},
        {"model": "a", "model.n": 3, "train.lr": [2]},
        {"model": "b", "train.lr": {"c": "d"}},
        {"model": "b", "train.lr": True},
    ]
    assert overrides_of(corners(space)[2]) == ["model=b", 'train.lr={c:"d"}']


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "search").glob("*.yaml")))
def test_packaged_spaces_are_spaces(name: str) -> None:
    given = OmegaConf.to_container(OmegaConf.load(CONF / "search" / f"{name}.yaml"))
    assert isinstance(given, dict)
    settings = Settings.from_json({str(k): v for k, v in given.items()})
    assert 3 < len(corners(read_space(settings.space))) < 40 or name == "rates"


@pytest.mark.parametrize(
    ("arguments", "space", "message"),
    [
        ([], "train.lrr: [1, 2]", "train.lrr: no such key: expected some of batch_size"),
        ([], "model: [dcn, magic]", "model: no option 'magic': expected one of autoint"),
        ([], "train.lr: {log: [.1, .01]}", "search.space: train.lr: the range log: [0.1, 0.01] is empty"),
        (["model=fm"], "model.dropout: [.1]", "model: unknown dropout: expected some of dim, outputs (a trial of"),
        ([], "train.lr: [-1]", "train.lr: input should be greater than 0, got -1"),
        (["search.trialz=3"], "train.lr: [1]", "search.trialz: no such key: expected some of beta, finalists"),
        (["search.beta=3"], "train.lr: [1]", "search.beta: input should be less than or equal to 0.1, got 3"),
        (["search=other"], "train.lr: [1]", "search: no option 'other': expected one of default, mine, rates"),
        (["train.lr=-1"], "model.layers: [1, 2]", "train.lr: input should be greater than 0"),
    ],
)
def test_what_cannot_be_is_one_line_before_any_trial(
    tmp_path: Path,
    arguments: list[str],
    space: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "search").mkdir()
    head = (
        "trials: 3\nobjective: logloss\nbeta: 0.0\nsampler: tpe\nsampler_seed: 0\nfinalists: 1\nseeds: []\nspace:\n  "
    )
    (tmp_path / "search" / "mine.yaml").write_text(f"{head}{space}\n")
    monkeypatch.chdir(tmp_path)
    search = [] if any(a.startswith("search=") for a in arguments) else ["search=mine"]
    assert main(["sweep", "data=ml100k", *search, *arguments]) == 2
    said = capsys.readouterr().err
    assert f"error: {message}" in said and len(said.splitlines()) <= 2, said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("begun", "other"), [("sweep", "run"), ("run", "sweep")])
def test_a_run_goes_on_as_a_run_and_a_sweep_as_a_sweep(
    tmp_path: Path, begun: str, other: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"search": {}} if begun == "sweep" else {}
    (tmp_path / "runs" / "it").mkdir(parents=True)
    write_run(tmp_path / "runs" / "it", Run("m", config, "d", ["data=ml100k"], Process(1, 0.0), "a", "b"))
    monkeypatch.chdir(tmp_path)
    assert main([other, "resume=it"]) == 2
    assert capsys.readouterr().err == f"error: resume: it is a {begun}: recsys {begun} resume=it goes on with it\n"


def test_numbers_stands_for_the_encoding_of_each_numeric_field() -> None:
    base = Base.split(["data=ml100k_history", "+data.fields={share of p: {kind: numeric}}"])
    before, after = (base.trial({"numbers": n}).data["fields"] for n in ("as_set", "log"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"user_rate", "user_year_rate", "item_rate", "item_gender_rate"}, "not those that were log before"
    assert all(after[name]["encoding"] == "log" for name in changed) and before["user_days"]["encoding"] == "bucket"
    with pytest.raises(ConfigError, match="encoding"):
        base.trial({"numbers": "magic"})


def test_trials_that_begin_at_once_are_composed_one_by_one() -> None:
    base, rates = Base.split(["data=ml100k"]), [0.001, 0.002, 0.003, 0.004]
    with ThreadPoolExecutor(4) as threads:
        configs = list(threads.map(lambda rate: base.trial({"train.lr": rate}), rates))
    assert [config.to_json()["train"]["lr"] for config in configs] == rates


def test_the_winner_as_an_experiment_is_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `recsys run experiment=best` composes is what the trial ran."""
    overrides = [
        "experiment=ml100k_sequence", "embedding=hashed", "embedding.rows=1024", "train.lr=0.003", "heal=one_epoch",
        "train=auto", "model.hidden=[32,16]", "+data.fields.extra={inputs: [age, gender]}", "runs=elsewhere",
    ]  # fmt: skip
    (tmp_path / "experiment").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiment" / "best.yaml").write_text(experiment(overrides, "# The best.\n"))
    both = [compose([*o, *own_options(tmp_path)]) for o in (overrides[:-1], ["experiment=best"])]
    whole = [OmegaConf.to_container(c, resolve=False) for c in both]
    assert all(isinstance(w, dict) and w.pop("hydra") for w in whole)
    assert whole[0] == whole[1]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep with a trial that failed, for a reason that holds a script."""

    def toy(changes: Mapping[str, Any]) -> tuple[float, float]:
        if len(runs.ran) == 5:
            raise DataError(f"no column {SCRIPT}")
        return loss_of_rate(changes)

    runs, folder = Runs(toy), tmp_path_factory.mktemp("swept")
    return summarise(search(folder, runs, replace(SETTINGS, trials=14)), SETTINGS, "id", f"shop{SCRIPT}")


def test_the_screen_says_the_best_so_far_and_run_json_how_many_are_done(
    swept: Swept, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[object] = []

    class File:
        def progress(self, done: int, total: int, unit: str = "steps") -> None:
            told.append((done, total, unit))

        def note(self, text: str) -> None:
            told.append(text)

        def metrics(self, values: Mapping[str, float], step: int) -> None: ...

        def cancelled(self) -> bool:
            return True

    with Screen(20, File()) as screen:
        screen.progress(3, 9, "rows")
        screen.done(swept, swept.trials[3])
        assert screen.cancelled()
    best = swept.winner
    assert best and told == [(14, 20, "trials"), f"14 of 20 trials, best {best.objective:.5f} (trial {best.number})"]
    said = " ".join(capsys.readouterr().err.split())
    assert "trial 3: failed: no column <script>" in said and "14 of 20 trials" in said and "3 of 9 rows" in said


def test_the_page_shows_trials_front_and_what_the_best_is_worth(swept: Swept, tmp_path: Path) -> None:
    change = {"mean": -0.01, "error": 0.002, "low": -0.014, "high": -0.006, "p": 0.001}
    judged = replace(
        swept,
        by_seed={"logloss": {"best": [0.51, 0.52, 0.53], "default": [0.52, 0.53, 0.54]}},
        change={"logloss": change},
    )
    write_page(judged, tmp_path / "sweep.html")
    html = (tmp_path / "sweep.html").read_text()
    assert lead(judged) in html and "changes test logloss by -0.0100 [-0.0140, -0.0060]" in html
    assert "1 trial failed: no column &lt;script&gt;" in html and runs(html) == []
    for heading in ("Trials in their order", "Logloss, seconds and bytes", "On test", "What tells the best tenth"):
        assert f"<h2>{heading}" in html, heading
    assert all(f'<td class="n">{t.number}</td><td>{t.state}</td>' in html.replace("\n", "") for t in swept.trials)
    path = judged.write(tmp_path)
    assert path.name == "sweep.json" and '"best": ' in path.read_text()


def test_if_no_trial_beats_the_default_the_page_says_so(swept: Swept, tmp_path: Path) -> None:
    write_page(replace(swept, best=None, trials=swept.trials[4:5], importance={}), tmp_path / "sweep.html")
    assert "None of 1 trials beats the default on validation" in (tmp_path / "sweep.html").read_text()


def test_the_page_of_the_documentation_has_a_space_and_every_key() -> None:
    page = (CONF.parent / "docs" / "sweep.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.S | re.M)
    settings = Settings.from_json(yaml.safe_load(example))
    assert {k for c in corners(read_space(settings.space)) for k in c} == {
        "model", "model.layers", "model.hidden", "embedding.dim", "train.lr", "train.embedding_dropout",
    }  # fmt: skip
    assert re.findall(r"^\| `(\w+)` \|", page.partition("| Key |")[2], re.M) == [f.name for f in fields(Settings)]

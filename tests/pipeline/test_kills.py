"""A hundred kills: over every stage, while files are written, in the first seconds of a folder, in a benchmark.

Whatever a run was doing, it is taken up again and ends with the very bytes of a run that nobody killed.
"""

import hashlib
import json
import shutil
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from recsys.results import read_result
from tests.pipeline.forks import Ended, Forks
from tests.pipeline.small import SMALL, clicks

pytestmark = pytest.mark.slow  # a hundred runs

MODELS = ("train", "retrain", "compress", "select", "evaluate", "export", "prepare")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
ENDS = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 128 + signal.SIGINT)  # -15: before recsys listens
RUN = [*SMALL, "selection.batch_size=128", "train.batch_size=64"]
BENCHMARK = [
    "experiment=selection_benchmark", *(a for a in RUN if not a.startswith(("name=", "selection."))), "name=small",
    "benchmark.methods=[random,sfs]", "benchmark.seeds=[0]", "benchmark.grid=[2,4]", "train.max_epochs=1",
]  # fmt: skip
_OWN = ("result.json", "run.json", "hydra.yaml", "submit.log", "overrides.yaml", "config.yaml")  # of each run
_TIMED = ("evaluation.html", "report.html", "benchmark.html", "card.json", "manifest.json", "verified.json", ".lock")
_TOLD = "curves.jsonl"  # a killed process has told looks that the resumed one tells again
_VARIES = ("seconds", "search_seconds", "checkpoint", "latency")


def constant(value: object) -> object:
    """A parsed file without times and paths."""
    if isinstance(value, dict):
        return {k: constant(v) for k, v in value.items() if k not in _VARIES and "us_per_row" not in k}
    return [constant(v) for v in value] if isinstance(value, list) else value


def digests(folder: Path, run: str) -> dict[str, str]:
    """What a run left, its prepared data and retrains too: path → digest, of what no time is in."""
    found = {}
    runs = folder / "runs"
    for path in (p for part in (run, "cache") for p in sorted((runs / part).rglob("*")) if p.is_file()):
        name = str(path.relative_to(runs)).removeprefix(f"{run}/")
        if path.name in ("metrics.json", "report.json", "benchmark.json"):
            text = json.dumps(constant(json.loads(path.read_text()))).encode()
        else:
            text = b"" if path.name in (*_OWN, *_TIMED, _TOLD) or path.suffix == ".csv" else path.read_bytes()
        found[name] = hashlib.sha256(text).hexdigest()
    return found


def check_mlflow(folder: Path, run: str) -> None:
    """One parent run, one run a stage, all finished."""
    mark = json.loads((folder / "runs" / run / "run.json").read_text())["mark"]
    stages = read_result(folder / "runs" / run / "result.json").stages
    with closing(sqlite3.connect(folder / "runs" / "mlflow.db")) as store:
        parents = store.execute("SELECT run_uuid FROM tags WHERE key = 'recsys.run' AND value = ?", [mark]).fetchall()
        assert len(parents) == 1
        children = store.execute(
            "SELECT s.value, r.status FROM tags p JOIN tags s ON s.run_uuid = p.run_uuid AND s.key = 'recsys.stage' "
            "JOIN runs r ON r.run_uuid = p.run_uuid WHERE p.key = 'mlflow.parentRunId' AND p.value = ?",
            parents[0],
        ).fetchall()
        assert sorted(children) == sorted((s, "FINISHED") for s in stages)
        assert store.execute("SELECT run_uuid FROM runs WHERE status != 'FINISHED'").fetchall() == []
        params = store.execute("SELECT count(*) FROM params WHERE run_uuid = ?", parents[0]).fetchone()[0]
        assert params > 50, "the configuration was not logged"
        for stage, about in stages.items():
            logged = store.execute(
                "SELECT count(*) FROM latest_metrics WHERE run_uuid = ?", [about.mlflow_run_id]
            ).fetchone()[0]
            assert logged >= len(about.metrics), stage
        models = "SELECT count(*) FROM model_versions WHERE run_id = ?"
        if "export" in stages:
            assert store.execute(models, [stages["export"].mlflow_run_id]).fetchone()[0] == 1


class Place:
    """A folder with a table, and the run in it that is shot."""

    def __init__(self, forks: Forks, folder: Path, run: Sequence[str], want: dict[str, str]):
        self.forks, self.folder, self.run, self.want = forks, folder, run, want
        self.killed, self.compared = 0, ""

    @property
    def arguments(self) -> list[str]:
        """What begins the run, or takes it up once there is something to take up."""
        begun = (self.folder / "runs" / "shot" / "run.json").exists()
        return ["run", "resume=shot"] if begun else ["run", *self.run, "hydra.run.dir=runs/shot"]

    def done(self, stage: str) -> bool:
        """Whether the run has finished that stage."""
        return (self.folder / "runs" / "shot" / stage / "result.json").exists()

    def count(self, ended: Ended) -> bool:
        """Whether the kill struck; the run must have ended either so or well."""
        assert ended.code in (0, *ENDS), ended.said
        assert "Traceback" not in ended.said or ended.code != 0, ended.said
        self.killed += ended.code != 0
        return ended.code != 0

    def finish(self) -> None:
        """Take the run up a last time, and compare."""
        last = self.forks.run(self.folder, *self.arguments)
        assert last.code == 0, last.said
        got = {k: v for k, v in digests(self.folder, "shot").items() if k.startswith(self.compared)}
        assert {k for k in got.keys() | self.want.keys() if got.get(k) != self.want.get(k)} == set()
        check_mlflow(self.folder, "shot")
        left = [p for p in self.folder.rglob("*.unfinished*") if ".artifact" not in p.name]
        assert left == []


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the table and nothing else."""
    folder = tmp_path_factory.mktemp("origin")
    pyarrow.parquet.write_table(clicks(1500), folder / "clicks.parquet")
    return folder


def untouched(forks: Forks, origin: Path, folder: Path, run: Sequence[str], trace: Path | None = None) -> Path:
    """A run that nobody kills, in a folder of its own."""
    shutil.copytree(origin, folder)
    ended = forks.run(folder, "run", *run, "hydra.run.dir=runs/shot", **({"trace": str(trace)} if trace else {}))
    assert ended.code == 0, ended.said
    return folder


@pytest.fixture(scope="module")
def whole(forks: Forks, origin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody kills, and a trace of what it changed."""
    folder = tmp_path_factory.mktemp("whole")
    return untouched(forks, origin, folder / "here", RUN, folder / "trace")


def begin(forks: Forks, whole: Path, folder: Path, run: Sequence[str], store: bool = True) -> Place:
    """A new place with the table of `whole`, and its MLflow store if that is not to be made anew."""
    folder.mkdir()
    shutil.copy2(whole / "clicks.parquet", folder)
    if store:
        (folder / "runs").mkdir()
        shutil.copy2(whole / "runs" / "mlflow.db", folder / "runs")
    return Place(forks, folder, run, digests(whole, "shot"))


def test_at_any_moment_of_every_stage(forks, whole, tmp_path):
    """40 kills or more, at least one in each stage, at a moment drawn over it, or just when that stage is done."""
    r = np.random.default_rng(0)
    stages = read_result(whole / "runs" / "shot" / "result.json").stages
    places, struck = [begin(forks, whole, tmp_path / "0", RUN)], set()
    longest = {name: 2 * stage.seconds for name, stage in stages.items()}
    for number in range(160):  # a shot that comes after the run's end counts for nothing
        if sum(p.killed for p in places) >= 40 and struck == set(stages):
            break
        if all(places[-1].done(s) for s in stages):
            places[-1].finish()
            places.append(begin(forks, whole, tmp_path / str(len(places)), RUN))
        place = places[-1]
        stage = next(s for s in stages if not place.done(s))
        wait, folder = float(r.uniform(0, longest[stage])), place.folder / "runs" / "shot" / stage
        if place.count(forks.shoot(place.folder, place.arguments, SIGNALS[number % 3], folder, wait)):
            struck.add(stage)
        else:
            longest[stage] /= 2  # the shot came too late: the stage takes less time here
    places[-1].finish()
    assert sum(p.killed for p in places) >= 40, "too many runs had ended before their kill"
    assert struck == set(stages)


def changes(trace: Path) -> list[tuple[str, str]]:
    """Audit event and end of path of each file that a run opened to write, or that took its name; in order, once.

    The hundreds of files of our code that a registered model carries count as one. The store of MLflow does not count,
    since a new place has it.
    """
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for event, path in (line.split("\t") for line in trace.read_text().splitlines()):
        folder, name = Path(path).parts[-2:]
        passing = name == "mlflow.db" or name.endswith(".unfinished") or ".uploading." in name
        if event in ("open", "os.rename") and not passing:
            known = folder in ("artifacts", "bundle", "spool", ".hydra", *MODELS) or folder in ("valid", "test")
            end = f"/{folder}/{name}" if known else f"/{name}"
            found.setdefault((event, "code" if "/code/recsys/" in path else end), (event, end))
    return list(found.values())


def test_while_each_kind_of_file_is_written(forks, whole, tmp_path):
    """A signal when the file is opened, or is whole and about to take its name: 40 of the run's files.

    A run that SIGTERM or SIGINT ends still tells MLflow of what is done, so that files of a later kill may be there
    already: then that kill strikes in a new place.
    """
    r = np.random.default_rng(1)
    found = changes(whole.parent / "trace")
    chosen = sorted(r.choice(len(found), 40, replace=False).tolist())
    places = [begin(forks, whole, tmp_path / "0", RUN)]
    for number, at in enumerate(found[i] for i in chosen):
        fault = {"at": (*at, 1), "how": SIGNALS[number % 3]}
        if places[-1].count(forks.run(places[-1].folder, *places[-1].arguments, **fault)):
            continue
        places[-1].finish()  # that file was there already
        places.append(begin(forks, whole, tmp_path / str(len(places)), RUN))
        places[-1].count(forks.run(places[-1].folder, *places[-1].arguments, **fault))
    places[-1].finish()
    assert sum(p.killed for p in places) >= 35


def test_in_the_first_seconds_of_a_folder(forks, whole, tmp_path):
    """A dozen kills before stage prepare is done, where there is no MLflow store yet."""
    r = np.random.default_rng(2)
    first = [("os.rename", "/mlflow.db"), ("open", "/mlflow.lock"), ("open", "/.hydra/overrides.yaml"),
             ("os.rename", "/run.json"), ("os.mkdir", "/.hydra"), ("open", "/.lock")]  # fmt: skip
    killed = 0
    for number in range(12):
        place = begin(forks, whole, tmp_path / str(number), [*RUN, "stages=[prepare]"], store=False)
        place.want = {k: v for k, v in place.want.items() if k.startswith(("cache/", "prepare/"))}
        place.compared = ("cache/", "prepare/")
        if number < len(first):
            ended = forks.run(place.folder, *place.arguments, at=(*first[number], 1), how=SIGNALS[number % 3])
        else:
            wait = float(r.uniform(0, 4))
            shot = place.folder / "runs" / "shot"
            ended = forks.shoot(place.folder, place.arguments, SIGNALS[number % 3], shot, wait)
        killed += place.count(ended)
        place.finish()
    assert killed >= 9


def test_in_a_selection_benchmark(forks, origin, tmp_path):
    """In retrains that are kept for later, and between them."""
    r = np.random.default_rng(3)
    whole = untouched(forks, origin, tmp_path / "whole", BENCHMARK, tmp_path / "trace")
    found = [c for c in changes(tmp_path / "trace") if "hydra" not in c[1]]
    place = begin(forks, whole, tmp_path / "shot", BENCHMARK)
    for number in range(12):
        at = found[int(r.integers(len(found)))]
        if not place.count(forks.run(place.folder, *place.arguments, at=(*at, 1), how=SIGNALS[number % 3])):
            place.finish()
            place = begin(forks, whole, tmp_path / f"shot{number}", BENCHMARK)
    place.finish()

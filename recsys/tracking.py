"""MLflow: a parent run for each run of recsys, a child run for each stage. Only this file imports mlflow."""

import os
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # 7 by default, which takes minutes

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc  # a later lazy import would undo the filter of BundleModel below
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException

import recsys
from recsys.errors import Cancelled, ConfigError
from recsys.lock import locked
from recsys.results import StageResult
from recsys.store import database, default_uri, follow, make_store, masked, reach, warn_untold

__all__ = ["BundleModel", "Tracker", "artifact", "default_uri"]

T = TypeVar("T")
_MOST = 900  # metrics in a log_batch call, which may have at most 1000
_MARK, _STAGE = "recsys.run", "recsys.stage"  # tags by which a resumed run finds its MLflow runs
_LONGEST = 240  # most letters of a name; MLflow takes 250


def artifact(run_id: str, name: str, runs: Path) -> Path:
    """Download a file that a run or one of its stages has logged.

    Args:
        run_id: 32 hexadecimal digits.
        name: Name of the file.
        runs: Folder of runs, for `default_uri`.

    Raises:
        ConfigError: If there is no such run, or it has no such file.
    """
    uri = default_uri(runs)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise ConfigError(f"no MLflow run {run_id}: there is no database at {uri}: set MLFLOW_TRACKING_URI, or --runs")
    client = mlflow.MlflowClient(uri)
    try:
        run = client.get_run(run_id)
        filter_ = f"tags.`mlflow.parentRunId` = '{run_id}'"
        children = client.search_runs([run.info.experiment_id], filter_)
        for candidate in (run, *children):
            if any(f.path == name for f in client.list_artifacts(candidate.info.run_id)):
                return Path(client.download_artifacts(candidate.info.run_id, name))
    except MlflowException as error:
        reason = str(error).splitlines()[0].replace(uri, masked(uri))
        where = f"no MLflow run {run_id} at {masked(uri)}: {reason}"
        raise ConfigError(f"{where}: set MLFLOW_TRACKING_URI, or --runs") from error
    raise ConfigError(f"MLflow run {run_id} has no {name}, nor have its stages: name a run with stage select")


def _commit() -> str:
    """The git commit of the working folder, or `unknown` outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _legal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under distinct names that MLflow accepts, since columns may have any name."""
    legal: dict[str, Any] = {}
    for name, value in values.items():
        base = key = re.sub(r"[^\w.\- :]", "_", name)[:_LONGEST]
        count = 1
        while key in legal:
            count += 1
            key = f"{base}_{count}"
        legal[key] = value
    return legal


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {
            k: v
            for name, part in value.items()
            for k, v in _flat(part, f"{prefix}.{name}" if prefix else str(name)).items()
        }
    return {prefix: str(value)[:500]}


with warnings.catch_warnings(record=True):  # MLflow asks for hints on predict, which would forbid missing cells

    class BundleModel(mlflow.pyfunc.PythonModel):
        """A bundle as an MLflow pyfunc model: a data frame of raw rows → probabilities."""

        def load_context(self, context: Any) -> None:
            """Load the bundle once in each process."""
            from recsys.serving.bundle import Bundle

            self.bundle = Bundle.load(context.artifacts["bundle"])

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as a signature
            """Score raw rows; a cell that is NaN or None is missing."""
            rows = model_input.astype(object).where(model_input.notna(), None).to_dict("records")
            return self.bundle.score(rows)


class Tracker:
    """A `Reporter` that writes a run to MLflow; if that fails during the run, it warns once and then stops writing.

    Args:
        uri: A tracking server, `sqlite:///…`, or None for `default_uri`.
        experiment: Name of the MLflow experiment.
        runs: The runs folder; artifacts of a local store go into it.

    Raises:
        ConfigError: If the server cannot be reached, or the store is broken.
    """

    def __init__(self, uri: str | None, experiment: str, runs: Path):
        self.uri = uri or default_uri(runs)
        self.ids: dict[str, str] = {}
        self.lost = False
        self._running = ""  # the stage
        self._steps: dict[tuple[str, str], set[int]] = {}  # (run, metric) → steps that MLflow has
        file, home = database(self.uri), Path(runs).resolve()
        reach(self.uri)
        try:
            with locked(file.with_suffix(".lock")) if file else nullcontext():
                if file and not file.exists():
                    make_store(file, lambda address: mlflow.MlflowClient(address).search_experiments(max_results=1))
                if file and file == home / "mlflow.db":
                    follow(file)
                mlflow.set_tracking_uri(self.uri)
                self.client = mlflow.MlflowClient()
                existing = self.client.get_experiment_by_name(experiment)
                where = (home / "mlartifacts").as_uri() if file else None
                created = existing is None and self.client.create_experiment(experiment, artifact_location=where)
                self._experiment: str = existing.experiment_id if existing else str(created)
                mlflow.set_experiment(experiment)
        except Exception as error:  # MLflow, SQLAlchemy and sqlite3 each raise their own
            reason = " ".join(str(error).split()).replace(self.uri, masked(self.uri))[:200]
            mend = "start the server or change it"
            if "disk is full" in reason:
                mend = f"free some space at {file and file.parent}"
            elif file and file.exists():
                mend = f"if no other run holds it, it is broken: move {file} away, and a new one is made"
            raise ConfigError(f"tracking.uri: cannot use {masked(self.uri)}: {reason}: {mend}") from error

    @contextmanager
    def parent(self, name: str, config: Mapping[str, Any], folder: Path, mark: str) -> Generator[None]:
        """The parent run of all stages; the run with the mark is reopened if there is one.

        Args:
            name: Name of a new run.
            config: Configuration to log; for a reopened run, only keys that it lacks.
            folder: Folder of the run.
            mark: Identifies the run in the experiment; 32 hexadecimal digits.
        """
        tags = {_MARK: mark, "git_commit": _commit(), "recsys": recsys.__version__, "folder": str(folder)}

        def log_config(run_id: str) -> None:
            known = self.client.get_run(run_id).data.params  # MLflow does not allow to change these
            params = [Param(k, v) for k, v in _legal(_flat(config)).items() if k not in known]
            for start in range(0, len(params), 90):
                self.client.log_batch(run_id, params=params[start : start + 90])
            self.client.log_dict(run_id, dict(config), "config.yaml")

        with self._run("parent", name, f"tags.`{_MARK}` = '{mark}'", tags, log_config):
            yield

    def adopt(self, mark: str) -> None:
        """Make the run with the mark, and thereby its stages, a child of this one."""

        def hang() -> None:
            for run in self.client.search_runs([self._experiment], f"tags.`{_MARK}` = '{mark}'", max_results=1):
                self.client.set_tag(run.info.run_id, "mlflow.parentRunId", self.ids["parent"])

        self._tell(hang)

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """The child run of a stage; that of a killed stage is reopened."""
        parent, self._running = self.ids.get("parent", ""), name
        wanted = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`{_STAGE}` = '{name}'"
        with self._run(name, name, wanted, {_STAGE: name, "mlflow.parentRunId": parent}):
            yield

    @contextmanager
    def _run(
        self, key: str, name: str, wanted: str, tags: dict[str, str], begin: Callable[[str], None] | None = None
    ) -> Generator[None]:
        """A run, found by a filter or new; it ends as FINISHED, FAILED (by an error) or KILLED (if it was stopped)."""

        def open_run() -> None:
            earlier = self.client.search_runs([self._experiment], wanted, max_results=1)
            if earlier:
                self.ids[key] = earlier[0].info.run_id
                self.client.update_run(self.ids[key], status="RUNNING")
            else:
                self.ids[key] = self.client.create_run(self._experiment, tags=tags, run_name=name).info.run_id
            if begin:
                begin(self.ids[key])

        self._tell(open_run)
        status = "KILLED"
        try:
            yield
            status = "FINISHED"
        except Cancelled:
            raise
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._tell(lambda: self.client.set_terminated(self.ids[key], status))

    def progress(self, done: int, total: int, unit: str = "steps") -> None:
        """Do nothing: MLflow shows figures, not progress."""

    def note(self, text: str) -> None:
        """Do nothing: a stage's tags are logged with its result."""

    def cancelled(self) -> bool:
        """False."""
        return False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of the running stage, unless MLflow has them from before the run was resumed."""
        self._tell(lambda: self._log_curves(self.ids[self._running], [{"step": step, **values}]))

    def _log_curves(self, run: str, history: Sequence[Mapping[str, float]]) -> None:
        """Log the entries of a history that MLflow lacks."""
        points = [(name, value, int(h["step"])) for h in history for name, value in h.items() if name != "step"]
        for name in {p[0] for p in points} - {n for r, n in self._steps if r == run}:
            self._steps[run, name] = {m.step for m in self.client.get_metric_history(run, name)}
        time_ms = int(1000 * time.time())
        new = [Metric(n, float(v), time_ms, step) for n, v, step in points if step not in self._steps[run, n]]
        for start in range(0, len(new), _MOST):
            self.client.log_batch(run, metrics=new[start : start + _MOST])
        for m in new:
            self._steps[run, m.key].add(m.step)

    def _tell(self, what: Callable[[], T]) -> T | None:
        """Call MLflow → the answer; None if the call fails, with a warning, or if an earlier one has failed."""
        if self.lost:
            return None
        try:
            return what()
        except Exception as error:  # MLflow, SQLAlchemy, requests and the file system each raise their own
            self.lost = True
            warn_untold(error, self.uri)
            return None

    def log(self, stage: str, result: StageResult, folder: Path) -> bool:
        """Log the result of a stage to its run: metrics and curves in few calls, then files.

        Args:
            stage: Its name.
            result: Its result.json.
            folder: Its folder.

        Returns:
            Whether MLflow has all of it.
        """
        self._tell(lambda: self._log(self.ids[stage], result, folder))
        return not self.lost

    def _log(self, run: str, result: StageResult, folder: Path) -> None:
        now = int(1000 * time.time())
        points = {**result.metrics, "seconds": result.seconds}
        metrics = [Metric(k, float(v), now, 0) for k, v in _legal(points).items()]
        for start in range(0, len(metrics), _MOST):
            self.client.log_batch(run, metrics=metrics[start : start + _MOST])
        self._log_curves(run, result.history)
        tags = [RunTag(k, str(v)) for k, v in _legal(result.tags).items()]
        self.client.log_batch(run, tags=tags, params=[Param(k, v) for k, v in _legal(result.params).items()])
        for path in (folder / a for a in result.artifacts):
            if path.is_dir():
                self.client.log_artifacts(run, str(path), path.name)
            else:
                self.client.log_artifact(run, str(path))

    def register(self, stage: str, bundle: Path, name: str) -> str | None:
        """Register a stage's bundle as a model that `mlflow models serve` can serve → its URI; None if MLflow fails.

        The model contains this package's code. It must not require the package by name: the package is not on a
        public index, and there its name belongs to somebody else.
        """
        needs = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy", "xxhash", "pandas")]

        def log_model() -> str:
            known = self.client.search_model_versions(f"run_id = '{self.ids[stage]}'")
            if earlier := [v for v in known if v.name == name]:  # killed before it could say so
                return f"models:/{name}/{earlier[0].version}"
            with mlflow.start_run(self.ids[stage]):
                logged = mlflow.pyfunc.log_model(
                    name="bundle",
                    python_model=BundleModel(),
                    artifacts={"bundle": str(bundle)},
                    code_paths=[str(Path(recsys.__file__).parent)],
                    pip_requirements=needs,
                    registered_model_name=name,
                )
            return f"models:/{name}/{logged.registered_model_version}"

        return self._tell(log_model)

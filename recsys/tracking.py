"""MLflow: one parent run an experiment, one child a stage. The only file that imports mlflow."""

import os
import re
import sqlite3
import subprocess
import time
import warnings
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

with warnings.catch_warnings():  # MLflow warns about its own type hints
    warnings.simplefilter("ignore")
    import mlflow
    import mlflow.pyfunc  # lazily imported otherwise, which undoes the filter of BundleModel below
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

import recsys
from recsys.errors import ConfigError
from recsys.lock import locked

__all__ = ["BundleModel", "Tracker", "artifact", "default_uri"]

_MOST = 900  # metrics a log_batch call may hold is 1000
_MARK, _STAGE = "recsys.run", "recsys.stage"  # tags by which a resumed run finds its MLflow runs
_LONGEST = 240  # letters of a name; MLflow takes 250


def default_uri(runs: Path) -> str:
    """MLFLOW_TRACKING_URI, or SQLite in the runs folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(runs).resolve() / 'mlflow.db'}"


def artifact(run_id: str, name: str, runs: Path) -> Path:
    """A copy of a file that a run, or one of its stages, has logged.

    Args:
        run_id: 32 hexadecimal digits.
        name: Of the file.
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
        for found in (run, *children):
            if any(f.path == name for f in client.list_artifacts(found.info.run_id)):
                return Path(client.download_artifacts(found.info.run_id, name))
    except MlflowException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"no MLflow run {run_id} at {uri}: {reason}: set MLFLOW_TRACKING_URI, or --runs") from error
    raise ConfigError(f"MLflow run {run_id} has no {name}, nor have its stages: name a run with stage select")


def _commit() -> str:
    """The git commit of the working folder, or `unknown` outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def _legal(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same under names that MLflow takes, still distinct: columns may be called anything."""
    made: dict[str, Any] = {}
    for name, value in values.items():
        base = key = re.sub(r"[^\w.\- :]", "_", name)[:_LONGEST]
        count = 1
        while key in made:
            count += 1
            key = f"{base}_{count}"
        made[key] = value
    return made


def _flat(value: Any, at: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        return {
            k: v for name, part in value.items() for k, v in _flat(part, f"{at}.{name}" if at else str(name)).items()
        }
    return {at: str(value)[:500]}


with warnings.catch_warnings(record=True):  # MLflow asks for hints on predict, which would forbid missing cells

    class BundleModel(mlflow.pyfunc.PythonModel):
        """A bundle behind MLflow's pyfunc door: a data frame of raw rows → probabilities."""

        def load_context(self, context: Any) -> None:
            """Load the bundle once a process."""
            from recsys.serving.bundle import Bundle

            self.bundle = Bundle.load(context.artifacts["bundle"])

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # MLflow reads hints as a signature
            """Score raw rows; a cell that is NaN or None is missing."""
            rows = model_input.astype(object).where(model_input.notna(), None).to_dict("records")
            return self.bundle.score(rows)


def _first_use(uri: str) -> AbstractContextManager[None]:
    """One process at a time: two that make the tables of one SQLite file at once break it."""
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    return locked(Path(uri.removeprefix("sqlite:///")).with_suffix(".lock"))


_ADDRESSES = (  # where MLflow's tables hold absolute addresses of artifacts
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip


def _follow(database: Path) -> None:
    """If a runs folder was moved, let its MLflow store find the artifacts where they are now.

    Args:
        database: The default store of the folder; its artifacts are in `mlartifacts` beside it.
    """
    home = (database.parent / "mlartifacts").as_uri()
    with closing(sqlite3.connect(database)) as store, store:
        seen = "SELECT DISTINCT artifact_location FROM experiments WHERE artifact_location LIKE 'file://%/mlartifacts'"
        for (old,) in store.execute(seen).fetchall():
            for table, column in _ADDRESSES if old != home else ():
                moved = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                store.execute(moved, (home, len(old) + 1, len(old), old))


class Tracker:
    """Writes a run to MLflow.

    Args:
        uri: A tracking server, `sqlite:///…`, or None for `default_uri`.
        experiment: Name of the MLflow experiment.
        runs: The runs folder; artifacts of a local store go beside it.

    Raises:
        ConfigError: If the server cannot be reached.
    """

    def __init__(self, uri: str | None, experiment: str, runs: Path):
        self.uri, self.experiment = uri or default_uri(runs), experiment
        self.ids: dict[str, str] = {}
        try:
            with _first_use(self.uri):
                mlflow.set_tracking_uri(self.uri)
                self.client = mlflow.MlflowClient()
                if self.uri == f"sqlite:///{Path(runs).resolve() / 'mlflow.db'}":
                    _follow(Path(runs).resolve() / "mlflow.db")
                found = self.client.get_experiment_by_name(experiment)
                if found is None:
                    local = self.uri.startswith("sqlite")
                    where = (Path(runs).resolve() / "mlartifacts").as_uri() if local else None
                    self.client.create_experiment(experiment, artifact_location=where)
                mlflow.set_experiment(experiment)
        except MlflowException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"tracking.uri: cannot use {self.uri!r}: {reason}: start the server or change it"
            ) from error

    @contextmanager
    def parent(self, name: str, config: Mapping[str, Any], folder: Path, mark: str) -> Generator[None]:
        """The run that all stages hang under; the one that has the mark is opened again.

        Args:
            name: Of a new one.
            config: Logged once, when the run is new.
            folder: Where the run is.
            mark: Names the run among all of the experiment; 32 hexadecimal digits.
        """
        earlier = self._find(f"tags.`{_MARK}` = '{mark}'")
        tags = {_MARK: mark, "git_commit": _commit(), "recsys": recsys.__version__, "folder": str(folder)}
        with mlflow.start_run(earlier, run_name=name, tags=tags) as run:
            self.ids["parent"] = run.info.run_id
            if earlier is None:
                params = list(_legal(_flat(config)).items())
                for start in range(0, len(params), 90):
                    mlflow.log_params(dict(params[start : start + 90]))
                mlflow.log_dict(dict(config), "config.yaml")
            yield

    @contextmanager
    def stage(self, name: str) -> Generator[None]:
        """A child run; that of a stage which was killed is opened again."""
        child = f"tags.`mlflow.parentRunId` = '{self.ids['parent']}' and tags.`{_STAGE}` = '{name}'"
        with mlflow.start_run(self._find(child), run_name=name, nested=True, tags={_STAGE: name}) as run:
            self.ids[name] = run.info.run_id
            yield

    def _find(self, wanted: str) -> str | None:
        """The id of the newest run of the experiment that a filter lets through."""
        experiment = self.client.get_experiment_by_name(self.experiment)
        assert experiment is not None
        found = self.client.search_runs([experiment.experiment_id], wanted, max_results=1)
        return found[0].info.run_id if found else None

    def tag(self, tags: Mapping[str, str]) -> None:
        """Tags on the active run."""
        mlflow.set_tags(dict(tags))

    def params(self, params: Mapping[str, str]) -> None:
        """Parameters of the active run."""
        mlflow.log_params(dict(params))

    def log(self, metrics: Mapping[str, float], history: list[dict[str, float]], artifacts: list[Path]) -> None:
        """Metrics and curves in few calls, then files, on the active run."""
        run = mlflow.active_run()
        assert run is not None
        now = int(1000 * time.time())
        points = [Metric(k, float(v), now, 0) for k, v in _legal(metrics).items()]
        points += [Metric(k, float(v), now, int(h["step"])) for h in history for k, v in h.items() if k != "step"]
        for start in range(0, len(points), _MOST):
            self.client.log_batch(run.info.run_id, metrics=points[start : start + _MOST])
        for path in artifacts:
            if path.is_dir():
                mlflow.log_artifacts(str(path), path.name)
            else:
                mlflow.log_artifact(str(path))

    def register(self, bundle: Path, name: str) -> str:
        """Register a bundle as a model that `mlflow models serve` can serve → its URI."""
        needs = ["onnxruntime", "numpy", "xxhash", "pandas", f"recsys=={recsys.__version__}"]
        made = mlflow.pyfunc.log_model(
            name="bundle",
            python_model=BundleModel(),
            artifacts={"bundle": str(bundle)},
            pip_requirements=needs,
            registered_model_name=name,
        )
        return f"models:/{name}/{made.registered_model_version}"

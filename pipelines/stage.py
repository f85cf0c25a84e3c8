"""The input and the result of a stage. A stage knows nothing of MLflow or of other stages' methods."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig
from pipelines.stages import MODEL_STAGES
from recsys.errors import ConfigError
from recsys.events import SILENT, Reporter
from recsys.files import write_json
from recsys.results import StageResult, prepared_folder, relative

__all__ = [
    "CHECKPOINTS",
    "Result",
    "Stage",
    "newest_model",
    "recalibration",
    "row_names",
    "write_json",
]


CHECKPOINTS = "checkpoints"  # the folder, in a stage's, of those of its training; it is removed when the stage is done


@dataclass(frozen=True)
class Stage:
    """What a stage is given.

    Args:
        config: The whole configuration.
        folder: The stage's folder, the only one it writes to.
        done: Folders of the stages before, by name.
        reporter: Is told how far the stage is, and can stop it.
    """

    config: RunConfig
    folder: Path
    done: Mapping[str, Path]
    reporter: Reporter = SILENT

    def earlier(self, name: str) -> Path:
        """The folder of an earlier stage.

        Raises:
            ConfigError: If it has not run.
        """
        if name not in self.done:
            wanted = f"stage {self.folder.name} needs {name}, which has not run: "
            raise ConfigError(wanted + f"add {name} to stages, or give from_run=ID of a run that has it")
        return self.done[name]

    @property
    def data(self) -> Path:
        """The prepared data set."""
        return prepared_folder(self.earlier("prepare"))


@dataclass(frozen=True)
class Result:
    """What a stage gives back.

    Args:
        metrics: Numbers, by name.
        history: One entry a step, with a `step`, for curves.
        artifacts: Files or folders that a person or a later run wants, inside the stage's folder.
        bundle: A serving bundle to register as a model.
        tags: Texts, by name, for the stage's run in MLflow.
        params: Settings that the stage worked out, by name, for the stage's run in MLflow.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    bundle: Path | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)

    def to_json(self, folder: Path, seconds: float) -> StageResult:
        """Content of the stage's result.json: all that MLflow is told, so that it can be told later too.

        Args:
            folder: The stage's; paths are relative to it.
            seconds: Time that the stage took.
        """
        return StageResult(
            seconds=round(seconds, 3),
            metrics=self.metrics,
            tags=self.tags,
            params=self.params,
            history=self.history,
            artifacts=[relative(a, folder) for a in self.artifacts],
            bundle=relative(self.bundle, folder) if self.bundle else None,
        )


def newest_model(stage: Stage, before: str = "") -> Path:
    """The folder of the latest stage that left a model, among those before `before`."""
    names = MODEL_STAGES[: MODEL_STAGES.index(before)] if before else MODEL_STAGES
    for name in reversed(names):
        if name in stage.done:
            return stage.done[name]
    return stage.earlier("train")


def row_names(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Key of an evaluation's metrics.json → the row's name for people: `compress, recalibrated`."""
    models = [n for n in MODEL_STAGES if n in metrics]
    return {n: f"{models[-1]}, recalibrated" if n == "recalibrated" else n for n in metrics}


def recalibration(metrics: Mapping[str, Any]) -> str:
    """One sentence on recalibration, from an evaluation's metrics.json."""
    if "recalibrated" in metrics:
        return (
            "A recalibrated row holds the predictions as the bundle gives them: through a curve fitted on validation."
        )
    return (
        "The newest model is not recalibrated: calibrate is false, it was trained on validation too, or no curve "
        "fitted on validation lowered its logloss there, out of fold and on the last part of it. The bundle gives the "
        "predictions as they are."
    )

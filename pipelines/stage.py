"""What a stage is given and gives back. A stage knows nothing of MLflow or of other stages' methods."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError

__all__ = ["RECALIBRATED", "Result", "Stage", "newest_model", "row_names", "write_json"]

MODEL_STAGES = ("train", "retrain", "compress")  # those that leave a model, in order
RECALIBRATED = (
    "A recalibrated row holds the predictions as the bundle gives them: through a curve fitted on validation."
)


@dataclass(frozen=True)
class Stage:
    """Where a stage works.

    Args:
        config: The whole resolved configuration.
        folder: Its own, the only one it writes to.
        done: Folders of the stages before, by name.
    """

    config: Mapping[str, Any]
    folder: Path
    done: Mapping[str, Path]

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
        return Path(json.loads((self.earlier("prepare") / "data.json").read_text())["folder"])


@dataclass(frozen=True)
class Result:
    """What a stage gives back.

    Args:
        metrics: Numbers, by name.
        history: One entry a step, with a `step`, for curves.
        artifacts: Files or folders that a person or a later run wants, inside the stage's folder.
        bundle: A serving bundle to register as a model.
        tags: Words, by name, for the stage's run.
        params: Settings that the stage worked out, by name, for the stage's run.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    bundle: Path | None = None
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)


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


def write_json(path: Path, value: Any) -> Path:
    """Write JSON under a temporary name, then rename: it is there whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1))
    return temporary.rename(path)

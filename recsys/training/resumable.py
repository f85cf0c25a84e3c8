"""A training and its checkpoints: what the next step depends on, and which training it is of."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from recsys.data.ranks import Ranks
from recsys.errors import DataError
from recsys.training.loop import Training
from recsys.training.saving import Checkpoints, Snapshot
from recsys.training.state import dense_state, held_rows, load_optimizers, load_weights, named_optimizers
from recsys.training.tensors.manifest import check_split
from recsys.training.tensors.read import TensorFolder

__all__ = ["Resumable"]

_MAY_CHANGE = ("train.keep_checkpoints", "train.checkpoint_steps", "train.stall_seconds")
"""Settings that change no step."""


class Resumable:
    """A training that is saved, and goes on from its newest checkpoint as if it had never stopped.

    Args:
        training: The training.
        checkpoints: Where it is saved.
        seed: Its seed.
        rows: Count of its training rows.
    """

    def __init__(self, training: Training, checkpoints: Checkpoints, seed: int, rows: int):
        self.training, self.checkpoints = training, checkpoints
        settings = {f"train.{name}": value for name, value in asdict(training.config).items()}
        self._which = {"seed": seed, "training rows": rows, **settings, "steps an epoch": training.steps_per_epoch}

    @classmethod
    @contextmanager
    def opened(cls, training: Training, folder: Path | None, seed: int, rows: int) -> Generator["Resumable | None"]:
        """Within it a training can be saved to a folder of checkpoints, the same for all ranks; None if there is none.

        Raises:
            ConfigError: If a table is split by columns, or a row is saved by no process or by two.
        """
        if folder is None:
            yield None
            return
        ranks = Ranks.current()
        check_split(held_rows(training.model), ranks)
        with Checkpoints(folder, training.config.keep_checkpoints, ranks) as checkpoints:
            yield cls(training, checkpoints, seed, rows)

    def folder(self, step: int) -> TensorFolder:
        """The checkpoint of a step."""
        place = self.checkpoints.place(step)
        return TensorFolder(place, f"remove {place} to go on from an earlier step, or from the start if there is none")

    def save(self, others: Mapping[str, Any], best: int) -> None:
        """Begin to save everything that the next step depends on; `Checkpoints.save` says what it raises.

        Args:
            others: What the caller wants back from `resume`.
            best: Step of the best checkpoint, which is kept.
        """
        training = self.training
        training.part = "saving a checkpoint"
        rest = {
            "training": self._which,
            "step": training.step,
            "random": training.device.random_states(),  # equal on all ranks
            "optimizers": named_optimizers(training.model, training.optimizers),
            "model": dense_state(training.model),
            **others,
        }
        self.checkpoints.save(Snapshot.of(held_rows(training.model), rest), training.step, best)

    def resume(self, take: Callable[[Mapping[str, Any]], None] = lambda rest: None) -> None:
        """Take up the newest checkpoint, if there is one.

        Args:
            take: Gets what `save` got, and takes up its own part of it.

        Raises:
            DataError: If it is damaged, or of another version or training.
        """
        if not (steps := self.checkpoints.steps()):
            return
        source, training = self.folder(steps[-1]), self.training
        rest = source.rest()
        try:
            self._check(rest["training"], source)
            load_weights(training.model, source, rest)
            load_optimizers(training.model, training.optimizers, rest["optimizers"])
            training.device.set_random_states(rest["random"])
            training.step = rest["step"]
            take(rest)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise DataError(
                f"{source.folder}: expected the state of this training, got another: {source.mend}"
            ) from error

    def _check(self, saved: Mapping[str, Any], source: TensorFolder) -> None:
        """Refuse the checkpoint of a training whose steps would be others."""
        for name in dict.fromkeys([*self._which, *saved]):
            before, now = saved.get(name), self._which.get(name)
            if before != now and name not in _MAY_CHANGE:
                raise DataError(
                    f"{source.folder}: expected a checkpoint of this training, got one of another: {name} was "
                    f"{before!r} there and is {now!r} now: give it the value that it had, or remove "
                    f"{self.checkpoints.folder} to train anew"
                )

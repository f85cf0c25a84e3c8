"""A training of a given length, which looks at no validation rows."""

from pathlib import Path

from recsys.data.ranks import Ranks
from recsys.data.split import Split
from recsys.errors import Cancelled
from recsys.events import SILENT, Reporter
from recsys.frame.ctr import CTR
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.ids import check_ids
from recsys.training.loop import Training, seed_everything
from recsys.training.resumable import Resumable
from recsys.training.stalls import watch_stalls

__all__ = ["train_for"]


def train_for(
    model: CTR,
    rows: Split,
    config: TrainConfig,
    seed: int,
    folder: Path,
    steps: int | None = None,
    checkpoint: Path | None = None,
    device: Device | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Train on rows for a number of steps; the model keeps the last weights.

    Args:
        model: Changed in place.
        rows: Training rows.
        config: Training settings; `patience` is not used.
        seed: Fixes the order of rows and the dropout.
        folder: Gets the batch at which the training diverges.
        steps: Count of steps; those of `config.max_epochs` by default.
        checkpoint: Folder of checkpoints, which are written as often as `fit` does; if one is there, a killed training
            resumes exactly from it. None writes none.
        device: Where the model is; None is the CPU in `config.precision`.
        reporter: Receives how many rows of all steps are done.

    Raises:
        Cancelled: If the reporter says so; `checkpoint` then holds the last step.
        DataError: If the model diverges, if ids are out of range, or if a checkpoint is damaged or of another training.
        ConfigError: If a table is split by columns, or a row is saved by no process or by two.
        OSError: If a checkpoint cannot be written.
    """
    check_ids(rows, "training rows")
    seed_everything(seed)
    size = min(config.batch_size, len(rows))
    training = Training(model, config, len(rows) // size, device=device)
    training.folder, checkpoint = Ranks.current().broadcast((folder, checkpoint))  # of rank 0, for all
    total = training.total if steps is None else steps
    cancelled = False
    with Resumable.opened(training, checkpoint, seed, len(rows)) as saved:
        if saved:
            saved.resume()
        for step in watch_stalls(training.steps(rows, seed, total), training, config.stall_seconds, reporter.note):
            reporter.progress(step.number * size, total * size, "rows")
            cancelled = reporter.cancelled()
            if saved and (cancelled or config.saves(step.number, training.steps_per_epoch)):
                saved.save({}, step.number)
            if cancelled:
                break
    if cancelled:
        raise Cancelled("the run was asked to stop")
    model.eval()

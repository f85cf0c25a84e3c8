"""The input of a selector, and the training of gates together with a model.

B rows, W the joined width.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.events import SILENT, Reporter, watched
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR
from recsys.heads.loss import cross_entropy
from recsys.selection.columns import field_of_column
from recsys.selection.scores import FieldScores
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.ids import check_ids
from recsys.training.loop import Mix, Step, Training, seed_everything
from recsys.training.stalls import watch_stalls

__all__ = ["Search", "Selector", "batches_forever", "gate_loss", "gate_rate", "search_fields", "train_gated"]


@dataclass(frozen=True)
class Search:
    """The input of a selector beside its settings.

    Args:
        model: A trained model of at least two fields. A selector does not change it.
        train: Rows that the model was trained on.
        valid: Held-out rows.
        build: Builds a fresh model on the fields of a schema.
        how: Settings of the training of `model`.
        seed: Fixes all random numbers of a selector.
        device: Where the models are, and the precision in which their heads run and train; `how.precision` is not read.
        steps: Steps of that training up to the look at validation whose weights it kept. None means all
            steps of `how.max_epochs`.
        reporter: Receives the progress of a selector, and can stop it.

    Raises:
        ConfigError: If the model has fewer than two fields: then there is nothing to choose from.
    """

    model: CTR
    train: Split
    valid: Split
    build: Callable[[Schema], CTR]
    how: TrainConfig
    seed: int
    steps: int | None = None
    device: Device = CPU
    reporter: Reporter = SILENT

    def __post_init__(self) -> None:
        if len(names := self.model.schema.names) < 2:
            raise ConfigError(f"selection needs at least two fields, got {names}: add fields under data.fields")

    @property
    def column_W(self) -> Tensor:
        """The field of each column of x_BW → int64 [W], on the device."""
        return field_of_column(self.model.widths).to(self.device.torch_device)

    def fresh_model(self) -> CTR:
        """An untrained model on the same fields; the seed fixes its weights."""
        torch.manual_seed(self.seed)
        return self.build(self.model.schema)


Selector = Callable[[Search], FieldScores]
"""A method whose settings have been filled in."""


def search_fields(select: Selector, search: Search) -> FieldScores:
    """Call a selector and record how many seconds it took."""
    started = time.perf_counter()
    scores = select(search)
    return replace(scores, notes=replace(scores.notes, seconds=time.perf_counter() - started))


def batches_forever(shards: Split, size: int, seed: int, device: Device = CPU) -> Iterator[Batch]:
    """Random batches on a device, epoch after epoch."""
    epoch = 0
    while True:
        yield from map(device.batch, shards.shuffled(size, [seed, epoch, 7]))
        epoch += 1


def _main_loss(logit_BT: Tensor, batch: Batch) -> Tensor:
    """BCE of the main label, by which all methods judge fields, even if there are several labels."""
    return cross_entropy(logit_BT[:, 0], batch.label_B, batch.weight_B)


def gate_loss(model: CTR, gate: Callable[[Tensor], Tensor], batch: Batch, device: Device) -> Tensor:
    """BCE(y, logit(gate(x))) of the main label, with x looked up without gradient: only gates learn from it.

    The head and its input have the precision of the device: if the hardware multiplies bf16, that is
    several times as fast. The mean counts sample weights; a gate that needs them
    must hold them itself.
    """
    with torch.no_grad():
        x_BW = model.features(batch)
    mixed_BW = gate(x_BW)
    with device.autocast():
        logit_BT = model.logits_of(mixed_BW.to(device.autocast_dtype or mixed_BW.dtype))
    return _main_loss(logit_BT, batch)


def train_gated(
    model: CTR,
    mix: Mix,
    search: Search,
    epochs: int | None = None,
    gates: nn.Module | None = None,
    reach: float = 3.0,
) -> Iterator[Step]:
    """Train a model whose looked-up numbers pass through gates; yield after each step.

    Steps and rows are those of `fit` (rates, decay, precision, sample weights, `table_l2`, `fresh_tables`). The loss
    is that of the main label alone, by which fields are judged. By
    default there are as many steps as the given model took: thereby methods that train a fresh model and methods
    that keep the given one judge models that trained equally long. Validation does not end the training: it would
    end too early, before gates have closed.

    Args:
        model: Changed in place.
        mix: (x_BW, batch) → (x̃_BW, penalty): looked-up numbers after the gates, and the cost of the gates.
        search: Its training rows are used. Its seed fixes their order and the dropout.
        epochs: Passes over the training rows, at least 1; a linear decay then ends with them. None takes
            `search.steps` steps.
        gates: Module that Adam trains in the same step. None: the caller trains its gates itself.
        reach: How far Adam can move a gate's parameter in the whole training. If that is far, gates close before
            the model has learned the fields behind them.

    Raises:
        DataError: If ids are out of range, or the model diverges.
    """
    how = replace(search.how, max_epochs=epochs or search.how.max_epochs)
    per_epoch = len(search.train) // min(how.batch_size, len(search.train))
    total = search.steps if epochs is None and search.steps else per_epoch * how.max_epochs
    check_ids(search.train, "train")
    seed_everything(search.seed)
    adam = [torch.optim.Adam(gates.parameters(), lr=gate_rate(total, reach))] if gates else []
    training = Training(model, how, per_epoch, mix, adam, search.device, _main_loss)
    steps = training.steps(search.train, search.seed, total)
    steps = watch_stalls(steps, training, how.stall_seconds, search.reporter.note)
    yield from watched(steps, search.reporter, total, "steps with gates")
    model.eval()


def gate_rate(steps: int, reach: float) -> float:
    """The rate with which Adam moves a parameter by at most `reach` in all the steps."""
    return reach / max(steps, 1)

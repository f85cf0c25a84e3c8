"""Stops a training whose loss or gradient is not finite, and says why: a cell, a row of a table, a weight or a layer.

B rows of a batch, L id columns, N numeric columns, T labels, W the width of all fields side by side.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.data.split import Split
from recsys.errors import DataError
from recsys.features.schema import Field, Schema
from recsys.files import whole
from recsys.frame.contracts import RoutedEmbedding, TrainableEmbedding
from recsys.frame.ctr import CTR
from recsys.tables.lookup import Lookup, table_rows
from recsys.training.device import Device

__all__ = ["DIVERGED", "Cause", "NotFinite", "explained", "explained_look", "find_cause"]

DIVERGED = "diverged.npz"
"""The file in a stage's folder that gets the batch at which a training diverged."""

_RATES = "lower train.lr and train.table_lr"
_HUGE = 1e6  # a standardised number is seldom above 10, and a looked-up one above 1


class NotFinite(DataError):
    """The loss of a batch, or its gradient, is not finite on a rank; only backward, of a finite loss, changed tables.

    Args:
        step: Number of the step, from 1.
        loss: The loss of this rank, penalties included; finite on all ranks if only the gradient is not.
        batch: Its rows.
        x_BW: The fields side by side.
        mixed_BW: What went into the interaction: x_BW after the gates, if there are gates.
    """

    def __init__(self, step: int, loss: float, batch: Batch, x_BW: Tensor, mixed_BW: Tensor):
        super().__init__(f"training diverged at step {step}: the loss is {loss}, or its gradient not finite: {_RATES}")
        self.step, self.loss, self.batch = step, loss, batch
        self.x_BW, self.mixed_BW = x_BW.detach(), mixed_BW.detach()


@dataclass(frozen=True)
class Cause:
    """Why numbers are not finite.

    Args:
        text: What is wrong, in words.
        mend: What the user can do.
        row: A row of the batch that shows it; None if all rows do.
    """

    text: str
    mend: str = _RATES
    row: int | None = None


def explained(model: CTR, wrong: NotFinite, device: Device, train: Split, folder: Path | None) -> DataError:
    """The error that tells a user why the loss is not finite.

    Args:
        model: As it was before the step.
        wrong: The step.
        device: Where the model is, and its precision.
        train: The rows that the batch is from, to tell the number of the row that shows the cause.
        folder: Gets `diverged.npz`, the batch, or `diverged-RANK.npz` of a later rank; None saves none.
    """
    ranks = Ranks.current()
    finite = ranks.gather(math.isfinite(wrong.loss))
    mine = all(finite) or not finite[ranks.rank]
    text = _explanation(model, wrong, device, train, folder, ranks) if mine else ""
    return DataError(next(filter(None, ranks.gather(text))))  # the same one on every rank


def _explanation(model: CTR, wrong: NotFinite, device: Device, train: Split, folder: Path | None, ranks: Ranks) -> str:
    cause = find_cause(model, wrong.batch, wrong.x_BW, wrong.mixed_BW, device)
    row, number = cause.row, None if cause.row is None else _number(train, wrong.batch, cause.row)
    place = "" if row is None else f" in row {row} of the batch"
    place += "" if number is None else f", row {number:,} of the training rows"
    file = folder and folder / (DIVERGED if ranks.first else f"diverged-{ranks.rank}.npz")
    saved = _save(file, wrong, row, number, train.schema) if file else ""
    rank = f"rank {ranks.rank}: " if ranks.world > 1 else ""
    gradient = ", its gradient is not finite" if math.isfinite(wrong.loss) else ""
    return (
        f"{rank}training diverged at step {wrong.step}: the loss is {wrong.loss}{gradient}: {cause.text}{place}: "
        f"{cause.mend}{saved}"
    )


@torch.no_grad()
def explained_look(model: CTR, step: int, valid: Split, logit_BT: np.ndarray, device: Device) -> DataError:
    """The error that tells a user why some logits of validation are not finite, although the losses of steps were."""
    number = int(np.flatnonzero(~np.isfinite(logit_BT).all(1))[0])
    batch = device.batch(valid.batch(slice(number, number + 1)))
    x_BW = model.features(batch)
    cause = find_cause(model, batch, x_BW, x_BW, device.in_float32())
    return DataError(
        f"the model diverged at step {step}: the logit of validation row {number:,} is "
        f"{float(logit_BT[number].sum())}: {cause.text}: {cause.mend}"
    )


@torch.no_grad()
def find_cause(model: CTR, batch: Batch, x_BW: Tensor, mixed_BW: Tensor, device: Device) -> Cause:
    """Why the loss of a batch is not finite: the first of input, table rows, gates, weights and layers.

    Args:
        model: As it was when the loss was computed; it may draw another dropout now.
        batch: The rows, on the model's device.
        x_BW: The fields side by side.
        mixed_BW: The input of the interaction.
        device: Gives the precision.
    """
    finders: tuple[Callable[[], Cause | None], ...] = (
        lambda: _bad_input(model.schema, batch),
        lambda: _bad_field(model, batch, x_BW),
        lambda: None if _finite(mixed_BW) else Cause("the gates of the search give numbers that are not finite"),
        lambda: _bad_weights(model),
        lambda: _bad_layer(model, x_BW, mixed_BW, device),
    )
    causes = (find() for find in finders)
    return next((c for c in causes if c), Cause(f"no layer did it alone; {_largest(model, x_BW)[0]}"))


def _finite(x: Tensor) -> bool:
    return bool(x.isfinite().all())


def _first(bad: Tensor) -> tuple[int, int]:
    """Row and column of the first true entry."""
    row, column = bad.nonzero()[0].tolist()
    return row, column


def _bad_input(schema: Schema, batch: Batch) -> Cause | None:
    """A number, a weight or a label that is not finite."""
    names, dense_BN = _float_names(schema), batch.dense_BN
    if not _finite(dense_BN):
        row, column = _first(~dense_BN.isfinite())
        text = f"field {names[column]!r} holds {float(dense_BN[row, column])}"
        mend = "expected a finite number: mend that cell of the table or leave it empty, and prepare again"
        return Cause(text, mend, row)
    if batch.weight_B is not None and not _finite(batch.weight_B):
        row, _ = _first(~batch.weight_B.isfinite().unsqueeze(1))
        return Cause(f"the sample weight is {float(batch.weight_B[row])}", "expected a finite number: mend it", row)
    bad_BT = batch.label_BT.isinf()
    bad_BT[:, 0] |= batch.label_BT[:, 0].isnan()
    if bad_BT.any():
        row, t = _first(bad_BT)
        text = f"label {schema.labels[t]!r} is {float(batch.label_BT[row, t])}"
        return Cause(text, "expected 0 or 1: mend it", row)
    return None


def _columns(model: CTR) -> dict[str, slice]:
    """Field → its columns of x_BW."""
    ends = np.cumsum(model.widths).tolist()
    return {f.name: slice(end - w, end) for f, w, end in zip(model.schema.fields, model.widths, ends, strict=True)}


def _bad_field(model: CTR, batch: Batch, x_BW: Tensor) -> Cause | None:
    """The first field whose columns of x_BW are not finite, and the table row that did it."""
    for name, columns in _columns(model).items():
        if _finite(x_BW[:, columns]):
            continue
        row, _ = _first(~x_BW[:, columns].isfinite())
        text = f"field {name!r} is not finite in the input of the network"
        if bad := _bad_table_row(model, model.schema[name], batch.ids_BL[row]):
            table, number, id = bad
            text = f"field {name!r}: row {number:,} of table {table!r}, which id {id:,} reads, is not finite"
        return Cause(text, "the steps before made it so: lower train.table_lr and train.lr", row)
    return None


def _bad_table_row(model: CTR, f: Field, ids_L: Tensor) -> tuple[str, int, int] | None:
    """The table, the row in it and the id of a field that read numbers which are not finite."""
    embedding = model.embedding
    if not f.is_sparse or not isinstance(embedding, RoutedEmbedding):
        return None
    held, columns = embedding.held(), model.schema.id_columns[f.name]
    for lookup in (k for k in embedding.lookups if k.field == f.name):
        for id in (i for i in ids_L[columns.start : columns.stop].tolist() if i >= 0):
            for part in (h for h in held if h.table == lookup.table):
                number = _table_row(lookup, id, part.total) - part.start
                if 0 <= number < len(part.weight_RD) and not _finite(part.weight_RD[number]):
                    return part.table, number + part.start, id
    return None


def _table_row(lookup: Lookup, id: int, rows: int) -> int:
    """The row of a table of `rows` rows that an id reads."""
    return id if lookup.direct else int(table_rows(torch.tensor(id), *lookup.coefficients(), rows, lookup.divisor))


def _bad_weights(model: CTR) -> Cause | None:
    """The dense parameters that are not finite."""
    named = model.dense_named()
    if isinstance(model.embedding, TrainableEmbedding):
        named |= {f"embedding.{i}": p for i, p in enumerate(model.embedding.dense_parameters())}
    bad = [name for name, p in named.items() if not _finite(p)]
    if not bad:
        return None
    others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
    return Cause(f"the weights {bad[0]}{others} are not finite", "the steps before made them so: lower train.lr")


def _largest(model: CTR, x_BW: Tensor) -> tuple[str, int | None]:
    """The largest number in the input of the network, in words, and its row if it is huge."""
    row, column = divmod(int(x_BW.abs().argmax()), x_BW.shape[1])
    name = next(n for n, c in _columns(model).items() if c.start <= column < c.stop)
    value = float(x_BW[row, column])
    return f"the largest number in its input is {value:.4g}, of field {name!r}", row if abs(value) > _HUGE else None


def _bad_layer(model: CTR, x_BW: Tensor, mixed_BW: Tensor, device: Device) -> Cause | None:
    """The layer in which numbers that are not finite appear first, by another pass through the network."""
    bad: list[str] = []

    def look(name: str, module: nn.Module) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, out: Any) -> None:
            if isinstance(out, Tensor) and not _finite(out):
                bad.append(f"{name} ({type(module).__name__})")

        return hook

    hooks = [m.register_forward_hook(look(n, m)) for n, m in model.named_modules() if n]
    try:
        with device.autocast():
            logit_BT = model.logits_of(mixed_BW)
    finally:
        for hook in hooks:
            hook.remove()
    largest, row = _largest(model, x_BW)
    mend = f"{_RATES}, and look at that field" if row is not None else _RATES
    if bad:
        return Cause(f"layer {bad[0]} is the first whose output is not finite; {largest}", mend, row)
    if not _finite(logit_BT):
        return Cause(f"the logits are not finite, although each layer's output is; {largest}", mend, row)
    worst = float(logit_BT.abs().max())
    return Cause(f"all layers are finite, the largest logit is {worst:.4g}; {largest}", mend, row)


def _float_names(schema: Schema) -> list[str]:
    return _side_by_side(schema.float_columns) + _side_by_side(schema.weight_columns, " weight")


def _side_by_side(columns: dict[str, range], behind: str = "") -> list[str]:
    """The name of each column: that of its field, with a position if the field has several columns."""
    return [f"{n}{behind}" if len(c) == 1 else f"{n}{behind}[{i}]" for n, c in columns.items() for i in range(len(c))]


def _bits(x: np.ndarray) -> np.ndarray:
    """The same bits as whole numbers, so that NaN equals NaN."""
    return x.astype(np.float32).view(np.int32)


def _number(split: Split, batch: Batch, row: int) -> int | None:
    """The number of the first row of a split that equals a row of the batch; None if there is none."""
    ids, dense, label = (x[row].numpy(force=True) for x in (batch.ids_BL, batch.dense_BN, batch.label_BT))
    start = 0
    for part in split.batches(8192):
        same_B = (part.ids_BL.numpy() == ids).all(1)
        same_B &= (_bits(part.dense_BN.numpy()) == _bits(dense)).all(1)
        same_B &= (_bits(part.label_BT.numpy()) == _bits(label)).all(1)
        if same_B.any():
            return start + int(same_B.argmax())
        start += len(part)
    return None


def _save(path: Path, wrong: NotFinite, row: int | None, number: int | None, schema: Schema) -> str:
    """Write the batch → a sentence on where it is. A full disk must not hide the cause."""
    batch = wrong.batch
    weight_B = torch.ones(len(batch)) if batch.weight_B is None else batch.weight_B
    arrays: dict[str, Any] = {
        "ids": batch.ids_BL.numpy(force=True),
        "dense": batch.dense_BN.numpy(force=True),
        "label": batch.label_BT.numpy(force=True),
        "weight": weight_B.numpy(force=True),
        "ids_columns": np.array(_side_by_side(schema.id_columns), dtype=str),
        "dense_columns": np.array(_float_names(schema), dtype=str),
        "label_columns": np.array(schema.labels, dtype=str),
        "step": wrong.step,
        "loss": wrong.loss,
        "row": -1 if row is None else row,
        "training_row": -1 if number is None else number,
    }
    try:
        with whole(path, "wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        return f"; the batch could not be saved to {path}: {error.strerror or error}"
    return f"; the batch is in {path}"

"""Fine-tune the small parts of a compressed model: dense layers, steps, bases, codebooks. Codes do not change.

B rows of a batch, P lookups, V table rows, D embedding dim.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from recsys.compression.contract import TrainingRows, report
from recsys.compression.report import PartReport
from recsys.config.ranges import Count, Few, LearningRate, Many
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.errors import DataError
from recsys.evaluation.metrics import logloss, observed, sigmoid
from recsys.frame.contracts import TableOptimizer, TableRows
from recsys.frame.ctr import CTR
from recsys.tables.contract import FormState, TableForm
from recsys.tables.plain import PlainEmbedding
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, label_logits

__all__ = ["heal"]


class _Reads(nn.Module):
    """Lookups in tables that are trained, one after another: row_BP → x_BPD."""

    def __init__(self, tables: Sequence["_Learning"]):
        super().__init__()
        self.tables = list(tables)
        self.learned = nn.ModuleList({id(t): t.learned for t in tables}.values())

    def forward(self, row_BP: Tensor) -> Tensor:
        """→ x_BPD."""
        return torch.stack([t.read(row_B) for t, row_B in zip(self.tables, row_BP.unbind(1), strict=True)], 1)


class _Learning:
    """A form of table whose small tensors are parameters, used during healing only.

    Args:
        table: The table; it is not changed.
    """

    def __init__(self, table: TableForm):
        self.table = table
        self.rows, self.dim, self.nbytes, self.small = table.rows, table.dim, table.nbytes, table.small
        self.kind = "learning"
        state = {name: cast(Tensor, table.state()[name]) for name in table.small}
        self.learned = nn.ParameterDict({name: nn.Parameter(t.clone()) for name, t in state.items()})

    def _now(self) -> TableForm:
        return type(self.table).from_state({**self.table.state(), **dict(self.learned.items())})

    def read(self, row: Tensor) -> Tensor:
        """Row numbers → rows."""
        return self._now().read(row)

    def dense(self) -> Tensor:
        """The V×D table."""
        return self._now().dense()

    def describe(self) -> dict[str, int | str]:
        """As the table itself."""
        return self.table.describe()

    def state(self) -> FormState:
        """The state of the table, with the trained tensors."""
        return {**self.table.state(), **{name: p.detach().clone() for name, p in self.learned.items()}}

    @classmethod
    def from_state(cls, state: FormState) -> "_Learning":
        """Not possible: it exists in memory only."""
        raise NotImplementedError("a table that is being healed is not read from a file")

    @staticmethod
    def scorer(tables: "Sequence[_Learning]") -> nn.Module:
        """A module that reads lookup by lookup."""
        return _Reads(tables)

    def settled(self) -> TableForm:
        """The table with the trained tensors."""
        return type(self.table).from_state(self.state())


class _Healing(nn.Module):
    """An embedding for the training loop over tables whose small tensors AdamW trains."""

    def __init__(self, plain: PlainEmbedding):
        super().__init__()
        self.tables = {name: _Learning(table) for name, table in plain.tables.items()}
        self.over_tables = PlainEmbedding(plain.schema, self.tables, plain.lookups)
        self.widths = self.over_tables.widths

    def forward(self, batch: Batch) -> Tensor:
        """→ x_BW."""
        return self.over_tables(batch)

    def scoring(self) -> PlainEmbedding:
        """The same lookups over the tables as they are now."""
        tables = {name: table.settled() for name, table in self.tables.items()}
        return PlainEmbedding(self.over_tables.schema, tables, self.over_tables.lookups)

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """The small tensors of all tables."""
        return self.parameters()

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Do nothing: codes have no optimiser."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """Empty: codes have no optimiser."""
        return {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Do nothing: there is no state to restore."""

    def held(self) -> list[TableRows]:
        """Empty: codes are not trained."""
        return []

    def reset_tables(self, seed: int) -> None:
        """Do nothing: codes are never drawn anew."""

    def set_learning_rate(self, lr: float) -> None:
        """Do nothing: codes are not trained."""


def _valid_loglosses(model: CTR, valid: Split) -> dict[str, float]:
    """Label → validation logloss, the main label first."""
    loglosses, logit_BT = dict[str, float](), label_logits(model, valid)
    for t, name in enumerate(model.schema.labels):
        label_B, weight_B, (logit_B,) = observed(valid.label_BT[:, t], valid.weight_B, logit_BT[:, t])
        loglosses[name] = logloss(sigmoid(logit_B), label_B, weight_B)
    return loglosses


def _note(kept: str, before: dict[str, float], after: dict[str, float] | None) -> str:
    """A note on the change of each label's logloss; the main label comes first and is not named."""
    figures = [
        f"{f'of {name} ' if i else ''}{old:.5f} before, {f'{after[name]:.5f}' if after else 'no finite number'} after"
        for i, (name, old) in enumerate(before.items())
    ]
    return f"{kept}: validation logloss {'; '.join(figures)}"


def heal(
    model: CTR,
    rows: TrainingRows,
    lr: LearningRate = 3e-4,
    epochs: Many = 1,
    looks: Few = 4,
    patience: Many = 1,
    batch_size: Count = 1024,
) -> tuple[CTR, list[PartReport]]:
    """Train dense layers, and the tensors that all rows of a table share; keep the given model if it is better.

    The loss is that of all labels; the main one decides which model is better. AdamW trains, at `lr` and without
    weight decay: the training settings of the run (optimizer, train.weight_decay, train.table_l2 …) are not used.

    Args:
        model: A compressed model; it is not changed.
        rows: Training rows, and validation rows, which decide.
        lr: AdamW's learning rate.
        epochs: Most passes over the training rows.
        looks: Looks at validation in each epoch, equally spaced.
        patience: Looks without a better validation logloss of the main label before training stops.
        batch_size: Rows a step.

    Returns:
        The healed model, whose validation logloss of the main label is at most that of `model`, and a report on
        each part; the notes hold the logloss of every label.
    """
    before, main = _valid_loglosses(model, rows.valid), model.schema.label
    healing = _Healing(model.embedding.scoring())
    learner = model.over(healing)
    config = TrainConfig(
        batch_size=batch_size,
        max_epochs=epochs,
        lr=lr,
        warmup_steps=10,
        evals_per_epoch=looks,
        patience=patience,
        precision="fp32",
    )
    try:
        fit(learner, rows.train, rows.valid, config, rows.seed, reporter=rows.reporter)
        healed = learner.over(healing.scoring())
        after = _valid_loglosses(healed, rows.valid)
    except DataError:
        healed, after = model, None
    if after is None or not after[main] < before[main]:
        healed = model
    note = _note("healed" if healed is not model else "not healed", before, after)
    return healed, [replace(r, note=note) for r in report(healed, rows, {})]

"""Fine-tune what is small after compression: dense layers, steps, bases, codebooks. Codes stay as they are.

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
from recsys.frame.contracts import TableOptimizer
from recsys.frame.ctr import CTR
from recsys.tables.contract import FormState, TableForm
from recsys.tables.plain import PlainEmbedding
from recsys.training.config import TrainConfig
from recsys.training.fit import fit, label_logits

__all__ = ["heal"]


class _Reads(nn.Module):
    """Lookups of learning tables, one after another: row_BP → x_BPD."""

    def __init__(self, tables: Sequence["_Learning"]):
        super().__init__()
        self.tables = list(tables)
        self.learned = nn.ModuleList({id(t): t.learned for t in tables}.values())

    def forward(self, row_BP: Tensor) -> Tensor:
        """→ x_BPD."""
        return torch.stack([t.read(row_B) for t, row_B in zip(self.tables, row_BP.unbind(1), strict=True)], 1)


class _Learning:
    """A table whose small tensors are parameters: a form of table, for as long as healing takes.

    Args:
        table: It stays as it is.
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
        """With what was learned."""
        return {**self.table.state(), **{name: p.detach().clone() for name, p in self.learned.items()}}

    @classmethod
    def from_state(cls, state: FormState) -> "_Learning":
        """It lives in memory only."""
        raise NotImplementedError("a table that is being healed is not read from a file")

    @staticmethod
    def scorer(tables: "Sequence[_Learning]") -> nn.Module:
        """Lookup by lookup."""
        return _Reads(tables)

    def settled(self) -> TableForm:
        """The table with what was learned."""
        return type(self.table).from_state(self.state())


class _Healing(nn.Module):
    """An embedding over learning tables, as the training loop wants it: AdamW trains all that it learns."""

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
        """Codes have none."""

    def optimizer_state(self) -> dict[str, Tensor]:
        """Nothing: codes have no optimiser."""
        return {}

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """There is nothing to put back."""

    def reset_tables(self) -> None:
        """Codes are never drawn anew."""

    def set_learning_rate(self, lr: float) -> None:
        """Codes do not move."""


def _valid_loglosses(model: CTR, valid: Split) -> dict[str, float]:
    """Of each label, the main one first."""
    loglosses, logit_BT = dict[str, float](), label_logits(model, valid)
    for t, name in enumerate(model.schema.labels):
        label_B, weight_B, (logit_B,) = observed(valid.label_BT[:, t], valid.weight_B, logit_BT[:, t])
        loglosses[name] = logloss(sigmoid(logit_B), label_B, weight_B)
    return loglosses


def _note(kept: str, before: dict[str, float], after: dict[str, float] | None) -> str:
    """What healing did to each label's logloss; the main label comes first and is not named."""
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
    """Train dense layers, and what all rows of a table share, on training rows; keep the start if that is better.

    All labels are learned; the main one decides. AdamW trains, at `lr` and with no weight decay: the run's settings
    of training (optimizer, train.weight_decay, train.table_l2 and so on) are not used.

    Args:
        model: A compressed model; it stays as it is.
        rows: Training rows, and validation, which decides.
        lr: AdamW's rate.
        epochs: Passes over the training rows at most.
        looks: At validation in an epoch, at equal distances.
        patience: Looks without a better validation logloss of the main label before it stops.
        batch_size: Rows a step.

    Returns:
        The healed model, whose validation logloss of the main label is at most that of `model`, and what became of
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

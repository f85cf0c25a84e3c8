"""What the rooms owe each other. A contract is a Protocol: nothing inherits from it.

B rows of a batch, W the width of all fields side by side, O numbers of an interaction, T labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding

__all__ = ["Embedding", "Head", "RoutedEmbedding", "TableOptimizer", "TrainableEmbedding"]


@runtime_checkable
class Embedding(Protocol):
    """A module: batch → x_BW, the fields side by side in schema order, sequences unpooled."""

    widths: dict[str, int]  # of each field

    def __call__(self, batch: Batch, /) -> Tensor:
        """→ x_BW."""
        ...

    def scoring(self) -> PlainEmbedding:
        """The same lookups over plain tensors, for scoring."""
        ...


@dataclass(frozen=True)
class TableOptimizer:
    """What updates tables inside the backward pass.

    Args:
        kind: An optimiser that FBGEMM fuses, by the class that TorchRec knows it by.
        settings: Its settings, but for the rate, which the training loop sets at every step.
    """

    kind: type[Optimizer]
    settings: Mapping[str, float]


@runtime_checkable
class TrainableEmbedding(Embedding, Protocol):
    """An embedding that learns: its tables inside the backward pass, by an optimiser of their own, or not at all."""

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """What the optimiser of the dense layers trains too; tables are not among it."""
        ...

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the tables from now on. Weights stay; what another optimiser remembers is gone."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """What the tables' optimiser remembers, by table; a copy. Empty if it remembers nothing."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `optimizer_state` gave, so that training goes on exactly."""
        ...

    def reset_tables(self) -> None:
        """Draw all tables anew, and forget what their optimiser remembers."""
        ...

    def set_learning_rate(self, lr: float) -> None:
        """The rate of the next updates of tables, > 0."""
        ...


class Head(Protocol):
    """A module built from the labels' names: what the interaction gives a row → a logit for each label."""

    outputs: int  # O: how many numbers a row it asks the interaction for

    def __call__(self, y_BO: Tensor, /) -> Tensor:
        """→ logit_BT, the main label first."""
        ...

    def loss(self, logit_BT: Tensor, label_BT: Tensor, weight_B: Tensor | None) -> Tensor:
        """What training lowers: a mean over rows, weighted as they are; a label of NaN was not observed."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """As `nn.Module`'s; so are the next two."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> object: ...


@runtime_checkable
class RoutedEmbedding(TrainableEmbedding, Protocol):
    """A trainable embedding that says which rows of which tables a batch reads."""

    lookups: Sequence[Lookup]
    keys: Sequence[Sequence[str]]  # of each lookup: those of its ids in what `route` returns

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """The table rows that a batch reads, by key; it has no parameters."""
        ...

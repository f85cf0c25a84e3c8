"""The interfaces between the parts of a model. Each is a Protocol: nothing inherits from it.

B rows of a batch, W the width of all fields side by side, O numbers of an interaction, T labels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.optim import Optimizer
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.data.batch import Batch
from recsys.errors import ConfigError
from recsys.tables.lookup import Lookup
from recsys.tables.plain import PlainEmbedding

__all__ = [
    "Embedding",
    "Head",
    "RoutedEmbedding",
    "StateOf",
    "TableOptimizer",
    "TableRows",
    "TrainableEmbedding",
    "check_embedding",
]

StateOf = Literal["row", "element"]
"""What a number of an optimiser's state belongs to."""


@runtime_checkable
class Embedding(Protocol):
    """A module: batch → x_BW, the fields side by side in schema order, sequences unpooled."""

    widths: dict[str, int]  # field → its count of columns

    def __call__(self, batch: Batch, /) -> Tensor:
        """→ x_BW."""
        ...

    def scoring(self) -> PlainEmbedding:
        """The same lookups over plain tensors, for scoring."""
        ...


@dataclass(frozen=True)
class TableOptimizer:
    """An optimiser that updates tables inside the backward pass.

    Args:
        kind: TorchRec's class for an optimiser that FBGEMM fuses.
        settings: Its settings except the learning rate, which the training loop sets at every step.
        states: What it remembers of each table, by name: `row`, a number for each row, or `element`, one for each
            number of the table.
    """

    kind: type[Optimizer]
    settings: Mapping[str, float]
    states: Mapping[str, StateOf]


@dataclass(frozen=True)
class TableRows:
    """Adjacent rows of a table that this process holds: views, so that a checkpoint reads and writes them in place.

    Args:
        table: Name of the table.
        start: Number of the first row in the whole table.
        total: Count of rows of the whole table.
        weight_RD: The rows.
        state: State of the optimiser of these rows, [R] or [R, D]; None if it has none.
        saved: Whether this process saves them; false if another process holds the same rows and saves them.
    """

    table: str
    start: int
    total: int
    weight_RD: Tensor
    state: Tensor | None
    saved: bool = True


@runtime_checkable
class TrainableEmbedding(Embedding, Protocol):
    """An embedding for training. Its tables have their own optimiser inside the backward pass, or are not trained."""

    def dense_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that the optimiser of the dense layers trains; tables are not among them."""
        ...

    def use_optimizer(self, optimizer: TableOptimizer) -> None:
        """Let it update the tables from now on. Weights stay; the state of the earlier optimiser is lost."""
        ...

    def optimizer_state(self) -> dict[str, Tensor]:
        """Table → a copy of its optimiser state; empty for an optimiser without state."""
        ...

    def load_optimizer_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the output of `optimizer_state`, so that training resumes exactly."""
        ...

    def held(self) -> list[TableRows]:
        """The rows of each trained table that this process holds, in the order of tables, then of rows."""
        ...

    def reset_tables(self, seed: int) -> None:
        """Draw all tables anew, the same for a seed on any number of processes, and reset their optimiser state."""
        ...

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of the next updates of tables, > 0."""
        ...


def check_embedding(embedding: object, contract: type[Any]) -> None:
    """Check that an embedding has what its use needs.

    Args:
        embedding: What a scheme returned.
        contract: One of the Protocols of this file.

    Raises:
        ConfigError: If attributes are missing.
    """
    names = {n for c in contract.__mro__ for n in (*vars(c), *get_annotations(c))}
    missing = sorted(n for n in names if not n.startswith("_") and not hasattr(embedding, n))
    if missing:
        raise ConfigError(
            f"embedding: {type(embedding).__name__} lacks {', '.join(missing)}: add what docs/api.md says of a "
            f"{contract.__name__}"
        )


class Head(Protocol):
    """A module, built from the labels' names: the interaction's output → a logit for each label."""

    outputs: int  # O: the count of numbers a row that it needs from the interaction

    def __call__(self, y_BO: Tensor, /) -> Tensor:
        """→ logit_BT, the main label first."""
        ...

    def loss(self, logit_BT: Tensor, label_BT: Tensor, weight_B: Tensor | None) -> Tensor:
        """The training loss: a mean over rows by sample weight; a label of NaN was not observed."""
        ...

    def parameters(self) -> Iterable[nn.Parameter]:
        """As in `nn.Module`; so are the next two."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state_dict: Mapping[str, Tensor], /) -> object: ...


@runtime_checkable
class RoutedEmbedding(TrainableEmbedding, Protocol):
    """A trainable embedding that says which rows of which tables a batch reads."""

    lookups: Sequence[Lookup]
    keys: Sequence[Sequence[str]]  # the keys of each lookup in the output of `route`

    def route(self, batch: Batch) -> KeyedJaggedTensor:
        """The table rows that a batch reads, by key."""
        ...

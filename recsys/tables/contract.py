"""The interface of a form of table: row numbers → rows, and a module that scores with it.

B rows of a batch, P lookups, V table rows, D embedding dim.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Tensor, nn

__all__ = ["FormState", "TableForm"]

FormState = Mapping[str, Tensor | int]


class TableForm(Protocol):
    """One V×D table in some form of storage. A form is any class with these members; there is no registry."""

    @property
    def rows(self) -> int:
        """V, the count of ids."""
        ...

    @property
    def dim(self) -> int:
        """D, the width of a row."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in storage."""
        ...

    @property
    def kind(self) -> Hashable:
        """A key: one module scores all tables of the same class, width and kind."""
        ...

    @property
    def small(self) -> tuple[str, ...]:
        """The float tensors of `state` that all rows share, such as a basis; `heal` trains them."""
        ...

    def read(self, row: Tensor) -> Tensor:
        """Row numbers of any shape → float32 rows, in one more dimension. Gradients reach the `small` tensors."""
        ...

    def dense(self) -> Tensor:
        """The V×D float32 table that it represents."""
        ...

    def describe(self) -> dict[str, int | str]:
        """How it stores its rows, for the report."""
        ...

    def state(self) -> FormState:
        """Its tensors and whole numbers, by name."""
        ...

    @classmethod
    def from_state(cls, state: FormState) -> Self:
        """The table that has this state."""
        ...

    @staticmethod
    def scorer(tables: Sequence[Any]) -> nn.Module:
        """A module `row_BP → x_BPD` that exports to ONNX: lookup p reads tables[p]; a table may occur twice.

        All tables have one class, width and kind. A bundle stores the module's buffers.
        """
        ...

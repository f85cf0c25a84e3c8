"""What a form of table owes the rest: rows of numbers for row numbers, and a module that scores with it.

B rows of a batch, P lookups, V table rows, D embedding dim.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, Self

from torch import Tensor, nn

__all__ = ["FormState", "TableForm"]

FormState = Mapping[str, Tensor | int]


class TableForm(Protocol):
    """One table, V×D, however it is stored. A form is a class with these; nothing lists the forms."""

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
        """Bytes of storage really held."""
        ...

    @property
    def kind(self) -> Hashable:
        """One module scores all tables of one class, width and kind."""
        ...

    @property
    def small(self) -> tuple[str, ...]:
        """Which float tensors of `state` all rows share, such as a basis: `heal` trains these."""
        ...

    def read(self, row: Tensor) -> Tensor:
        """Row numbers of any shape → their float32 numbers, one dimension more. Gradients reach what is `small`."""
        ...

    def dense(self) -> Tensor:
        """The V×D float32 table it stands for."""
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
        """A module `row_BP → x_BPD` that exports to ONNX: lookup p reads tables[p]; a table may stand there twice.

        All are of one class, width and kind. The module's buffers are what a bundle stores.
        """
        ...

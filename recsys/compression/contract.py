"""The arguments and results of a compressor, and the adaptor for methods that need tables only."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from recsys.compression.reads import count_reads
from recsys.compression.report import PartReport, compare, compare_layers
from recsys.data.split import Split
from recsys.events import SILENT, Reporter
from recsys.frame.ctr import CTR
from recsys.tables.contract import TableForm
from recsys.tables.plain import PlainEmbedding
from recsys.training.checkpoint import squared_gradients

__all__ = ["Compressor", "TrainingRows", "compressor", "report"]


@dataclass(frozen=True)
class TrainingRows:
    """What a compressor may use beside the model that it makes smaller.

    Args:
        trained: The model before any compression; errors are measured against it.
        train: Training rows.
        valid: Validation rows.
        seed: Seed of the method's random numbers.
        reporter: Receives the progress of a method that trains, and can stop it.
    """

    trained: CTR
    train: Split
    valid: Split
    seed: int
    reporter: Reporter = SILENT

    @cached_property
    def tables(self) -> dict[str, TableForm]:
        """The trained tables, by name."""
        return self.trained.embedding.scoring().tables

    @cached_property
    def squared_gradients(self) -> dict[str, Tensor]:
        """The sums of squared gradients that the tables' optimiser holds, one a row; empty if it holds none."""
        return squared_gradients(self.trained)

    @cached_property
    def reads(self) -> dict[str, Tensor]:
        """For each table, how often training rows read each of its V rows; 0 if no step updated the row.

        Without optimiser state (SGD) nothing tells which rows were updated: every reading counts.
        """
        counts = count_reads(self.trained.routed(), {n: t.rows for n, t in self.tables.items()}, self.train)
        # The kept weights may come from before the epoch's end, or from just after fresh tables.
        state = self.squared_gradients
        return {n: count_V * (state[n] > 0) if n in state else count_V for n, count_V in counts.items()}


Compressor = Callable[[CTR, TrainingRows], tuple[CTR, list[PartReport]]]
"""(model, rows) → a smaller model, and a report on each part. The model that it gets is not changed."""


def report(smaller: CTR, rows: TrainingRows, notes: Mapping[str, str]) -> list[PartReport]:
    """A report on each table, and on each dense layer that changed, compared with the trained model.

    Args:
        smaller: The compressed model.
        rows: Holds the trained model.
        notes: Part → note of the method.
    """
    tables = compare(rows.tables, smaller.embedding.scoring().tables, rows.reads, notes)
    return tables + compare_layers(rows.trained, smaller, notes)


def compressor(method: Callable[..., Any]) -> Compressor:
    """The method itself if it takes a model; with an adaptor if its first parameter is `tables`.

    A method for tables is called with the tables, how often training read each row, and the state of the tables'
    optimiser, each by table name. It returns the tables and a note for each table that was not compressed.
    """

    def on_tables(model: CTR, rows: TrainingRows) -> tuple[CTR, list[PartReport]]:
        plain = model.embedding.scoring()
        tables, notes = method(plain.tables, rows.reads, rows.squared_gradients)
        smaller = model.over(PlainEmbedding(model.schema, tables, plain.lookups))
        return smaller, report(smaller, rows, notes)

    return on_tables if next(iter(inspect.signature(method).parameters)) == "tables" else method

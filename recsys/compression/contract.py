"""What a compressor is called with and returns, and the adaptor for methods that look at tables alone."""

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
    """What a compressor may look at beside the model that it makes smaller.

    Args:
        trained: The model before any compression; errors are measured against it.
        train: Training rows.
        valid: Rows of validation.
        seed: Fixes what a method draws.
        reporter: Is told how far a method that trains is, and can stop it.
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
        """What the tables' optimiser remembers of squared gradients, one value a row; no table if it keeps none."""
        return squared_gradients(self.trained)

    @cached_property
    def reads(self) -> dict[str, Tensor]:
        """For each table, how often training rows read each of its V rows, if a step of training moved that row."""
        counts = count_reads(self.trained.routed(), {n: t.rows for n, t in self.tables.items()}, self.train)
        # The best look may come before the epoch's end, or just after fresh tables: these weights saw only such rows.
        state = self.squared_gradients
        return {n: count_V * (state[n] > 0) if n in state else count_V for n, count_V in counts.items()}


Compressor = Callable[[CTR, TrainingRows], tuple[CTR, list[PartReport]]]
"""(model, rows) → a smaller model, and what became of each part. The model that it is given stays as it is."""


def report(smaller: CTR, rows: TrainingRows, notes: Mapping[str, str]) -> list[PartReport]:
    """What became of each table, and of each dense layer that changed, against the trained model.

    Args:
        smaller: What compression left.
        rows: Where the trained model is.
        notes: What a method says of single parts.
    """
    tables = compare(rows.tables, smaller.embedding.scoring().tables, rows.reads, notes)
    return tables + compare_layers(rows.trained, smaller, notes)


def compressor(method: Callable[..., Any]) -> Compressor:
    """A method as it is if it takes a model; behind the one adaptor if its first parameter is `tables`.

    A method of tables is called with the tables, how often training read each row, and the state of the
    tables' optimiser, each by name of the table. It returns the tables and a note for each that was left.
    """

    def on_tables(model: CTR, rows: TrainingRows) -> tuple[CTR, list[PartReport]]:
        plain = model.embedding.scoring()
        tables, notes = method(plain.tables, rows.reads, rows.squared_gradients)
        smaller = model.over(PlainEmbedding(model.schema, tables, plain.lookups))
        return smaller, report(smaller, rows, notes)

    return on_tables if next(iter(inspect.signature(method).parameters)) == "tables" else method

"""Ranges of settings, each said once: what a constructor's signature names is checked before a run starts."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf

__all__ = ["Bits", "Count", "Depth", "Few", "GateSteps", "Layer", "Natural", "Positive", "Seed", "Share", "Width"]

Bits = Literal[4, 8, 16]  # of a number in a table's rows
Count = Annotated[int, Ge(1)]
Depth = Annotated[int, Ge(0), Le(100)]  # of a network, in layers
Few = Annotated[int, Ge(1), Le(1000)]
Layer = Annotated[int, Ge(1), Le(65_536)]  # width of a layer
GateSteps = Annotated[int, Ge(150)]  # fewer do not let gates settle
Natural = Annotated[int, Ge(0), Le(1000)]
Positive = Annotated[float, Gt(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what NumPy, torch and Python's random all take
Share = Annotated[float, Ge(0), Lt(1)]
Width = Annotated[int, Ge(4), Le(65_536), MultipleOf(4)]  # of a table: FBGEMM reads four numbers at a time

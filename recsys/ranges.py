"""Ranges of settings, each said once: what a constructor's signature names is checked before a run starts."""

from typing import Annotated

from annotated_types import Ge, Le, Lt, MultipleOf

__all__ = ["Count", "Depth", "Few", "Layer", "Natural", "Seed", "Share", "Width"]

Count = Annotated[int, Ge(1)]
Depth = Annotated[int, Ge(0), Le(100)]  # of a network, in layers
Few = Annotated[int, Ge(1), Le(1000)]
Layer = Annotated[int, Ge(1), Le(65_536)]  # width of a layer
Natural = Annotated[int, Ge(0), Le(1000)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what NumPy, torch and Python's random all take
Share = Annotated[float, Ge(0), Lt(1)]
Width = Annotated[int, Ge(4), Le(65_536), MultipleOf(4)]  # of a table: FBGEMM reads four numbers at a time

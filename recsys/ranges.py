"""Ranges of settings, each said once: what a constructor's signature names is checked before a run starts."""

from typing import Annotated

from annotated_types import Ge, Lt, MultipleOf

__all__ = ["Count", "Natural", "Seed", "Share", "Width"]

Count = Annotated[int, Ge(1)]
Natural = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Lt(2**32)]  # what NumPy, torch and Python's random all take
Share = Annotated[float, Ge(0), Lt(1)]
Width = Annotated[int, Ge(4), MultipleOf(4)]  # of a table: FBGEMM reads four numbers at a time

"""Ranges of settings, each declared once: those in a constructor's signature are checked before a run starts."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import Strict

__all__ = ["Bits", "Count", "Depth", "Epsilon", "Few", "Fraction", "GainShare", "GateSteps", "Layer", "LearningRate",
           "Leaves", "Many", "Natural", "Positive", "Seed", "Share", "SignBits", "Start", "Steps", "Tau", "Temperature",
           "Unit", "Weight", "Width"]  # fmt: skip

_Number = Annotated[float, Strict()]  # refuses true and "3"
_Whole = Annotated[int, Strict()]

Bits = Literal[4, 8, 16]  # bits of a number in a table's rows
Count = Annotated[_Whole, Ge(1), Lt(2**63)]
Depth = Annotated[_Whole, Ge(0), Le(100)]  # layers of a network
Epsilon = Annotated[_Number, Gt(0), Le(0.1)]
Few = Annotated[_Whole, Ge(1), Le(1000)]
Fraction = Annotated[_Number, Gt(0), Le(1)]  # share of something, all of it at most
GainShare = Annotated[_Number, Gt(0), Lt(1)]  # share of a model's gain over a constant
GateSteps = Annotated[_Whole, Ge(150), Le(1_000_000)]  # with fewer steps gates do not settle
Layer = Annotated[_Whole, Ge(1), Le(65_536)]  # width of a layer
LearningRate = Annotated[_Number, Gt(0), Le(100)]
Leaves = Annotated[_Whole, Ge(2), Le(131_072)]  # leaves of a tree; LightGBM takes no more
Many = Annotated[_Whole, Ge(1), Le(100_000)]
Natural = Annotated[_Whole, Ge(0), Le(1000)]
Positive = Annotated[_Number, Gt(0), Le(1e6)]
Seed = Annotated[_Whole, Ge(0), Lt(2**32)]  # range that NumPy, torch and Python's random all take
Share = Annotated[_Number, Ge(0), Lt(1)]
SignBits = Annotated[_Whole, Ge(1), Le(16)]  # bits of a signature; its table has 2^bits rows
Start = Annotated[_Number, Ge(0), Le(10)]  # half-width of uniform initial weights
Steps = Annotated[_Whole, Ge(0), Le(10**9)]
Tau = Annotated[_Number, Ge(1), Le(1e6)]  # a temperature that multiplies
Temperature = Annotated[_Number, Gt(0), Le(1)]
Unit = Annotated[_Number, Ge(0), Le(1)]
Weight = Annotated[_Number, Ge(0), Le(1e6)]  # weight of a penalty
Width = Annotated[_Whole, Ge(4), Le(65_536), MultipleOf(4)]  # width of a table; FBGEMM reads four numbers at a time

"""The gain of a model over a constant, and the default price of a field that follows from it."""

from dataclasses import dataclass

import numpy as np

from recsys.data.split import Split
from recsys.evaluation.metrics import losses, sigmoid, weighted_mean
from recsys.frame.ctr import CTR
from recsys.selection.counted import counted
from recsys.selection.search import Search
from recsys.training.device import CPU, Device
from recsys.training.fit import logits

__all__ = ["Gain", "default_price", "gain_over_constant", "price_or_default"]

_LEAST_GAIN = 0.05  # share of the constant's logloss; a model without gain still needs a price for its fields


@dataclass(frozen=True)
class Gain:
    """Held-out logloss of the mean label as a constant, minus the model's; both count sample weights.

    Args:
        mean: Nats a row.
        error: Standard error of the mean.
        constant: Logloss of the constant.
    """

    mean: float
    error: float
    constant: float


def gain_over_constant(logit_B: np.ndarray, label_B: np.ndarray, weight_B: np.ndarray | None = None) -> Gain:
    """Compare a model's held-out logits with the (weighted) mean label, row by row."""
    label_B = np.asarray(label_B, np.float64)
    constant_B = losses(np.full(len(label_B), weighted_mean(label_B, weight_B)[0]), label_B)
    mean, error = weighted_mean(constant_B - losses(sigmoid(logit_B), label_B), weight_B)
    return Gain(mean, error, weighted_mean(constant_B, weight_B)[0])


def default_price(model: CTR, valid: Split, share: float, device: Device = CPU) -> float:
    """λ = `share` of the model's gain over a constant, or of 5 % of the constant's logloss if that is more."""
    valid = counted(valid)
    gain = gain_over_constant(logits(model, valid, device=device), valid.label_B, valid.weight_B)
    return share * max(gain.mean, _LEAST_GAIN * gain.constant)


def price_or_default(search: Search, price: float | None, share: float) -> float:
    """The price given, or the default."""
    return default_price(search.model, search.valid, share, search.device) if price is None else price

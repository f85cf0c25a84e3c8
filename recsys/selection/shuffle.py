"""The loss of a trained model on held-out rows if fields are shuffled. R rows, W the joined width."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.data.split import Split
from recsys.evaluation.metrics import auc, losses, sigmoid, weighted_mean
from recsys.frame.ctr import CTR
from recsys.selection.columns import field_generators
from recsys.selection.counted import counted, donors
from recsys.selection.figures import ShuffledCost
from recsys.training.device import CPU, Device

__all__ = ["Shuffled", "shuffled_cost"]

_MOST_NUMBERS = 1 << 26  # most numbers of x_RW, so that wide models get fewer rows


class Shuffled:
    """Held-out rows that are looked up once, to shuffle any fields.

    Args:
        model: Trained; not changed.
        valid: Held-out rows; those of weight 0 are left out.
        seed: Fixes the rows that are drawn and, together with a field's name, its permutations.
        rows: Most rows to use.
        device: Where the model is, and the precision in which its head runs.
    """

    @torch.no_grad()
    def __init__(self, model: CTR, valid: Split, seed: int, rows: int, device: Device = CPU):
        self.model, self._device, valid = model.eval(), device, counted(valid)
        rows = min(rows, max(2, _MOST_NUMBERS // sum(model.widths)))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(valid))[:rows])
        parts = [valid.batch(part) for part in np.array_split(chosen, -(-len(chosen) // 8192))]
        self.x_RW = torch.cat([model.features(device.batch(b)) for b in parts])
        self.label_R = np.concatenate([b.label_B.numpy() for b in parts])
        self.weight_R = None if valid.weight_B is None else np.asarray(valid.weight_B[chosen], np.float64)
        self._weight_R = None if self.weight_R is None else torch.from_numpy(self.weight_R)
        names = model.schema.names
        self._blocks: dict[str, Tensor] = dict(zip(names, self.x_RW.split(model.widths, 1), strict=True))
        self._generators = dict(zip(names, field_generators(names, seed), strict=True))

    @torch.no_grad()
    def logits(self, names: Sequence[str] = (), together: bool = False) -> np.ndarray:
        """logit_R with these fields shuffled; each call draws new `donors`.

        Args:
            names: Names of the fields.
            together: Whether they share the donors (those of the first); else each has its own.
        """
        kept = {n: self._blocks[n].clone() for n in names}
        donor_R = torch.empty(0, dtype=torch.int64)  # drawn on the CPU: the same on every device
        for i, (name, block_RD) in enumerate(kept.items()):
            if i == 0 or not together:
                donor_R = donors(len(block_RD), self._weight_R, self._generators[name]).to(block_RD.device)
            self._blocks[name].copy_(block_RD[donor_R])
        with self._device.autocast():
            logit_R = torch.cat([self.model.logits_of(part)[:, 0].float() for part in self.x_RW.split(8192)])
        for name, block_RD in kept.items():
            self._blocks[name].copy_(block_RD)
        return logit_R.numpy(force=True)


def shuffled_cost(
    model: CTR,
    valid: Split,
    groups: Mapping[str, Sequence[str]],
    seed: int,
    rows: int = 100_000,
    together: bool = False,
    device: Device = CPU,
) -> dict[str, ShuffledCost]:
    """The cost of shuffling, for several sets of fields in turn.

    Args:
        model: Trained; not changed.
        valid: Held-out rows.
        groups: Name → fields to shuffle at once.
        seed: See `Shuffled`.
        rows: See `Shuffled`.
        together: Whether the fields of a set share one permutation; else each has its own.
        device: Where the model is. It scores in float32, since the cost is a small difference of two losses.

    Returns:
        Name → cost of shuffling its fields.
    """
    rows_of = Shuffled(model, valid, seed, rows, device.in_float32())
    logit_R, label_R, weight_R = rows_of.logits(), rows_of.label_R, rows_of.weight_R
    loss_R, base = losses(sigmoid(logit_R), label_R), auc(logit_R, label_R, weight_R)
    costs: dict[str, ShuffledCost] = {}
    for name, fields in groups.items():
        shuffled_R = rows_of.logits(fields, together)
        mean, error = weighted_mean(losses(sigmoid(shuffled_R), label_R) - loss_R, weight_R)
        costs[name] = ShuffledCost(mean, error, auc(shuffled_R, label_R, weight_R) - base)
    return costs

"""Agreement of two halves of the held-out rows on what fields are worth. B rows, F fields, S steps."""

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from recsys.data.split import Split
from recsys.frame.ctr import CTR
from recsys.selection.columns import field_generators, field_of_column
from recsys.selection.counted import Rows, counted
from recsys.selection.gates import Gates
from recsys.selection.search import batches_forever, gate_loss
from recsys.training.device import CPU, Device

__all__ = ["agreement_of_halves", "concordance", "worth_on"]


class _Mixed(Gates):
    """Every field mixed with its permutation by the same share."""

    def __init__(self, model: CTR, steps: int):
        torch.nn.Module.__init__(self)
        names = model.schema.names
        self.of_column_W, self.stock, self.calls = field_of_column(model.widths), (), 0
        self.register_buffer("column_W", self.of_column_W)
        self.generators = field_generators(names, 0)
        self.draw_SU = torch.stack([torch.rand(steps, generator=g) for g in self.generators], 1)
        self.gate_F = torch.zeros(len(names))

    def gates(self) -> Tensor:
        """The share of its own value that each field keeps."""
        return self.gate_F


def worth_on(model: CTR, rows: Split, steps: int, batch_size: int, seed: int, device: Device = CPU) -> np.ndarray:
    """Each field's part of the model's gain over itself with all fields shuffled, in nats a row → [F].

    −∫₀¹ ∂L/∂g_i at g = t·1 dt by S midpoints, with a batch of rows each: the parts add up to L with all
    fields shuffled minus L. Each step is one forward and backward pass for any number of fields.

    Source: Sundararajan, Taly and Yan, 2017, equation 1 (integrated gradients), of the loss along the gates.
    """
    mixed, batches = _Mixed(model, steps).to(device.torch_device), batches_forever(rows, batch_size, seed, device)
    total_F = torch.zeros(len(model.widths), device=device.torch_device)
    for step in range(steps):
        mixed.gate_F = torch.full_like(total_F, (step + 0.5) / steps).requires_grad_()
        batch = next(batches)
        loss = gate_loss(model, mixed.of_rows(batch.weight_B), batch, device)
        total_F -= torch.autograd.grad(loss, [mixed.gate_F])[0] / steps
    return total_F.numpy(force=True).astype(np.float64)


def concordance(a_F: np.ndarray, b_F: np.ndarray) -> float:
    """2·Σ ab / Σ (a² + b²): 1 if equal, about 0 if both are noise around 0, −1 if opposite."""
    both = float(np.sum(np.square(a_F) + np.square(b_F)))
    return 2 * float(a_F @ b_F) / both if both else 0.0


def agreement_of_halves(
    model: CTR, valid: Split, steps: int = 20, batch_size: int = 2048, device: Device = CPU
) -> tuple[float, float | None]:
    """How well two random halves of the held-out rows agree on what each field is worth: `concordance`, Spearman's ρ.

    The most important fields dominate the first figure. It tells whether the model's order means anything; it does
    not tell whether a field near its price would get the same verdict twice. In the second figure all fields count
    alike, so that useless fields lower it: their order is random. It is None if all fields are worth the same
    on one half.

    Args:
        model: Trained; not changed.
        valid: Held-out rows, at least four.
        steps: S for each half.
        batch_size: Rows a step, at most the rows of a half.
        device: Where the model is, and in which precision its head runs.
    """
    model.eval()
    valid = counted(valid)
    order = np.random.default_rng(37).permutation(len(valid))
    halves = [np.sort(part) for part in np.array_split(order, 2)]
    worth = [worth_on(model, Rows(valid, part), steps, min(batch_size, len(part)), 37, device) for part in halves]
    alike = min(np.ptp(w) for w in worth) == 0
    return concordance(worth[0], worth[1]), None if alike else float(spearmanr(worth[0], worth[1]).statistic)

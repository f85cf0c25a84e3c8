"""Dropout feature ranking: a learned rate of dropout for each field. F fields, W the joined width."""

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, GainShare, Positive, Temperature
from recsys.data.batch import Batch
from recsys.selection.figures import SearchNotes
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search, train_gated

__all__ = ["ConcreteDropout", "variational_dropout"]


class ConcreteDropout(nn.Module):
    """x̃_i = z_i·x_i, z_i = σ((logit(κ_i) + logit(u)) / τ), with a uniform draw u for each row and field.

    Args:
        column_W: The field of each column of x_BW.
        temperature: τ in (0, 1]; as it tends to 0, z is 1 with probability κ_i, the keep rate, and else 0.
        seed: Seed of the draws.
    """

    def __init__(self, column_W: Tensor, temperature: float, seed: int):
        super().__init__()
        self.column_W, self.temperature = column_W, temperature
        self.logit_F = nn.Parameter(torch.zeros(int(column_W[-1]) + 1, device=column_W.device))
        self.generator = torch.Generator().manual_seed(seed)

    def keep(self) -> Tensor:
        """κ, one minus the rate of dropout → [F]."""
        return self.logit_F.sigmoid()

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x̃_BW."""
        u_BF = torch.rand(len(x_BW), len(self.logit_F), generator=self.generator).clamp(1e-6, 1 - 1e-6)
        z_BF = torch.sigmoid((self.logit_F + torch.logit(u_BF).to(x_BW.device)) / self.temperature)
        return x_BW * z_BF[:, self.column_W]


def variational_dropout(
    search: Search,
    *,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
    temperature: Temperature = 0.1,
) -> FieldScores:
    """Minimise BCE + λ·Σ_i κ_i over a fresh model and the keep rates κ; a field is kept if κ_i > ½.

    Args:
        search: A fresh model and its keep rates learn from its training rows. Its seed fixes the fresh model, the draws
            and the order of rows.
        price: λ in nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        epochs: Passes over the training rows; None takes as many steps as the given model took (`train_gated`).
        temperature: Temperature of the concrete distribution, in (0, 1].

    Source: Chang, Rampasek and Goldenberg, Dropout Feature Ranking, 2017, equations 2 to 4. The
    paper trains the rates with a trained model; here both train together.
    """
    price = price_or_default(search, price, gain_share)
    fresh = search.fresh_model()
    dropout = ConcreteDropout(search.column_W, temperature, search.seed)

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return dropout(x_BW), price * dropout.keep().sum()

    for _ in train_gated(fresh, mix, search, epochs, dropout, reach=8.0):
        pass
    score = dict(zip(search.model.schema.names, dropout.keep().tolist(), strict=True))
    notes = SearchNotes("variational_dropout", price)
    details = {n: {"dropout_rate": 1 - k} for n, k in score.items()}
    return FieldScores(score, {n: k > 0.5 for n, k in score.items()}, details, notes)

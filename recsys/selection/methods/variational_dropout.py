"""Dropout feature ranking: a learned rate of dropout for each field. F fields, W the joined width."""

import time

import torch
from torch import Tensor, nn

from recsys.config.ranges import Few, GainShare, Positive, Temperature
from recsys.data.batch import Batch
from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.frame.ctr import CTR
from recsys.selection.columns import field_of_column
from recsys.selection.price import price_or_default
from recsys.selection.scores import FieldScores, check_fields
from recsys.selection.search import Recipe, train_gated

__all__ = ["ConcreteDropout", "variational_dropout"]


class ConcreteDropout(nn.Module):
    """x̃_i = z_i·x_i, z_i = σ((logit(κ_i) + logit(u)) / τ), u uniform, one draw a row and field.

    Args:
        column_W: The field of each column of x_BW.
        temperature: τ in (0, 1]; towards 0, z is 1 with chance κ_i, the keep rate, and else 0.
        seed: Fixes the draws.
    """

    def __init__(self, column_W: Tensor, temperature: float, seed: int):
        super().__init__()
        self.column_W, self.temperature = column_W, temperature
        self.logit_F = nn.Parameter(torch.zeros(int(column_W[-1]) + 1))
        self.generator = torch.Generator().manual_seed(seed)

    def keep(self) -> Tensor:
        """κ, one minus the rate → [F]."""
        return self.logit_F.sigmoid()

    def forward(self, x_BW: Tensor) -> Tensor:
        """→ x̃_BW."""
        u_BF = torch.rand(len(x_BW), len(self.logit_F), generator=self.generator).clamp(1e-6, 1 - 1e-6)
        z_BF = torch.sigmoid((self.logit_F + torch.logit(u_BF)) / self.temperature)
        return x_BW * z_BF[:, self.column_W]


def variational_dropout(
    model: CTR,
    train: Split,
    valid: Split,
    recipe: Recipe,
    seed: int,
    price: Positive | None = None,
    gain_share: GainShare = 0.005,
    epochs: Few | None = None,
    temperature: Temperature = 0.1,
) -> FieldScores:
    """Minimise BCE + λ·Σ_i κ_i over a fresh model and the keep rates κ; a field is kept if κ_i > ½.

    Args:
        model: Sets the default price; not changed.
        train: Rows of the fresh model and the rates.
        valid: Sets the default price.
        recipe: How the fresh model is built and trained.
        seed: Fixes model, draws and rows.
        price: λ in nats a row; None takes `gain_share` of the model's gain over a constant.
        gain_share: See `price`.
        epochs: Over the training rows; null takes as many steps as the given model took (`train_gated`).
        temperature: Of the concrete draws, in (0, 1].

    Raises:
        ConfigError: If a setting is out of range or there are fewer than two fields.

    Source: Chang, Rampasek and Goldenberg, Dropout Feature Ranking, 2017, equations 2 to 4. The
    paper trains the rates in front of a trained model; here both train together.
    """
    started = time.perf_counter()
    check_fields(model.schema)
    if not 0 < temperature <= 1:
        raise ConfigError(f"selection.temperature: expected (0, 1], got {temperature}: for example 0.1")
    price = price_or_default(price, model, valid, gain_share)
    torch.manual_seed(seed)
    own = recipe.build(model.schema)
    dropout = ConcreteDropout(field_of_column(own.widths), temperature, seed)

    def mix(x_BW: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return dropout(x_BW), price * dropout.keep().sum()

    for _ in train_gated(own, mix, train, recipe, seed, epochs, dropout, reach=8.0):
        pass
    score = dict(zip(model.schema.names, dropout.keep().tolist(), strict=True))
    about = {"method": "variational_dropout", "price": price, "seconds": time.perf_counter() - started}
    details = {n: {"dropout_rate": 1 - k} for n, k in score.items()}
    return FieldScores(score, {n: k > 0.5 for n, k in score.items()}, details, about)

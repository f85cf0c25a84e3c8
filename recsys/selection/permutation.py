"""Permutation importance on held-out rows, with the CTR model itself."""

import time

import numpy as np
import torch

from recsys.data.shards import Shards
from recsys.metrics import logloss, sigmoid
from recsys.models.ctr import CTR
from recsys.progress import progress
from recsys.selection.columns import field_generators
from recsys.selection.recipe import Recipe
from recsys.selection.scores import FieldScores, check_fields

__all__ = ["permutation"]


@torch.no_grad()
def permutation(
    model: CTR,
    train: Shards,
    valid: Shards,
    recipe: Recipe,
    seed: int,
    repeats: int = 1,
    price: float = 1e-4,
    rows: int = 50_000,
) -> FieldScores:
    """score_i = mean over repeats of logloss(field i permuted over rows) − logloss.

    Costs repeats × F passes over the rows.

    Args:
        model: Trained; not changed.
        train: Not used.
        valid: Held-out rows.
        recipe: Not used.
        seed: Fixes the permutations, each field's by its name.
        repeats: R ≥ 1.
        price: A field is kept if it is worth more logloss (nats a row) than this.
        rows: Held-out rows to use, drawn at random, at most.

    Source: Breiman, Random Forests, 2001, section 10; Fisher et al., 2019, for any model.
    """
    started = time.perf_counter()
    check_fields(model.schema)
    model.eval()
    schema = model.schema
    chosen = np.sort(np.random.default_rng(seed).permutation(len(valid))[:rows])
    parts = [valid.batch(part) for part in np.array_split(chosen, -(-len(chosen) // 8192))]
    x_RW = torch.cat([model.features(b) for b in parts])
    label_R = np.concatenate([b.label_B.numpy() for b in parts])

    def loss(x: torch.Tensor) -> float:
        logit_R = torch.cat([model.head(part) for part in x.split(8192)])
        return logloss(sigmoid(logit_R.numpy()), label_R)

    base = loss(x_RW)
    score: dict[str, float] = {}
    details = {}
    generators = field_generators(schema.names, seed)
    blocks = x_RW.split(model.widths, 1)
    with progress(refresh_per_second=2) as bar:
        task = bar.add_task("permute fields", total=len(blocks))
        for f, generator, block_RD in zip(schema.fields, generators, blocks, strict=True):
            kept = block_RD.clone()
            losses = []
            for _ in range(repeats):
                block_RD.copy_(kept[torch.randperm(len(kept), generator=generator)])
                losses.append(loss(x_RW) - base)
            block_RD.copy_(kept)
            score[f.name] = float(np.mean(losses))
            details[f.name] = {"delta_logloss": score[f.name], "deviation": float(np.std(losses))}
            bar.advance(task)
    about = {"method": "permutation", "price": price, "repeats": repeats, "seconds": time.perf_counter() - started}
    return FieldScores(score, {n: s > price for n, s in score.items()}, details, about)

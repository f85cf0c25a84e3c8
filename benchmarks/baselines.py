"""Baselines on a prepared data set: one-hot logistic regression and LightGBM, on the very split a run uses.

    .venv/bin/python benchmarks/baselines.py runs/cache/rebuy-DIGEST

Prints one JSON line a model. Logistic regression: one-hot of every id with at least 10 training
rows, numbers as prepared, lbfgs, C chosen on validation. LightGBM: numbers and ids of fields with at
most 50 values as they are, wider ones by cross-fitted target encoding (5 folds, prior of 20 rows).
"""

import argparse
import json
import time
from pathlib import Path

import lightgbm
import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from recsys.data.shards import Shards
from recsys.metrics import evaluate, logloss

PRIOR = 20


def one_hot(shards: dict[str, Shards]) -> dict[str, sp.csr_matrix]:
    """Every split's ids as one-hot columns, then its numbers."""
    parts: dict[str, list] = {s: [] for s in shards}
    batches = {s: x.batch(slice(0, len(x))) for s, x in shards.items()}
    for column in range(batches["train"].ids_BL.shape[1]):
        ids = {s: b.ids_BL[:, column].numpy() + 1 for s, b in batches.items()}  # −1 pads
        counts = np.bincount(ids["train"], minlength=max(int(i.max()) for i in ids.values()) + 1)
        kept = np.flatnonzero(counts >= 10)
        place = np.full(len(counts), -1)
        place[kept] = np.arange(len(kept))
        for s, i in ids.items():
            at = place[i]
            rows = np.flatnonzero(at >= 0)
            shape = (len(i), len(kept))
            parts[s].append(sp.csr_matrix((np.ones(len(rows), np.float32), (rows, at[rows])), shape=shape))
    return {s: sp.hstack([*p, sp.csr_matrix(batches[s].dense_BN.numpy())], format="csr") for s, p in parts.items()}


def encoded(shards: dict[str, Shards]) -> tuple[dict[str, np.ndarray], list[int]]:
    """Numbers, narrow ids, and wide ids as the label rate of their value in other folds."""
    batches = {s: x.batch(slice(0, len(x))) for s, x in shards.items()}
    label = shards["train"].label_B.astype(np.float64)
    rate = label.mean()
    columns: dict[str, list[np.ndarray]] = {s: [b.dense_BN.numpy()] for s, b in batches.items()}
    categorical, width = [], batches["train"].dense_BN.shape[1]
    for f_column in range(batches["train"].ids_BL.shape[1]):
        ids = {s: b.ids_BL[:, f_column].numpy() + 1 for s, b in batches.items()}
        size = max(int(i.max()) for i in ids.values()) + 1
        if size <= 50:
            categorical.append(width)
            made = {s: i.astype(np.float32) for s, i in ids.items()}
        else:

            def means(rows: np.ndarray, ids: np.ndarray = ids["train"], size: int = size) -> np.ndarray:
                total = np.bincount(ids[rows], label[rows], size)
                return (total + PRIOR * rate) / (np.bincount(ids[rows], minlength=size) + PRIOR)

            whole = means(np.arange(len(label)))
            made = {s: whole[i] for s, i in ids.items()}
            for seen, held in KFold(5, shuffle=True, random_state=0).split(label):
                made["train"][held] = means(seen)[ids["train"][held]]
        for s, x in made.items():
            columns[s].append(x[:, None].astype(np.float32))
        width += 1
    return {s: np.concatenate(c, axis=1) for s, c in columns.items()}, categorical


def main() -> None:
    """Fit both and print their test figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a prepared data set")
    shards = {s: Shards(parser.parse_args().folder, s) for s in ("train", "valid", "test")}
    label = {s: np.asarray(x.label_B) for s, x in shards.items()}

    started = time.perf_counter()
    x = one_hot(shards)
    fits = [LogisticRegression(C=c, max_iter=200, tol=1e-3).fit(x["train"], label["train"]) for c in (0.03, 0.1, 0.3)]
    losses = [logloss(f.predict_proba(x["valid"])[:, 1], label["valid"]) for f in fits]
    best = fits[int(np.argmin(losses))]
    report("logistic regression", best.predict_proba(x["test"])[:, 1], label["test"], started, C=best.C)

    started = time.perf_counter()
    dense, categorical = encoded(shards)
    train = lightgbm.Dataset(dense["train"], label["train"], categorical_feature=categorical)
    valid = lightgbm.Dataset(dense["valid"], label["valid"], reference=train)
    how = {"objective": "binary", "learning_rate": 0.05, "num_leaves": 63, "verbose": -1, "seed": 0}
    stop = lightgbm.early_stopping(30, verbose=False)
    trees = lightgbm.train(how, train, 1000, valid_sets=[valid], callbacks=[stop])
    report("LightGBM", np.asarray(trees.predict(dense["test"])), label["test"], started, trees=trees.best_iteration)


def report(name: str, probability_B: np.ndarray, label_B: np.ndarray, started: float, **about: float) -> None:
    """One JSON line."""
    found = {k: round(v, 5) for k, v in evaluate(probability_B, label_B).items()}
    print(json.dumps({"model": name, **found, **about, "seconds": round(time.perf_counter() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()

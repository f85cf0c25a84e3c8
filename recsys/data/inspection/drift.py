"""Drift between the splits of prepared data: of the label rate, and of the inputs. R rows of a sample.

PSI as in `recsys.data.inspection.field_stats`, with at least half a row in each bin, minus its mean if nothing
drifts: (bins − 1)·(1/n + 1/m) for n and m rows (Yurdakul and Naranjo, Statistical Properties of the
Population Stability Index, 2020). Thereby a split of few rows does not seem to drift; if chance alone
gives .25, the split is not reported.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.inspection.field_stats import LARGE, psi
from recsys.data.shards import Shards
from recsys.evaluation.metrics import weighted_mean
from recsys.features.derived import PARTS
from recsys.features.encoders import MISSING, UNSEEN
from recsys.features.row_encoder import read_encoders

__all__ = ["Drift", "drift", "said"]

_ROWS = 50_000  # rows of a split that are read, at most
_TOP = 20
_LABEL = 0.2  # least relative change of the label rate that is reported
_MOST = 4  # most fields that are named
_NAMES = {"valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Drift:
    """How much the other splits differ from training.

    Args:
        rates: Split → label rate, by weight.
        errors: Split → standard error of its label rate.
        fields: Field → the larger PSI of validation and of test against training, at least 0; fields that are parts of
            a time are left out: days and months of a later split differ by nature.
    """

    rates: dict[str, float]
    errors: dict[str, float]
    fields: dict[str, float]

    def large(self, kept: Collection[str] | None = None) -> dict[str, float]:
        """The fields whose PSI is above .25, the largest first; only those in `kept`, if it is given."""
        some = {n: v for n, v in self.fields.items() if v > LARGE and (kept is None or n in kept)}
        return dict(sorted(some.items(), key=lambda f: -f[1]))


class _Sampled:
    """Rows of a split, drawn at random, and the weight of each."""

    def __init__(self, folder: Path, split: str):
        self.shards = Shards(folder, split)
        rows = len(self.shards)
        self.rows = np.arange(rows)
        if rows > _ROWS:  # with replacement: no list of all row numbers
            self.rows = np.sort(np.random.default_rng(0).integers(0, rows, _ROWS))
        weight_B = self.shards.weight_B
        self.weight_R = np.ones(len(self.rows)) if weight_B is None else weight_B[self.rows].astype(np.float64)
        self.effective = self.weight_R.sum() ** 2 / max(np.square(self.weight_R).sum(), 1e-300)

    def ids(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """All ids of a field in the sample, including those in lists, and the weight of each."""
        ids_RC = self.shards.ids(name)[self.rows]
        present_RC = ids_RC >= 0
        return ids_RC[present_RC], np.repeat(self.weight_R, present_RC.sum(1))


def _of_ids(name: str, size: int, unseen: bool, samples: dict[str, _Sampled]) -> float:
    """PSI over these bins: the 20 most frequent values of training, missing, and all others.

    Values without an id of their own are among the others: training itself rarely has any.
    """
    count = {s: np.bincount(*sample.ids(name), minlength=size) for s, sample in samples.items()}
    order = np.argsort(-count["train"], kind="stable")
    values = order[(order != MISSING) & ((order != UNSEEN) | (not unseen))]
    shown = np.r_[MISSING, values[:_TOP]]
    return _largest(samples, lambda s: np.r_[count[s][shown], count[s].sum() - count[s][shown].sum()])


def _of_numbers(name: str, samples: dict[str, _Sampled]) -> float:
    """PSI over deciles of training."""
    x_R = {s: sample.shards.numbers(name)[sample.rows, 0] for s, sample in samples.items()}
    edges = np.unique(np.quantile(x_R["train"], np.arange(1, 10) / 10))
    bins = {s: np.searchsorted(edges, x, side="right") for s, x in x_R.items()}
    return _largest(samples, lambda s: np.bincount(bins[s], samples[s].weight_R, len(edges) + 1))


def _largest(samples: dict[str, _Sampled], histogram: Callable[[str], np.ndarray]) -> float:
    """The larger PSI of validation and of test against training, minus that of chance."""
    counts = {s: histogram(s) for s in samples}
    bins = np.count_nonzero(sum(counts.values()))
    rows = {s: sample.effective for s, sample in samples.items()}
    filled = {s: np.maximum(count, 0.5 * count.sum() / rows[s]) for s, count in counts.items()}
    chance = {s: (bins - 1) * (1 / rows["train"] + 1 / rows[s]) for s in samples}
    judged = [s for s in ("valid", "test") if chance[s] <= LARGE]  # a split of fewer rows cannot be judged
    return max([0.0, *(psi(filled["train"], filled[s]) - chance[s] for s in judged)])


def drift(folder: Path) -> Drift:
    """Compare the splits of prepared data over at most 50,000 rows of each."""
    samples = {s: _Sampled(folder, s) for s in ("train", "valid", "test")}
    schema, encoders = samples["train"].shards.schema, read_encoders(folder)
    fields: dict[str, float] = {}
    for f in schema.fields:
        if encoders[f.name].get("part") in PARTS or f.kind == "vector":
            continue
        if f.is_sparse:
            fields[f.name] = _of_ids(f.name, f.cardinality, encoders[f.name]["encoder"] == "vocabulary", samples)
        else:
            fields[f.name] = _of_numbers(f.name, samples)
    rates = {s: weighted_mean(x.shards.label_B[x.rows].astype(np.float64), x.weight_R) for s, x in samples.items()}
    return Drift({s: r[0] for s, r in rates.items()}, {s: r[1] for s, r in rates.items()}, fields)


def said(seen: Drift) -> str:
    """One sentence that names what drifts; "" if nothing does."""
    parts = []
    rate, error = seen.rates, seen.errors
    moved = [
        s
        for s in ("valid", "test")
        if abs(rate[s] - rate["train"]) > max(_LABEL * rate["train"], 3 * np.hypot(error[s], error["train"]))
    ]
    if moved:
        others = " and ".join(f"{rate[s]:.2%} in {_NAMES[s]}" for s in _NAMES)
        parts.append(f"the label rate is {rate['train']:.2%} in training, {others}")
    if large := seen.large():
        named = ", ".join(f"{n} ({v:.2f})" for n, v in list(large.items())[:_MOST])
        more = f" and {len(large) - _MOST} more" if len(large) > _MOST else ""
        parts.append(f"inputs drift from training (PSI above {LARGE}): {named}{more}")
    mend = "figures of validation may not hold later (stage refit trains on validation too)"
    return f"The table drifts: {'; '.join(parts)}: {mend}." if parts else ""

"""Probe fields: shuffled copies of real ones, which no honest selector keeps. B rows."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.data.ranks import ALONE, Ranks
from recsys.data.split import Split, in_order, in_random_order
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.selection.counted import counted, resampled
from recsys.selection.figures import ProbeFindings
from recsys.selection.scores import FieldScores

__all__ = ["PREFIX", "Probed", "discovery_rate", "is_probe", "kept_with_probes", "probe_sources", "without_probes"]

PREFIX = "probe:"


def is_probe(name: str) -> bool:
    """Whether it is the name of a probe."""
    return name.startswith(PREFIX)


def probe_sources(schema: Schema, count: int, seed: int) -> list[str]:
    """Fields to copy, drawn at random from those with a table of their own, no weights and no order.

    Raises:
        ConfigError: If there are fewer such fields than `count`.
    """
    plain = [f.name for f in schema.fields if f.kind != "sequence" and not f.table and not f.weighted]
    if not 0 < count <= len(plain):
        raise ConfigError(f"select.probes: expected 0 to {len(plain)} for this schema, got {count}: lower it")
    drawn = np.random.default_rng([seed, 23]).permutation(len(plain))[:count]
    return [plain[i] for i in sorted(drawn)]


class Probed:
    """A split with additional fields, the probes: columns of real fields in another order of rows.

    A probe has its source's distribution, so that a model overfits it as easily; its relation to
    the label and to all other fields is broken.

    Args:
        shards: The real rows, without those of weight 0; probes draw their values in proportion to weight.
        sources: Fields to copy.
        seed: Seed of the order.
    """

    def __init__(self, shards: Split, sources: Sequence[str], seed: int):
        shards = counted(shards)
        self._real, self.label_BT, self.label_B, self.group_B = shards, shards.label_BT, shards.label_B, shards.group_B
        self.weight_B = shards.weight_B
        self._sources = [shards.schema[n] for n in sources]
        copies = [replace(f, name=PREFIX + f.name) for f in self._sources]
        order = [*shards.schema.sparse, *(f for f in copies if f.is_sparse)]
        order += [*shards.schema.numeric, *(f for f in copies if not f.is_sparse)]
        self.schema: Schema = replace(shards.schema, fields=tuple(order))
        rng = np.random.default_rng([seed, len(shards), 29])
        self._order = rng.permutation(len(shards))
        if shards.weight_B is not None:
            drawn = resampled(torch.from_numpy(np.asarray(shards.weight_B[self._order])), len(shards)).numpy()
            self._order = rng.permutation(self._order[drawn])

    def __len__(self) -> int:
        return len(self._real)

    def batch(self, rows: slice | np.ndarray) -> Batch:
        """The given rows as a batch; the probes' columns come from other rows."""
        real, other = self._real.batch(rows), self._real.batch(self._order[rows])
        schema = self._real.schema
        sparse = [c for f in self._sources if f.is_sparse for c in schema.id_columns[f.name]]
        floats = [c for f in self._sources if not f.is_sparse for c in schema.float_columns[f.name]]
        numbers = sum(f.max_length for f in schema.numeric)  # the weights of weighted lists follow these
        ids_BL = torch.cat([real.ids_BL, other.ids_BL[:, sparse]], 1)
        dense = [real.dense_BN[:, :numbers], other.dense_BN[:, floats], real.dense_BN[:, numbers:]]
        return Batch.of(self.schema, ids_BL, torch.cat(dense, 1), real.label_BT, real.weight_B)

    def batches(self, size: int, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """See `Split`."""
        return in_order(self, size, ranks)

    def shuffled(self, size: int, seed: int | list[int], skip: int = 0, ranks: Ranks = ALONE) -> Iterator[Batch]:
        """See `Split`."""
        return in_random_order(self, size, seed, skip, ranks)


def without_probes(scores: FieldScores) -> FieldScores:
    """The scores of the real fields."""
    score = {n: s for n, s in scores.score.items() if not is_probe(n)}
    details = {n: scores.details[n] for n in score}
    keep = None if scores.keep is None else {n: scores.keep[n] for n in score}
    return FieldScores(score, keep, details, scores.notes)


def kept_with_probes(scores: FieldScores, top_k: int | None) -> dict[str, bool]:
    """Which fields and probes are kept: by the method, or if they score at least as high as the k-th real field."""
    if top_k is None:
        return scores.keep or {}
    real = sorted((s for n, s in scores.score.items() if not is_probe(n)), reverse=True)
    return {n: s >= real[top_k - 1] for n, s in scores.score.items()}


def discovery_rate(keep: dict[str, bool], probes: int) -> ProbeFindings:
    """The false-discovery rate that kept probes imply.

    A useless field is kept by luck as often as a probe. If all F real fields were useless, about
    F·(kept probes / probes) of them would be kept: rate = F·(kept probes / probes) / kept real fields,
    at most 1. `at_most` counts one kept probe more, as knockoffs do, since few probes are weak evidence.

    Args:
        keep: Whether each real field and probe is kept.
        probes: Count of probes, ≥ 1.

    Source: Barber and Candès, 2015, equation 1.9, with permuted copies instead of knockoffs.
    """
    real = [k for n, k in keep.items() if not is_probe(n)]
    lucky = sum(k for n, k in keep.items() if is_probe(n))
    kept = max(1, sum(real))
    rate, bound = (min(1.0, len(real) * (n / probes) / kept) for n in (lucky, lucky + 1))
    return ProbeFindings(probes, lucky, rate, bound)

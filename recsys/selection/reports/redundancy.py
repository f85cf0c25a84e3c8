"""Redundant fields: a selector may keep one or both of two that repeat each other. B rows."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recsys.data.split import Split
from recsys.events import SILENT, Reporter, watched
from recsys.selection.columns import raw_blocks
from recsys.selection.counted import counted
from recsys.selection.reports.report import RepeatedFields, Repeats

__all__ = ["clusters", "codes", "redundancy"]

_BINS = 20  # quantile bins of a number


def codes(block: np.ndarray) -> np.ndarray:
    """A field's values as integers: ids and lists as they are, one number by its quantile → int64 [B]."""
    if block.shape[1] == 1 and block.dtype.kind == "f":
        edges = np.unique(np.nanquantile(block, np.linspace(0, 1, _BINS + 1)[1:-1]))
        return np.searchsorted(edges, block[:, 0], side="left")
    row = np.ascontiguousarray(block).view(np.dtype((np.void, block.dtype.itemsize * block.shape[1])))
    return np.unique(row.ravel(), return_inverse=True)[1].ravel()


def _entropy(code_B: np.ndarray) -> float:
    share = np.unique(code_B, return_counts=True)[1] / len(code_B)
    return float(-np.sum(share * np.log(share)))


def redundancy(a_B: np.ndarray, b_B: np.ndarray, least: float, rng: np.random.Generator) -> float:
    """(I(a; b) − chance) / (max(H(a), H(b)) − chance): 1 if each determines the other, 0 if independent.

    Chance is I(a; b) with the rows of b in another order: two fields of many values share much by chance.
    If chance alone explains nine tenths of the entropy, the result is 0, since the rest is too little to judge.

    Args:
        a_B: Values as integers.
        b_B: The same.
        least: The result may be 0 if the redundancy is surely below this.
        rng: Draws the other order of rows.

    Source: Vinh, Epps and Bailey, 2010, adjusted mutual information with the max normalisation; its
    expectation is estimated by one permutation.
    """
    return _redundancy(a_B, b_B, (_entropy(a_B), _entropy(b_B)), least, rng)


def _redundancy(
    a_B: np.ndarray, b_B: np.ndarray, entropies: tuple[float, float], least: float, rng: np.random.Generator
) -> float:
    """`redundancy` with H(a) and H(b) known, so that a pair takes only one sort."""
    of_a, of_b = entropies
    most = max(of_a, of_b)
    if min(of_a, of_b) < least * most or most == 0:
        return 0.0
    both = int(b_B.max()) + 1
    shared = of_a + of_b - _entropy(a_B * both + b_B)
    if shared < least * most:
        return 0.0
    chance = of_a + of_b - _entropy(a_B * both + rng.permutation(b_B))
    return max(0.0, (shared - chance) / (most - chance)) if most - chance > 0.1 * most else 0.0


def clusters(
    shards: Split,
    ranking: Sequence[str],
    least: float = 0.9,
    rows: int = 10_000,
    most: int = 200,
    reporter: Reporter = SILENT,
) -> Repeats:
    """Groups of fields that repeat each other; two fields are linked if their `redundancy` is at least `least`.

    Args:
        shards: The first `rows` of its rows with a sample weight above 0 are used.
        ranking: Fields in order of importance.
        least: In (0, 1].
        rows: See `shards`.
        most: Most fields that are compared, the most important ones: the count of pairs grows with the square.
        reporter: Receives the count of compared pairs, and can stop the work.

    Returns:
        The groups, each with the smallest redundancy that links its fields.
    """
    shards = counted(shards)
    blocks = raw_blocks(shards, slice(0, rows))
    names = list(ranking)[:most]
    code = {n: codes(blocks[n]) for n in names}
    rng = np.random.default_rng(31)
    entropy = {n: _entropy(code[n]) for n in names}
    links: list[tuple[int, int, float]] = []
    pairs, count = combinations(enumerate(names), 2), len(names) * (len(names) - 1) // 2
    for (i, a), (j, b) in watched(pairs, reporter, count, "pairs of fields compared"):
        value = _redundancy(code[a], code[b], (entropy[a], entropy[b]), least, rng)
        if value >= least:
            links.append((i, j, value))
    groups: list[RepeatedFields] = []
    if links:
        i, j, value = (np.array(v) for v in zip(*links, strict=True))
        _, cluster = connected_components(coo_array((value, (i, j)), shape=(len(names), len(names))), directed=False)
        for c in np.unique(cluster[i]):
            members = [names[m] for m in np.flatnonzero(cluster == c)]
            groups.append(RepeatedFields(members, float(value[cluster[i] == c].min())))
    return Repeats(len(names), min(rows, len(shards)), least, groups)

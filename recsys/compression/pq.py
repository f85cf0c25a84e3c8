"""Product quantisation: each part of a row is stored as a one-byte code, the number of its centroid.

B rows of a batch, V table rows, D embedding dim, P parts, K centroids of a part, d = D/P, L lookups.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from recsys.config.ranges import Few, Seed
from recsys.errors import ConfigError
from recsys.tables.contract import FormState, TableForm

__all__ = ["Codebook", "pq"]

_SAMPLE = 1 << 16  # most rows that k-means uses


@dataclass(frozen=True)
class Codebook:
    """w_v = centroids[0, codes[v, 0]] ‖ … ‖ centroids[P − 1, codes[v, P − 1]].

    Args:
        codes: V×P uint8.
        centroids: P×K×d float32.
    """

    codes: Tensor
    centroids: Tensor

    @property
    def rows(self) -> int:
        """V, the count of ids."""
        return len(self.codes)

    @property
    def dim(self) -> int:
        """D = P·d."""
        return self.centroids.shape[0] * self.centroids.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of codes and centroids."""
        return self.codes.numel() + self.centroids.numel() * self.centroids.element_size()

    @property
    def kind(self) -> Hashable:
        """P and K."""
        return tuple(self.centroids.shape[:2])

    @property
    def small(self) -> tuple[str, ...]:
        """The centroids."""
        return ("centroids",)

    def read(self, row: Tensor) -> Tensor:
        """Ids of any shape → their rows."""
        code = self.codes[row].long()
        parts = [centroids_Kd[code[..., p]] for p, centroids_Kd in enumerate(self.centroids.unbind(0))]
        return torch.cat(parts, -1)

    def dense(self) -> Tensor:
        """The V×D float32 table that it represents."""
        return self.read(torch.arange(self.rows))

    def describe(self) -> dict[str, int | str]:
        """The count of parts of a row, and of centroids of a part."""
        parts, centroids = self.centroids.shape[:2]
        return {"form": "codebook", "parts": parts, "centroids": centroids}

    def state(self) -> FormState:
        """Codes and centroids."""
        return {"codes": self.codes, "centroids": self.centroids}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The table of these codes and centroids."""
        return cls(**state)

    @staticmethod
    def scorer(tables: "Sequence[Codebook]") -> nn.Module:
        """A module that reads all lookups with two gathers."""
        return _Centroids(tables)


class _Centroids(nn.Module):
    """Lookups in tables of one P, K and d: row_BL → codes → centroids side by side, x_BLD."""

    start: Tensor
    codes: Tensor
    book_LP: Tensor
    centroids: Tensor

    def __init__(self, tables: Sequence[Codebook]):
        super().__init__()
        used = list({id(t): t for t in tables}.values())
        number = {id(t): i for i, t in enumerate(used)}
        starts = np.cumsum([0, *(t.rows for t in used)])
        parts, centroids, _ = used[0].centroids.shape
        which_L = torch.tensor([number[id(t)] for t in tables])
        self.register_buffer("start", torch.tensor([starts[number[id(t)]] for t in tables]))
        self.register_buffer("codes", torch.cat([t.codes for t in used]))
        self.register_buffer("book_LP", centroids * (parts * which_L[:, None] + torch.arange(parts)))
        self.register_buffer("centroids", torch.cat([t.centroids.flatten(0, 1) for t in used]))

    def forward(self, row_BL: Tensor) -> Tensor:
        """→ x_BLD."""
        code_BLP = nn.functional.embedding(row_BL + self.start, self.codes).long()
        return nn.functional.embedding(code_BLP + self.book_LP, self.centroids).flatten(-2)


def _sample(weight_V: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows for k-means and their weights: the rows of largest weight, and as many random ones for all others."""
    if len(weight_V) <= _SAMPLE:
        return np.arange(len(weight_V)), weight_V
    by_weight_V = np.argsort(-weight_V, kind="stable")
    heaviest, others = np.split(by_weight_V, [_SAMPLE // 2])
    drawn = np.random.default_rng(seed).choice(others, _SAMPLE - len(heaviest), replace=False)
    each = len(others) / len(drawn)
    return np.concatenate([heaviest, drawn]), np.concatenate([weight_V[heaviest], weight_V[drawn] * each])


def _nearest(x_Vd: np.ndarray, weight_V: np.ndarray, centroids: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weighted k-means of one part → codes of V rows, and K centroids (unused ones are 0)."""
    seen, weight = _sample(weight_V, seed)
    distinct = len(np.unique(x_Vd[seen], axis=0))
    means = KMeans(min(centroids, distinct), n_init=1, max_iter=50, random_state=seed)
    means.fit(x_Vd[seen], sample_weight=weight)
    book_Kd = np.zeros((centroids, x_Vd.shape[1]), np.float32)
    book_Kd[: len(means.cluster_centers_)] = means.cluster_centers_
    return torch.from_numpy(means.predict(x_Vd).astype(np.uint8)), torch.from_numpy(book_Kd)


def _quantised(table: TableForm, reads_V: Tensor, parts: int, centroids: int, seed: int) -> Codebook:
    weight_V = reads_V.double().numpy() + 0.01  # a row that was never read still gets a centroid near it
    books = [
        _nearest(part_Vd.contiguous().numpy(), weight_V, centroids, seed) for part_Vd in table.dense().chunk(parts, 1)
    ]
    return Codebook(torch.stack([code_V for code_V, _ in books], 1), torch.stack([book_Kd for _, book_Kd in books]))


def pq(
    tables: Mapping[str, TableForm],
    reads: Mapping[str, Tensor],
    fisher: Mapping[str, Tensor],
    parts: Few = 4,
    centroids: Literal[2, 4, 8, 16, 32, 64, 128, 256] = 256,
    seed: Seed = 0,
) -> tuple[dict[str, TableForm], dict[str, str]]:
    """Cut each row into parts, and store for each part the number of the nearest of K centroids: P bytes a row.

    The centroids of a part are found by k-means over its V pieces, each weighted by how often training read its
    row: they are dense where lookups are frequent. For a table of more than 65,536 rows, k-means uses that many: half
    are the rows that are read most, the others are drawn at random and represent the rest. A table's K is halved
    until the centroids take at most a quarter of the dense table's bytes.

    Args:
        tables: Tables of any form, by name.
        reads: For each table, how often training rows read each of its V rows.
        fisher: Not used.
        parts: P; it divides the width of every table.
        centroids: Largest K.
        seed: Seed of k-means.

    Returns:
        The tables, and a note for each that was left as it is, since it has fewer than 8 rows.

    Raises:
        ConfigError: If `parts` does not divide a width.

    Source: Jégou, Douze and Schmid, Product Quantization for Nearest Neighbor Search, 2011, section II.
    They give all vectors equal weights; we do not.
    """
    smaller, notes = dict[str, TableForm](), dict[str, str]()
    for name, table in tables.items():
        if table.dim % parts:
            raise ConfigError(
                f"compression.parts: expected a divisor of the width {table.dim} of table {name!r}, got {parts}: "
                f"set compression.parts={next(p for p in range(min(parts, table.dim), 0, -1) if table.dim % p == 0)}"
            )
        if table.rows < 8:
            smaller[name], notes[name] = table, f"kept as it is: {table.rows} rows are too few for centroids"
        else:
            most = min(centroids, 1 << (table.rows // 4).bit_length() - 1)
            smaller[name] = _quantised(table, reads[name], parts, most, seed)
    return smaller, notes

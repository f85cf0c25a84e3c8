"""Encoders: one raw value → ids or a number.

Preparation and serving share the code of vocabularies and words. Numbers, times and hashes have two forms: a
column at a time for preparation, and a value at a time for serving. Tests check that both give the same results.

Reserved ids: 0 is always "missing". In a vocabulary, 1 is "unseen"; values rarer than the minimum count
have it too, so that its row is trained. Needs numpy and xxhash only.
"""

import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import xxhash

from recsys.features.derived import PARTS
from recsys.features.values import ABSENT, SEPARATOR, hash_text, instant, joined, number, text, wrong
from recsys.files import Json

__all__ = [
    "ABSENT", "MISSING", "SEPARATOR", "UNSEEN", "AnyEncoder", "Bucket", "Encoder", "Hash", "Part", "Piecewise",
    "Scale", "Vocabulary", "Words", "encoder_from_json", "hash_text", "instant", "joined", "number", "text", "wrong",
]  # fmt: skip

MISSING = 0
UNSEEN = 1


class Encoder(Protocol):
    """The encoder of a field: it gives ids for sparse fields, floats for numeric ones."""

    cardinality: int

    def to_json(self) -> Json: ...


class Vocabulary:
    """Known values in a fixed order: the i-th has id i + 2; anything else is `UNSEEN`.

    Args:
        values: The known spellings, unique; None is an id that no value has (`recsys.features.growth`).
    """

    def __init__(self, values: Sequence[str | None]):
        self.values = list(values)
        self._id = {v: i + 2 for i, v in enumerate(self.values) if v is not None}
        self.cardinality = len(self.values) + 2

    def ids_by_value(self, kind: type[str] | type[int]) -> dict[Any, int]:
        """Value → id, with values of type `str` or `int` instead of spellings; the empty string is missing."""
        return {**self._id, "": MISSING} if kind is str else {kind(v): i for v, i in self._id.items()}

    def id(self, parts: Sequence[str | None]) -> int:
        """The id of one spelled value."""
        return MISSING if parts[0] is None else self._id.get(parts[0], UNSEEN)

    def to_json(self) -> Json:
        return {"encoder": "vocabulary", "values": self.values}


class Hash:
    """xxh64 of the joined spelled parts, modulo `buckets`, as ids after the missing one.

    Args:
        buckets: At least 1. Two values share an id with probability 1 / buckets.
        seed: Another seed gives other collisions.
    """

    def __init__(self, buckets: int, seed: int = 0):
        self.buckets, self.seed = buckets, seed
        self.cardinality = buckets + 1

    def id(self, parts: Sequence[str | None]) -> int:
        """The id of a value, or of a cross of several; `MISSING` only if every part is missing."""
        try:  # takes half the time if no part is missing
            whole = SEPARATOR.join(parts).encode()  # type: ignore[arg-type]  # None raises TypeError
        except (TypeError, UnicodeEncodeError):
            spelled = joined(parts)
            return MISSING if spelled is None else 1 + hash_text(spelled, self.seed) % self.buckets
        return 1 + xxhash.xxh64_intdigest(whole, self.seed) % self.buckets

    def to_json(self) -> Json:
        return {"encoder": "hash", "buckets": self.buckets, "seed": self.seed}


class Scale:
    """z = (g(x) − mean) / std with g(x) = x, or sign(x)·log1p(|x|); a missing value becomes 0.

    z is clipped to ±1e6, so that extreme requests stay finite. No training row reaches that, since |z| ≤ √rows.

    Args:
        log: Whether g is the signed logarithm.
        mean: Mean of g over the training rows.
        std: Standard deviation of g over the training rows, > 0.
    """

    cardinality = 0
    LIMIT = 1e6

    def __init__(self, log: bool, mean: float, std: float):
        self.log, self.mean, self.std = log, mean, std

    def numbers(self, x_B: np.ndarray) -> np.ndarray:
        """Encode an array of float64 with NaN where missing → float32 of the same shape."""
        z_B = self.standardise(x_B, self.log, self.mean, self.std)
        return np.clip(z_B, -self.LIMIT, self.LIMIT).astype(np.float32)

    @staticmethod
    def standardise(x_B: np.ndarray, log: Any, mean: Any, std: Any) -> np.ndarray:
        """Encode without the clip of z → float64.

        Args:
            x_B: Numbers, NaN where missing.
            log: One bool for all numbers, or an array with one for each column; `mean` and `std` likewise.
            mean: See the class.
            std: See the class.
        """
        if log is not False:
            log_B = np.copysign(np.log1p(np.abs(x_B)), x_B)
            x_B = log_B if log is True else np.where(log, log_B, x_B)
        with np.errstate(over="ignore"):
            z_B = (x_B - mean) / std
        z_B[np.isnan(z_B)] = 0.0
        return z_B

    def to_json(self) -> Json:
        return {"encoder": "scale", "log": self.log, "mean": self.mean, "std": self.std}


class Piecewise:
    """z and how far z has come through each of K bins: c_k = (z − e_k) / (e_{k+1} − e_k), clipped to [0, 1].

    z is the output of `Scale`. A missing value has z = 0 and every c_k = 0, which no number has.

    Args:
        log: See `Scale`.
        mean: See `Scale`.
        std: See `Scale`.
        edges: e_1 … e_{K+1}, the ends of the bins in units of z, ascending; without edges there are no bins.

    Raises:
        ValueError: If the edges do not ascend.

    Source: Gorishniy et al., On Embeddings for Numerical Features in Tabular Deep Learning, 2022, equation 1. There
    c_1 has no lower bound and c_K no upper bound; here both are bounded, since z covers what lies beyond the bins.
    """

    cardinality = 0

    def __init__(self, log: bool, mean: float, std: float, edges: Sequence[float]):
        self.scale = Scale(log, mean, std)
        self.edges = np.asarray(edges, dtype=np.float64)
        self.low, self.span = self.edges[:-1], np.diff(self.edges)
        self.width = 1 + len(self.span)
        if not (self.span > 0).all():
            raise ValueError("the edges of a piecewise encoder do not ascend")

    @staticmethod
    def through(z_BK: np.ndarray, missing_BK: np.ndarray, low: np.ndarray, span: np.ndarray) -> np.ndarray:
        """→ c_BK float64 of K bins that begin at `low` and are `span` wide."""
        with np.errstate(over="ignore"):
            c_BK = np.clip((z_BK - low) / span, 0.0, 1.0)
        c_BK[np.broadcast_to(missing_BK, c_BK.shape)] = 0.0
        return c_BK

    def numbers(self, x_B: np.ndarray) -> np.ndarray:
        """Encode an array of float64 with NaN where missing → float32, B×(1 + K)."""
        z_B = Scale.standardise(x_B, self.scale.log, self.scale.mean, self.scale.std)
        c_BK = self.through(z_B[:, None], np.isnan(x_B)[:, None], self.low, self.span)
        return np.concatenate([self.scale.numbers(x_B)[:, None], c_BK.astype(np.float32)], 1)

    def to_json(self) -> Json:
        return {**self.scale.to_json(), "encoder": "piecewise", "edges": self.edges.tolist()}


class Bucket:
    """id = 1 + count of boundaries ≤ x; `MISSING` where x is missing.

    Args:
        boundaries: Ascending; k boundaries make k + 1 buckets.
    """

    def __init__(self, boundaries: Sequence[float]):
        self.boundaries = np.asarray(boundaries, dtype=np.float64)
        self.cardinality = len(self.boundaries) + 2

    def numbers(self, x_B: np.ndarray) -> np.ndarray:
        """Encode an array of float64 with NaN where missing → int32 ids of the same shape."""
        ids_B = 1 + np.searchsorted(self.boundaries, x_B, side="right")
        return np.where(np.isnan(x_B), MISSING, ids_B).astype(np.int32)

    def to_json(self) -> Json:
        return {"encoder": "bucket", "boundaries": self.boundaries.tolist()}


class Part:
    """id = 1 + the hour (0 to 23), weekday (Monday is 0), day (of the month) or month of a time, UTC.

    Args:
        part: One of `PARTS`.
    """

    def __init__(self, part: str):
        self.part = part
        self.cardinality = PARTS[part] + 1

    def instants(self, us_B: np.ndarray, there_B: np.ndarray) -> np.ndarray:
        """Encode microseconds since 1970 (int64) → int32 ids; `MISSING` where `there_B` is false."""
        days_B = us_B // 86_400_000_000
        if self.part == "hour":
            value_B = us_B // 3_600_000_000 % 24
        elif self.part == "weekday":
            value_B = (days_B + 3) % 7  # 1970-01-01 was a Thursday
        else:
            date_B = days_B.astype("datetime64[D]")
            month_B = date_B.astype("datetime64[M]")
            whole = self.part == "month"
            value_B = month_B.astype(np.int64) % 12 if whole else (date_B - month_B).astype(np.int64)
        return np.where(there_B, 1 + value_B, MISSING).astype(np.int32)

    def to_json(self) -> Json:
        return {"encoder": "part", "part": self.part}


class Words:
    """Text → hashed n-grams of its lower-case words; a word is a run of letters, digits and underscores.

    Args:
        buckets: Ids after the missing one.
        ngrams: Lengths of the n-grams, in words.
        seed: Seed of the hash.
    """

    _WORD = re.compile(r"\w+")

    def __init__(self, buckets: int, ngrams: Sequence[int] = (1,), seed: int = 0):
        self.ngrams, self._hash = list(ngrams), Hash(buckets, seed)
        self.cardinality = self._hash.cardinality

    def ids(self, value: str | None) -> list[int]:
        """The ids of a text, in order of length and position; none if it is missing."""
        words = self._WORD.findall(value.lower()) if value else []
        grams = [" ".join(words[i : i + n]) for n in self.ngrams for i in range(len(words) - n + 1)]
        return [self._hash.id([g]) for g in grams]

    def to_json(self) -> Json:
        return {"encoder": "words", "buckets": self._hash.buckets, "ngrams": self.ngrams, "seed": self._hash.seed}


AnyEncoder = Vocabulary | Hash | Scale | Piecewise | Bucket | Part | Words


def encoder_from_json(value: Json) -> AnyEncoder:
    """Build the encoder that `to_json` described."""
    classes = {
        "vocabulary": Vocabulary, "hash": Hash, "scale": Scale, "piecewise": Piecewise, "bucket": Bucket, "part": Part,
        "words": Words,
    }  # fmt: skip
    return classes[value["encoder"]](**{k: v for k, v in value.items() if k != "encoder"})

"""The change from one model to the next, and how it is applied: base + delta == the whole model, bit for bit.

A delta is a folder. delta.json names the base and the result by digest. It lists what the vocabularies gained and lost,
and where rows of the base move, since tables are stacked and one may grow. delta.safetensors holds, for each tensor of
weights.safetensors, `rows/NAME` and `values/NAME` if few of its rows changed, else `whole/NAME`. Needs numpy only.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import BundleError
from recsys.features.growth import FIRST_ID
from recsys.files import Json
from recsys.serving.manifest import canonical
from recsys.serving.weights import tensor_places

__all__ = ["FORMAT", "MANIFEST", "TENSORS", "Weights", "apply_delta", "model_digest", "moved"]

FORMAT = 1  # of a delta's folder
MANIFEST, TENSORS = "delta.json", "delta.safetensors"
_DTYPES = {"F64": np.float64, "I64": np.int64, "F32": np.float32, "I32": np.int32, "F16": np.float16, "I16": np.int16,
           "I8": np.int8, "U8": np.uint8, "BOOL": np.bool_}  # fmt: skip

Weights = dict[str, np.ndarray]
"""The tensors of weights.safetensors, by name."""


def model_digest(weights: Mapping[str, np.ndarray], encoders: Json) -> str:
    """sha256 of a model: every bit of its weights, and its encoders.

    Args:
        weights: See `Weights`.
        encoders: The content of encoders.json.
    """
    known = hashlib.sha256(canonical(encoders))
    for name in sorted(weights):
        array = np.array(weights[name], order="C")
        known.update(repr((name, array.dtype.str, array.shape)).encode())
        known.update(array.reshape(-1).view(np.uint8).data)
    return known.hexdigest()


def _read(folder: Path) -> tuple[Json, Weights]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        content = (folder / TENSORS).read_bytes()
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder}: expected a delta, it cannot be read: {error}: copy it again") from error
    got = manifest.get("format") if isinstance(manifest, dict) else None
    if got != FORMAT:
        raise BundleError(f"{folder}: delta format {got}, this recsys reads {FORMAT}: make it again")
    tensors = {
        name: np.frombuffer(content, _DTYPES[p.dtype], p.length // np.dtype(_DTYPES[p.dtype]).itemsize, p.start)
        .reshape(p.shape)
        for name, p in tensor_places(folder / TENSORS).items()
    }  # fmt: skip
    return manifest, tensors


def _values(values: list[Any], change: Json) -> list[Any]:
    """A vocabulary's values after a change: first ids are freed, then given away."""
    values = [*values, *[None] * (change["size"] - len(values))]
    for id, value in change["evicted"].items():
        if values[int(id) - FIRST_ID] != value:
            raise ValueError(f"id {id} is not {value!r}'s")
        values[int(id) - FIRST_ID] = None
    for id, value in change["admitted"].items():
        if values[int(id) - FIRST_ID] is not None:
            raise ValueError(f"id {id} is taken")
        values[int(id) - FIRST_ID] = value
    return values


def moved(before: np.ndarray, moves: Sequence[Sequence[int]], rows: int) -> np.ndarray:
    """A tensor of `rows` rows with ranges of another's rows: each move is from, to and count; other rows are 0."""
    after = np.zeros((rows, *before.shape[1:]), before.dtype)
    for start, place, count in moves:
        after[place : place + count] = before[start : start + count]
    return after


def _tensor(name: str, before: np.ndarray, tensors: Weights, manifest: Json) -> np.ndarray:
    """A tensor after a change."""
    if f"whole/{name}" in tensors:
        return tensors[f"whole/{name}"].copy()
    if f"rows/{name}" not in tensors:
        return before
    after = moved(before, manifest["moves"][name], manifest["rows"][name])
    after[tensors[f"rows/{name}"]] = tensors[f"values/{name}"]
    return after


def apply_delta(folder: Path, weights: Mapping[str, np.ndarray], encoders: Json) -> tuple[Weights, Json]:
    """The model after a delta → its weights and the content of its encoders.json.

    Args:
        folder: The delta.
        weights: Of its base; they stay as they are.
        encoders: The content of the base's encoders.json.

    Raises:
        BundleError: If the model is not the delta's base, or the delta is damaged.
    """
    manifest, tensors = _read(folder)
    if (got := model_digest(weights, encoders)) != manifest["base"]:
        raise BundleError(
            f"{folder}: expected the model {manifest['base'][:12]} that it was made from, got {got[:12]}: apply the "
            "deltas in between first, in order, or load a whole bundle"
        )
    try:
        after = {name: _tensor(name, x, tensors, manifest) for name, x in weights.items()}
        fields = dict(encoders["encoders"])
        for name, change in manifest["vocabularies"].items():
            fields[name] = {**fields[name], "values": _values(fields[name]["values"], change)}
        result = {"version": manifest["encoders_version"], "encoders": fields}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BundleError(f"{folder} is damaged: it does not fit its base: {error}: copy it again") from error
    if model_digest(after, result) != manifest["result"]:
        raise BundleError(f"{folder} is damaged: its result is not {manifest['result'][:12]}: copy it again")
    return after, result

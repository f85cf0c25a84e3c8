"""Write the change from one model to the next; `recsys.serving.delta` applies it.

R rows of a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from recsys.export.graphs import ScoringGraph
from recsys.features.growth import FIRST_ID
from recsys.files import Json, unfinished_folder
from recsys.frame.merged import Scorer
from recsys.serving.delta import FORMAT, MANIFEST, TENSORS, Weights, model_digest, moved
from recsys.serving.manifest import canonical

__all__ = ["DeltaFacts", "scoring_weights", "write_delta"]


@dataclass(frozen=True)
class DeltaFacts:
    """The size of a delta.

    Args:
        base: Digest of the model before.
        result: Digest of the model after.
        bytes: Of the delta's files.
        model_bytes: Of all weights of the model after.
        rows: Rows that changed, of tensors that are not whole in the delta.
    """

    base: str
    result: str
    bytes: int
    model_bytes: int
    rows: int


def scoring_weights(model: Scorer) -> Weights:
    """The tensors that weights.safetensors of the model's bundle would hold."""
    return {name: x.detach().cpu().contiguous().numpy().copy() for name, x in ScoringGraph(model).state_dict().items()}


def _moves(name: str, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> list[list[int]]:
    """From, to and count of the rows that stay what they are: stacked tables begin later if one before them grew."""
    sizes = f"{name.removesuffix('codes')}sizes_T3"
    if sizes not in before:
        return [[0, 0, min(len(before[name]), len(after[name]))]]
    counts = [x[sizes][:, 0] for x in (before, after)]
    starts = [np.cumsum(c) - c for c in counts]
    return np.stack([*starts, np.minimum(*counts)], 1).tolist()


def _changed_rows(before: np.ndarray, after: np.ndarray, moves: list[list[int]]) -> np.ndarray | None:
    """The rows that differ in any bit, or are new; None if sending all of the tensor takes fewer bytes."""
    if before.shape[1:] != after.shape[1:] or before.dtype != after.dtype:
        return None
    old, new_R = moved(before, moves, len(after)), np.ones(len(after), bool)
    for _, place, count in moves:
        new_R[place : place + count] = False
    bytes_before, bytes_after = (np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1) for x in (old, after))
    rows = np.flatnonzero((bytes_before != bytes_after).any(1) | new_R)
    return rows.astype(np.int32) if len(rows) * (after[:1].nbytes + 4) < after.nbytes else None


def _vocabulary(before: Json, after: Json) -> Json:
    """What a vocabulary gained and lost."""
    old, new = before["values"], after["values"]
    old = [*old, *[None] * (len(new) - len(old))]
    other = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    return {
        "size": len(new),
        "evicted": {str(i + FIRST_ID): old[i] for i in other if old[i] is not None},
        "admitted": {str(i + FIRST_ID): new[i] for i in other if new[i] is not None},
    }


def write_delta(
    folder: Path, before: tuple[Mapping[str, np.ndarray], Json], after: tuple[Mapping[str, np.ndarray], Json]
) -> DeltaFacts:
    """Write what changed; the folder appears whole or not at all.

    Args:
        folder: Is made.
        before: Weights of the base, and the content of its encoders.json.
        after: The same of the new model, which has the same tensors and fields.
    """
    tensors: Weights = {}
    rows, sizes, moves = 0, dict[str, int](), dict[str, list[list[int]]]()
    for name, x in after[0].items():
        changed = None
        if before[0][name].ndim == x.ndim == 2:
            moves[name] = _moves(name, before[0], after[0])
            changed = _changed_rows(before[0][name], x, moves[name])
        if changed is None:
            tensors[f"whole/{name}"] = np.array(x, order="C")  # keeps a tensor without dimensions
            continue
        rows, sizes[name] = rows + len(changed), len(x)
        tensors |= {f"rows/{name}": changed, f"values/{name}": np.ascontiguousarray(x[changed])}
    fields = {n: (e, after[1]["encoders"][n]) for n, e in before[1]["encoders"].items()}
    base, result = model_digest(*before), model_digest(*after)
    manifest = {
        "format": FORMAT,
        "base": base,
        "result": result,
        "rows": sizes,
        "moves": {name: m for name, m in moves.items() if name in sizes},
        "encoders_version": after[1]["version"],
        "vocabularies": {n: _vocabulary(a, b) for n, (a, b) in fields.items() if a != b},
    }
    with unfinished_folder(folder) as new:
        (new / MANIFEST).write_bytes(canonical(manifest))
        safetensors.numpy.save_file(tensors, new / TENSORS)
        (new / TENSORS).chmod(new.stat().st_mode & 0o666)  # safetensors lets only the owner read it
    size = sum(p.stat().st_size for p in folder.iterdir())
    return DeltaFacts(base, result, size, sum(x.nbytes for x in after[0].values()), rows)

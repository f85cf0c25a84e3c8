"""Deltas between models whose tables are stacked, against the models themselves."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import BundleError
from recsys.export.delta import write_delta
from recsys.serving.delta import apply_delta


def encoders(values: list[str | None]) -> dict:
    number = {"encoder": "scale", "log": False, "mean": 0.1, "std": 1.0}
    return {"version": 3, "encoders": {"f": {"encoder": "vocabulary", "values": values}, "n": number}}


def weights(tables: list[np.ndarray], dense: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors as a bundle holds them: tables of one width stacked, one tensor empty, one without dimensions."""
    sizes = np.array([[len(t), 0, len(t)] for t in tables])
    return {
        "m.codes": np.concatenate(tables),
        "m.sizes_T3": sizes,
        "dense": dense,
        "none": np.zeros(0),
        "s": dense.sum(),
    }


@pytest.mark.parametrize("seed", range(20))
def test_base_and_delta_are_the_whole_model(seed: int, tmp_path: Path) -> None:
    r = np.random.default_rng(seed)
    before = [r.normal(size=(n, 4)).astype(np.float32) for n in r.integers(1, 30, 3)]
    after, changed = [], 0
    for t in before:
        x, touched = (
            np.concatenate([t, r.normal(size=(r.integers(0, 3), 4)).astype(np.float32)]),
            r.random(len(t)) < 0.1,
        )
        x[: len(t)][touched] += 1
        changed += int(touched.sum()) + len(x) - len(t)
        after.append(x)
    old, new = (weights(t, r.normal(size=(3, 5)).astype(np.float32)) for t in (before, after))
    facts = write_delta(tmp_path / "d", (old, encoders(["a", "b", None])), (new, encoders(["a", None, "c", "d"])))
    got, vocabulary = apply_delta(tmp_path / "d", old, encoders(["a", "b", None]))
    assert vocabulary == encoders(["a", None, "c", "d"]) and got.keys() == new.keys()
    assert all(got[n].shape == x.shape and np.array_equal(got[n], x) for n, x in new.items())
    if sum(map(len, after)) > 2 * changed:
        assert facts.rows >= changed  # rows were sent, though every table after the first had moved
    with pytest.raises(BundleError, match="expected the model"):
        apply_delta(tmp_path / "d", new, encoders(["a", "b", None]))

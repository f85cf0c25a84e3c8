"""Labels: what a table calls a click → 0 and 1."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["NO", "YES", "to_binary"]

YES = frozenset({"1", "1.0", "+1", "yes", "y", "true", "t", "on", "click", "clicked", "positive", "pos"})
NO = frozenset({"0", "0.0", "-1", "no", "n", "false", "f", "off", "no click", "not clicked", "negative", "neg"})


def _words(column: pa.ChunkedArray, name: str) -> np.ndarray:
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    words = coded.dictionary.to_pylist()
    spelled = [w.strip().lower() for w in words]
    if strange := [w for w, s in zip(words, spelled, strict=True) if s not in YES | NO]:
        shown = ", ".join(repr(w[:30]) for w in strange[:5])
        raise DataError(f"label {name!r}: expected words like yes and no, or 1 and 0, got {shown}: map it to 0 and 1")
    return np.array([s in YES for s in spelled], np.float32)[coded.indices.to_numpy()]


def to_binary(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A label column as zeros and ones.

    Args:
        column: Booleans, numbers 0 and 1 (or −1 and 1, as libsvm has them), or words of `YES` and
            `NO` in any case. Empty words are gaps.
        name: Its name, for messages.

    Returns:
        label_B, float32.

    Raises:
        DataError: If a row has none, a value is not one of two, or all are the same.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    words = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    gaps = column.null_count + (pc.sum(pc.equal(pc.utf8_trim_whitespace(column), "")).as_py() or 0 if words else 0)
    if gaps:
        raise DataError(f"label {name!r}: expected 0 or 1 in every row, {gaps} rows have none: drop or fill them")
    if words:
        label_B = _words(column, name)
    elif pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        label_B = column.cast(pa.float64()).to_numpy()  # as float32, 1 + 1e-9 would pass for 1
        if np.array_equal(np.unique(label_B), [-1, 1]):
            label_B = (label_B + 1) / 2
    else:
        raise DataError(f"label {name!r}: expected 0 and 1, got {kind}: map it to 0 and 1")
    values = np.unique(label_B)
    if not np.isin(values, [0, 1]).all():
        raise DataError(f"label {name!r}: expected only 0 and 1, got {values[:5].tolist()}: make it binary")
    if len(values) < 2:
        all_are = f"every row is {values[0]:g}" if len(values) else "there are no rows"
        raise DataError(f"label {name!r}: expected both 0 and 1, {all_are}: check data.label")
    return label_B.astype(np.float32)

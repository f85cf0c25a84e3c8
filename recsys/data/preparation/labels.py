"""Label columns of a table → 0 and 1."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["NO", "YES", "label_values", "to_binary", "zeros_and_ones"]

YES = frozenset({"1", "1.0", "+1", "yes", "y", "true", "t", "on", "click", "clicked", "positive", "pos"})
NO = frozenset({"0", "0.0", "-1", "no", "n", "false", "f", "off", "no click", "not clicked", "negative", "neg"})


def _words(column: pa.Array, name: str) -> np.ndarray:
    coded = column.cast(pa.string()).dictionary_encode()
    words = coded.dictionary.to_pylist()
    spelled = [w.strip().lower() for w in words]
    if strange := [w for w, s in zip(words, spelled, strict=True) if s and s not in YES | NO]:
        shown = ", ".join(repr(w[:30]) for w in strange[:5])
        raise DataError(f"label {name!r}: expected words like yes and no, or 1 and 0, got {shown}: map it to 0 and 1")
    value = np.array([np.nan if not s else s in YES for s in spelled] + [np.nan], np.float32)
    return value[coded.indices.fill_null(len(words)).to_numpy()]


def label_values(column: pa.Array, name: str) -> np.ndarray:
    """A part of a label column as numbers, for a table that is read in parts.

    Args:
        column: Booleans, the numbers 0 and 1 or −1 and 1, or words of `YES` and `NO` in any case.
        name: Name of the label, for messages.

    Returns:
        label_B, float32: −1, 0 or 1, NaN where missing. `zeros_and_ones` maps −1 to 0.

    Raises:
        DataError: If a value is none of these.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return _words(column, name)
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"label {name!r}: expected 0 and 1, got {kind}: map it to 0 and 1")
    there_B = pc.is_valid(column).to_numpy(zero_copy_only=False)
    label_B = column.cast(pa.float64()).to_numpy(zero_copy_only=False)  # as float32, 1 + 1e-9 would pass for 1
    wrong_B = there_B & ~np.isin(label_B, (-1, 0, 1))
    if wrong_B.any():
        strange = np.unique(label_B[wrong_B])[:5].tolist()
        raise DataError(f"label {name!r}: expected only 0 and 1, got {strange}: make it binary")
    return label_B.astype(np.float32)


def zeros_and_ones(label_B: np.ndarray, name: str, observed: bool = True) -> np.ndarray:
    """The output of `label_values` for all rows → float32 zeros and ones; −1 and 1, as in libsvm, become 0 and 1.

    Args:
        label_B: −1, 0 or 1, NaN where missing.
        name: Name of the label, for messages.
        observed: Whether every row must have a label; if not, NaN stays.

    Raises:
        DataError: If a row that must have a label has none, there are three values, or all are the same.
    """
    gaps = int(np.isnan(label_B).sum())
    if gaps and observed:
        raise DataError(f"label {name!r}: expected 0 or 1 in every row, {gaps} rows have none: drop or fill them")
    values = np.unique(label_B[~np.isnan(label_B)])
    if len(values) == 3:
        raise DataError(f"label {name!r}: expected only 0 and 1, got {values.tolist()}: make it binary")
    if len(values) < 2:
        all_are = f"every row is {values[0]:g}" if len(values) else "there are no rows"
        raise DataError(f"label {name!r}: expected both 0 and 1, {all_are}: check data.label")
    if values.tolist() == [-1, 0]:
        raise DataError(f"label {name!r}: expected only 0 and 1, got {values.tolist()}: make it binary")
    return np.maximum(label_B, 0).astype(np.float32)


def to_binary(column: pa.ChunkedArray, name: str, observed: bool = True) -> np.ndarray:
    """A whole label column as float32 zeros and ones: `label_values`, then `zeros_and_ones`.

    Raises:
        DataError: As these two do.
    """
    parts = [label_values(chunk, name) for chunk in column.chunks]
    return zeros_and_ones(np.concatenate(parts) if parts else np.empty(0, np.float32), name, observed)

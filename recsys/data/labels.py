"""Labels as people write them → 0 and 1."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["NO", "YES", "label_values"]

YES = ("1", "1.0", "true", "t", "yes", "y")  # in any case
NO = ("0", "0.0", "false", "f", "no", "n")


def label_values(values: pa.Array, name: str) -> np.ndarray:
    """→ float32 0 or 1, NaN where there is no value.

    Raises:
        DataError: If a value is neither.
    """
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = values.cast(kind.value_type)
        kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        word = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        word = pc.if_else(pc.equal(word, ""), pa.scalar(None, word.type), word)
        yes, no = (pc.is_in(word, pa.array(w, word.type)) for w in (YES, NO))
        wrong = pc.and_(pc.is_valid(word), pc.invert(pc.or_(yes, no)))
        if pc.any(wrong).as_py():
            found = pc.unique(values.filter(wrong)).to_pylist()[:5]
            raise DataError(f"label {name!r}: expected only 0 and 1 (or yes and no), got {found}: map it to 0 and 1")
        label_B = yes.cast(pa.float32()).to_numpy(zero_copy_only=False)
        return np.where(pc.is_valid(word).to_numpy(zero_copy_only=False), label_B, np.float32(np.nan))
    if not (pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(f"label {name!r}: expected 0 and 1, got {kind}: map it to 0 and 1")
    label_B = values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)
    there_B = pc.is_valid(values).to_numpy(zero_copy_only=False)
    wrong_B = there_B & ~np.isin(label_B, (0, 1))
    if wrong_B.any():
        found = np.unique(label_B[wrong_B])[:5].tolist()
        raise DataError(f"label {name!r}: expected only 0 and 1, got {found}: make it binary")
    return label_B.astype(np.float32)

"""weights.safetensors, the one copy of a model's weights: where each tensor lies in the file.

Standard library only, so that every runtime can read it. The format: 8 bytes with the length of the
header (little endian), the header as JSON, then the tensors' bytes one after another.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import BundleError

__all__ = ["WEIGHTS", "TensorPlace", "tensor_places"]

WEIGHTS = "weights.safetensors"
_MAX_HEADER = 100_000_000  # bytes; the reference implementation has the same limit
ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor's bytes lie.

    Args:
        dtype: As safetensors writes it, a key of `ITEM_BYTES`.
        shape: Its shape.
        start: Offset of its first byte in the file.
        length: Its size in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    length: int


def _place(name: str, entry: dict, base: int, size: int) -> TensorPlace:
    start, stop = entry["data_offsets"]
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    want = ITEM_BYTES[dtype]
    for n in shape:
        want *= n
    if not 0 <= start <= stop <= size - base or stop - start != want:
        raise ValueError(f"tensor {name!r} lies at {start} to {stop}, expected {want} bytes inside the file")
    return TensorPlace(dtype, shape, base + start, stop - start)


def tensor_places(path: Path) -> dict[str, TensorPlace]:
    """Read the header of a safetensors file.

    Returns:
        Where each tensor lies, by name.

    Raises:
        BundleError: If the header does not parse, or a tensor lies outside the file.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        return {k: _place(k, v, 8 + length, size) for k, v in header.items() if k != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path} does not parse as safetensors: {error}: export the bundle again") from error

"""What a gate acts on: fields, groups of fields or single dimensions, as columns of x_BW.

B rows, F fields, U units (one gate each), W the joined width, C raw columns of a unit.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.split import Split
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR

__all__ = ["Units", "change_rates", "field_generators", "field_of_column", "raw_blocks", "units"]


def field_generators(names: Sequence[str], seed: int) -> list[torch.Generator]:
    """A random generator of the CPU for each name. It depends on the seed and on that name alone.

    PyTorch's CPU generator uses only the low 32 bits of its seed, so a checksum mixes seed and name into these.
    """
    return [torch.Generator().manual_seed(zlib.crc32(f"{seed}/{n}".encode())) for n in names]


def field_of_column(widths: Sequence[int]) -> Tensor:
    """Which field each column of x_BW belongs to → int64 [W]."""
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))


def raw_blocks(shards: Split, rows: slice | np.ndarray) -> dict[str, np.ndarray]:
    """Field → its ids or numbers, as the model takes them, [rows, columns]."""
    batch, schema = shards.batch(rows), shards.schema
    blocks = {n: batch.ids_BL[:, c.start : c.stop].numpy() for n, c in schema.id_columns.items()}
    return blocks | {n: batch.dense_BN[:, c.start : c.stop].numpy() for n, c in schema.float_columns.items()}


@dataclass(frozen=True)
class Units:
    """The units that have a gate each.

    Args:
        names: The name of each unit: that of a field or a group, or `field[3]` for one dimension.
        members: The fields of each unit.
        of_column_W: int64, the unit of each column of x_BW.
        width_U: float32, count of the unit's columns of x_BW.
        change_U: float32, c = P(x ≠ x of another row) = 1 − Σ_v p_v².
        active_U: float32, a = 1 − max_v p_v, the share of rows that are not the commonest value.
    """

    names: list[str]
    members: list[list[str]]
    of_column_W: Tensor
    width_U: Tensor
    change_U: Tensor
    active_U: Tensor

    def of_field(self, field: str) -> list[int]:
        """The units of the field: one, or one for each dimension."""
        return [i for i, m in enumerate(self.members) if field in m]


def _checked_groups(schema: Schema, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Field → name of its group."""
    group_of: dict[str, str] = {}
    for group, members in groups.items():
        if unknown := sorted(set(members) - set(schema.names)):
            have = ", ".join(schema.names)
            raise ConfigError(f"selection.groups.{group}: no field {unknown}: expected some of {have}")
        if group in schema.names:
            raise ConfigError(f"selection.groups.{group} is the name of a field: name the group otherwise")
        if twice := sorted(n for n in members if n in group_of):
            raise ConfigError(f"selection.groups: {twice} are in {group} and {group_of[twice[0]]}: keep one")
        group_of |= dict.fromkeys(members, group)
    return group_of


def units(
    model: CTR,
    shards: Split,
    groups: Mapping[str, Sequence[str]] | None = None,
    split_width: int | None = None,
    most_rows: int = 100_000,
) -> Units:
    """One unit for each field, unless the field is in a group or is a vector to be split.

    Args:
        model: The model with the fields and their widths.
        shards: c and a are computed from its first `most_rows` rows, by sample weight.
        groups: Name → fields that share a gate and a permutation.
        split_width: Vectors of at least this width get a gate for each dimension; None splits no vector.
        most_rows: See `shards`; for a split vector, a tenth of them.

    Raises:
        ConfigError: If a group names an unknown field, or a field twice.
    """
    schema = model.schema
    group_of = _checked_groups(schema, groups or {})
    blocks = raw_blocks(shards, slice(0, most_rows))
    members: dict[str, list[str]] = {}
    column_unit: list[str] = []
    raw: dict[str, np.ndarray] = {}
    for f, width in zip(schema.fields, model.widths, strict=True):
        split = f.kind == "vector" and split_width is not None and width >= split_width and f.name not in group_of
        names = [f"{f.name}[{d}]" for d in range(width)] if split else [group_of.get(f.name, f.name)] * width
        column_unit += names
        for d, name in enumerate(dict.fromkeys(names)):
            members.setdefault(name, []).append(f.name)
            raw[name] = blocks[f.name][: most_rows // 10, d : d + 1] if split else blocks[f.name]
    for group in dict.fromkeys(group_of.values()):
        raw[group] = np.concatenate([_bytes(blocks[n]) for n in members[group]], 1)
    number = {n: i for i, n in enumerate(members)}
    of_column_W = torch.tensor([number[n] for n in column_unit])
    weight_B = None if shards.weight_B is None else shards.weight_B[:most_rows]
    change, active = zip(*(_rates(raw[n], weight_B) for n in members), strict=True)
    width_U = torch.bincount(of_column_W, minlength=len(number)).float()
    return Units(
        list(members), list(members.values()), of_column_W, width_U, torch.tensor(change), torch.tensor(active)
    )


def change_rates(shards: Split, most_rows: int = 100_000) -> dict[str, float]:
    """c = P(x ≠ x of another row) = 1 − Σ_v p_v² for each field, over the first `most_rows` rows."""
    weight_B = None if shards.weight_B is None else shards.weight_B[:most_rows]
    return {n: _rates(block, weight_B)[0] for n, block in raw_blocks(shards, slice(0, most_rows)).items()}


def _bytes(block: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(block).view(np.uint8)


def _rates(block: np.ndarray, weight_B: np.ndarray | None) -> tuple[float, float]:
    """(1 − Σ p², 1 − max p) over the distinct rows of a block, p the share of rows, or of their weight."""
    block = np.ascontiguousarray(block)
    if block.shape[1] > 1:  # slower, since numpy compares bytes instead of numbers
        block = block.view(np.dtype((np.void, block.dtype.itemsize * block.shape[1])))
    if weight_B is None:
        count = np.unique(block, return_counts=True)[1]
    else:
        inverse = np.unique(block, return_inverse=True)[1].ravel()
        count = np.bincount(inverse, np.asarray(weight_B[: len(block)], np.float64))
    share = count / count.sum()
    return float(1 - np.square(share).sum()), float(1 - share.max())

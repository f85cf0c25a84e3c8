"""What a composed training takes: its tables, made without memory, and its dense layers are counted.

B rows, W the width of all fields side by side, L id columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pipelines.config import RunConfig
from recsys.capacity.workload import TableSize, Workload
from recsys.config.factory import make
from recsys.data.preparation.fields import FieldConfig, data_fields, label_names
from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema
from recsys.frame.contracts import RoutedEmbedding
from recsys.frame.ctr import CTR
from recsys.training import checkpoint
from recsys.training.auto import Facts, resolve

__all__ = ["of_count", "of_fields", "scaled", "settings", "workload"]

_ROWS = 64  # of the batch that is counted
_FEW = 1000  # most ids of a field in the tables that are made; the widths do not depend on them
_WIDEST = 20_000  # most numbers of all fields side by side; a cross layer has the square of that
_LEAST = 4  # ids of a field: the reserved ones and one more
_SKEW = 2  # each field has half of the ids of the next larger one


def _cardinalities(fields: int, rows: int) -> list[int]:
    """Ids of each field, which sum to about `rows`: the largest has half of them, the next a quarter …"""
    whole = sum(_SKEW**-i for i in range(fields))
    return [max(_LEAST, round(rows * _SKEW**-i / whole)) for i in range(fields)]


def of_count(fields: int, numbers: int, rows: int) -> Schema:
    """A schema of so many looked-up fields of one id and so many numbers.

    Args:
        fields: Count of looked-up fields, ≥ 0.
        numbers: Count of numbers, ≥ 0; one of both is above 0.
        rows: Ids of all fields together.
    """
    ids = [
        Field(f"id_{i}", "categorical", (f"id_{i}",), ("int",), n) for i, n in enumerate(_cardinalities(fields, rows))
    ]
    return Schema((*ids, *(Field(f"number_{i}", "numeric", (f"number_{i}",), ("float",)) for i in range(numbers))), "y")


def of_fields(data: Mapping[str, Any], rows: int) -> Schema:
    """The schema of a data configuration whose data is not prepared.

    Args:
        data: The group `data` of a configuration.
        rows: Ids of all fields together that have no `buckets`.
    """
    fields = data_fields(data)
    sparse = [c for c in fields if c.kind in ("categorical", "multi", "sequence", "text")]
    free = [c.name for c in sparse if not c.buckets and not c.table]
    ids = dict(zip(free, _cardinalities(len(free), rows), strict=True))
    ids |= {c.name: c.buckets for c in sparse if c.buckets}
    schema = [_field(c, ids.get(c.table or c.name, _LEAST)) for c in (*sparse, *(c for c in fields if c not in sparse))]
    label, *others = label_names(data)
    return Schema(tuple(schema), label, other_labels=tuple(others))


def _field(config: FieldConfig, ids: int) -> Field:
    names = config.inputs or (config.name,)
    if config.kind in ("numeric", "vector"):
        length = config.max_length if config.kind == "vector" else config.buckets or 1
        return Field(config.name, config.kind, names, ("float",) * len(names), max_length=length)
    kind: Any = "multi" if config.kind == "text" else config.kind
    length = 1 if kind == "categorical" else config.max_length
    return Field(config.name, kind, names, ("string",) * len(names), ids, length, config.table)


def scaled(schema: Schema, rows: int) -> Schema:
    """The schema with all cardinalities in the same proportion, so that they sum to about `rows`."""
    owners = {f.table or f.name: f.cardinality for f in schema.sparse}
    share = rows / sum(owners.values())
    fields = (replace(f, cardinality=max(_LEAST, round(f.cardinality * share))) for f in schema.sparse)
    return replace(schema, fields=(*fields, *schema.numeric))


def settings(config: RunConfig, schema: Schema, rows: int) -> dict[str, Any]:
    """The groups of a configuration that set the cost of training, with each `auto` set for so many rows of data."""
    cardinalities = tuple(f.cardinality for f in schema.sparse)
    numbers = sum(f.max_length for f in schema.numeric)
    values = config.to_json()
    return {**values, **resolve(values, Facts(rows, rows // 4, cardinalities, numbers, len(schema.labels)))}


def workload(chosen: Mapping[str, Any], schema: Schema) -> Workload:
    """Count what a training takes.

    Args:
        chosen: From `settings`.
        schema: The fields, with their cardinalities.

    Raises:
        ConfigError: If a constructor refuses a setting, the embedding does not say what it reads, or the model is too
            wide.
    """
    with torch.device("meta"):
        embedding = make(chosen["embedding"], "embedding")(schema)
    if not isinstance(embedding, RoutedEmbedding):
        raise ConfigError("embedding: expected one that says which rows it reads: choose a packaged option")
    if (width := sum(embedding.widths.values())) > _WIDEST:
        raise ConfigError(
            f"the fields are {width:,} numbers side by side: expected at most {_WIDEST:,}, since the model is built to "
            "be counted: give fewer fields or numbers, or a smaller embedding.dim"
        )
    small = (replace(f, cardinality=min(f.cardinality, _FEW)) for f in schema.sparse)
    spec: checkpoint.Spec = {
        "model": chosen["model"],
        "embedding": chosen["embedding"],
        "sequence": chosen["sequence"],
        "head": chosen["head"],
        "embedding_dropout": chosen["train"]["embedding_dropout"],
    }
    model = checkpoint.build(replace(schema, fields=(*small, *schema.numeric)), spec)
    dense = [*model.interaction.parameters(), *model.sequences.parameters(), *model.head.parameters()]
    flops, written, count = _forward(model, chosen["train"]["precision"] != "fp32")
    numbers = sum(f.max_length for f in schema.numeric) + len(schema.labels)
    parameters = sum(p.numel() for p in dense)
    states = list(make(chosen["table_optimizer"], "table_optimizer")().states.values())
    return Workload(_tables(embedding, schema), states, parameters, flops, written, count, numbers)


def _tables(embedding: RoutedEmbedding, schema: Schema) -> Sequence[TableSize]:
    sizes = {rows.table: (rows.total, rows.weight_RD.shape[1]) for rows in embedding.held()}
    reads, pooled = dict.fromkeys(sizes, 0), dict.fromkeys(sizes, 0)
    for lookup, keys in zip(embedding.lookups, embedding.keys, strict=True):
        reads[lookup.table] += schema[lookup.field].max_length
        pooled[lookup.table] += sizes[lookup.table][1] * len(keys)
    return [TableSize(name, *size, reads[name], pooled[name]) for name, size in sizes.items()]


class _Written(TorchDispatchMode):
    """Counts the operations of what runs within it, and the bytes that they write; a view writes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.count = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = result if isinstance(result, tuple | list) else (result,)
        self.count += 1
        for output, kind in zip(outputs, func._schema.returns, strict=False):
            if isinstance(output, torch.Tensor) and kind.alias_info is None:
                self.bytes += output.numel() * output.element_size()
        return result


def _forward(model: CTR, half: bool) -> tuple[float, float, int]:
    """Of the forward pass after the lookups: floating-point operations a row, bytes written a row, operations."""
    schema = model.schema
    unpooled = sum(model.embedding.widths[f.name] for f in schema.fields)
    x_BW = torch.zeros(_ROWS, unpooled, requires_grad=True)
    ids_BL = torch.zeros(_ROWS, sum(f.max_length for f in schema.sparse), dtype=torch.long)
    model.train()

    def forward(x_BW: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            model.logits_of(model.pool(x_BW, ids_BL))

    with torch.no_grad(), FlopCounterMode(display=False) as flops:  # training pads widths: that is no work of the model
        forward(x_BW.detach())
    with _Written() as written:
        forward(x_BW)
    return flops.get_total_flops() / _ROWS, written.bytes / _ROWS, written.count

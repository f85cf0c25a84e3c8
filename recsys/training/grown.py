"""A trained model over tables that have gained rows, and in which some rows begin anew.

R rows of a table.
"""

from collections.abc import Collection, Mapping

import torch

from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.frame.contracts import TableRows
from recsys.frame.ctr import CTR
from recsys.training import checkpoint
from recsys.training.device import CPU, Device
from recsys.training.loop import seed_everything

__all__ = ["check_growable", "grown"]


def _whole(model: CTR) -> dict[str, TableRows]:
    """Table → all of its rows."""
    held = model.trainable().held()
    if parts := [h.table for h in held if h.start or len(h.weight_RD) != h.total]:
        raise ConfigError(f"table {parts[0]!r} is spread over processes, and grows in one: run it without torchrun")
    return {h.table: h for h in held}


def check_growable(model: CTR) -> None:
    """Check that each table has a row for each id, and that all that the model holds can be continued.

    Raises:
        ConfigError: If several ids share rows, or a frozen logistic regression is beside the network.
    """
    if model.linear is not None:
        raise ConfigError(
            "train.linear: the logistic regression beside the network is fitted once and cannot follow new ids: set "
            "train.linear=false"
        )
    ids = {f.table or f.name: f.cardinality for f in model.schema.sparse}
    tables = {name: h.total for name, h in _whole(model).items()}
    if tables != ids:
        other = next(iter({*tables.items()} ^ {*ids.items()}))[0]
        raise ConfigError(
            f"embedding: expected a table row for each id, table {other!r} has another count: ids that share rows need "
            "no growth, and an evicted one could not be reset: set embedding=per_field, or encode its field by hash "
            "(encoding: hash), whose table never grows"
        )


@torch.no_grad()
def grown(
    model: CTR,
    spec: checkpoint.Spec,
    schema: Schema,
    fresh: Mapping[str, Collection[int]],
    seed: int,
    device: Device = CPU,
) -> CTR:
    """A copy of a model for a schema with more ids: kept rows and their optimiser state stay, all others are new.

    New rows, and those in `fresh`, are drawn from the initial distribution, and their optimiser state is that of a
    fresh table.

    Args:
        model: Its tables have a row for each id.
        spec: The parts of the model.
        schema: The same fields; a field may have more ids.
        fresh: Table → rows that begin anew.
        seed: Of the new rows.
        device: Where the model is.

    Raises:
        ConfigError: If a table is spread over processes.
    """
    seed_everything(seed)
    copy = checkpoint.build(schema, spec, device)
    dense = {name: x for name, x in model.state_dict().items() if not name.startswith("embedding.")}
    missing, unexpected = copy.load_state_dict(dense, strict=False)
    assert not unexpected and all(name.startswith("embedding.") for name in missing)
    for mine, theirs in zip(copy.trainable().dense_parameters(), model.trainable().dense_parameters(), strict=True):
        mine.copy_(theirs)
    before = _whole(model)
    for name, rows in _whole(copy).items():
        old = before[name]
        kept_R = torch.ones(old.total, dtype=torch.bool, device=old.weight_RD.device)
        kept_R[[r for r in fresh.get(name, ()) if r < old.total]] = False
        kept = kept_R.nonzero().squeeze(1)
        rows.weight_RD[kept] = old.weight_RD[kept]
        if rows.state is not None and old.state is not None:
            rows.state[kept] = old.state[kept]
    return copy

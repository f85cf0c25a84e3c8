"""Several processes train as one does on the joined batch. B rows."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.frame.ctr import CTR
from recsys.frame.dropout import _kept
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.loop import Training
from recsys.training.remembered import table_bytes
from recsys.training.state import dense_state
from tests.ranks import in_ranks
from tests.sequences import event_batch, event_schema, rows_of

SCHEMA = event_schema()
ADAMW = {"_target_": "recsys.training.optimizers.adamw.adamw", "eps": 1e-4}  # near 0 it divides noise by noise
HOW = TrainConfig(
    warmup_steps=0, lr=0.01, table_lr=0.05, table_l2=0.1, weight_decay=0.1, precision="fp32", optimizer=ADAMW
)
SCHEMES = {
    "per_field": {"_target_": "recsys.embeddings.per_field.per_field", "dim": 8},
    "qr": {"_target_": "recsys.embeddings.qr.qr", "dim": 4, "threshold": 10},
    "unified": {"_target_": "recsys.embeddings.unified.unified", "rows": 50, "dim": 8, "num_tables": 3},
}


def spec(scheme: str = "per_field", tables: str = "rowwise_adagrad") -> checkpoint.Spec:
    return {
        "model": {"_target_": "recsys.models.dcn.DCN", "hidden": [16], "dropout": 0.0},
        "embedding": SCHEMES[scheme],
        "embedding_dropout": 0.0,
        "sequence": {"_target_": "recsys.sequences.din.DIN"},
        "table_optimizer": {"_target_": f"recsys.embeddings.optimizers.{tables}.{tables}"},
        "seed": 0,
    }


def rows(number: int, size: int = 61) -> Batch:
    """A batch with sample weights, zeros among them; 61 rows are not shared evenly by two or three."""
    rng = np.random.default_rng([5, number])
    weight_B = torch.from_numpy(rng.choice([0.0, 0.5, 1.0, 3.0], size).astype(np.float32))
    return replace(event_batch(SCHEMA, size, number), weight_B=weight_B)


def numbers_of(model: CTR) -> dict[str, torch.Tensor]:
    """Copies of the dense part and of all tables, by name."""
    tables = model.embedding.scoring().tables
    return {n: x.clone() for n, x in dense_state(model).items()} | {n: t.dense() for n, t in tables.items()}


def _counted(model: CTR) -> dict[str, int]:
    """Bytes of the tables' optimiser states, without a copy of a state on every rank."""
    with patch.object(type(model.embedding), "optimizer_state", side_effect=AssertionError):
        return table_bytes(model)


def learned(ranks: Ranks, of_model: checkpoint.Spec, steps: int = 4) -> dict[str, Any]:
    """Losses, and everything that the model holds, after some steps; new tables before the last."""
    torch.manual_seed(7)
    model = checkpoint.build(SCHEMA, of_model)
    begun = numbers_of(model)
    training, losses = Training(model, HOW, 10), []
    for number in range(steps):
        whole, share = rows(number), ranks.share(61)
        mine = replace(rows_of(whole, SCHEMA, share), weight_B=whole.weight_B[share])
        if number == steps - 1:
            training.embedding.reset_tables(3)
        losses.append(training.learn(mine))
    with torch.no_grad():
        logit_BT = model.eval()(rows(9))
        plain_BT = model.scoring()(rows(9))
    return {
        "begun": begun,
        "losses": losses,
        "model": numbers_of(model),
        "state": training.embedding.optimizer_state(),
        "state bytes": _counted(model),
        "logits": {"lookups": logit_BT, "plain tensors": plain_BT},
        "held": [(h.table, h.start, len(h.weight_RD), h.saved) for h in training.embedding.held()],
    }


def close(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], most: float) -> None:
    assert got.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=0, atol=most, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("world", "sharding", "scheme", "tables"),
    [
        (2, "table_wise", "per_field", "rowwise_adagrad"),
        (3, "row_wise", "qr", "adagrad"),
        (2, "data_parallel", "per_field", "sgd"),
        (3, "auto", "unified", "rowwise_adagrad"),
    ],
)
def test_ranks_learn_from_their_shares_what_one_process_learns_from_the_batch(world, sharding, scheme, tables) -> None:
    wanted = learned(Ranks(), spec(scheme, tables))
    results = in_ranks(world, learned, spec(scheme, tables), sharding=sharding)
    for got in results:
        close(got["begun"], wanted["begun"], 0)
        assert got["state bytes"] == {n: x.nbytes for n, x in wanted["state"].items()}
        np.testing.assert_allclose(got["losses"], wanted["losses"], rtol=0, atol=1e-6)
        close(got["model"], wanted["model"], 1e-6)
        close(got["state"], wanted["state"], 1e-6)
        close(got["logits"], wanted["logits"], 1e-6)
    saved = sorted((t, start, start + n) for r in results for t, start, n, saves in r["held"] if saves)
    for table, _, count, _ in wanted["held"]:
        mine = [(start, stop) for t, start, stop in saved if t == table]
        assert [0, *(stop for _, stop in mine)] == [*(start for start, _ in mine), count], "each row is saved once"


class Given:
    """Five batches of 61 rows, as a training reads them."""

    schema = SCHEMA

    def __len__(self) -> int:
        return 5 * 61

    def shuffled(self, size: int, seed: Any, skip: int, ranks: Ranks) -> Iterator[Batch]:
        share = ranks.share(size)
        for whole in (rows(number) for number in range(skip, 5)):
            yield replace(rows_of(whole, SCHEMA, share), weight_B=whole.weight_B[share])


def with_dropout(ranks: Ranks, masks: list[torch.Tensor] | None) -> dict[str, Any]:
    """What is learned from five batches, and the dropout's masks in order; they are given, or drawn."""
    dropping = {**spec(), "model": {**spec()["model"], "dropout": 0.4}, "embedding_dropout": 0.4}
    torch.manual_seed(7)
    model, used = checkpoint.build(SCHEMA, dropping), list[torch.Tensor]()
    training = Training(model, replace(HOW, batch_size=61, max_epochs=1), 5)

    def kept(shape: torch.Size, share: float) -> torch.Tensor:
        used.append(_kept(shape, share) if masks is None else masks[len(used)])
        assert used[-1].shape == shape
        return used[-1]

    with patch("recsys.frame.dropout._kept", kept):
        losses = [step.loss for step in training.steps(Given(), 3)]  # type: ignore[arg-type]
    state = training.embedding.optimizer_state()
    return {"losses": losses, "model": numbers_of(model), "state": state, "masks": used}


def test_dropout_on_several_ranks_is_that_of_one_process() -> None:
    """With the ranks' masks side by side one process learns the same; and they are drawn by the same law, each anew."""
    parts = in_ranks(2, with_dropout, None)
    zero, one = (part["masks"] for part in parts)
    alone = with_dropout(Ranks(), [torch.cat(pair) for pair in zip(zero, one, strict=True)])
    for got in parts:
        np.testing.assert_allclose(got["losses"], alone["losses"], rtol=0, atol=1e-6)
        close(got["model"], alone["model"], 1e-6)
        close(got["state"], alone["state"], 1e-6)
    share = round(0.6 * 256) / 256
    alike = share**2 + (1 - share) ** 2  # how often two independent entries are equal
    for masks in (zero, one):
        x = torch.cat([m.flatten() for m in masks]).double()
        assert float(x.mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / len(x)) ** 0.5)
    for a, b in ((zero, one), (zero, zero[2:]), (one, one[2:])):  # of two ranks; of two steps
        same = torch.cat([(m[:30] == n[:30]).flatten() for m, n in zip(a, b, strict=False)]).double()
        assert float(same.mean()) == pytest.approx(alike, abs=4 * (alike * (1 - alike) / len(same)) ** 0.5)


def copies(ranks: Ranks, tables: str) -> dict[str, tuple[torch.Tensor, torch.Tensor | None]]:
    """Every table that this process holds after 30 steps, weights and state."""
    torch.manual_seed(7)
    training = Training(checkpoint.build(SCHEMA, spec(tables=tables)), HOW, 10)
    for number in range(30):
        whole, share = rows(number), ranks.share(61)
        training.learn(replace(rows_of(whole, SCHEMA, share), weight_B=whole.weight_B[share]))
    held = training.embedding.held()
    assert all(h.start == 0 and len(h.weight_RD) == h.total for h in held), "each process has every row"
    return {h.table: (h.weight_RD.clone(), None if h.state is None else h.state.clone()) for h in held}


@pytest.mark.slow
@pytest.mark.parametrize("tables", ["rowwise_adagrad", "adagrad", "sgd"])
def test_copies_of_a_table_stay_equal_bit_by_bit(tables: str) -> None:
    one, other = in_ranks(2, copies, tables, sharding="data_parallel")
    assert one.keys() == other.keys() and len(one) > 2
    for table, (weight_RD, state) in one.items():
        assert torch.equal(weight_RD, other[table][0]), table
        assert (state is None) == (tables == "sgd") and (state is None or torch.equal(state, other[table][1])), table

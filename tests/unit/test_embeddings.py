import math

import numpy as np
import pytest
import torch
from torch import nn

from recsys.data.batch import Batch, to_jagged
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.hashed import hashed
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified
from recsys.errors import ConfigError
from recsys.features.encoders import UNSEEN
from recsys.features.schema import Field, Schema
from recsys.tables.forms import Table
from recsys.tables.lookup import Lookup, table_rows

EXACT = {"rtol": 0, "atol": 0}


def make_schema(*cardinalities: int, numbers: int = 0, list_of: int = 0) -> Schema:
    """f0, f1, … of the given cardinalities, then perhaps a list field m, then numbers."""
    fields = [Field(f"f{i}", "categorical", (f"f{i}",), ("int",), c) for i, c in enumerate(cardinalities)]
    if list_of:
        fields.append(Field("m", "multi", ("m",), ("int",), list_of, 3))
    return Schema((*fields, *(Field(f"x{i}", "numeric", (f"x{i}",), ("float",)) for i in range(numbers))), "y")


def make_batch(schema: Schema, ids_BL: torch.Tensor) -> Batch:
    sparse, rows = schema.sparse, len(ids_BL)
    jagged = to_jagged(ids_BL, [f.name for f in sparse], [f.max_length for f in sparse])
    return Batch(jagged, ids_BL, torch.randn(rows, len(schema.numeric)), torch.zeros(rows))


def random_ids(schema: Schema, rows: int, seed: int = 0) -> torch.Tensor:
    """Ids with many duplicates; lists of 0 to 3."""
    rng = np.random.default_rng(seed)
    columns = []
    for f in schema.sparse:
        ids = rng.integers(0, f.cardinality, (rows, f.max_length))
        if f.max_length > 1:
            ids[np.arange(f.max_length) >= rng.integers(0, f.max_length + 1, (rows, 1))] = -1
        columns.append(ids)
    return torch.from_numpy(np.concatenate(columns, 1))


def weights(embedding: FusedLookups) -> dict[str, torch.Tensor]:
    """The live table parameters, by table name."""
    return {t: embedding.bags.embedding_bags[f"t{i}"].weight for i, t in enumerate(list(embedding.plan.tables))}


def learn(embedding: FusedLookups, batch: Batch, target_BW: torch.Tensor, lr: float = 0.1) -> torch.Tensor:
    """One fused step towards a target; returns d loss / d x_BW."""
    embedding.set_learning_rate(lr)
    x_BW = embedding(batch)
    x_BW.retain_grad()
    (x_BW - target_BW).square().sum().backward()
    assert x_BW.grad is not None
    return x_BW.grad


def test_shared_table_under_an_injective_map_is_separate_tables() -> None:
    """Ids offset field by field in place of the hash: outputs and gradients are exactly equal.

    The updated rows are so to 1e-6: FBGEMM sums a row's gradients in an order that depends on the tables.
    """
    separate_schema, shared_schema = make_schema(5, 9, 3), make_schema(17, 17, 17)
    separate = per_field(separate_schema, 8)
    shared = FusedLookups(shared_schema, {"all": (17, 8)}, [Lookup(f"f{i}", "all") for i in range(3)], 0.05)
    close = {"rtol": 1e-5, "atol": 1e-6}
    for step in range(4):
        with torch.no_grad():
            weights(shared)["all"].copy_(torch.cat(list(weights(separate).values())))
        ids_BL = random_ids(separate_schema, 32, step)
        a = make_batch(separate_schema, ids_BL)
        b = make_batch(shared_schema, ids_BL + torch.tensor([0, 5, 14]))
        target_BW = torch.randn(32, 24)
        torch.testing.assert_close(shared(b), separate(a), **EXACT)
        torch.testing.assert_close(learn(shared, b, target_BW), learn(separate, a, target_BW), **EXACT)
        torch.testing.assert_close(weights(shared)["all"], torch.cat(list(weights(separate).values())), **close)
        torch.testing.assert_close(
            shared.optimizer_state()["all"], torch.cat(list(separate.optimizer_state().values())), **close
        )


def test_unified_reads_the_rows_that_its_salts_name() -> None:
    schema = make_schema(1000, 50, numbers=1)
    embedding = unified(schema, dim=4, rows=97, num_tables=2, chunks=2, field_chunks={"f1": 3}, seed=5)
    assert embedding.widths == {"f0": 8, "f1": 12, "x0": 1}
    assert [k.table for k in embedding.lookups] == ["t0", "t1", "t0", "t1", "t0"], "round robin"
    batch = make_batch(schema, random_ids(schema, 20))
    x_BW, w = embedding(batch), weights(embedding)
    for b in range(20):
        parts = []
        for k in embedding.lookups:
            a, c = k.coefficients()
            row = (a * int(batch.ids_BL[b, int(k.field[1])]) + c) % (2**31 - 1) % 97
            parts.append(w[k.table][row])
        torch.testing.assert_close(x_BW[b], torch.cat([*parts, batch.dense_BN[b]]), **EXACT)


def collisions(embedding: FusedLookups, field: str, ids: range) -> set[tuple[int, ...]]:
    """Pairs of ids that share every row."""
    rows: dict[tuple[int, ...], list[int]] = {}
    salts = [k.coefficients() for k in embedding.lookups if k.field == field]
    count = embedding.plan.tables[embedding.lookups[0].table][0]
    for i in ids:
        rows.setdefault(tuple((a * i + b) % (2**31 - 1) % count for a, b in salts), []).append(i)
    return {(x, y) for together in rows.values() for x in together for y in together if x < y}


@pytest.mark.parametrize("scheme", ["hashed", "unified"])
def test_another_salt_moves_the_collisions(scheme: str) -> None:
    schema = make_schema(300, 300)
    made = [
        hashed(schema, 4, rows=64, seed=s) if scheme == "hashed" else unified(schema, 4, 64, chunks=1, seed=s)
        for s in (0, 1)
    ]
    found = [collisions(m, f, range(300)) for m in made for f in ("f0", "f1")]
    assert all(found)
    assert all(len(found[i] & found[j]) < 0.2 * len(found[i]) for i in range(4) for j in range(i))


def test_small_field_of_hashed_has_no_collision() -> None:
    schema = make_schema(10, 100)
    embedding = hashed(schema, 4, rows=32)
    assert [k.salt is None for k in embedding.lookups] == [True, False]
    assert {n: tuple(w.shape) for n, w in weights(embedding).items()} == {"f0": (10, 4), "f1": (32, 4)}


@pytest.mark.parametrize("rows", [64, 1000, 4096])
def test_hash_spreads_runs_of_ids_evenly(rows: int) -> None:
    """Chi-square over rows, averaged over salts, is near its degrees of freedom, as for uniform draws."""
    ids = torch.arange(rows * 10)
    shares = []
    for salt in range(30):
        a, b = Lookup("f", "t", f"{salt}/f/0").coefficients()
        count = torch.bincount(table_rows(ids, a, b, rows), minlength=rows).double()
        assert len(count) == rows
        shares.append(float(((count - 10) ** 2 / 10).sum()) / (rows - 1))
    assert np.median(shares) < 2


def test_two_ids_collide_about_once_in_rows_salts() -> None:
    rows, salts = 50, 5000
    hits = 0
    for salt in range(salts):
        a, b = Lookup("f", "t", str(salt)).coefficients()
        hits += (a * 3 + b) % (2**31 - 1) % rows == (a * 1_000_003 + b) % (2**31 - 1) % rows
    assert abs(hits - salts / rows) < 5 * math.sqrt(salts / rows)


def test_largest_ids_do_not_overflow() -> None:
    prime = 2**31 - 1
    for a, b, i in ((prime - 1, prime - 1, prime - 1), (prime - 1, 0, 2**31 - 2), (1, prime - 1, prime - 1)):
        assert int(table_rows(torch.tensor([i]), a, b, 1009)[0]) == (a * i + b) % prime % 1009


def test_shuffled_tables_keep_fields_in_schema_order() -> None:
    """A KeyedTensor comes back in table order: only lookup by key survives this."""
    schema = make_schema(5, 6, 7, 8, numbers=2)
    dims = {"f2": (7, 4), "f0": (5, 8), "f3": (8, 4), "f1": (6, 12)}
    embedding = FusedLookups(schema, dims, [Lookup(f, f) for f in dims], 0.05)
    with torch.no_grad():
        for name, w in weights(embedding).items():
            w.copy_(10 * int(name[1]) + torch.arange(len(w)).float()[:, None].expand_as(w))
    batch = make_batch(schema, torch.tensor([[1, 2, 3, 4], [4, 5, 6, 7]]))
    for x_BW in (embedding(batch), embedding.scoring()(batch)):
        want = torch.tensor(
            [[1.0] * 8 + [12.0] * 12 + [23.0] * 4 + [34.0] * 4, [4.0] * 8 + [15.0] * 12 + [26.0] * 4 + [37.0] * 4]
        )
        torch.testing.assert_close(x_BW[:, :28].detach(), want, **EXACT)
        torch.testing.assert_close(x_BW[:, 28:].detach(), batch.dense_BN, **EXACT)
    assert list(embedding.widths.values()) == [8, 12, 4, 4, 1, 1]


@pytest.mark.parametrize("scheme", [per_field, hashed, unified])
def test_plain_tensors_equal_the_trained_module_and_lists_are_averaged(scheme) -> None:
    schema = make_schema(40, 9, numbers=1, list_of=30)
    embedding = scheme(schema, **({"rows": 16} if scheme is not per_field else {}))
    batch = make_batch(schema, random_ids(schema, 64))
    learn(embedding, batch, torch.randn(64, sum(embedding.widths.values())))
    x_BW = embedding(batch).detach()
    torch.testing.assert_close(embedding.scoring()(batch), x_BW, rtol=1e-6, atol=1e-7)
    start, width = embedding.widths["f0"] + embedding.widths["f1"], embedding.widths["m"]
    lists = batch.ids_BL[:, 2:]
    assert (lists < 0).all(1).any() and (lists >= 0).all(1).any()
    for b in range(64):
        ids = [i for i in lists[b].tolist() if i >= 0]
        alone = torch.full((max(1, len(ids)), 5), -1)
        alone[:, :2] = 0
        alone[: len(ids), 2] = torch.tensor(ids)
        rows = embedding(make_batch(schema, alone)).detach()[: len(ids), start : start + width]
        want = rows.mean(0) if ids else torch.zeros(width)
        torch.testing.assert_close(x_BW[b, start : start + width], want, rtol=1e-6, atol=1e-7)


def test_plain_without_lists_is_exact() -> None:
    schema = make_schema(40, 9, 300, numbers=2)
    for embedding in (per_field(schema, 8), hashed(schema, 8, rows=32), unified(schema, 4, rows=64)):
        batch = make_batch(schema, random_ids(schema, 50))
        learn(embedding, batch, torch.randn(50, sum(embedding.widths.values())))
        torch.testing.assert_close(embedding.scoring()(batch), embedding(batch).detach(), **EXACT)


def test_fused_update_is_rowwise_adagrad_by_hand() -> None:
    """Gradients of a row's duplicates are summed first: m += mean_d(G²); W −= lr·G / (√m + eps)."""
    schema = make_schema(6, 50, list_of=7)
    embedding = per_field(schema, 8)
    tables = {n: w.detach().double().clone() for n, w in weights(embedding).items()}
    moment = {n: torch.zeros(len(w), dtype=torch.float64) for n, w in tables.items()}
    for step, lr in enumerate((0.1, 0.1, 0.03, 0.2, 0.05)):
        batch = make_batch(schema, random_ids(schema, 32, step))
        gradient_BW = learn(embedding, batch, torch.randn(32, 24), lr).double()
        for i, name in enumerate(tables):
            part = gradient_BW[:, 8 * i : 8 * i + 8]
            columns = batch.ids_BL[:, 2:] if name == "m" else batch.ids_BL[:, i : i + 1]
            total = torch.zeros_like(tables[name])
            for b in range(32):
                ids = [c for c in columns[b].tolist() if c >= 0]
                for c in ids:
                    total[c] += part[b] / len(ids)
            touched = total.abs().sum(1) > 0
            moment[name] += total.square().mean(1)
            tables[name][touched] -= lr * total[touched] / (moment[name][touched].sqrt() + 1e-8)[:, None]
            torch.testing.assert_close(weights(embedding)[name].detach().double(), tables[name], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(embedding.optimizer_state()[name].double(), moment[name], rtol=1e-5, atol=1e-6)


def test_untouched_rows_do_not_move() -> None:
    schema = make_schema(10)
    embedding = per_field(schema, 4)
    before = weights(embedding)["f0"].detach().clone()
    learn(embedding, make_batch(schema, torch.tensor([[3], [3], [UNSEEN]])), torch.randn(3, 4))
    moved = (weights(embedding)["f0"] != before).any(1)
    assert moved.nonzero().flatten().tolist() == [UNSEEN, 3]


@pytest.mark.parametrize("scheme", [per_field, unified])
def test_restored_state_takes_the_identical_next_step(scheme) -> None:
    schema = make_schema(20, 300, list_of=9)
    first = scheme(schema, 8)
    for step in range(3):
        batch = make_batch(schema, random_ids(schema, 32, step))
        learn(first, batch, torch.randn(32, sum(first.widths.values())))
    second = scheme(schema, 8)
    second.load_state_dict(first.state_dict())
    forgetful = scheme(schema, 8)
    forgetful.load_state_dict(first.state_dict())
    second.load_optimizer_state(first.optimizer_state())
    batch, target_BW = make_batch(schema, random_ids(schema, 32, 9)), torch.randn(32, sum(first.widths.values()))
    for embedding in (first, second, forgetful):
        learn(embedding, batch, target_BW)
    for name, w in weights(first).items():
        torch.testing.assert_close(weights(second)[name], w, **EXACT)
        torch.testing.assert_close(second.optimizer_state()[name], first.optimizer_state()[name], **EXACT)
        assert not torch.equal(weights(forgetful)[name], w), "without the moments the step is another"


def test_weights_start_uniform_within_init() -> None:
    schema = make_schema(4000)
    w = weights(per_field(schema, 8, init=0.02))["f0"]
    assert 0.019 < w.abs().max() <= 0.02 and abs(float(w.detach().mean())) < 1e-3
    assert float(w.detach().std()) == pytest.approx(0.02 / math.sqrt(3), rel=0.05)


def test_names_with_dots_and_slashes_are_fine() -> None:
    schema = Schema(tuple(Field(n, "categorical", (n,), ("int",), 9) for n in ("a.b", "c/d", "é")), "y")
    for embedding in (per_field(schema, 4), hashed(schema, 4, rows=5), unified(schema, 4, rows=7)):
        batch = make_batch(schema, random_ids(schema, 6))
        learn(embedding, batch, torch.randn(6, sum(embedding.widths.values())))
        assert set(embedding.optimizer_state()) == set(list(embedding.plan.tables))


def test_counts_and_fields_that_cannot_be_are_refused() -> None:
    schema = make_schema(10, 10)
    with pytest.raises(ConfigError, match="rows must be at least 1"):
        hashed(schema, rows=0)
    for wrong in ({"rows": 0}, {"num_tables": 0}, {"chunks": 0}, {"field_chunks": {"f0": 0}}):
        with pytest.raises(ConfigError, match="at least 1"):
            unified(schema, **wrong)
    with pytest.raises(ConfigError, match="no field named 'f9'"):
        unified(schema, field_chunks={"f9": 2})


def test_table_forms_stand_for_the_matrix_they_say() -> None:
    codes = torch.randint(0, 256, (6, 3), dtype=torch.uint8)
    scale, offset = torch.rand(3), torch.randn(3)
    basis = torch.randn(3, 8)
    table = Table(codes, scale, offset, basis)
    rows = [
        [
            sum((float(codes[i, r]) * float(scale[r]) + float(offset[r])) * float(basis[r, d]) for r in range(3))
            for d in range(8)
        ]
        for i in range(6)
    ]
    torch.testing.assert_close(table.dense(), torch.tensor(rows), rtol=1e-4, atol=1e-4)
    assert (table.rows, table.dim, table.nbytes) == (6, 8, 18 + 12 + 12 + 96)


def trained_loss(make, seed: int) -> float:
    """Test logloss of a linear model over a scheme's output, on clicks planted in two fields' ids."""
    rng = np.random.default_rng(seed)
    schema = make_schema(400, 4, 4, 4)
    effect = rng.normal(0, 2, 400)
    ids = np.stack([rng.integers(0, f.cardinality, 12_000) for f in schema.sparse], 1)
    logit = effect[ids[:, 0]] + (ids[:, 1] == 0) - (ids[:, 2] == 0)
    label = (rng.random(12_000) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    torch.manual_seed(seed)
    embedding = make(schema)
    head = nn.Linear(sum(embedding.widths.values()), 1)
    adam = torch.optim.Adam(head.parameters(), 0.02)
    embedding.set_learning_rate(0.1)
    ids_BL, label_B = torch.from_numpy(ids), torch.from_numpy(label)
    losses = []
    for start in [*range(0, 10_000, 250)] * 3 + [10_000]:
        batch = make_batch(schema, ids_BL[start : start + (250 if start < 10_000 else 2000)])
        part = label_B[start : start + len(batch)]
        loss = nn.functional.binary_cross_entropy_with_logits(head(embedding(batch))[:, 0], part)
        losses.append(float(loss.detach()))
        adam.zero_grad()
        loss.backward()
        adam.step()
    return losses[-1]


def test_multiplexing_beats_a_hash_table_a_field_at_equal_bytes() -> None:
    """A long field gains from rows that short fields leave unused; 2 tables of 96 rows against 4 of 48."""

    def multiplexed(schema: Schema) -> FusedLookups:
        return unified(schema, dim=4, rows=96, num_tables=2, chunks=2)

    def table_a_field(schema: Schema) -> FusedLookups:
        tables = {f.name: (48, 4) for f in schema.sparse}
        return FusedLookups(schema, tables, [Lookup(f.name, f.name, f"0/{f.name}") for f in schema.sparse], 0.05)

    size = [
        sum(w.numel() for w in weights(m(make_schema(400, 4, 4, 4))).values()) for m in (multiplexed, table_a_field)
    ]
    assert size[0] == size[1]
    gains = [trained_loss(table_a_field, s) - trained_loss(multiplexed, s) for s in range(3)]
    assert np.mean(gains) > 0.02 and min(gains) > 0

"""Shared tables, unpooled sequences and weighted lists against slow formulas, fused and plain."""

from dataclasses import replace

import pytest
import torch

from recsys.compression.rounding import rounding
from recsys.compression.svd import svd
from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.hashed import hashed
from recsys.embeddings.per_field import per_field
from recsys.embeddings.unified import unified
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.tables.lookup import table_rows
from recsys.tables.plain import PlainEmbedding
from tests.sequences import LENGTH, event_batch, event_schema

SCHEMA = event_schema()
SCHEMES = {
    "per_field": lambda schema: per_field(schema, 4, init=0.5),
    "hashed": lambda schema: hashed(schema, 4, rows=16, init=0.5),
    "unified": lambda schema: unified(
        schema, 4, rows=64, num_tables=3, chunks=2, field_chunks={"product": 3}, init=0.5
    ),
}


@pytest.fixture(params=list(SCHEMES))
def embedding(request: pytest.FixtureRequest) -> FusedLookups:
    return SCHEMES[request.param](SCHEMA)


def tables_of(embedding: FusedLookups) -> dict[str, torch.Tensor]:
    return {t: embedding.bags.embedding_bags[f"t{i}"].weight for i, t in enumerate(list(embedding.plan.tables))}


def rows_read(embedding: FusedLookups, field: str, id_: int) -> list[tuple[str, int]]:
    """Table and row of each lookup of a field."""
    found = []
    for k in embedding.lookups:
        if k.field == field:
            a, b = k.coefficients()
            rows = len(tables_of(embedding)[k.table])
            row = int(table_rows(torch.tensor(id_), a, b, rows)) if k.salt is not None else id_
            found.append((k.table, row))
    return found


def slow(embedding: FusedLookups, schema: Schema, batch, tables: dict[str, torch.Tensor]) -> torch.Tensor:
    """x_BW, one id at a time."""
    result = []
    for b in range(len(batch)):
        parts = []
        for f in schema.sparse:
            width = embedding.widths[f.name] // (f.max_length if f.kind == "sequence" else 1)
            ids = batch.ids_BL[b, list(schema.id_columns[f.name])].tolist()
            weights = [1.0] * len(ids)
            if f.weighted:
                weights = batch.dense_BN[b, list(schema.weight_columns[f.name])].tolist()
            zero = torch.zeros(width)
            x = [torch.cat([tables[t][r] for t, r in rows_read(embedding, f.name, i)]) if i >= 0 else zero for i in ids]
            if f.kind == "sequence":
                parts += x
                continue
            total = sum((w for w, i in zip(weights, ids, strict=True) if i >= 0), 0.0)
            pooled = sum((w * v for w, v, i in zip(weights, x, ids, strict=True) if i >= 0), zero)
            parts.append(pooled / total if total else zero)
        numbers = sum(f.max_length for f in schema.numeric)
        result.append(torch.cat([*parts, batch.dense_BN[b, :numbers]]))
    return torch.stack(result)


def test_fused_and_plain_are_the_slow_formula(embedding: FusedLookups) -> None:
    batch = event_batch(SCHEMA, 40)
    weights = batch.dense_BN[:, -4:] * (batch.ids_BL[:, -4:] >= 0)
    assert (weights.sum(1) == 0).any() and (batch.ids_BL[:, -4:] >= 0)[weights.sum(1) == 0].any()
    want = slow(embedding, SCHEMA, batch, tables_of(embedding))
    torch.testing.assert_close(embedding(batch), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding.scoring()(batch), want.detach(), rtol=1e-5, atol=1e-6)


def test_one_fused_step_is_rowwise_adagrad_on_the_gradients_of_all_readers(embedding: FusedLookups) -> None:
    """Candidate, history and weighted list: gradients of a row are summed over all of them, then m += mean_d(G²)."""
    batch = event_batch(SCHEMA, 40)
    before = {t: w.detach().clone().requires_grad_() for t, w in tables_of(embedding).items()}
    target = torch.randn(40, sum(embedding.widths.values()))
    (slow(embedding, SCHEMA, batch, before) - target).square().sum().backward()
    embedding.set_learning_rate(0.1)
    (embedding(batch) - target).square().sum().backward()
    for t, w in tables_of(embedding).items():
        g = before[t].grad
        moment = g.square().mean(1)
        torch.testing.assert_close(embedding.optimizer_state()[t], moment, rtol=1e-4, atol=1e-6)
        want = before[t].detach() - 0.1 * g / (moment.sqrt() + 1e-8)[:, None]
        torch.testing.assert_close(w.detach(), want, rtol=1e-3, atol=1e-5)


def test_weights_of_a_list_take_no_gradient_and_need_none(embedding: FusedLookups) -> None:
    batch = event_batch(SCHEMA, 20)
    embedding(batch).sum().backward()
    assert batch.dense_BN.grad is None


def test_a_product_reads_the_same_row_wherever_it_stands(embedding: FusedLookups) -> None:
    for id_ in range(40):
        assert rows_read(embedding, "past", id_) == rows_read(embedding, "product", id_)
        assert rows_read(embedding, "liked", id_) == rows_read(embedding, "product", id_)
    rows = sum(w.shape[0] for w in tables_of(embedding).values())
    assert rows == {"t": 192}.get(next(iter(embedding.plan.tables))[0], rows)
    if next(iter(embedding.plan.tables)) != "t0":
        assert list(embedding.plan.tables) == ["city.name", "product", "tags"]


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_without_the_owner_its_readers_still_share_its_table(scheme: str) -> None:
    part = SCHEMA.subset(["past", "liked", "price"])
    embedding, whole = SCHEMES[scheme](part), SCHEMES[scheme](SCHEMA)
    batch = event_batch(part, 20)
    assert rows_read(embedding, "past", 7) == rows_read(embedding, "liked", 7)
    if scheme == "hashed":
        assert rows_read(embedding, "past", 7) == rows_read(whole, "product", 7), "the owner's salt"
    want = slow(embedding, part, batch, tables_of(embedding))
    torch.testing.assert_close(embedding(batch), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding.scoring()(batch), want.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", list(SCHEMES))
def test_a_sequence_alone_is_enough(scheme: str) -> None:
    part = SCHEMA.subset(["past"])
    embedding = {**SCHEMES, "unified": lambda s: unified(s, 4, rows=64)}[scheme](part)
    batch = event_batch(part, 9)
    want = slow(embedding, part, batch, tables_of(embedding))
    torch.testing.assert_close(embedding(batch), want, rtol=1e-5, atol=1e-6)


def test_plain_form_holds_a_shared_table_once(embedding: FusedLookups) -> None:
    plain = embedding.scoring()
    held = sum(b.numel() for n, b in plain.state_dict().items() if n.endswith("codes"))
    assert held * 4 == plain.nbytes


@pytest.mark.parametrize("form", ["svd", "int8", "both"])
def test_smaller_tables_are_shared_too(embedding: FusedLookups, form: str) -> None:
    batch, plain = event_batch(SCHEMA, 30), embedding.scoring()
    tables = plain.tables
    if form != "int8":
        tables, _ = svd(tables, {}, {}, rank=2)
    if form != "svd":
        tables, _ = rounding(tables, {n: torch.ones(t.rows) for n, t in tables.items()}, {}, 8)
    smaller = PlainEmbedding(SCHEMA, tables, plain.lookups)
    want = slow(embedding, SCHEMA, batch, {n: t.dense() for n, t in tables.items()})
    torch.testing.assert_close(smaller(batch), want, rtol=1e-4, atol=1e-5)
    assert smaller.nbytes < plain.nbytes


def test_a_list_of_one_id_at_most_may_be_empty_in_the_plain_form_too() -> None:
    fields = [replace(f, max_length=1) if f.name in ("tags", "liked", "past") else f for f in SCHEMA.fields]
    schema = replace(SCHEMA, fields=tuple(fields))
    batch, embedding = event_batch(schema, 30), per_field(schema, 4, init=0.5)
    want = slow(embedding, schema, batch, tables_of(embedding))
    torch.testing.assert_close(embedding(batch), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding.scoring()(batch), want.detach(), rtol=1e-5, atol=1e-6)


def test_unified_gives_a_sequence_no_turn_and_no_chunks_of_its_own() -> None:
    with_, without = SCHEMES["unified"](SCHEMA), SCHEMES["unified"](SCHEMA.subset(["city.name", "product", "tags"]))
    assert [k for k in with_.lookups if k.field == "tags"] != []
    own = SCHEMA.subset(["product", "tags"])
    later = Schema((*own.fields[:2], replace(SCHEMA["past"])), "click")
    a, b = (unified(s, 4, rows=64, num_tables=3).lookups for s in (own, later))
    assert a == b[: len(a)]
    assert with_.widths["past"] == LENGTH * with_.widths["product"] == LENGTH * without.widths["product"] == 72
    with pytest.raises(ConfigError, match="field_chunks: 'past' reads as 'product' does: expected some of"):
        unified(SCHEMA, field_chunks={"past": 1})
    with pytest.raises(ConfigError, match="field_chunks: 'price' has no table"):
        unified(SCHEMA, field_chunks={"price": 1})


def test_fields_that_share_a_table_must_agree_on_its_ids() -> None:
    fields = tuple(replace(f, cardinality=41) if f.name == "past" else f for f in SCHEMA.fields)
    with pytest.raises(ConfigError, match="'product' must have its 41 ids, got 40 of 'product': prepare"):
        per_field(replace(SCHEMA, fields=fields))

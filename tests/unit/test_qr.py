"""Quotient and remainder against plain indexing and autograd; sums and products of reads against loops."""

import pytest
import torch

from recsys.embeddings.fused import FusedLookups
from recsys.embeddings.qr import qr
from recsys.features.schema import Field, Schema
from recsys.tables.lookup import Lookup, joined, table_rows
from tests.unit.test_embeddings import make_batch, make_schema, random_ids, weights

CLOSE = {"rtol": 1e-6, "atol": 1e-7}


def test_each_id_is_the_product_of_its_quotients_and_its_remainders_row() -> None:
    schema = make_schema(1000, 7, numbers=1)
    embedding = qr(schema, 8, collisions=4, threshold=200)
    tables = weights(embedding)
    assert {n: tuple(t.shape) for n, t in tables.items()} == {"f0": (250, 8), "f0 quotient": (4, 8), "f1": (7, 8)}
    ids_BL = torch.stack([torch.arange(1000), torch.arange(1000) % 7], 1)
    batch = make_batch(schema, ids_BL)
    want = torch.cat(
        [tables["f0"][ids_BL[:, 0] % 250] * tables["f0 quotient"][ids_BL[:, 0] // 250], tables["f1"][ids_BL[:, 1]]], 1
    )
    for x_BW in (embedding(batch), embedding.scoring()(batch)):
        torch.testing.assert_close(x_BW[:, :16].detach(), want.detach(), **CLOSE)
    assert len(embedding(batch)[:, :8].detach().unique(dim=0)) == 1000, "no two ids read the same"
    small = make_schema(1000)
    assert sum(t.numel() for t in weights(qr(small, 8)).values()) == 8 * 254


def test_both_tables_learn_as_autograd_says() -> None:
    """Row-wise Adagrad's first step is −lr·G / √mean(G²), with G what autograd gives a plain product."""
    schema = make_schema(500)
    embedding = qr(schema, 4, collisions=5, threshold=10)
    batch = make_batch(schema, random_ids(schema, 64))
    before = {n: w.detach().clone().requires_grad_() for n, w in weights(embedding).items()}
    id_B, target_BD = batch.ids_BL[:, 0], torch.randn(64, 4)
    (before["f0"][id_B % 100] * before["f0 quotient"][id_B // 100] - target_BD).square().sum().backward()
    embedding.set_learning_rate(0.1)
    (embedding(batch) - target_BD).square().sum().backward()
    for name, w in weights(embedding).items():
        grad = before[name].grad
        read = grad.abs().sum(1) > 0
        assert read.any()
        want = before[name].detach() - 0.1 * grad / (grad.square().mean(1, keepdim=True).sqrt() + 1e-8)
        torch.testing.assert_close(w.detach()[read], want[read], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(w.detach()[~read], before[name].detach()[~read], rtol=0, atol=0)


def test_the_quotients_start_near_one_and_start_there_again() -> None:
    embedding = qr(make_schema(1000), 8, init=0.05)
    for _ in range(2):
        tables = weights(embedding)
        assert (tables["f0 quotient"] - 1).abs().max() <= 0.05 and tables["f0"].abs().max() <= 0.05
        with torch.no_grad():
            for w in tables.values():
                w.add_(3)
        embedding.reset_tables(0)


@pytest.mark.parametrize("combine", ["concat", "sum", "product"])
def test_reads_of_numbers_lists_and_sequences_join_as_a_loop_joins_them(combine) -> None:
    fields = (
        Field("one", "categorical", ("one",), ("int",), 30),
        Field("list", "multi", ("list",), ("int",), 20, 3),
        Field("past", "sequence", ("past",), ("int",), 30, 4, table="one"),
    )
    schema = Schema(fields, "y")
    tables = {"a": (30, 4), "b": (6, 4), "c": (20, 4), "d": (4, 4)}
    lookups = [
        *(k for f in ("one", "past") for k in (Lookup(f, "a"), Lookup(f, "b", divisor=5, combine=combine))),
        Lookup("list", "c"), Lookup("list", "d", wraps=True, combine=combine),
    ]  # fmt: skip
    embedding = FusedLookups(schema, tables, lookups, 1.0)
    w = {n: t.detach() for n, t in weights(embedding).items()}
    batch = make_batch(schema, random_ids(schema, 40))

    def join(first, second):
        if combine == "concat":
            return torch.cat([first, second])
        return first + second if combine == "sum" else first * second

    rows = []
    for ids in batch.ids_BL.tolist():
        one, members, past = ids[0], [i for i in ids[1:4] if i >= 0], ids[4:]
        parts = [join(w["a"][one], w["b"][one // 5])]
        means = [torch.stack([t[i] for i in at]).mean(0) if members else torch.zeros(4) for t, at in
                 ((w["c"], members), (w["d"], [i % 4 for i in members]))]  # fmt: skip
        parts.append(join(*means))
        parts += [join(w["a"][i], w["b"][i // 5]) if i >= 0 else join(torch.zeros(4), torch.zeros(4)) for i in past]
        rows.append(torch.cat(parts))
    for x_BW in (embedding(batch), embedding.scoring()(batch)):
        torch.testing.assert_close(x_BW.detach(), torch.stack(rows), **CLOSE)
    assert embedding.widths == embedding.scoring().widths
    assert sum(embedding.widths.values()) == len(rows[0])


def test_a_third_read_joins_the_last_part_only() -> None:
    a, b, c, d = (torch.full((2, 3), float(i)) for i in (2, 3, 5, 7))
    parts = joined([a, b, c, d], ["product", "concat", "sum", "product"])
    assert [p[0, 0].item() for p in parts] == [2, (3 + 5) * 7]
    assert table_rows(torch.tensor([0, 9, 10]), 1, 0, 100, 10).tolist() == [0, 0, 1]

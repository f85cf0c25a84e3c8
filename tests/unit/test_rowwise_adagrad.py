"""The update of tables beside a loop over rows, and beside FBGEMM's own kernel."""

import pytest
import torch
from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.embeddings.join import looked_up
from recsys.tables import rowwise_adagrad
from recsys.tables.rowwise_adagrad import update_rows, use_fast_update

RATE, EPS = 0.1, 0.2


def slow(weight_RD, state_R, ids_N, grad_GD, read_N, scale_N):
    weight_RD, state_R = weight_RD.double().clone(), state_R.double().clone()
    for row in set(ids_N.tolist()):
        mine_N = ids_N == row
        grad_D = (grad_GD[read_N[mine_N]].double() * scale_N[mine_N].double().unsqueeze(1)).sum(0)
        state_R[row] += grad_D.square().mean()
        weight_RD[row] -= RATE * grad_D / (state_R[row].sqrt() + EPS)
    return weight_RD.float(), state_R.float()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_it_is_the_loop_over_rows(weighted, dtype):
    r = torch.Generator().manual_seed(0)
    weight_RD, state_R = torch.randn(30, 8, generator=r), torch.rand(30, generator=r)
    ids_N = torch.randint(0, 25, (200,), generator=r).to(dtype)
    grad_GD, read_N = torch.randn(90, 8, generator=r), torch.randint(0, 90, (200,), generator=r)
    scale_N = torch.rand(200, generator=r) if weighted else None
    want = slow(weight_RD, state_R, ids_N, grad_GD, read_N, torch.ones(200) if scale_N is None else scale_N)
    update_rows(weight_RD, state_R, ids_N, grad_GD, read_N, RATE, EPS, scale_N)
    torch.testing.assert_close(weight_RD, want[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state_R, want[1], rtol=1e-5, atol=1e-6)


def bags(
    dims: dict[str, int], weighted: bool, pooling=PoolingType.SUM, **settings: float
) -> FusedEmbeddingBagCollection:
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=40,
            embedding_dim=dim,
            feature_names=["a", "c"] if name == "first" else ["b"],
            pooling=pooling,
        )
        for name, dim in dims.items()
    ]
    return FusedEmbeddingBagCollection(
        tables, RowWiseAdagrad, {"lr": RATE, "eps": EPS, **settings}, is_weighted=weighted, device=torch.device("cpu")
    )


def lists(lengths: torch.Tensor, weighted: bool) -> KeyedJaggedTensor:
    r = torch.Generator().manual_seed(1)
    count = int(lengths.sum())
    values = torch.randint(0, 40, (count,), generator=r)
    return KeyedJaggedTensor(
        ["a", "b", "c"], values, torch.rand(count, generator=r) if weighted else None, lengths=lengths
    )


def two_steps(bags: FusedEmbeddingBagCollection, ids: KeyedJaggedTensor) -> list[torch.Tensor]:
    r = torch.Generator().manual_seed(2)
    for _ in range(2):
        out = bags(ids).values()
        out.backward(torch.randn(out.shape, generator=r))
    states = [s for state in bags.fused_optimizer().state.values() for s in state.values()]
    return [*(p.detach() for p in bags.parameters()), *states]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("lengths", ["one each", "any", "none"])
@pytest.mark.parametrize("dims", [{"first": 8, "second": 8}, {"first": 8, "second": 4}], ids=["alike", "mixed"])
def test_tables_that_share_fields_learn_as_under_fbgemms_own_kernel(monkeypatch, weighted, lengths, dims):
    use_fast_update()
    lengths_N = torch.ones(60, dtype=torch.int32)
    if lengths == "none":
        lengths_N.zero_()
    if lengths == "any":
        lengths_N = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(3), dtype=torch.int32)
    ids, calls = lists(lengths_N, weighted), []
    monkeypatch.setattr(rowwise_adagrad, "update_rows", lambda *a: (calls.append(1), update_rows(*a)))
    got = two_steps(bags(dims, weighted), ids)
    assert len(calls) == (2 if dims["second"] == 8 else 0)
    monkeypatch.setattr(rowwise_adagrad, "_arguments", lambda given: None)
    for a, b in zip(got, two_steps(bags(dims, weighted), ids), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_means_are_left_to_fbgemms_own_kernel(monkeypatch):
    """Its gradient of a mean is divided by the length of the list, which `update_rows` does not do."""
    use_fast_update()
    lengths_N = torch.randint(0, 4, (60,), generator=torch.Generator().manual_seed(3), dtype=torch.int32)
    ids, alike = lists(lengths_N, False), {"first": 8, "second": 8}
    got = two_steps(bags(alike, False, PoolingType.MEAN), ids)
    monkeypatch.setattr(rowwise_adagrad, "_arguments", lambda given: None)
    for a, b in zip(got, two_steps(bags(alike, False, PoolingType.MEAN), ids), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("setting", ["weight_decay", "max_norm"])
def test_settings_that_it_does_not_know_are_left_to_fbgemm(monkeypatch, setting):
    use_fast_update()
    calls = []
    monkeypatch.setattr(rowwise_adagrad, "update_rows", lambda *a: calls.append(1))
    two_steps(bags({"first": 8, "second": 8}, False, **{setting: 0.1}), lists(torch.ones(60, dtype=torch.int32), False))
    assert not calls


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_looked_up_without_copies_is_what_torchrec_looks_up(weighted):
    one_order = ["a", "c", "b"]  # that of the tables
    ids = lists(torch.tensor([2, 0, 1, 3] * 6, dtype=torch.int32), weighted)
    for given in (ids, ids.permute([0, 2, 1])):
        tables = bags({"first": 8, "second": 4}, weighted)
        got, want = looked_up(tables, given), tables(given)
        assert got.keys() == want.keys() == one_order
        torch.testing.assert_close(got.values(), want.values(), rtol=0, atol=0)
    assert ids.permute([0, 2, 1]).keys() == one_order


@pytest.mark.parametrize("rows", [1000, 2**62])
def test_equal_ids_keep_their_order(rows):
    ids_N = torch.randint(0, 7, (500,), generator=torch.Generator().manual_seed(0)) + rows - 7
    got, want = rowwise_adagrad._sorted(ids_N), torch.sort(ids_N, stable=True)
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])

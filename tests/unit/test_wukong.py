import pytest
import torch

from recsys.data.batch import Batch
from recsys.embeddings.per_field import per_field
from recsys.errors import ConfigError
from recsys.frame.ctr import CTR
from recsys.models.wukong import AttentiveY, Bottom, FixedY, Wukong, WukongLayer, compressed_fm, over_rows

TIGHT = {"rtol": 1e-12, "atol": 1e-12}


def x(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_optimised_fm_equals_plain_times_y() -> None:
    x_BND, y_NK = x(5, 7, 4), x(7, 3)
    torch.testing.assert_close(compressed_fm(x_BND, y_NK), (x_BND @ x_BND.transpose(1, 2)) @ y_NK, **TIGHT)


def test_identity_y_gives_plain_fm() -> None:
    x_BND = x(3, 5, 4)
    gram = torch.stack([torch.stack([torch.stack([a @ b for b in row]) for a in row]) for row in x_BND])
    torch.testing.assert_close(compressed_fm(x_BND, torch.eye(5, dtype=torch.float64)), gram, **TIGHT)


@pytest.mark.parametrize(("n_in", "n_fm", "n_linear"), [(5, 2, 3), (9, 2, 3), (3, 4, 4), (6, 1, 5)])
def test_shape_chain(n_in: int, n_fm: int, n_linear: int) -> None:
    layer = WukongLayer(n_in, 4, n_fm, n_linear, rank=3, hidden=[8], dropout=0.0).double()
    assert layer(x(2, n_in, 4)).shape == (2, n_fm + n_linear, 4)
    assert isinstance(layer.residual, torch.nn.Identity) == (n_in == n_fm + n_linear)


def test_stack_of_layers_keeps_its_shapes() -> None:
    model = Wukong([4, 8, 1, 4], dim=8, layers=3, n_fm=2, n_linear=3, rank=3, hidden=[8], head=[]).double()
    x_BND = model.stack(x(6, 17))
    shapes = [tuple(x_BND.shape)]
    for layer in model.layers:
        x_BND = layer(x_BND)
        shapes.append(tuple(x_BND.shape))
    assert shapes == [(6, 4, 8), (6, 5, 8), (6, 5, 8), (6, 5, 8)]
    assert model(x(6, 17)).shape == (6, 1) and model(x(1, 17)).shape == (1, 1)


def test_linear_compression_is_linear_over_rows_and_has_no_bias() -> None:
    layer = WukongLayer(5, 4, 2, 3, 3, [8], 0.0).double()

    def lcb(rows: torch.Tensor) -> torch.Tensor:
        return over_rows(layer.linear, rows)

    a, b = x(2, 5, 4), x(2, 5, 4)
    torch.testing.assert_close(lcb(2 * a - 3 * b), 2 * lcb(a) - 3 * lcb(b), **TIGHT)
    torch.testing.assert_close(lcb(a), torch.einsum("ln,bnd->bld", layer.linear.weight, a), **TIGHT)
    assert lcb(torch.zeros_like(a)).abs().max() == 0


def norm(v: torch.Tensor) -> torch.Tensor:
    return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("n_in", [5, 7])
def test_layer_against_the_formula(n_in: int) -> None:
    layer = WukongLayer(n_in, 4, 2, 3, 3, [8], 0.0).double()
    x_BND = x(2, n_in, 4)
    fm = norm(((x_BND @ x_BND.mT) @ layer.y.y_NK).reshape(2, -1))
    hidden = torch.relu(fm @ layer.fm_mlp[0].weight.T + layer.fm_mlp[0].bias)
    fmb = (hidden @ layer.fm_out.weight.T + layer.fm_out.bias).reshape(2, 2, 4)
    lcb = layer.linear.weight @ x_BND
    residual = x_BND if n_in == 5 else layer.residual.weight @ x_BND
    torch.testing.assert_close(layer(x_BND), norm(torch.cat([fmb, lcb], 1) + residual), **TIGHT)


def test_fm_blocks_output_is_linear_not_rectified() -> None:
    layer = WukongLayer(5, 4, 2, 3, 3, [8], 0.0).double()
    layer.norm = torch.nn.Identity()
    layer.linear.weight.data.zero_()
    x_BND = x(50, 5, 4)
    assert (layer(x_BND) - x_BND)[:, :2].min() < 0


@pytest.mark.parametrize("hidden", [[], [6]])
def test_input_dependent_y_against_the_formula(hidden: list[int]) -> None:
    n, d, k, rows = 5, 4, 3, 2
    made, x_BND = AttentiveY(n, d, k, rows, hidden, 0.0).double(), x(7, n, d)
    for one_ND, got_NK in zip(x_BND, made(x_BND), strict=True):
        flat = torch.stack([sum(w[i] * one_ND[i] for i in range(n)) for w in made.compress.weight]).reshape(-1)
        if hidden:
            flat = torch.relu(made.mlp[0].weight @ flat + made.mlp[0].bias)
        want = made.out.weight @ flat + made.out.bias
        torch.testing.assert_close(got_NK, torch.stack([want[i * k : (i + 1) * k] for i in range(n)]), **TIGHT)


def test_each_rows_interactions_are_compressed_by_its_own_y() -> None:
    layer = WukongLayer(5, 4, 2, 3, 3, [8], 0.0, AttentiveY(5, 4, 3, 2, [6], 0.0)).double()
    seen = []
    layer.fm_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x_BND = x(6, 5, 4)
    layer(x_BND)
    y_BNK = layer.y(x_BND)
    for one_ND, y_NK, got in zip(x_BND, y_BNK, seen[0], strict=True):
        torch.testing.assert_close(got, (one_ND @ one_ND.T @ y_NK).reshape(-1), **TIGHT)
    assert (y_BNK - y_BNK[:1])[1:].abs().amin(0).max() > 0, "Y must differ from input to input"


def test_numbers_go_through_the_bottom_mlp_together() -> None:
    model = Wukong([4, 8, 1, 3], dim=8, hidden=[8], bottom=[5], bottom_rows=2, numbers=2).double()
    bottom, x_BW = model.stack, x(6, 16)
    assert isinstance(bottom, Bottom)
    got_BND = bottom(x_BW)
    assert got_BND.shape == (6, 4, 8), "two looked-up fields and two embeddings of the numbers"
    torch.testing.assert_close(got_BND[:, 0], x_BW[:, :4] @ bottom.stack.projections["0"].weight.T, **TIGHT)
    torch.testing.assert_close(got_BND[:, 1], x_BW[:, 4:12], **TIGHT)
    hidden = torch.relu(x_BW[:, 12:] @ bottom.mlp[0].weight.T + bottom.mlp[0].bias)
    made = hidden @ bottom.out.weight.T + bottom.out.bias
    torch.testing.assert_close(got_BND[:, 2:], torch.stack([made[:, :8], made[:, 8:]], 1), **TIGHT)


def test_what_the_paper_has_is_the_default_and_the_plain_forms_are_settings() -> None:
    paper, plain = (Wukong([4, 4, 1, 1], numbers=2, **given) for given in ({}, {"y_rows": None, "bottom": None}))
    assert isinstance(paper.stack, Bottom) and all(isinstance(m.y, AttentiveY) for m in paper.layers)
    assert not isinstance(plain.stack, Bottom) and all(isinstance(m.y, FixedY) for m in plain.layers)
    assert paper.layers[0].linear.in_features == 3 and plain.layers[0].linear.in_features == 4


def test_a_model_tells_wukong_which_fields_are_numbers(schema, batch) -> None:
    model = CTR(schema, per_field(schema, 8), Wukong)  # wider than the piecewise number, which is not narrowed then
    assert model.interaction.stack.numbers == sum(f.max_length for f in schema.numeric)
    changed = batch.dense_BN.clone()
    changed[:, 0] += 1
    embeddings = [
        model.interaction.stack(model.features(b))
        for b in (batch, Batch(batch.ids, batch.ids_BL, changed, batch.label_B))
    ]
    moved_N = (embeddings[0] - embeddings[1]).abs().amax((0, 2))
    assert moved_N[:-1].max() == 0 and moved_N[-1] > 0, "a number reaches the bottom MLP's embedding alone"


def test_numbers_alone_are_enough() -> None:
    logit_B = Wukong([1, 1], numbers=2)(torch.randn(9, 2))[:, 0]
    assert logit_B.shape == (9,) and logit_B.unique().numel() > 1


@pytest.mark.parametrize("name", ["layers", "n_fm", "n_linear", "rank", "y_rows", "bottom_rows"])
def test_a_count_below_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{name} must be at least 1, got 0: set"):
        Wukong([4, 4], **{name: 0})

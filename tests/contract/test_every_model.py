"""Every model of conf/model, picked up by itself, keeps the same promises."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from recsys.data.batch import Batch
from recsys.embeddings.per_field import per_field
from recsys.features.schema import Schema
from recsys.frame.ctr import CTR

CONF = Path(__file__).parents[2] / "conf" / "model"
WIDTHS = [8, 8, 16, 1, 1]


@pytest.fixture(params=sorted(p.stem for p in CONF.glob("*.yaml")))
def conf(request: pytest.FixtureRequest) -> Iterator[OmegaConf]:
    yield OmegaConf.load(CONF / f"{request.param}.yaml")


@pytest.fixture
def model(conf: OmegaConf) -> nn.Module:
    return instantiate(conf)(WIDTHS)


@pytest.fixture
def x_BW() -> torch.Tensor:
    return torch.randn(32, sum(WIDTHS))


def test_there_are_models() -> None:
    assert {"fm", "dcn", "wukong"} <= {p.stem for p in CONF.glob("*.yaml")}


def test_one_finite_logit_a_row(model: nn.Module, x_BW: torch.Tensor) -> None:
    y_BO = model(x_BW)
    assert y_BO.shape == (32, 1) and y_BO.dtype == torch.float32 and y_BO.isfinite().all()


@pytest.mark.parametrize("outputs", [2, 5])
def test_as_many_numbers_a_row_as_the_head_wants(conf, outputs: int, x_BW: torch.Tensor) -> None:
    """Each differs from the others, and gives every parameter a gradient."""
    model = instantiate(conf)(WIDTHS, outputs=outputs)
    y_BO = model.eval()(x_BW)
    y_BO.square().sum().backward()
    assert y_BO.shape == (32, outputs) and y_BO[0].unique().numel() == outputs
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_gradient_reaches_every_parameter_and_every_input(model: nn.Module, x_BW: torch.Tensor) -> None:
    x_BW.requires_grad_()
    model.eval()(x_BW).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    assert x_BW.grad is not None and x_BW.grad.any(0).all(), "an input column that no logit depends on"


def test_rows_do_not_know_each_other(model: nn.Module, x_BW: torch.Tensor) -> None:
    model.eval()
    logit_B, order = model(x_BW), torch.randperm(32)
    torch.testing.assert_close(model(x_BW[order]), logit_B[order])


def test_batch_of_one_is_the_row_alone(model: nn.Module, x_BW: torch.Tensor) -> None:
    model.eval()
    assert model(x_BW[:1]).shape == (1, 1)
    torch.testing.assert_close(torch.cat([model(x) for x in x_BW.split(1)]), model(x_BW), rtol=1e-4, atol=1e-5)


def test_saved_and_loaded_weights_answer_the_same(model: nn.Module, conf, x_BW: torch.Tensor, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "m.pt")
    other = instantiate(conf)(WIDTHS)
    assert not torch.equal(other.eval()(x_BW), model.eval()(x_BW)), "two draws of weights must differ"
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    torch.testing.assert_close(other(x_BW), model(x_BW), rtol=0, atol=0)


def test_evaluation_is_deterministic(model: nn.Module, x_BW: torch.Tensor) -> None:
    model.eval()
    torch.testing.assert_close(model(x_BW), model(x_BW), rtol=0, atol=0)


def test_learns_a_planted_label(model: nn.Module) -> None:
    x_BW = torch.randn(128, sum(WIDTHS))
    label_B = (x_BW[:, 0] + x_BW[:, 8] > 0).float()
    adam = torch.optim.Adam(model.parameters(), 2e-2)
    losses = []
    for _ in range(25):
        loss = nn.functional.binary_cross_entropy_with_logits(model(x_BW)[:, 0], label_B)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_exported_graph_of_plain_tensors_answers_as_eager(
    conf, schema: Schema, batch: Batch, exported_is_eager
) -> None:
    exported_is_eager(CTR(schema, per_field(schema, 8), instantiate(conf)), batch)

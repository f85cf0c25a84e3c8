"""Every head of conf/head, picked up by itself, keeps the same promises. B rows, T labels."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from recsys.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "head"
B = 12
New = Callable[[], Any]  # builds a head


def heads() -> list[tuple[str, int]]:
    """Each option with each count of labels that it takes."""
    pairs = []
    for name in sorted(p.stem for p in CONF.glob("*.yaml")):
        for count in (1, 2, 3):
            try:
                built(name, count)
            except ConfigError:
                continue
            pairs.append((name, count))
    return pairs


def built(name: str, count: int) -> Any:
    return instantiate(OmegaConf.load(CONF / f"{name}.yaml"))(["a", "b", "c"][:count])


@pytest.fixture(params=heads(), ids=str)
def new(request: pytest.FixtureRequest) -> New:
    return lambda: built(*request.param)


@pytest.fixture
def count(request: pytest.FixtureRequest) -> int:
    return request.node.callspec.params["new"][1]


def test_every_option_takes_some_count_of_labels() -> None:
    assert {"click", "several"} <= {p.stem for p in CONF.glob("*.yaml")} == {name for name, _ in heads()}


def test_a_logit_for_each_label_and_rows_do_not_know_each_other(new: New, count: int) -> None:
    head = new().eval()
    y_BO, order = torch.randn(B, head.outputs), torch.randperm(B)
    logit_BT = head(y_BO)
    assert logit_BT.shape == (B, count) and logit_BT.dtype == torch.float32 and logit_BT.isfinite().all()
    torch.testing.assert_close(head(y_BO[order]), logit_BT[order])
    torch.testing.assert_close(head(y_BO[:1]), logit_BT[:1])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_mean_over_labels_of_each_ones_mean_over_rows(new: New, count: int, weighted: bool) -> None:
    logit_BT, label_BT = 3 * torch.randn(B, count), torch.randint(0, 2, (B, count)).float()
    label_BT[3:6, 1:] = float("nan")
    weight_B = torch.rand(B) if weighted else None
    want = 0.0
    for t in range(count):
        above = below = 0.0
        for b in range(B):
            y, w = float(label_BT[b, t]), float(weight_B[b]) if weight_B is not None else 1.0
            if not math.isnan(y):
                p = 1 / (1 + math.exp(-float(logit_BT[b, t])))
                above, below = above - w * math.log(p if y else 1 - p), below + w
        want += above / below / count
    assert float(new().loss(logit_BT, label_BT, weight_B)) == pytest.approx(want, rel=1e-5)


def test_the_loss_reaches_every_parameter_and_every_number(new: New, count: int) -> None:
    head = new()
    y_BO = torch.randn(64, head.outputs, requires_grad=True)
    head.loss(head(y_BO), torch.randint(0, 2, (64, count)).float(), None).backward()
    assert y_BO.grad is not None and y_BO.grad.any(0).all()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_saved_and_loaded_weights_answer_the_same(new: New, tmp_path: Path) -> None:
    head, other = new(), new()
    torch.save(head.state_dict(), tmp_path / "h.pt")
    other.load_state_dict(torch.load(tmp_path / "h.pt", weights_only=True))
    y_BO = torch.randn(B, head.outputs)
    torch.testing.assert_close(other(y_BO), head(y_BO), rtol=0, atol=0)


def test_the_exported_graph_answers_as_eager_for_any_count_of_rows(new: New) -> None:
    head = new().eval()
    rows = ({0: torch.export.Dim("B", min=1)},)
    graph = torch.export.export(head, (torch.randn(B, head.outputs),), dynamic_shapes=rows).module()
    y_BO = torch.randn(5, head.outputs)
    torch.testing.assert_close(graph(y_BO), head(y_BO))

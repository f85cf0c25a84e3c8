import torch
from torch import nn

from recsys.training.optimizers.adamw import adamw
from recsys.training.optimizers.muon import muon

RATE, DECAY, MOMENTUM = 0.01, 0.5, 0.9


def test_a_hidden_matrix_moves_equally_far_in_every_direction_of_its_momentum() -> None:
    w = nn.Parameter(torch.randn(12, 30))
    (optimizer, rest) = muon([w], RATE, DECAY, momentum=MOMENTUM, nesterov=False)
    m = torch.zeros(12, 30, dtype=torch.float64)
    for _ in range(3):
        w.grad, before = torch.randn(12, 30), w.detach().double()
        m = MOMENTUM * m + (1 - MOMENTUM) * w.grad.double()
        optimizer.step()
        rest.step()
        step = ((1 - RATE * DECAY) * before - w.detach().double()) / (RATE * 0.2 * 30**0.5)
        u, _, v = torch.linalg.svd(m, full_matrices=False)
        seen = u.T @ step @ v.T  # U·Vᵀ would give 1s; five iterations, in bf16, come near
        assert float(seen.diagonal().min()) > 0.6 and float(seen.diagonal().max()) < 1.3
        assert float((seen - seen.diagonal().diag()).abs().max()) < 0.05


def test_all_but_hidden_matrices_move_as_under_adamw() -> None:
    shapes = [(5, 4), (1, 4), (5,), (), (2, 3, 4)]
    one, other = ([nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    for dense, optimizers in ((one, muon(one, RATE, DECAY)), (other, adamw(other, RATE, DECAY))):
        for p in dense:
            p.grad = torch.arange(1.0, p.numel() + 1).reshape(p.shape)
        for optimizer in optimizers:
            optimizer.step()
    assert [torch.equal(a, b) for a, b in zip(one, other, strict=True)] == [False, True, True, True, True]


def test_a_model_without_hidden_matrices_is_trained_by_adamw_alone() -> None:
    assert [type(o).__name__ for o in muon([nn.Parameter(torch.ones(1, 4))], RATE, DECAY)] == ["AdamW"]

"""DeepFM against its equations, one row and one pair at a time."""

import pytest
import torch

from recsys.models.deepfm import DeepFM


@pytest.mark.parametrize("hidden", [[6, 5], []])
def test_logit_is_linear_term_pairs_and_mlp(hidden: list[int]) -> None:
    torch.manual_seed(0)
    model = DeepFM([4, 4, 1], hidden).double()
    with torch.no_grad():
        model.fm.bias.fill_(0.01)
    number_D = model.fm.stack.projections["2"].weight.detach()[:, 0]
    layers = [m for m in model.deep if isinstance(m, torch.nn.Linear)]
    assert len(layers) == len(hidden)
    x_BW = torch.randn(5, 9, dtype=torch.float64)
    for x, got in zip(x_BW, model(x_BW).detach(), strict=True):
        fields = [x[:4], x[4:8], x[8] * number_D]
        want = 0.3 + sum(8 / 3**0.5 * float(v.mean()) for v in fields)
        pair = [v - v.mean() for v in fields]
        want += sum(float((pair[i] * pair[j]).sum()) / 4**0.5 for i in range(3) for j in range(i))
        y = x
        for layer in layers:
            y = (layer.weight @ y + layer.bias).detach().clamp(min=0)
        want += float((model.logit.weight[0] @ y + model.logit.bias[0]).detach())
        assert float(got) == pytest.approx(want, abs=1e-12)

"""What updates tables, against a slow formula in float64."""

import pytest
import torch
from torch.optim import SGD, Adam
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from recsys.data.batch import Batch
from recsys.data.ranks import Ranks
from recsys.embeddings.bags import only_state
from recsys.embeddings.optimizers.adagrad import adagrad
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.embeddings.optimizers.sgd import sgd
from recsys.embeddings.per_field import per_field
from recsys.embeddings.sharded import ShardedBags
from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema
from recsys.frame.contracts import TableOptimizer
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.training.checkpoint import squared_gradients

ROWS, DIM, RATE = 12, 8, 0.1


def schema() -> Schema:
    return Schema((Field("f", "categorical", ("f",), ("int",), ROWS),), "y")


@pytest.mark.parametrize("optimizer", [rowwise_adagrad(), adagrad(), sgd()], ids=lambda o: o.kind.__name__)
def test_three_steps_are_the_formulas(optimizer) -> None:
    embedding = per_field(schema(), DIM)
    embedding.use_optimizer(optimizer)
    table = embedding.scoring().tables["f"].dense().double()
    memory = torch.zeros(ROWS, DIM if optimizer == adagrad() else 1, dtype=torch.float64)
    for step in range(3):
        r = torch.Generator().manual_seed(step)
        ids_B1, slope_BD = torch.randint(0, ROWS, (40, 1), generator=r), torch.randn(40, DIM, generator=r)
        embedding.set_learning_rate(RATE)
        batch = Batch.of(schema(), ids_B1, torch.zeros(40, 0), torch.zeros(40))
        (embedding(batch) * slope_BD).sum().backward()
        gradient = torch.zeros(ROWS, DIM, dtype=torch.float64).index_add(0, ids_B1[:, 0], slope_BD.double())
        if optimizer == sgd():
            table -= RATE * gradient
        else:
            memory += gradient**2 if optimizer == adagrad() else (gradient**2).mean(1, keepdim=True)
            table -= RATE * gradient / (memory.sqrt() + 1e-8)
        torch.testing.assert_close(embedding.scoring().tables["f"].dense().double(), table, rtol=1e-5, atol=1e-5)
    kinds = ["row" if h.state.ndim == 1 else "element" for h in embedding.held() if h.state is not None]
    assert kinds == list(optimizer.states.values()), "what it says that it keeps"
    model = CTR(schema(), embedding, lambda widths: MLP(widths, hidden=[4]))
    seen = squared_gradients(model)
    assert set(seen) == (set() if optimizer == sgd() else {"f"})
    for squares in seen.values():  # what FWSVD weighs rows by, whichever Adagrad remembers it
        torch.testing.assert_close(squares.double(), memory.mean(1), rtol=1e-5, atol=1e-6)


def test_another_optimizer_takes_over_the_weights_and_starts_without_memory() -> None:
    embedding = per_field(schema(), DIM)
    batch = Batch.of(schema(), torch.arange(ROWS)[:, None], torch.zeros(ROWS, 0), torch.zeros(ROWS))
    embedding(batch).sum().backward()
    before, bags = embedding(batch), embedding.bags
    embedding.use_optimizer(adagrad())
    assert embedding.bags is not bags and torch.equal(embedding(batch), before)
    assert not embedding.optimizer_state()["f"].any()
    embedding.use_optimizer(adagrad())
    assert embedding.optimizer == adagrad()


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (TableOptimizer(Adam, {}, {}), "expected SGD, Adagrad, RowWiseAdagrad, which FBGEMM has on CPUs, got Adam"),
        (TableOptimizer(RowWiseAdagrad, {"eps": 1e-8, "weight_decay": 0.1}, {}), "got weight_decay.*train.table_l2"),
        (TableOptimizer(SGD, {"max_norm": 1.0}, {}), "got max_norm, which FBGEMM ignores on CPUs"),
        (TableOptimizer(SGD, {}, {"first": "row", "second": "element"}), "at most one state .* got first, second"),
    ],
)
def test_what_fbgemm_would_ignore_or_a_checkpoint_lose_is_refused(optimizer, said) -> None:
    embedding = per_field(schema(), DIM)
    bags = embedding.bags
    with pytest.raises(ConfigError, match=f"table_optimizer: .*{said}"):
        embedding.use_optimizer(optimizer)
    assert embedding.bags is bags and embedding.optimizer == rowwise_adagrad()
    with pytest.raises(ConfigError, match=f"table_optimizer: .*{said}"):
        ShardedBags(embedding.plan, {"f": (0, 1)}, optimizer, torch.device("cpu"), Ranks(0, 2, "table_wise"))


def test_a_second_state_of_a_table_is_not_lost_in_silence() -> None:
    """As FBGEMM's Adam has on GPUs."""
    one = torch.zeros(3)
    assert only_state({"t0.momentum_1": one}) is one and only_state({}) is None
    with pytest.raises(ConfigError, match="at most one state .* got t0.momentum_1, t0.momentum_2"):
        only_state({"t0.momentum_1": one, "t0.momentum_2": one})

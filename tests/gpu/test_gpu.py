"""What only a GPU can show: FBGEMM's CUDA kernels, copies beside the computation, NCCL. `make gpu-check` runs it."""

import os

import pytest
import torch
import torch.distributed as dist

from recsys.data.ranks import Ranks
from recsys.data.shards import Shards
from recsys.embeddings.bags import fused_bags
from recsys.embeddings.optimizers.rowwise_adagrad import rowwise_adagrad
from recsys.embeddings.plan import Plan
from recsys.features.schema import Field, Schema
from recsys.tables.lookup import Lookup
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.fit import fit, logits
from recsys.training.loop import Training, seed_everything
from tests.pipeline.small import PARTS

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")]

HOW = TrainConfig(batch_size=128, max_epochs=1, lr=3e-3, table_lr=0.05, warmup_steps=5, precision="fp32")
SPEC: checkpoint.Spec = {**PARTS, "sequence": None, "embedding_dropout": 0.0}
SPEC["model"] = {**PARTS["model"], "dropout": 0.0}  # each device draws another one


def losses(device: Device, train: Shards) -> list[float]:
    """Of the first steps, through the loader."""
    seed_everything(0)
    model = checkpoint.build(train.schema, SPEC, device)
    return [step.loss for step in Training(model, HOW, 10, device=device).steps(train, 0, 8)]


def test_a_gpu_takes_the_steps_of_the_cpu(train: Shards) -> None:
    assert losses(Device.choose("cuda", "fp32"), train) == pytest.approx(losses(CPU, train), rel=1e-4)


def test_tables_are_updated_by_fbgemms_cuda_kernels() -> None:
    place = Device.choose("cuda").torch_device
    schema = Schema((Field("a", "categorical", ("a",), ("int",), 40),), "y")
    plan = Plan.of(schema, {"a": (40, 8)}, [Lookup("a", "a")])
    (kernel,) = fused_bags(plan, {"a": (-0.1, 0.1)}, rowwise_adagrad(), place)._emb_modules
    assert not kernel._emb_module.use_cpu and kernel._emb_module.current_device == place


def test_bf16_is_chosen_by_what_the_gpu_multiplies() -> None:
    wanted = torch.cuda.get_device_capability() >= (8, 0)  # since Ampere
    assert (Device.choose("cuda").autocast_dtype is torch.bfloat16) is wanted


def test_batches_arrive_whole_while_the_gpu_computes(train: Shards) -> None:
    device, busy = Device.choose("cuda"), torch.rand(2048, 2048, device="cuda")
    wanted = list(train.shuffled(64, 0))
    for given, batch in zip(device.ahead(train.shuffled(64, 0)), wanted, strict=True):
        busy = busy @ busy / 2048  # the computation lags behind the copies
        arrived = [t.cpu() for t in (given.ids_BL, given.dense_BN, given.label_BT, given.ids.values())]
        for a, b in zip(arrived, (batch.ids_BL, batch.dense_BN, batch.label_BT, batch.ids.values()), strict=True):
            assert torch.equal(a, b)


def test_a_training_stops_early_and_its_model_scores_alike_on_both(train: Shards, valid: Shards, tmp_path) -> None:
    device = Device.choose("cuda", "fp32")
    model = checkpoint.build(train.schema, SPEC, device)
    fit(model, train, valid, HOW, seed=0, checkpoint=tmp_path / "checkpoints", device=device)
    checkpoint.save(tmp_path, model, SPEC)
    on_cpu, _ = checkpoint.load(tmp_path, CPU)
    there = torch.from_numpy(logits(model, valid, device=device))
    torch.testing.assert_close(there, torch.from_numpy(logits(on_cpu, valid)), rtol=1e-3, atol=1e-4)


def test_ranks_add_over_nccl(monkeypatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}.items():
        monkeypatch.setitem(os.environ, name, value)
    dist.init_process_group("nccl")
    try:
        x = torch.arange(4.0, device="cuda")
        dist.all_reduce(x)
        assert x.tolist() == [0, 1, 2, 3] and Ranks.current() == Ranks()
    finally:
        dist.destroy_process_group()

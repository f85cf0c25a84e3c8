"""The device of a run: which one is chosen, and why; and that all that a run computes stays on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from pipelines import distill, select_features, train
from pipelines.config import Distill, Select
from pipelines.evaluate import measure
from recsys.config.factory import make
from recsys.config.options import CONF
from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.features.schema import Field, Schema
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.selection.counted import Rows
from recsys.selection.methods import leap
from recsys.selection.scores import FieldScores
from recsys.selection.search import Search
from recsys.training import checkpoint
from recsys.training.config import TrainConfig
from recsys.training.device import CPU, Device
from recsys.training.loop import Training
from tests.fake_device import FAKE, fake_device, is_fake
from tests.pipeline.small import PARTS, small_stage


def test_auto_precision_asks_the_processor_that_computes(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for cpu, gpu in ((False, True), (True, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=cpu: supported)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, supported=gpu: supported)
        assert (Device.choose("cpu").autocast_dtype is torch.bfloat16) is cpu
        assert (Device.choose("auto").autocast_dtype is torch.bfloat16) is gpu
    assert Device.choose("auto").torch_device == torch.device("cuda", 0)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_one_line(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    chosen = Device.choose("auto", "fp32")
    assert chosen.torch_device == CPU.torch_device and chosen.autocast_dtype is None
    assert chosen.reason == "cpu, since torch can use no GPU; fp32, since train.precision=fp32 was set"
    with pytest.raises(ConfigError, match="device: expected a GPU that torch can use, found none: set device=cpu"):
        Device.choose("cuda")


def test_random_states_go_back(monkeypatch) -> None:
    torch.manual_seed(3)
    states, drawn = CPU.random_states(), torch.rand(4)
    CPU.set_random_states(states)
    assert torch.equal(torch.rand(4), drawn)
    assert torch.equal(torch.rand(4, generator=CPU.generator(3)), torch.rand(4, generator=CPU.generator(3)))


SCHEMA = Schema(
    (
        *(Field(n, "categorical", (n,), ("int",), 30) for n in ("a", "b")),
        Field("list", "multi", ("list",), ("int",), 20, 3),
        Field("weighted", "multi", ("weighted",), ("int",), 20, 2, weighted=True),
        Field("past", "sequence", ("past",), ("int",), 30, 4, table="a"),
        Field("price", "numeric", ("price",), ("float",)),
    ),
    "y",
)
OPTIONS = {"model": "mlp", "embedding": "per_field", "sequence": "mean"}
EVERY = [(g, p.stem) for g in ("model", "embedding", "sequence") for p in sorted((CONF / g).glob("*.yaml"))]


def batch_of(rows: int) -> Batch:
    r = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(0, 20, (rows, 2 + 3 + 2 + 4), generator=r)
    ids_BL[::3, 3:] = -1
    dense_BN = torch.rand(rows, 1 + 2, generator=r)
    return Batch.of(SCHEMA, ids_BL, dense_BN, torch.randint(0, 2, (rows,), generator=r).float(), torch.rand(rows))


def spec(**options: str) -> dict[str, Any]:
    chosen = {g: OmegaConf.to_container(OmegaConf.load(CONF / g / f"{n}.yaml")) for g, n in (OPTIONS | options).items()}
    return {**chosen, "embedding_dropout": 0.1}


def train_and_score(device: Device, spec: dict[str, Any], folder: Path) -> torch.Tensor:
    """Two steps, with everything that a training can ask for, and the logits of what was saved."""
    torch.manual_seed(0)
    model = checkpoint.build(SCHEMA, spec, device).train()
    how = TrainConfig(warmup_steps=0, table_l2=0.1, weight_decay=0.1, fresh_tables=True, precision="fp32")
    training = Training(model, how, 10, device=device)
    for _ in range(2):
        training.learn(device.batch(batch_of(16)))
    training.embedding.reset_tables(0)
    checkpoint.save(folder, model, spec)
    held, _ = checkpoint.load(folder, device)
    plain = held.over(held.embedding.scoring())
    with torch.no_grad():
        batch = device.batch(batch_of(9))
        return torch.stack([held(batch), plain(batch)])


@pytest.mark.parametrize(("group", "name"), EVERY, ids=lambda n: n)
def test_every_part_stays_on_the_device_of_the_run(group: str, name: str, tmp_path: Path) -> None:
    with fake_device() as device:
        assert is_fake(train_and_score(device, spec(**{group: name}), tmp_path))


def scores_of(option: Path, folder: Path, device: Device) -> FieldScores:
    """What a selector says of an untrained model, from a few rows."""
    torch.manual_seed(0)
    train, valid = (Rows(Shards(folder, split), np.arange(300)) for split in ("train", "valid"))
    how = TrainConfig(batch_size=100, lr=5e-3, warmup_steps=0, precision="fp32")
    few = {"price": 1e-3, "batch_size": 300, "rows": 300, "trees": 2}
    config: Any = OmegaConf.to_container(OmegaConf.load(option))

    parts = {**spec(), "embedding_dropout": 0.0}  # a CPU draws its dropout otherwise: see recsys/frame/dropout.py
    parts["model"] = {**parts["model"], "dropout": 0.0}

    def build(schema: Schema) -> CTR:
        return checkpoint.build(schema, parts, device)

    search = Search(build(train.schema), train, valid, build, how, 0, 3, device)
    return make({**config, **{k: v for k, v in few.items() if k in config}}, "selection")(search)


@pytest.mark.parametrize("option", sorted((CONF / "selection").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_selector_says_on_a_device_what_it_says_on_the_cpu(option: Path, prepared: Path, monkeypatch) -> None:
    monkeypatch.setattr(leap, "_LEAST_STEPS", 4)
    monkeypatch.setattr(leap, "_MOST_PASSES", 4)
    with fake_device() as device:
        scores = scores_of(option, prepared, device)
    on_cpu = scores_of(option, prepared, CPU)  # by other operations, whose last bits differ
    assert scores.score == pytest.approx(on_cpu.score, rel=1e-4, abs=1e-6) and scores.keep == on_cpu.keep
    for name, details in scores.details.items():
        assert details == pytest.approx(on_cpu.details[name], rel=1e-4, abs=1e-6, nan_ok=True)


def test_stages_compute_on_the_device_of_the_run(prepared: Path, tmp_path: Path, monkeypatch) -> None:
    """They train, look at validation, write checkpoints, take them up, score, evaluate, select and distill."""
    random = {"_target_": "recsys.selection.methods.random_order.random_order"}
    policy = Select(3, None, [], "drop", None, probes=1)
    parts: Any = {"select": policy, "selection": random, "data": {"split": {}}, "runs": str(tmp_path)}
    stage = small_stage(prepared, tmp_path, distill=Distill(0.5, 2.0, **PARTS), **parts)
    quick = {**stage.config.train, "max_epochs": 1, "evals_per_epoch": 1}
    stage = replace(stage, config=replace(stage.config, train=quick))
    first, second, third = (replace(stage, folder=tmp_path / n) for n in ("train", "distill", "select"))
    for one in (first, second, third):
        one.folder.mkdir()
    monkeypatch.setattr(Device, "choose", lambda *_: FAKE)
    with fake_device():
        history = train.run(first).history
        assert train.run(first).history == history, "taken up from its checkpoint"
        distill.run(replace(second, done={**second.done, "train": first.folder}))
        assert select_features.run(replace(third, done={**third.done, "train": first.folder})).metrics
        figures, valid_B, _ = measure(second.folder, stage)
    assert isinstance(valid_B, np.ndarray) and 0.3 < figures["auc"] < 1


def test_a_tensor_of_the_cpu_in_a_forward_pass_is_found(monkeypatch, tmp_path: Path) -> None:
    forward = MLP.forward
    monkeypatch.setattr(MLP, "forward", lambda self, x_BW: forward(self, x_BW + torch.zeros(x_BW.shape[1])))
    train_and_score(CPU, spec(), tmp_path)
    with fake_device() as device, pytest.raises(RuntimeError, match="tensors of the CPU"):
        train_and_score(device, spec(), tmp_path)


def test_the_next_batch_is_copied_before_the_last_one_is_given_out_and_none_is_lost() -> None:
    batches, read = [batch_of(rows) for rows in (5, 6, 7)], []

    def reading():
        for batch in batches:
            read.append(len(batch))
            yield batch

    with fake_device() as device:
        for i, batch in enumerate(device.ahead(reading())):
            assert read == [5, 6, 7][: i + 2], "one is read ahead"
            assert is_fake(batch.ids.values() + 0) and is_fake(batch.dense_BN * 1) and is_fake(batch.weight_B * 1)
            assert batch.ids._length_per_key is not None, "no step asks the device for it"
            same = [
                torch.equal(a.cpu(), b)
                for a, b in ((batch.ids_BL, batches[i].ids_BL), (batch.label_BT, batches[i].label_BT))
            ]
            assert same == [True, True]
    assert i == 2
    assert list(CPU.ahead(batches)) == batches


@pytest.mark.parametrize(("forget", "says"), [("wait_event", "before their copy"), ("record_stream", "not recorded")])
def test_a_batch_that_is_read_too_early_is_found(forget: str, says: str, monkeypatch) -> None:
    monkeypatch.setattr(
        *((FAKE._module().Stream, forget) if forget == "wait_event" else (Batch, forget)), lambda *_: None
    )
    with fake_device() as device, pytest.raises(RuntimeError, match=says):
        [batch.dense_BN * 1 for batch in device.ahead([batch_of(5)])]

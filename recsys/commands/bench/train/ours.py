"""This project's side of `recsys bench train`, and the floor under it. Run as a process: see `turns`."""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

from recsys.commands.bench.train.floor import Product, check_complete, floor_step, of_step, padded
from recsys.commands.bench.train.turns import Trainer, memory, serve
from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.frame.ctr import CTR
from recsys.training.checkpoint import build
from recsys.training.config import TrainConfig
from recsys.training.device import Device
from recsys.training.loop import Step, Training, dense_parameters, seed_everything
from recsys.training.memory import keep_freed_memory

__all__ = ["trainer"]

_EPOCHS = 1000  # more than a benchmark reaches


def trainer(job: dict[str, Any]) -> Trainer:
    """The trainer of a job; its `part` is `ours` or `floor`."""
    keep_freed_memory()
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    shards = Shards(Path(job["folder"]), "train")
    device = Device.choose(job["device"], job["precision"])
    before = memory()["anonymous_bytes"]
    model = build(shards.schema, job["spec"], device)
    size = min(job["batch"], len(shards))
    config = TrainConfig(batch_size=size, max_epochs=_EPOCHS, precision=job["precision"], **job["train"])
    training = Training(model, config, len(shards) // size, device=device)
    batches = list(islice(shards.shuffled(size, job["seed"]), job["kept_batches"]))
    held = training.embedding.held()
    description: dict[str, Any] = {
        "versions": {n: version(n) for n in ("recsys", "torch", "torchrec", "fbgemm-gpu")},
        "device": device.reason,
        "rows": size,
        "dense_parameters": sum(p.numel() for p in dense_parameters(model)),
        "table_bytes": sum(_nbytes(t.weight_RD) for t in held),
        "optimizer_bytes": sum(_nbytes(t.state) for t in held if t.state is not None),
        "bytes_before": before,
    }
    if job["part"] == "floor":
        return _floor(model, device.batch(batches[0]), device, description)
    kept, loaded = cycle(batches), _forever(training, shards, job["seed"])

    def in_memory(steps: int) -> float:
        return _last(training.learn(device.batch(next(kept))) for _ in range(steps))

    def through_loader(steps: int) -> float:
        return _last(step.loss for step in islice(loaded, steps))

    return Trainer({"memory": _finished(in_memory, device), "loader": _finished(through_loader, device)}, description)


def _nbytes(x: torch.Tensor) -> int:
    return x.numel() * x.element_size()


def _forever(training: Training, shards: Shards, seed: int) -> Iterator[Step]:
    yield from training.steps(shards, seed)


def _last(losses: Iterator[float]) -> float:
    *_, last = losses
    return last


def _finished(take: Callable[[int], float], device: Device) -> Callable[[int], float]:
    """The same, but until the device has done what it was given."""

    def whole(steps: int) -> float:
        loss = take(steps)
        device.wait()
        return loss

    return whole


def _floor(model: CTR, batch: Batch, device: Device, description: dict[str, Any]) -> Trainer:
    model.eval()

    def answer() -> None:
        x_BW = model.features(batch)
        with device.autocast():
            model.logits_of(x_BW)

    products = of_step(answer)
    check_complete(products, model, len(batch))
    flops = sum(p.flops for p in products)
    modes = {"memory": _loop(products, device), "padded": _loop(padded(products), device)}
    return Trainer(modes, {**description, "flops_per_row": flops / len(batch), "products": len(products)})


def _loop(products: Sequence[Product], device: Device) -> Callable[[int], float]:
    with device.torch_device:
        step = floor_step(products)

    def loop(steps: int) -> float:
        for _ in range(steps):
            step()
        return 0.0

    return _finished(loop, device)


if __name__ == "__main__":
    serve(trainer)

"""The cases of `recsys bench train`: model, data, batch; and the job that each side of a case gets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from recsys.config.options import CONF
from recsys.errors import ConfigError
from recsys.features.schema import Schema

__all__ = ["CASES", "FLOOR", "OURS", "PEERS", "PRECISIONS", "Case", "chosen", "job_of", "sides_of", "spec_of"]

OURS, FLOOR = "ours", "floor"
PRECISIONS = ("bf16", "fp32")
PEERS = {  # name in tables → file of benchmarks/peers
    "FuxiCTR": "fuxictr_peer.py",
    "DeepCTR-Torch": "deepctr_peer.py",
    "torch-rechub": "rechub_peer.py",
    "TorchEasyRec": "tzrec_peer.py",
}
_DIM = 16
_HIDDEN = (256, 128)
_MODELS: dict[str, dict[str, Any]] = {  # changes of an option of the group `model`
    "dcn": {"layers": 3, "hidden": list(_HIDDEN), "dropout": 0.0},
    "deepfm": {"hidden": list(_HIDDEN), "dropout": 0.0},
    "wukong": {"dropout": 0.0},
    "mlp": {"hidden": list(_HIDDEN), "dropout": 0.0},
}
_KEPT_BATCHES = 20  # that training in memory goes round


@dataclass(frozen=True)
class Case:
    """What is trained in one part of the benchmark.

    Args:
        name: As `--cases` names it.
        data: Name of the data: see `recsys.commands.bench.train.data`.
        batch: Rows a step.
        model: Option of the group `model`.
        peers: Whether other libraries train it too.
        floor: Whether its matrix products alone are measured.
        loader: Whether training through each side's own loader is measured too.
    """

    name: str
    data: str
    batch: int
    model: str
    peers: bool = False
    floor: bool = False
    loader: bool = False


CASES = {
    case.name: case
    for case in (
        Case("dcn-S-4096", "S", 4096, "dcn", peers=True, floor=True, loader=True),
        Case("dcn-S-1024", "S", 1024, "dcn", peers=True),
        Case("dcn-L-4096", "L", 4096, "dcn", peers=True, loader=True),
        Case("deepfm-S-4096", "S", 4096, "deepfm", peers=True, floor=True),
        Case("wukong-S-4096", "S", 4096, "wukong", floor=True),
        Case("din-S-4096", "S-history", 4096, "mlp", floor=True),
    )
}


def chosen(names: Sequence[str]) -> list[Case]:
    """The cases of these names.

    Raises:
        ConfigError: If there is no such case.
    """
    if unknown := [n for n in names if n not in CASES]:
        raise ConfigError(f"--cases: expected some of {', '.join(CASES)}, got {', '.join(unknown)}: name such")
    return [CASES[n] for n in names]


def sides_of(case: Case, precisions: Sequence[str], peers: Sequence[str]) -> dict[str, str]:
    """Side of a case → its part: `ours`, `floor`, or the name of a library. Ours comes first."""
    parts = [OURS, *([FLOOR] if case.floor else [])]
    sides = {f"{part} {precision}": part for part in parts for precision in precisions}
    return sides | ({peer: peer for peer in peers} if case.peers else {})


def _option(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """A packaged option of a group, with changes."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))
    return {**cast(dict[str, Any], values), **changes}


def spec_of(case: Case) -> dict[str, Any]:
    """The parts of our model, as `recsys.training.checkpoint.build` takes them."""
    return {
        "model": _option("model", case.model, **_MODELS[case.model]),
        "embedding": _option("embedding", "per_field", dim=_DIM),
        "sequence": _option("sequence", "din"),
        "head": _option("head", "click"),
        "table_optimizer": _option("table_optimizer", "rowwise_adagrad"),
        "embedding_dropout": 0.0,
    }


def job_of(case: Case, side: str, part: str, data: Path, threads: int, device: str) -> dict[str, Any]:
    """What a side trains.

    Args:
        case: The case.
        side: Its name; that of ours and of the floor ends with the precision.
        part: See `sides_of`.
        data: Prepared data: `train/ids.npy`, `dense.npy` and `label.npy` beside schema.json.
        threads: Threads of the process.
        device: Device of our model.
    """
    schema = Schema.load(data / "schema.json")
    shared: Mapping[str, Any] = {
        "folder": str(data),
        "batch": case.batch,
        "threads": threads,
        "seed": 0,
        "kept_batches": _KEPT_BATCHES,
        "part": part,
    }
    if part in (OURS, FLOOR):
        train = {"lr": 1e-3, "table_lr": 0.02}
        return {**shared, "precision": side.split()[-1], "device": device, "spec": spec_of(case), "train": train}
    return {
        **shared,
        "model": {"name": case.model, "dim": _DIM, **_MODELS[case.model]},
        "ids": [f.cardinality for f in schema.sparse],
        "numbers": len(schema.numeric),
    }

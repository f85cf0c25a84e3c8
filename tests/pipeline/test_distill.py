"""Stage distill: a student that learns from its teacher's logits."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import distill, train
from pipelines.check import check
from pipelines.config import Distill, RunConfig
from pipelines.distill import soft_targets
from pipelines.stage import Stage
from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.embeddings.per_field import per_field
from recsys.evaluation.metrics import sigmoid
from recsys.features.schema import Field, Schema
from recsys.frame.ctr import CTR
from recsys.models.mlp import MLP
from recsys.results import read_result
from recsys.serving.bundle import Bundle
from recsys.training import checkpoint
from recsys.training.auto import Facts, of_student, resolve
from recsys.training.fit import logits
from tests.configs import composed
from tests.pipeline.small import PARTS, SMALL, recsys, small_stage


def test_the_loss_is_the_formula() -> None:
    r = np.random.default_rng(0)
    z, t, y, w = r.normal(0, 2, 9), r.normal(0, 2, 9), r.integers(0, 2, 9), r.integers(0, 3, 9)
    schema = Schema((Field("x", "numeric", ("x",), ("float",)),), "y")
    of = [torch.tensor(v, dtype=torch.float32) for v in (y, w)]
    batch = Batch.of(schema, torch.zeros(9, 0, dtype=torch.long), torch.zeros(9, 1), *of)
    teacher = CTR(schema, per_field(schema, 4), MLP)
    teacher.forward = lambda batch: torch.tensor(t, dtype=torch.float32)[:, None]
    for alpha, temperature in ((0.3, 2.5), (1.0, 1.0), (0.0, 4.0)):
        p, q, soft = (1 / (1 + np.exp(-v)) for v in (z, z / temperature, t / temperature))
        hard_B = -(y * np.log(p) + (1 - y) * np.log(1 - p))
        soft_B = -(soft * np.log(q) + (1 - soft) * np.log(1 - q))
        want = np.average((1 - alpha) * hard_B + alpha * temperature**2 * soft_B, weights=w)
        logit_BT = torch.tensor(z, dtype=torch.float32)[:, None]
        assert float(soft_targets(teacher, alpha, temperature)(logit_BT, batch)) == pytest.approx(want, rel=1e-5)


def test_what_is_auto_is_resolved_for_the_student_as_for_its_teacher() -> None:
    seen = Facts(rows=10_000, positives=5_000, cardinalities=(100,), numbers=1)
    teacher, own = (resolve(values, seen) for values in (composed(), of_student(composed())))
    assert own["embedding"]["dim"] == teacher["embedding"]["dim"] == 4
    assert own["model"]["dropout"] == teacher["model"]["dropout"] == 0.3
    assert "MLP" in own["model"]["_target_"] and "DCN" in teacher["model"]["_target_"]
    other = composed("model@distill.model=fm", "distill.embedding.dim=12")
    assert "dropout" not in resolve(of_student(other), seen)["model"]
    assert resolve(of_student(other), seen)["embedding"]["dim"] == 12
    check(RunConfig.from_json(other))


@pytest.fixture(scope="module")
def taught(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """Stage distill of a run whose stage train is done."""
    begun = small_stage(prepared, tmp_path_factory.mktemp("run"))
    (begun.folder.parent / "train").mkdir()
    before = replace(begun, folder=begun.folder.parent / "train")
    train.run(before)
    return replace(begun, done={**begun.done, "train": before.folder})


def student(taught: Stage, folder: Path, **settings: Any) -> dict[str, float]:
    own = Distill(**{**PARTS, "weight": 0.0, "temperature": 2.0, **settings})
    folder.mkdir(exist_ok=True)
    return distill.run(replace(taught, folder=folder, config=replace(taught.config, distill=own))).metrics


def test_without_a_share_of_the_teacher_it_is_plain_training_bit_for_bit(
    taught: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert student(taught, tmp_path)["distance_to_teacher"] == 0
    assert "look at: the student is not smaller than its teacher (" in capsys.readouterr().err
    plain, own = (checkpoint.load(folder)[0] for folder in (taught.done["train"], tmp_path))
    assert all(torch.equal(w, own.state_dict()[n]) for n, w in plain.state_dict().items())
    assert json.loads((taught.done["train"] / "history.json").read_text()) == json.loads(
        (tmp_path / "history.json").read_text()
    )


def test_a_student_of_the_teacher_alone_comes_close_to_it(
    taught: Stage, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A smaller one, of another kind: closer than one that learned from the labels."""
    small = {"model": {"_target_": "recsys.models.fm.FM"}}
    alone = student(taught, tmp_path / "labels", **small)
    close = student(taught, tmp_path / "teacher", **small, weight=1.0)
    assert "not smaller" not in capsys.readouterr().err
    assert close["distance_to_teacher"] < 0.7 * alone["distance_to_teacher"]
    teacher, own = (checkpoint.load(folder)[0] for folder in (taught.done["train"], tmp_path / "teacher"))
    valid = Shards(taught.data, "valid")
    difference_B = sigmoid(logits(own, valid)) - sigmoid(logits(teacher, valid))
    assert close["distance_to_teacher"] == pytest.approx(np.abs(difference_B).mean(), rel=1e-5)


@pytest.mark.slow
def test_the_bundle_holds_the_student(place: Path) -> None:
    """Through the door, with the optimisers that are no default."""
    said = recsys(
        place, "run", *SMALL, "stages=[train,distill,evaluate,export]", "hydra.run.dir=runs/distilled",
        "model@distill.model=fm", "embedding@distill.embedding=hashed", "distill.embedding.rows=64",
        "optimizer=muon", "table_optimizer=adagrad", "model.hidden=[16]",
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    run = place / "runs" / "distilled"
    assert list(read_result(run / "result.json").stages) == ["prepare", "train", "distill", "evaluate", "export"]
    figures = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert figures["distill"]["table_bytes"] < figures["train"]["table_bytes"]
    model, _ = checkpoint.load(run / "distill")
    assert model.interaction.__class__.__name__ == "FM"
    card = Bundle.load(run / "export" / "bundle").card
    assert "FM" in json.dumps(card)

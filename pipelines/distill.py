"""Stage distill: a student learns from the labels and from the logits of the newest model, its teacher.

B rows of a batch, T labels.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipelines.stage import Result, Stage, newest_model
from pipelines.train import train_model
from recsys.data.batch import Batch
from recsys.data.shards import Shards
from recsys.errors import ConfigError
from recsys.evaluation.metrics import sigmoid
from recsys.frame.ctr import CTR
from recsys.frame.merged import Merged, Scorer
from recsys.terminal import console
from recsys.training import checkpoint, merged
from recsys.training.device import Device
from recsys.training.fit import logits
from recsys.training.loop import Loss
from recsys.training.state import count_numbers

__all__ = ["run", "soft_targets"]


def soft_targets(teacher: Scorer, weight: float, temperature: float) -> Loss:
    """(1 − α)·loss(z, y) + α·T²·loss(z / T, σ(t / T)), with z the student's logit, t the teacher's and y the label.

    `loss` is that of the head, which both share. A label that was not observed counts in the second term, since
    the teacher predicts it.

    The second term is smallest if z = t. T² keeps its gradient equally large at any T.

    Args:
        teacher: In eval mode, on the fields of the student.
        weight: α, in [0, 1].
        temperature: T, at least 1.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2.
    """

    def loss(logit_BT: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            soft_BT = torch.sigmoid(teacher(batch) / temperature)
        soft = teacher.loss(logit_BT.float() / temperature, replace(batch, label_BT=soft_BT))
        return (1 - weight) * teacher.loss(logit_BT, batch) + weight * temperature**2 * soft

    return loss


def _compare_sizes(student: CTR, teacher: Scorer) -> None:
    """Print a warning if the student is not smaller than its teacher."""
    members = [m for m in teacher.members if isinstance(m, CTR)] if isinstance(teacher, Merged) else [teacher]
    ours, theirs = count_numbers(student), sum(map(count_numbers, members))
    if ours >= theirs:
        console().print(
            f"look at: the student is not smaller than its teacher ({ours:,} numbers, {theirs:,}): "
            "lower distill.embedding.dim or distill.model.hidden, or set model@distill.model=fm",
            soft_wrap=True,
        )


def run(stage: Stage) -> Result:
    """Train `config.distill.model` over `config.distill.embedding` on the fields of the newest model.

    If there are several labels, the main one decides which look at validation is best, and `distance_to_teacher`,
    the mean distance of probabilities on validation, is of the main label too.
    """
    settings, source = stage.config.distill, newest_model(stage, before="distill")
    device = Device.choose(stage.config.device)
    teacher, spec = merged.load(source, device)
    if any(s.get("refit") for s in (spec, *spec.get("members", ()))):
        raise ConfigError(
            "distill: the newest model was trained on validation rows, which would choose the student: leave refit "
            "out, or begin from a run without it"
        )
    loss = soft_targets(teacher, settings.weight, settings.temperature)
    config = replace(stage.config, model=settings.model, embedding=settings.embedding)
    result = train_model(replace(stage, config=config), teacher.schema, loss)
    student, _ = checkpoint.load(stage.folder, device)
    _compare_sizes(student, teacher)
    valid = Shards(stage.data, "valid", teacher.schema)
    ours_B, theirs_B = (sigmoid(logits(model, valid, device=device)) for model in (student, teacher))
    distance = float(np.average(np.abs(ours_B - theirs_B), weights=valid.weight_B))
    return replace(result, metrics={**result.metrics, "distance_to_teacher": distance}, tags={"teacher": source.name})

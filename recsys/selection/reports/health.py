"""Whether a model can tell fields apart: a selector cannot be better than its model. B rows."""

import math
from dataclasses import replace

import numpy as np

from recsys.data.split import Split
from recsys.evaluation.metrics import auc
from recsys.frame.ctr import CTR
from recsys.selection.counted import counted
from recsys.selection.figures import ProbeFindings
from recsys.selection.halves import agreement_of_halves
from recsys.selection.price import Gain, gain_over_constant
from recsys.selection.reports.report import Health
from recsys.training.device import CPU, Device
from recsys.training.fit import logits

__all__ = ["health", "reason_for_doubt", "with_probes"]

_LEAST_AGREEMENT = 0.5  # least agreement of halves; below it, most of what fields seem to be worth is luck
_MOST_LUCK = 0.5  # most false discoveries that kept probes may imply


def health(model: CTR, train: Split, valid: Split, rows: int = 100_000, device: Device = CPU) -> Health:
    """Measure a model, and judge it. All figures count sample weights.

    The verdict is `no signal` if the validation AUC is within 3 standard errors of ½, or the gain over a
    constant is within 3 of its standard errors. It is `inconclusive` if the model has AUC but no gain (it is worse
    than a constant), or if the agreement is below ½: two halves of the held-out rows find different fields useful.
    The training AUC does not count: a field of many ids, above all a cross of two, always overfits training rows,
    and fields are judged on held-out rows.

    Args:
        model: Trained; its weights stay as they are.
        train: Training rows; those of weight 0 are left out.
        valid: Held-out rows; those of weight 0 are left out.
        rows: Most training rows that are scored, drawn at random.
        device: Where the model is, and the precision in which its head runs while halves are compared.
    """
    valid = counted(valid)
    train_auc = _auc_of_some(model.eval(), counted(train), rows, device)
    logit_B, label_B, weight_B = logits(model, valid, device=device), valid.label_B, valid.weight_B
    valid_auc, gain = auc(logit_B, label_B, weight_B), gain_over_constant(logit_B, label_B, weight_B)
    agreement, rank_agreement = agreement_of_halves(model, valid, device=device)
    verdict, reason = _verdict(valid_auc, _auc_error(label_B, weight_B), gain, agreement)
    return Health(train_auc, valid_auc, gain.mean, gain.error, agreement, verdict, reason, rank_agreement)


def _auc_of_some(model: CTR, train: Split, rows: int, device: Device) -> float:
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:rows])
    parts = np.array_split(chosen, -(-len(chosen) // 8192))
    logit_B = np.concatenate([model(device.batch(train.batch(p)))[:, 0].numpy(force=True) for p in parts])
    return auc(logit_B, train.label_B[chosen], None if train.weight_B is None else train.weight_B[chosen])


def _verdict(valid_auc: float, auc_error: float, gain: Gain, agreement: float) -> tuple[str, str]:
    """The verdict and the reason for it."""
    if valid_auc <= 0.5 + 3 * auc_error:
        return "no signal", f"validation AUC {valid_auc:.4f} is what chance gives (.5 ± {auc_error:.4f})"
    if gain.mean <= 0:
        return "inconclusive", f"the model's held-out logloss is {-gain.mean:.5f} worse than a constant's"
    if gain.mean <= 3 * gain.error:
        return "no signal", f"the model gains {gain.mean:.6f} ± {gain.error:.6f} nats a row over a constant"
    if agreement < _LEAST_AGREEMENT:
        reason = f"two halves of the held-out rows disagree on which fields matter (agreement {agreement:.2f} of 1)"
        return "inconclusive", reason
    return "sound", ""


def _auc_error(label_B: np.ndarray, weight_B: np.ndarray | None) -> float:
    """Standard error of AUC if scores and labels have no relation (Mann and Whitney).

    With weights, the effective number of rows of each label is (Σ w)² / Σ w².
    """
    w_B = np.ones(len(label_B)) if weight_B is None else np.asarray(weight_B, np.float64)
    p, n = (w.sum() ** 2 / max(np.square(w).sum(), 1e-300) for w in (w_B[label_B > 0.5], w_B[label_B <= 0.5]))
    return math.sqrt((p + n + 1) / (12 * p * n))


def with_probes(measured: Health, probes: ProbeFindings | None) -> Health:
    """Turn `sound` into `inconclusive` if probes imply that half of the kept fields are luck."""
    if probes is None or measured.verdict != "sound" or probes.false_discovery_rate < _MOST_LUCK:
        return measured
    reason = f"kept probes imply that {probes.false_discovery_rate:.0%} of the kept fields are luck"
    return replace(measured, verdict="inconclusive", reason=reason)


def reason_for_doubt(measured: Health) -> str:
    """Why scores are not reliable; empty if they are.

    If only probes speak against the model, verdicts stay, with a warning: too many fields are kept, not too few.
    """
    no_worth = min(measured.gain, measured.agreement - _LEAST_AGREEMENT) <= 0
    return f"{measured.verdict}: {measured.reason}" if measured.verdict == "no signal" or no_worth else ""

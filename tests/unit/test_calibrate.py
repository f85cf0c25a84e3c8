"""A recalibration is kept only if it helps out of fold on validation, and on its last part."""

import math

import numpy as np
import pytest

from recsys.evaluation.calibrate import fit_calibrator, isotonic
from recsys.evaluation.metrics import logloss, sigmoid


def drawn(rows: int, bias: float, bold: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a model says that is right but for logits `bold` times too large, and clicks."""
    logit = rng.normal(bias, 1.2, rows)
    return sigmoid(bold * logit), (rng.random(rows) < sigmoid(logit)).astype(np.float32)


def change(rows: int, bias: float, bold: float, draws: int = 10) -> float:
    """Mean relative change of test logloss by what validation keeps."""
    changes = []
    for seed in range(draws):
        rng = np.random.default_rng([seed, rows])
        valid, (p, y) = drawn(rows, bias, bold, rng), drawn(20_000, bias, bold, rng)
        curve = fit_calibrator(*valid)
        changes.append(0 if curve is None else logloss(curve(p), y) / logloss(p, y) - 1)
    return float(np.mean(changes))


@pytest.mark.parametrize(("rows", "bias"), [(12_000, -5.4), (57, -2.5), (2000, -1.5), (20_000, -1.5)])
def test_a_model_that_is_right_is_not_made_worse(rows: int, bias: float) -> None:
    assert change(rows, bias, 1.0) < 0.002


def test_a_bold_model_is_mended_if_there_are_clicks_enough() -> None:
    assert change(100_000, -1.5, 1.3, draws=2) < -0.01
    assert change(12_000, -4, 2.0, draws=4) < -0.1


def test_bins_follow_the_rarer_label() -> None:
    """12,000 rows with 120 clicks are evidence of two bins, not of 200; so are 120 non-clicks."""
    p = np.random.default_rng(0).uniform(0, 0.02, 12_000)
    y = (np.arange(12_000) % 100 == 0).astype(np.float32)
    assert len(isotonic(p, y).x) == len(isotonic(1 - p, 1 - y).x) == 2 + 2
    assert fit_calibrator(p[:9000], y[:9000]) is None, "90 clicks make one bin, which is no curve"


def slow_gains(p: np.ndarray, y: np.ndarray, w: np.ndarray) -> list[tuple[float, float]]:
    """What curves of the other four fifths gain on all rows, and on the last fifth; each with its standard error."""
    gains, rows, last = [], len(p), 0
    for fold in range(5):
        last = sum(rows // 5 + (k < rows % 5) for k in range(fold))
        held = set(range(last, last + rows // 5 + (fold < rows % 5)))
        seen = [i for i in range(rows) if i not in held]
        curve = isotonic(p[seen], y[seen], w[seen])
        for i in sorted(held):
            raw, mended = (q if y[i] else 1 - q for q in (p[i], float(curve(p[i]))))
            gains.append(math.log(mended) - math.log(raw))

    def of_rows(start: int) -> tuple[float, float]:
        w_B, g_B = w[start:], gains[start:]
        mean = sum(a * g for a, g in zip(w_B, g_B, strict=True)) / w_B.sum()
        return mean, math.sqrt(sum((a * (g - mean)) ** 2 for a, g in zip(w_B, g_B, strict=True))) / w_B.sum()

    return [of_rows(0), of_rows(last)]


def test_a_curve_is_kept_if_its_gains_out_of_fold_and_at_the_end_are_above_their_standard_errors() -> None:
    """Rows come in any order; their times say which part is the last."""
    seen = set()
    for seed in range(16):
        rng = np.random.default_rng(seed)
        p, y = drawn(1003, -1, 1.3, rng)
        w, mixed = rng.integers(1, 5, len(p)).astype(float), rng.permutation(len(p))
        (mean, error), (late, late_error) = slow_gains(p, y, w)
        curve = fit_calibrator(p[mixed], y[mixed], w[mixed], time_B=1e6 * mixed)
        assert (curve is not None) == (mean > error and late > late_error), (seed, mean, error, late, late_error)
        if curve is not None:
            assert np.allclose(curve.y, isotonic(p, y, w).y, rtol=1e-12)
        seen.add((mean > error, late > late_error))
    assert {(True, True), (True, False), (False, False)} <= seen, "the draws must lie on all sides"


def test_on_a_table_that_drifts_the_time_to_come_is_asked() -> None:
    """Clicks got rarer after training, and more frequent again: the middle of validation vouches for no later row."""
    changes = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        time = np.arange(40_000) / 40_000  # the first half is validation, the second is test
        logit = rng.normal(-1.5, 1, len(time))
        y = (rng.random(len(time)) < sigmoid(logit - 0.4 * np.sin(2 * np.pi * time))).astype(np.float32)
        p, valid = sigmoid(logit), time < 0.5
        assert logloss(isotonic(p[valid], y[valid])(p[~valid]), y[~valid]) > 1.02 * logloss(p[~valid], y[~valid])
        curve = fit_calibrator(p[valid], y[valid], time_B=time[valid])
        kept = p if curve is None else curve(p)
        changes.append(logloss(kept[~valid], y[~valid]) / logloss(p[~valid], y[~valid]) - 1)
    assert np.mean(changes) < 0.005, "what is kept must not make test worse"


def test_rows_of_weight_0_do_not_vote() -> None:
    p, y = drawn(6000, -1, 1.3, np.random.default_rng(0))
    turned = np.r_[np.full(6000, 0.01), p], np.r_[np.ones(6000, np.float32), y]
    got, want = fit_calibrator(*turned, np.repeat([0.0, 1.0], 6000)), fit_calibrator(p, y)
    assert got is not None and want is not None and np.array_equal(got.y, want.y)


def test_rows_that_stand_together_do_not_vouch_for_each_other() -> None:
    """A group that is unlike all others, next to each other: a curve bent by it helps nobody else."""
    rng = np.random.default_rng(1)
    p, y = drawn(20_000, -1.5, 1.0, rng)
    p[4000:5000], y[4000:5000] = rng.normal(0.6, 1e-3, 1000), 0
    assert fit_calibrator(p, y) is None
    mixed = rng.permutation(len(p))
    assert fit_calibrator(p[mixed], y[mixed]) is not None, "the test needs a group that random folds would believe"

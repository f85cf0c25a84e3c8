import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.evaluation import metrics
from recsys.evaluation.calibrate import isotonic
from recsys.evaluation.metrics import AUC, auc, ece, evaluate, gauc, logloss, sigmoid


def slow_auc(score: np.ndarray, label: np.ndarray) -> float:
    """Count every pair."""
    p, n = score[label == 1][:, None], score[label == 0][None, :]
    return float(((p > n) + 0.5 * (p == n)).mean())


scored = st.lists(
    st.tuples(st.one_of(st.sampled_from([-1.0, -0.0, 0.0, 0.25]), st.floats(width=32, allow_nan=False)), st.booleans()),
    min_size=2,
    max_size=60,
).filter(lambda rows: len({y for _, y in rows}) == 2)


@settings(deadline=None)
@given(scored, st.integers(1, 9), st.integers(1, 9))
def test_auc_counts_pairs_whatever_the_chunks_and_batches(rows, chunk: int, size: int) -> None:
    score = np.array([s for s, _ in rows], np.float32)
    label = np.array([y for _, y in rows], np.float32)
    meter = AUC()
    for start in range(0, len(rows), size):
        meter.add(score[start : start + size], label[start : start + size])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_CHUNK", chunk)
        assert meter.compute() == pytest.approx(slow_auc(score, label), abs=1e-12)
        assert meter.compute() == pytest.approx(slow_auc(score, label), abs=1e-12), "asking twice changes nothing"


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
def test_auc_with_heavy_ties(levels: int) -> None:
    rng = np.random.default_rng(levels)
    score = rng.integers(0, levels, 1500).astype(np.float32) - levels / 2
    label = (rng.random(1500) < 0.2).astype(np.float32)
    assert auc(score, label) == pytest.approx(slow_auc(score, label), abs=1e-12)


def test_minus_zero_and_zero_are_a_tie() -> None:
    assert auc(np.array([-0.0, 0.0]), np.array([1, 0])) == auc(np.array([0.0, -0.0]), np.array([1, 0])) == 0.5


def test_auc_holds_eight_bytes_a_row() -> None:
    meter = AUC()
    for _ in range(4):
        meter.add(np.linspace(-1, 1, 1000), np.arange(1000) % 2)
    assert all(p.dtype == np.uint64 for p in meter._parts)
    assert sum(p.nbytes for p in meter._parts) == 8 * 4000
    meter.compute()
    assert sum(p.nbytes for p in meter._parts) == 8 * 4000


def test_auc_goes_on_after_compute() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=400).astype(np.float32), np.arange(400) % 2
    meter = AUC()
    meter.add(score[:200], label[:200])
    meter.compute()
    meter.add(score[200:], label[200:])
    assert meter.compute() == pytest.approx(slow_auc(score, label), abs=1e-12)


@pytest.mark.parametrize(("label", "word"), [([1, 1], "clicks only"), ([0, 0], "non-clicks only")])
def test_one_label_is_a_clear_error(label: list[int], word: str) -> None:
    with pytest.raises(DataError, match=f"of {word}.*widen the split"):
        evaluate(np.array([-1.0, 0.7]), np.array(label))


def test_no_rows_and_nan_are_clear_errors() -> None:
    with pytest.raises(DataError, match="got 0 rows"):
        AUC().compute()
    with pytest.raises(DataError, match="NaN"):
        auc(np.array([0.5, math.nan]), np.array([0, 1]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=60),
)
def test_gauc_is_the_weighted_mean_over_groups_of_both_labels(rows) -> None:
    score, group, label = (np.array(c) for c in zip(*rows, strict=True))
    found = []
    for g in set(group.tolist()):
        inside = group == g
        if len(set(label[inside].tolist())) == 2:
            found.append((slow_auc(score[inside], label[inside]), inside.sum()))
    got = gauc(score.astype(np.float32), label.astype(np.float32), group)
    if not found:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(sum(a * n for a, n in found) / sum(n for _, n in found), abs=1e-12)


def test_logloss_sums_the_rows_and_stays_finite_at_0_and_1() -> None:
    p, y = [0.2, 0.9, 0.5], [0, 1, 1]
    slow = -sum(math.log(q if t else 1 - q) for q, t in zip(p, y, strict=True)) / 3
    assert logloss(np.array(p), np.array(y)) == pytest.approx(slow, rel=1e-12)
    assert logloss(np.array([0.0, 1.0], np.float32), np.array([1, 0])) == pytest.approx(-math.log(1e-7), rel=1e-6)


def test_normalised_entropy_of_the_mean_label_is_1() -> None:
    label = np.array([1, 0, 0, 0, 1] * 20)
    found = evaluate(np.full(100, math.log(0.4 / 0.6)), label)
    assert found["ne"] == pytest.approx(1) and found["calibration"] == pytest.approx(1) and found["auc"] == 0.5
    p = np.where(label, 0.7, 0.2)
    entropy = -(0.4 * math.log(0.4) + 0.6 * math.log(0.6))
    ll = -(0.4 * math.log(0.7) + 0.6 * math.log(0.8))
    logit = np.log(p / (1 - p))
    found = evaluate(logit, label)
    assert found["ne"] == pytest.approx(ll / entropy) and found["calibration"] == pytest.approx((28 + 12) / 40)
    assert "gauc" not in found and "gauc" in evaluate(logit, label, np.arange(100) % 7)


@pytest.mark.parametrize("rows", [7, 20, 93, 400])
def test_ece_against_a_loop_over_bins(rows: int) -> None:
    rng = np.random.default_rng(rows)
    p, y = rng.random(rows), rng.integers(0, 2, rows)
    ranked = sorted(zip(p.tolist(), y.tolist(), strict=True))
    total, start = 0.0, 0
    for b in range(20):
        size = rows // 20 + (b < rows % 20)
        part = ranked[start : start + size]
        start += size
        total += abs(sum(q for q, _ in part) - sum(t for _, t in part)) / rows
    assert ece(p, y) == pytest.approx(total, abs=1e-12)


def test_sigmoid_never_overflows() -> None:
    x = np.array([-1e4, -745, -3.0, 0.0, 3.0, 745, 1e4], np.float32)
    with np.errstate(over="raise", divide="raise", invalid="raise"):
        p = sigmoid(x)
    slow = [0.0, math.exp(-745), *(1 / (1 + math.exp(-v)) for v in (-3.0, 0.0, 3.0)), 1.0, 1.0]
    np.testing.assert_allclose(p, slow, rtol=1e-12)


def miscalibrated(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too bold and too high, with clicks drawn from the true ones."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.5, rows)
    return sigmoid(2.0 * logit + 1.0).astype(np.float32), (rng.random(rows) < sigmoid(logit)).astype(np.float32)


@pytest.mark.parametrize("rows", [300, 3000, 60_000])
def test_calibrator_never_falls_and_stays_inside_0_and_1(rows: int) -> None:
    calibrate = isotonic(*miscalibrated(rows, 1))
    p = calibrate(np.linspace(0, 1, 10_001))
    assert (np.diff(p) >= 0).all() and p.min() > 0 and p.max() < 1
    assert (np.diff(calibrate.x) >= 0).all() and (np.diff(calibrate.y) >= 0).all()


def test_calibrator_of_perfect_and_of_constant_predictions_stays_inside() -> None:
    label = (np.arange(2000) % 4 == 0).astype(np.float32)
    for p in (label.copy(), np.full(2000, 0.9, np.float32)):
        calibrated = isotonic(p, label)(p)
        assert np.isfinite(calibrated).all() and 0 < calibrated.min() <= calibrated.max() < 1
    assert calibrated == pytest.approx(np.full(2000, 0.25), abs=0.13)


def test_calibrator_mends_unseen_rows_and_keeps_their_order() -> None:
    calibrate = isotonic(*miscalibrated(20_000, 2))
    p, y = miscalibrated(20_000, 3)
    mended = calibrate(p)
    assert logloss(mended, y) < logloss(p, y) - 0.02
    assert ece(mended, y) < 0.5 * ece(p, y)
    assert abs(auc(mended, y) - auc(p, y)) < 1e-3


@pytest.mark.parametrize("seed", range(5))
def test_calibrator_keeps_auc_on_few_and_weak_rows(seed: int) -> None:
    """Little signal makes long level runs; their slope must survive float32 logits, which AUC compares."""
    rng = np.random.default_rng(seed)
    p = rng.normal(0.3, 0.01, 20_000).clip(0.01, 0.99)
    y = (rng.random(20_000) < p).astype(np.float32)
    calibrate = isotonic(p[:10_000], y[:10_000])
    calibrated = calibrate(p[10_000:])
    assert abs(auc(calibrated, y[10_000:]) - auc(p[10_000:], y[10_000:])) < 1e-3
    kept, given = (len(np.unique(np.log(q / (1 - q)).astype(np.float32))) for q in (calibrated, p[10_000:]))
    assert kept > 0.5 * given


def test_logloss_weighs_rows_as_often_as_they_would_stand():
    p, y, times = np.array([0.2, 0.9, 0.5]), np.array([0, 1, 1]), np.array([3, 0, 2])
    assert logloss(p, y, times) == pytest.approx(logloss(p.repeat(times), y.repeat(times)), rel=1e-12)


def weighted_rows(rows: int, seed: int, most: int = 4):
    """Logits with ties, labels, groups and whole weights from 0."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(-1, 1.5, rows).round(2).astype(np.float32)
    label = (rng.random(rows) < sigmoid(1.5 * logit + 0.5)).astype(np.float32)
    return logit, label, rng.integers(0, 9, rows), rng.integers(0, most, rows).astype(np.float32)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 300), st.integers(1, 400))
def test_whole_weights_are_repeated_rows(seed: int, rows: int, chunk: int) -> None:
    logit, label, group, weight = weighted_rows(rows, seed)
    label[:2], weight[:2] = (0, 1), 1
    times = weight.astype(int)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_CHUNK", chunk)
        got = evaluate(logit, label, group, weight)
        want = evaluate(logit.repeat(times), label.repeat(times), group.repeat(times))
    assert got == pytest.approx(want, rel=1e-6, nan_ok=True)
    counted = weight > 0
    dropped = evaluate(logit[counted], label[counted], group[counted], weight[counted])
    assert got == pytest.approx(dropped, rel=0, abs=0, nan_ok=True), "a row of weight 0 is no row"
    ones = evaluate(logit, label, group, np.ones(rows, np.float32))
    assert ones == pytest.approx(evaluate(logit, label, group), rel=0, abs=0, nan_ok=True), "weight 1 changes no bit"


def test_weighted_auc_and_ece_against_loops() -> None:
    logit, label, _, _ = weighted_rows(200, 3)
    weight = np.random.default_rng(4).lognormal(0, 1, 200)
    wins = total = 0.0
    for s, w in zip(logit[label == 1], weight[label == 1], strict=True):
        for t, v in zip(logit[label == 0], weight[label == 0], strict=True):
            total += w * v
            wins += w * v * ((s > t) + 0.5 * (s == t))
    assert auc(logit, label, weight) == pytest.approx(wins / total, rel=1e-12)
    assert auc(logit, label, 7 * weight) == pytest.approx(wins / total, rel=1e-12)
    p, share = sigmoid(logit), weight.sum() / 20
    order, error, bin_, room = np.argsort(p, kind="stable"), 0.0, np.zeros(2), share
    for row in order:
        left = weight[row]
        while left > 0:
            part = min(left, room)
            bin_ += part * np.array([p[row], label[row]])
            left, room = left - part, room - part
            if room <= 1e-9:
                error, bin_, room = error + abs(bin_[0] - bin_[1]) / weight.sum(), np.zeros(2), share
    assert ece(p, label, weight) == pytest.approx(error, rel=1e-6)


def test_auc_meter_takes_weighted_and_unweighted_batches() -> None:
    logit, label, _, weight = weighted_rows(400, 5)
    meter = AUC()
    meter.add(logit[:200], label[:200])
    meter.add(logit[200:], label[200:], weight[200:])
    times = np.r_[np.ones(200), weight[200:]].astype(int)
    want = slow_auc(logit.repeat(times), label.repeat(times))
    assert meter.compute() == pytest.approx(want, rel=1e-12)
    assert meter.compute() == pytest.approx(want, rel=1e-12)


def test_rows_that_all_weigh_nothing_are_a_clear_error() -> None:
    with pytest.raises(DataError, match="weight above 0, got 2"):
        evaluate(np.array([0.1, 0.7]), np.array([0, 1]), weight_B=np.zeros(2))


def test_evaluate_tells_saturated_logits_apart() -> None:
    """float32(σ(20)) = float32(σ(30)) = 1, yet the model ranks them."""
    logit, label = np.array([20.0, 30.0, 25.0, 35.0], np.float32), np.array([0, 1, 0, 1])
    found = evaluate(logit, label, np.zeros(4, int))
    assert found["auc"] == found["gauc"] == 1.0


def test_calibrator_of_whole_weights_is_that_of_repeated_rows() -> None:
    p, y = miscalibrated(60_000, 4)
    times = np.random.default_rng(0).integers(0, 4, len(p))
    got, want = isotonic(p, y, times), isotonic(p.repeat(times), y.repeat(times))
    np.testing.assert_allclose(got.x, want.x, rtol=1e-6)
    inside = slice(20, -20)  # at the ends, half a click is the bound, and one of weight 3 is three if repeated
    np.testing.assert_allclose(got.y[inside], want.y[inside], rtol=1e-5)
    dropped = isotonic(p[times > 0], y[times > 0], times[times > 0])
    ones, plain = isotonic(p, y, np.ones(len(p))), isotonic(p, y)
    for a, b in ((got, dropped), (ones, plain)):
        assert np.array_equal(a.x, b.x) and np.array_equal(a.y, b.y)


def test_calibrator_bins_follow_effective_rows() -> None:
    """One heavy row is no evidence of many rows."""
    p, y = miscalibrated(10_000, 5)
    weight = np.full(len(p), 1e-3)
    weight[:60] = 1.0
    assert len(isotonic(p, y, weight).x) <= 2 + 3
    few, many = (isotonic(p, y, np.full(len(p), w)) for w in (0.01, 0.37))
    np.testing.assert_allclose(few.y, many.y, rtol=1e-6)


def test_calibrator_of_sampled_negatives_tells_the_truth() -> None:
    """Negatives kept 1:10 and weighted 10: a calibrator that forgets the weights answers 4 times too high."""
    rng = np.random.default_rng(6)
    truth = sigmoid(rng.normal(-3, 1, 400_000))
    click = rng.random(len(truth)) < truth
    kept = click | (rng.random(len(truth)) < 0.1)
    p, y, weight = truth[kept], click[kept].astype(np.float32), np.where(click, 1.0, 10.0)[kept]
    half = np.arange(len(p)) % 2 == 0
    calibrated = isotonic(p[half], y[half], weight[half])(p[~half])
    assert np.average(calibrated, weights=weight[~half]) == pytest.approx(truth.mean(), rel=0.03)
    assert logloss(calibrated, y[~half], weight[~half]) < logloss(p[~half], y[~half], weight[~half]) + 1e-3

"""The split of each row. Memory holds one byte a row for every rule. B rows."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import numpy as np

from recsys.data.preparation.split_settings import SPLITS, split_dates, split_shares
from recsys.data.preparation.spool import NO_TIME, Spool
from recsys.errors import ConfigError, DataError
from recsys.features.encoders import ABSENT, hash_text

__all__ = ["NONE", "SPLITS", "kth_smallest", "split_codes"]

NONE = -1  # in a gap: in no split
_CHUNK = 1 << 20
_SALT = 0x5EED


def kth_smallest(read: Callable[[int, int], np.ndarray], rows: int, k: int) -> int:
    """The k-th smallest (from 0) of `rows` int64 values that are read in ranges, by counting in narrowing intervals."""
    ranges = [(i, min(rows, i + _CHUNK)) for i in range(0, rows, _CHUNK)]
    low = min(int(read(a, b).min()) for a, b in ranges)
    high = max(int(read(a, b).max()) for a, b in ranges)
    while low < high:
        width = (high - low) // 65_536 + 1
        counts = np.zeros(65_537, np.int64)
        below = 0
        for a, b in ranges:
            x = read(a, b)
            below += int((x < low).sum())
            above = x[(x >= low) & (x <= high)].view(np.uint64) - np.uint64(low % 2**64)  # 64 bits hold the difference
            counts += np.bincount((above // np.uint64(width)).astype(np.int64), minlength=65_537)
        slot = int(np.searchsorted(np.cumsum(counts), k - below, side="right"))
        low, high = low + slot * width, min(high, low + (slot + 1) * width - 1)
    return low


def _ranges(split: Mapping[str, Any], time: str | None) -> Callable[[np.ndarray], np.ndarray]:
    """`{train: [from, to), …}` as ISO dates."""
    dates = split_dates(split, time)
    ranges = [tuple(np.datetime64(d, "us").astype(np.int64) for d in pair) for pair in dates]

    def assign(time_B: np.ndarray) -> np.ndarray:
        code_B = np.full(len(time_B), NONE, np.int8)
        for code, (start, end) in enumerate(ranges):
            code_B[(time_B >= start) & (time_B < end)] = code
        return code_B

    return assign


def _by_time(shares: list[float], gap_days: float, spool: Spool, column: str) -> Callable[[np.ndarray], np.ndarray]:
    def read(start: int, stop: int) -> np.ndarray:
        return spool.read(column, start, stop)

    rows = spool.rows
    cuts = [int(c) for c in np.cumsum(shares)[:2] * rows + 1e-6]  # in floats .7 + .2 < .9
    first, second = (kth_smallest(read, rows, min(c, rows - 1)) for c in cuts)
    gap = int(timedelta(days=gap_days) / timedelta(microseconds=1))

    def assign(time_B: np.ndarray) -> np.ndarray:
        code_B = np.full(len(time_B), NONE, np.int8)
        code_B[time_B < first] = 0
        code_B[(time_B >= first + gap) & (time_B < second)] = 1
        code_B[time_B >= second + gap] = 2
        return code_B

    return assign


def _of_values(split: Mapping[str, Any], values: list[str]) -> np.ndarray:
    """Codes of a column's distinct values; the last entry is for missing."""
    code = np.full(len(values) + 1, NONE, np.int8)
    default = {"train": ["train"], "valid": ["valid", "validation", "val"], "test": ["test"]}
    for i, name in enumerate(SPLITS):
        wanted = split.get(name, default[name])
        wanted = [wanted] if isinstance(wanted, str | int) else list(wanted)
        known = {_spell(w) for w in wanted}
        if name in split and not known & set(values):
            raise DataError(
                f"data.split.{name}: expected values of column {split['column']!r}, got {wanted}: "
                f"it holds {', '.join(values[:8])}"
            )
        code[[j for j, v in enumerate(values) if v in known]] = i
    return code


def _spell(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _of_groups(shares: list[float], values: list[str], seed: int) -> np.ndarray:
    """Codes of groups by their hash, so that a group stays whole; the last entry is for missing."""
    share_G = np.array([hash_text(v, seed) for v in [*values, ABSENT]], np.float64) / 2.0**64
    return np.searchsorted(np.cumsum(shares)[:2], share_G, side="right").astype(np.int8)


def _check_time(spool: Spool, time: str) -> None:
    missing = sum(int((spool.read(f"us/{time}", a, b) == NO_TIME).sum()) for a, b in _steps(spool.rows))
    if missing:
        raise DataError(f"time {time!r}: {missing} rows have none: drop or fill them")


def _steps(rows: int) -> list[tuple[int, int]]:
    return [(i, min(rows, i + _CHUNK)) for i in range(0, rows, _CHUNK)]


def split_codes(spool: Spool, config: Mapping[str, Any]) -> np.ndarray:
    """The split of every row, int8: 0 train, 1 valid, 2 test, `NONE`.

    Args:
        spool: The rows' times and groups.
        config: `time` and `split`, which is one of
            `{train: [from, to), valid: …, test: …}`: ISO dates;
            `{shares: [.8, .1, .1], gap_days: 0}`: in order of time, if there is one (`gap_days` are
            left out before validation and before test);
            `{shares: …, by: COLUMN, seed: 0}`: each value of a column goes to one split, by its hash;
            `{shares: …, seed: 0}`: rows at random, if there is no time;
            `{column: COLUMN, train: [values], valid: …, test: …}`: by the values of a column. Without valid,
            `valid_share` (.1) of the training rows: the latest, or random ones if there is no time.

    Raises:
        ConfigError: If the entries are malformed.
        DataError: If a split is empty.
    """
    split, time = config.get("split") or {}, config.get("time")
    if not isinstance(split, Mapping) or not split:
        raise ConfigError(f"data.split: expected settings like {{shares: [0.8, 0.1, 0.1]}}, got {split!r}")
    if time:
        _check_time(spool, time)
    seed = split.get("seed", 0)
    column, assign = f"us/{time}", None
    if by := split.get("column") or split.get("by"):
        values = spool.dictionary(by).values().to_list()
        table = _of_values(split, values) if "column" in split else _of_groups(split_shares(split), values, seed)
        column = f"codes/{by}"
        assign = lambda code_B: table[np.maximum(code_B, -1)]  # noqa: E731  (−1, −2: the last entry)
    elif "shares" not in split:
        assign = _ranges(split, time)
    elif time:
        assign = _by_time(split_shares(split), float(split.get("gap_days", 0)), spool, column)
    if assign is None:
        shares = np.cumsum(split_shares(split))[:2]
        parts = [
            np.searchsorted(shares, _random(seed, a, b), side="right").astype(np.int8) for a, b in _steps(spool.rows)
        ]
    else:
        parts = [assign(spool.read(column, a, b)) for a, b in _steps(spool.rows)]
    code_B = np.concatenate(parts)
    if "column" in split and not (code_B == 1).any():
        _cut_valid(code_B, spool, time, float(split.get("valid_share", 0.1)), seed)
    for code, name in enumerate(SPLITS):
        if not (code_B == code).any():
            raise DataError(f"the {name} split is empty ({spool.rows} rows in all): {_mend(split, spool, time, name)}")
    return code_B


def _mend(split: Mapping[str, Any], spool: Spool, time: str | None, name: str) -> str:
    """How an empty split gets rows."""
    if "shares" in split or "column" in split or not time:
        return "give it a share in data.split"
    us_B = spool.read(f"us/{time}", 0, spool.rows)
    first, last = (np.datetime64(int(us), "us").item().date() for us in (us_B.min(), us_B.max()))
    return (
        f"data.split.{name} is {list(split[name])}, and {time} goes from {first} to {last}: choose other dates, in the "
        "file of the data or by data.split on the command line, unless the experiment sets them: then choose another"
    )


def _random(seed: int, start: int, stop: int) -> np.ndarray:
    """Uniform random numbers of rows start to stop, which depend on the seed and the row alone.

    The last word keeps them apart from the numbers of `default_rng(seed)`, which a made table may hold as a column:
    NumPy takes the seeds 0, [0] and [0, 0] for the same.
    """
    return np.random.default_rng([seed, start // _CHUNK, _SALT]).random(stop - start)


def _cut_valid(code_B: np.ndarray, spool: Spool, time: str | None, share: float, seed: int) -> None:
    """Make the latest training rows, or random ones, the validation split."""
    if not 0 < share < 1:
        raise ConfigError(
            f"data.split.valid_share: expected a share between 0 and 1, got {share}: 0.1 holds out a tenth of training"
        )
    train_B = code_B == 0
    if time:
        time_B = spool.read(f"us/{time}")
        late = np.quantile(time_B[train_B], 1 - share, method="higher")
        code_B[train_B & (time_B >= late)] = 1
    else:
        drawn_B = np.concatenate([_random(seed, a, b) for a, b in _steps(spool.rows)])
        code_B[train_B & (drawn_B < share)] = 1

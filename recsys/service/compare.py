"""Compares runs: only what differs in their configurations, their figures, and seeds grouped into one row.

A group is all runs on the same prepared data whose configurations differ in nothing but `seed`. Its figures are means
over the seeds of its finished runs with their 95 % interval by Student's t; a seed that ran again is one value, the
mean of its runs, since a repetition is no new evidence. A group is held against another on the same data by the
differences of runs with the same seed: noise that both share cancels. A run that has prepared no data yet is a group of
its own. R runs, G groups.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scipy.special import stdtr, stdtrit

from recsys.errors import ConfigError
from recsys.files import Json
from recsys.results import config_digest
from recsys.service.outcomes import Figures
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import QueuedRun

__all__ = ["MOST", "chosen", "compare", "differences", "flat", "is_time", "over_seeds"]

MOST = 500  # runs that are compared at once
_LIKE = ("seed", "runs", "trusted")  # keys in which runs of a group may differ
_TIMES = (
    "seconds", "seconds_search", "linear_seconds", "retrain_seconds_ratio", "rows_per_second", "us_per_row",
    "train_us_per_row",
)  # fmt: skip
_DATA = "data"  # the key under which the prepared data are shown, if they differ


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Key of an override, such as `model.hidden` → value; lists and empty mappings are values."""
    return dict(_flat(config, ""))


def _flat(config: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, key)
        else:
            yield key, value


def differences(config: Mapping[str, Any], base: Mapping[str, Any]) -> list[Json]:
    """What one configuration sets otherwise than another: `key`, its `value`, that of the other, `base`.

    A key that one of them lacks has no `value`, or no `base`.
    """
    new, old = flat(config), flat(base)
    keys = [*new, *(k for k in old if k not in new)]
    return [
        {"key": k, **({"value": new[k]} if k in new else {}), **({"base": old[k]} if k in old else {})}
        for k in keys
        if (k in new) != (k in old) or new[k] != old[k]
    ]


def chosen(queue: Queue, ids: Sequence[str]) -> list[QueuedRun]:
    """The runs with these ids, with their configurations, each once; of a sweep its runs.

    Raises:
        ConfigError: If there is none of an id; the message names the nearest.
    """
    rows = list[QueuedRun]()
    for row in queue.get_all([id for id in ids[: MOST + 1] if id]):
        children = queue.find(parent=row.id, limit=MOST + 1) if row.new.kind != "run" else []
        rows += queue.get_all([child.id for child in reversed(children)]) if children else [row]
    return list({row.id: row for row in rows}.values())


def compare(runs: Sequence[QueuedRun], figures: Figures, baseline: str | None = None) -> Json:
    """Compare runs.

    Args:
        runs: 1 to 500, with their configurations.
        figures: Reads their figures.
        baseline: Id of a run whose group the others are held against; the first run's by default.

    Returns:
        `keys`: those of the configuration that differ, and `data` if the prepared data do; `same`: how many do not.
        `figures`: names of those that differ, first those that most runs have; `same_figures`: the others.
        `runs`: {"id", "name", "state", "seed", "data": name of the prepared data, or None, "group": its index,
        "config": the keys that differ, "figures"}.
        `groups`: {"runs", "data", "seeds": distinct ones of finished runs or, if none is, of all, "finished": how many,
        "repeated": how many of them repeat a seed, "config", "figures": name → {"mean", "low", "high", "count"},
        "against": name → {"mean", "low", "high", "p", "count"}}, where `count` is of seeds, `against` is the difference
        to group `baseline`, and `low`, `high` and `p` need two seeds. Only finished runs count, and nothing is held
        against a group on other data. Times have no `low`, `high` and `p` there.

    Raises:
        ConfigError: If there are none or too many, or the baseline is none of them.
    """
    if not 1 <= len(runs) <= MOST:
        raise ConfigError(f"compare: expected 1 to {MOST} runs, got {len(runs):,}: choose fewer")
    rows, keys, same = _rows(runs, figures)
    same_figures = _take_alike([r["figures"] for r in rows])
    first = next((r["group"] for r in rows if r["id"] == baseline), 0 if baseline is None else None)
    if first is None:
        raise ConfigError(f"compare: baseline {baseline!r} is none of the runs: expected one of them")
    names = Counter(name for r in rows for name in r["figures"])
    order = sorted(names, key=lambda n: (-names[n], n))
    members = [[r for r in rows if r["group"] == g] for g in range(1 + max(r["group"] for r in rows))]
    groups = [_group(part, members[first], [k for k in keys if k not in _LIKE], order) for part in members]
    _holm(groups, order)
    return {"keys": keys, "same": same, "figures": order, "same_figures": same_figures, "baseline": first, "runs": rows,
            "groups": groups}  # fmt: skip


def _rows(runs: Sequence[QueuedRun], figures: Figures) -> tuple[list[Json], list[str], int]:
    """What `compare` says of each run with all its figures, the keys that differ, and how many settings do not."""
    config_R, data_R = [flat(run.new.config) for run in runs], [figures.data_of(run) for run in runs]
    keys = _differing(config_R)
    same = len(set[str]().union(*config_R)) - len(keys)
    group_R = [
        (config_digest({k: v for k, v in config.items() if k not in _LIKE}), data or f"none yet, run {run.id}")
        for run, config, data in zip(runs, config_R, data_R, strict=True)
    ]
    groups = list(dict.fromkeys(group_R))
    if len(set(data_R) - {None}) > 1:
        keys.append(_DATA)
        config_R = [{**c, _DATA: data} if data else c for c, data in zip(config_R, data_R, strict=True)]
    rows: list[Json] = [
        {"id": run.id, "name": run.new.name, "state": run.word, "seed": _seed(config), "data": data,
         "group": groups.index(group), "config": {k: config[k] for k in keys if k in config},
         "figures": dict(figures.of(run))}
        for run, config, data, group in zip(runs, config_R, data_R, group_R, strict=True)
    ]  # fmt: skip
    return rows, keys, same


def _seed(config: Mapping[str, Any]) -> int | None:
    """The seed; None if a run that `recsys run` began has none that is a number."""
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _take_alike(figure_R: Sequence[dict[str, float]]) -> dict[str, float]:
    """Take out, and give back, the figures that all of several runs have alike."""
    first = figure_R[0]
    alike = {n: v for n, v in first.items() if len(figure_R) > 1 and all(f.get(n) == v for f in figure_R)}
    for figures in figure_R:
        for name in alike:
            del figures[name]
    return alike


def _differing(config_R: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that some lack, or that have several values, in the order of the configurations."""
    keys = dict.fromkeys(key for config in config_R for key in config)
    absent = object()
    first = config_R[0]
    return [k for k in keys if any(c.get(k, absent) != first.get(k, absent) for c in config_R)]


def _group(part: list[Json], base: list[Json], keys: Sequence[str], names: Sequence[str]) -> Json:
    finished = [r for r in part if r["state"] == "finished"]
    by_seed = {n: _by_seed(finished, n) for n in names}
    alike = part is not base and part[0]["data"] is not None and part[0]["data"] == base[0]["data"]
    against = {n: _against(n, by_seed[n], _by_seed(base, n)) for n in names} if alike else {}
    seeds = list(dict.fromkeys(r["seed"] for r in finished or part))
    return {
        "runs": [r["id"] for r in part],
        "data": part[0]["data"],
        "seeds": seeds,
        "finished": len(finished),
        "repeated": len(finished) - len(seeds) if finished else 0,
        "config": {k: part[0]["config"][k] for k in keys if k in part[0]["config"]},
        "figures": {n: over_seeds(list(values.values())) for n, values in by_seed.items() if values},
        "against": {n: f for n, f in against.items() if f["count"]},
    }


def _by_seed(part: Sequence[Json], name: str) -> dict[int | None, float]:
    """Seed → the mean of a figure over its finished runs."""
    values = dict[int | None, list[float]]()
    for run in part:
        if run["state"] == "finished" and name in run["figures"]:
            values.setdefault(run["seed"], []).append(run["figures"][name])
    return {seed: math.fsum(of_seed) / len(of_seed) for seed, of_seed in values.items()}


def over_seeds(values: Sequence[float]) -> Json:
    """The mean, and for two values or more its 95 % interval by Student's t."""
    count = len(values)
    if not count:
        return {"count": 0}
    mean = math.fsum(values) / count
    if count < 2:
        return {"mean": mean, "count": count}
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count)
    half = float(stdtrit(count - 1, 0.975)) * error
    return {"mean": mean, "low": mean - half, "high": mean + half, "count": count}


def _against(name: str, ours: Mapping[int | None, float], theirs: Mapping[int | None, float]) -> Json:
    """A difference; of times only its mean: what else ran on the machine is in them, and is no noise of seeds."""
    change = _paired(ours, theirs)
    return {k: v for k, v in change.items() if k in ("mean", "count")} if is_time(name) else change


def is_time(name: str) -> bool:
    """Whether a figure is a time or a speed, which other work on the machine changes.

    >>> [is_time(n) for n in ("seconds", "evaluate/train.us_per_row", "export/latency.graph_us_b1")]
    [True, True, True]
    >>> is_time("select/seconds_search"), is_time("train/valid_auc")
    (True, False)
    """
    figure = name.rpartition("/")[2]  # dots may stand in names of fields and values of a table
    return figure.startswith("latency.") or figure.rpartition(".")[2] in _TIMES


def _paired(ours: Mapping[int | None, float], theirs: Mapping[int | None, float]) -> Json:
    """The mean difference over the seeds that both have, its 95 % interval, and the p value of a paired t test."""
    changes = [value - theirs[seed] for seed, value in ours.items() if seed in theirs]
    change = over_seeds(changes)
    if len(changes) < 2:
        return change
    error = (change["high"] - change["mean"]) / float(stdtrit(len(changes) - 1, 0.975))
    if error == 0:
        p = 1.0 if change["mean"] == 0 else 0.0
    else:
        p = 2 * float(stdtr(len(changes) - 1, -abs(change["mean"] / error)))
    return {**change, "p": p}


def _holm(groups: Sequence[Json], names: Sequence[str]) -> None:
    """Correct the p values of each figure for the count of groups that are held against the baseline.

    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    for name in names:
        tests = sorted((g["against"][name] for g in groups if "p" in g["against"].get(name, {})), key=lambda f: f["p"])
        most = 0.0
        for rank, figure in enumerate(tests):
            most = max(most, min(1.0, (len(tests) - rank) * figure["p"]))
            figure["p"] = most

"""Compares runs: only what differs in their configurations, their figures, and seeds grouped into one row.

A group is all runs whose configurations differ in nothing but `seed`. Its figures are means over seeds with their 95 %
interval by Student's t. A group is held against another by the differences of runs with the same seed: noise that both
share cancels. R runs, G groups.
"""

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from scipy.special import stdtr, stdtrit

from recsys.errors import ConfigError, DataError
from recsys.files import Json
from recsys.results import config_digest
from recsys.service.inside import read_inside
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import ENDED, QueuedRun

__all__ = ["MOST", "Figures", "chosen", "compare", "differences", "flat", "over_seeds"]

MOST = 500  # runs that are compared at once
_LIKE = ("seed", "runs", "trusted")  # keys in which runs of a group may differ
_NOT_COMPARED = ("prepare",)  # stages whose figures describe the data
_REMEMBERED = 5000  # runs


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


class Figures:
    """Reads the figures of runs; those of a run that has ended stay in memory.

    Args:
        home: Finds the folder of runs that a run's folder is in.
    """

    def __init__(self, home: Callable[[QueuedRun], Path]):
        self._home, self._lock = home, Lock()
        self._seen: OrderedDict[tuple[str, int, float | None], dict[str, float]] = OrderedDict()

    def of(self, run: QueuedRun) -> dict[str, float]:
        """Figures of a run, such as `evaluate/train.auc`: from its result, or else the newest that it has told."""
        mark = (run.id, run.attempt, run.ended_at)
        with self._lock:
            if mark in self._seen:
                return self._seen[mark]
        figures = self._read(run)
        if run.state in ENDED:
            with self._lock:
                self._seen[mark] = figures
                if len(self._seen) > _REMEMBERED:
                    self._seen.popitem(last=False)
        return figures

    def _read(self, run: QueuedRun) -> dict[str, float]:
        newest = {
            f"{stage}/{name}": float(value)
            for stage, values in run.live.metrics.items()
            for name, value in values.items()
            if name != "step" and stage not in _NOT_COMPARED
        }
        home = self._home(run)
        try:
            stages: Any = json.loads(read_inside(home, run.id, "result.json"))["stages"]
            seconds = [part["seconds"] for part in stages.values() if part["seconds"] is not None]
            result = {
                f"{stage}/{name}": float(value)
                for stage, part in stages.items()
                for name, value in (part["metrics"] or {}).items()
                if stage not in _NOT_COMPARED
            }
        except (DataError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
            pass  # it has no result yet, or one that nobody can read
        else:
            newest |= {**result, "seconds": math.fsum(seconds)}
        return {k: v for k, v in newest.items() if math.isfinite(v)}


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
        `keys`: those of the configuration that differ; `same`: how many do not.
        `figures`: names of those that differ, first those that most runs have; `same_figures`: the others.
        `runs`: {"id", "name", "state", "seed", "group": its index, "config": the keys that differ, "figures"}.
        `groups`: {"runs", "seeds", "config", "figures": name → {"mean", "low", "high", "count"}, "against": name →
        {"mean", "low", "high", "p", "count"}}, where `against` is the difference to group `baseline`, and `low`, `high`
        and `p` need two runs.

    Raises:
        ConfigError: If there are none or too many, or the baseline is none of them.
    """
    if not 1 <= len(runs) <= MOST:
        raise ConfigError(f"compare: expected 1 to {MOST} runs, got {len(runs):,}: choose fewer")
    config_R = [flat(run.new.config) for run in runs]
    keys = _differing(config_R)
    figure_R, same_figures = _differing_figures([figures.of(run) for run in runs])
    digest_R = [config_digest({k: v for k, v in c.items() if k not in _LIKE}) for c in config_R]
    digests = list(dict.fromkeys(digest_R))
    rows: list[Json] = [
        {"id": run.id, "name": run.new.name, "state": run.state, "seed": _seed(config),
         "group": digests.index(digest), "config": {k: config[k] for k in keys if k in config}, "figures": seen}
        for run, config, digest, seen in zip(runs, config_R, digest_R, figure_R, strict=True)
    ]  # fmt: skip
    first = next((r["group"] for r in rows if r["id"] == baseline), 0 if baseline is None else None)
    if first is None:
        raise ConfigError(f"compare: baseline {baseline!r} is none of the runs: expected one of them")
    names = Counter(name for seen in figure_R for name in seen)
    order = sorted(names, key=lambda n: (-names[n], n))
    members = [[r for r in rows if r["group"] == g] for g in range(len(digests))]
    groups = [_group(part, members[first], [k for k in keys if k not in _LIKE], order) for part in members]
    _holm(groups, order)
    same = len(set[str]().union(*config_R)) - len(keys)
    return {"keys": keys, "same": same, "figures": order, "same_figures": same_figures, "baseline": first, "runs": rows,
            "groups": groups}  # fmt: skip


def _seed(config: Mapping[str, Any]) -> int | None:
    """The seed; None if a run that `recsys run` began has none that is a number."""
    seed = config.get("seed")
    return seed if isinstance(seed, int) else None


def _differing_figures(figure_R: list[dict[str, float]]) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Figures without those that all of several runs have alike, and these."""
    first = figure_R[0]
    alike = {n: v for n, v in first.items() if len(figure_R) > 1 and all(f.get(n) == v for f in figure_R)}
    return [{n: v for n, v in f.items() if n not in alike} for f in figure_R], alike


def _differing(config_R: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that some lack, or that have several values, in the order of the configurations."""
    keys = dict.fromkeys(key for config in config_R for key in config)
    absent = object()
    first = config_R[0]
    return [k for k in keys if any(c.get(k, absent) != first.get(k, absent) for c in config_R)]


def _group(part: list[Json], base: list[Json], keys: Sequence[str], names: Sequence[str]) -> Json:
    figures = {n: over_seeds([r["figures"][n] for r in part if n in r["figures"]]) for n in names}
    against = {} if part is base else {n: _paired(part, base, n) for n in names}
    return {
        "runs": [r["id"] for r in part],
        "seeds": [r["seed"] for r in part],
        "config": {k: part[0]["config"][k] for k in keys if k in part[0]["config"]},
        "figures": {n: f for n, f in figures.items() if f["count"]},
        "against": {n: f for n, f in against.items() if f["count"]},
    }


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


def _paired(part: list[Json], base: list[Json], name: str) -> Json:
    """The mean difference over the seeds that both have, its 95 % interval, and the p value of a paired t test."""
    theirs = {r["seed"]: r["figures"][name] for r in base if name in r["figures"]}
    ours = {r["seed"]: r["figures"][name] for r in part if name in r["figures"]}
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

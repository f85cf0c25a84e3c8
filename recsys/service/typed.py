"""What was typed for a run: the command that does it again, and the overrides that tell the runs of a sweep apart."""

import shlex
from collections.abc import Sequence

from recsys.service.queue.records import Needs, NewRun, QueuedRun

__all__ = ["alike", "command", "overrides", "settings"]

_LONGEST = 200  # letters of settings
_PLAIN = ("experiment=", "stages=", "runs=", "name=")
_UNITS = {"G": 1 << 30, "M": 1 << 20}


def overrides(new: NewRun) -> list[str]:
    """The overrides without `runs=`, if the service has added it."""
    return [o for o in new.overrides if not (new.user.startswith("http:") and o.startswith("runs="))]


def command(new: NewRun, child: NewRun | None = None) -> str:
    """The command that submits it again, to paste into a shell; "" if the overrides of a sweep are not known.

    Args:
        new: The run, with its configuration.
        child: If it is a sweep, one of its runs, with its configuration.
    """
    if new.kind == "direct":
        return shlex.join(["recsys", "sweep" if "search" in new.config else "run", *new.overrides])
    if new.kind == "sweep" and not new.overrides:
        return ""
    words = ["recsys", "submit", *overrides(new), *(["-m"] if new.kind == "sweep" else [])]
    one = child or new  # what each run of a sweep needs and waits for stands with the run
    flags: dict[str, object] = {
        "--name": new.name if one.config.get("name", new.name) != new.name else None,
        "--priority": new.priority or None,
        "--cores": one.needs.cores if one.needs.cores != Needs.cores else None,
        "--memory": _size(one.needs.memory) if one.needs.memory != Needs.memory else None,
        "--gpus": one.needs.gpus or None,
    }
    words += [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    return shlex.join([*words, *(word for id in one.after for word in ("--after", id))])


def _size(count: int) -> str:
    """Bytes as `--memory` takes them."""
    return next((f"{count // unit}{name}" for name, unit in _UNITS.items() if count % unit == 0), str(count))


def alike(runs: Sequence[QueuedRun]) -> dict[str, frozenset[str]]:
    """Id of each sweep → overrides that all of its runs among these have; they tell none apart.

    A sweep has an entry if two of its runs are there.
    """
    families: dict[str, list[frozenset[str]]] = {}
    for run in runs:
        if run.new.parent:
            families.setdefault(run.new.parent, []).append(frozenset(run.new.overrides))
    return {sweep: frozenset.intersection(*typed) for sweep, typed in families.items() if len(typed) > 1}


def settings(new: NewRun, same: frozenset[str] = frozenset()) -> str:
    """What was typed, as far as it tells runs apart; of a sweep, what it sweeps over first.

    Args:
        new: The run.
        same: Overrides to leave out.
    """
    typed = [o for o in new.overrides if o not in same and not o.startswith(_PLAIN)]
    if new.kind == "sweep":
        typed.sort(key=lambda o: not _is_swept(o))
    text = " ".join(typed)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _is_swept(override: str) -> bool:
    """Whether an override has several values: `seed=1,2` and `seed=range(0,3)`, not `stages=[train,evaluate]`."""
    value = override.partition("=")[2]
    return not value.startswith(("[", "{")) and ("," in value or "(" in value)

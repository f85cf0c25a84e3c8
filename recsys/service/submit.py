"""From overrides to runs for the queue: composed and checked as `recsys run` does, without importing torch."""

import getpass
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.frozen import Frozen, freeze
from recsys.errors import ConfigError
from recsys.results import config_digest
from recsys.service.door import Submission
from recsys.service.queue.records import Needs, NewRun

__all__ = ["git_state", "new_runs", "of_queue", "user_name"]

_GIT_SECONDS = 5.0  # a repository on a slow disk must not hold up a submission


def new_runs(asked: Submission, user: str | None = None) -> list[NewRun]:
    """Compose and check what is asked, in the current folder → the run; of a sweep, the parent and then its children.

    Args:
        asked: What was typed.
        user: Who asks; by default the user of this process.

    Raises:
        ConfigError: If a setting is invalid.
    """
    _check_times(asked)
    git = _git(Path.cwd())
    try:
        frozen = freeze(asked.overrides, asked.multirun)
    except BaseException:
        _state(git)  # a service would keep its process and its pipe
        raise
    user = user_name() if user is None else user
    runs = [of_queue(f, asked, user) for f in frozen]
    if asked.multirun:
        runs.insert(0, _parent(runs, asked, frozen[0]))
    state = _state(git)
    return [replace(run, git=state) for run in runs]


def _check_times(asked: Submission) -> None:
    """Refuse what a schedule cannot have."""
    if asked.every is None:
        return
    if asked.multirun:
        raise ConfigError("every: expected one run, got a sweep (-m): submit each of its runs at its own times")
    if asked.client_key or asked.after:
        raise ConfigError("every: each run of a schedule has a key of its own, and waits for none: leave them out")


def of_queue(frozen: Frozen, asked: Submission, user: str) -> NewRun:
    """A composed run with what was asked for beside it."""
    needs = Needs(
        max(asked.needs.cores, frozen.cores), asked.needs.memory, max(asked.needs.gpus, frozen.gpus)
    )  # fmt: skip
    return NewRun(
        id=frozen.id,
        overrides=frozen.overrides,
        config=frozen.config,
        digest=frozen.digest,
        runs=frozen.runs,
        cwd=frozen.cwd,
        name=asked.name or frozen.name,
        experiment=frozen.experiment,
        parent=frozen.sweep,
        client_key=None if frozen.sweep else asked.client_key,  # the queue makes those of children from the parent's
        priority=asked.priority,
        after=list(asked.after),
        needs=needs,
        user=user,
    )


def _parent(children: Sequence[NewRun], asked: Submission, first: Frozen) -> NewRun:
    digest = config_digest({"runs": [child.digest for child in children]})
    return replace(
        children[0], id=first.sweep or "", overrides=list(asked.overrides), config={}, digest=digest, kind="sweep",
        parent=None, client_key=asked.client_key, after=[], needs=Needs(),
    )  # fmt: skip


def user_name() -> str:
    """The user of this process."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return str(os.getuid())


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of a folder, and whether files in it differ; empty outside of a repository."""
    return _state(_git(folder))


def _git(folder: Path) -> subprocess.Popen[str] | None:
    """Begin to ask git for the commit and the changes of a folder, while the configuration is composed."""
    command = ["git", "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        return subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
    except OSError:  # no git here
        return None


def _state(git: subprocess.Popen[str] | None) -> dict[str, Any]:
    """Commit and changes; empty outside of a repository."""
    if git is None:
        return {}
    try:
        printed, _ = git.communicate(timeout=_GIT_SECONDS)
    except subprocess.TimeoutExpired:
        git.kill()
        git.communicate()
        return {}
    lines = printed.splitlines() if git.returncode == 0 else []
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), None)
    if commit is None:
        return {}
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}

"""The overrides of a run that goes on with an earlier one: those of the earlier one, then those given now."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines.overrides import key_of
from recsys.errors import ConfigError
from recsys.results import overrides, read_run

__all__ = ["continued", "in_full"]

_SHORT = "+selection="


def in_full(arguments: Sequence[str]) -> list[str]:
    """The arguments, with `select.apply=PATH` for `+selection=PATH`."""
    return [f"select.apply={a.removeprefix(_SHORT)}" if a.startswith(_SHORT) else a for a in arguments]


def continued(arguments: list[str], command: str = "run") -> list[str]:
    """The overrides of the run that `resume=` or `from_run=` names, then those given now, which win.

    A resumed run works in its own folder, and finds its finished stages there.

    Args:
        arguments: Overrides.
        command: `run` or `sweep`; each resumes only its own kind.

    Raises:
        ConfigError: If there is no such run to resume, or it is of the other kind.
    """
    given = dict(a.split("=", 1) for a in arguments if a.startswith(("resume=", "from_run=", "runs=")))
    kind = next((k for k in ("resume", "from_run") if given.get(k)), None)
    if kind is None:
        return arguments
    folder = Path(given.get("runs", "runs")) / given[kind]
    saved = overrides(folder)
    if kind == "resume" and saved is not None:
        begun = "sweep" if "search" in read_run(folder).config else "run"
        if begun != command:
            raise ConfigError(
                f"resume: {given[kind]} is a {begun}: recsys {begun} resume={given[kind]} goes on with it"
            )
    if (theirs := [o for o in saved or [] if _chooses_server(o)]) and not any(map(_chooses_server, arguments)):
        print(f"warning: {given[kind]} was tracked at {theirs[-1]!r}: give it again to track there", file=sys.stderr)
    if kind == "from_run":
        return _over(_without(saved or [], "stages", "from_run", "runs"), arguments)
    if saved is None and folder.is_dir():
        raise ConfigError(f"resume: run {given[kind]} was stopped before it had begun: give the whole command again")
    if saved is None:
        raise ConfigError(f"resume: no run {given[kind]!r} in {folder.parent}: expected the name of a folder there")
    others = [a for a in arguments if not a.startswith("resume=")]
    return [*_over(_without(saved), others), f"hydra.run.dir={folder}"]


def _without(saved: list[str], *keys: str) -> list[str]:
    """Saved overrides without these keys, and without what only the user may type: anybody may have written them."""
    typed = {*keys, "hydra", "launcher", "trusted"}
    return [o for o in saved if not o.startswith("-") and not _groups(o) & typed and not _chooses_server(o)]


def _chooses_server(override: str) -> bool:
    """Whether an override may set tracking.uri, the server that gets a run's figures, rows and bundle."""
    harmless = re.match(r"\+{0,2}tracking\.(experiment|register)=", override)
    return "tracking" in _groups(override) and not harmless


def _groups(override: str) -> set[str]:
    """The top-level keys that an override may set: its own, and the one to which `@` moves it."""
    places = override.lstrip("+~ \t").partition("=")[0].split("@")
    return {re.split(r"[./]", p.removeprefix("_global_."))[0].strip() for p in places}


def _over(earlier: list[str], now: list[str]) -> list[str]:
    """Earlier overrides, then those given now; earlier ones that set a key given now, or one inside it, are dropped.

    Raises:
        ConfigError: If an earlier one calls a resolver, which may read secrets from environment variables.
    """
    given = {key_of(a) for a in now}
    kept = [o for o in earlier if not any(key_of(o) == g or key_of(o).startswith(f"{g}.") for g in given)]
    if calls := next((o for o in kept if re.search(r"\$\\*\{.*[:$]", o, re.DOTALL)), None):
        raise ConfigError(f"the run's folder: expected no ${{…:…}}, got {calls!r}: give it again on the command line")
    return [*kept, *now]

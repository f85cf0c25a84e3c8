"""What a run takes over from an earlier one (`from_run=ID`), and in which order stages go.

The rule: stages have an order (see `STAGES`), and a run takes over what stands *before* the first stage that
it runs anew. Whatever stood at or behind it came from another model, and is left where it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.stage import STAGES
from recsys.config.options import present_name
from recsys.errors import ConfigError, DataError
from recsys.results import read_result, read_run, read_stage, relative

__all__ = ["changed_since", "check_same_before", "settings", "stages_before", "stages_to_run", "taken_over"]

_NO_RESULT = ("stages", "tracking", "runs")  # settings that no figure of a run depends on


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's configuration that its figures depend on."""
    return {k: v for k, v in config.items() if k not in _NO_RESULT}


def _in_order(stages: list[str]) -> list[str]:
    return [s for s in STAGES if s in stages]


def stages_to_run(config: Mapping[str, Any]) -> list[str]:
    """The stages of a run; prepare goes first unless an earlier run has it.

    Raises:
        ConfigError: If a stage is unknown, named twice or out of order, or none is named.
    """
    asked = list(config["stages"])
    if unknown := [s for s in asked if s not in STAGES]:
        raise ConfigError(f"stages: unknown {unknown}: expected some of {', '.join(STAGES)}")
    if not asked:
        raise ConfigError(f"stages is empty: name some of {', '.join(STAGES)}")
    if asked != _in_order(asked):
        right, got = ", ".join(_in_order(asked)), ", ".join(asked)
        raise ConfigError(f"stages: expected each once and in the order of the pipeline, got {got}: write {right}")
    if config["select"]["apply"] is not None and "train" not in asked and not config["from_run"]:
        raise ConfigError("select.apply is what stage train trains on, and stages lacks it: add train, or unset it")
    return asked if config["from_run"] or asked[0] == "prepare" else ["prepare", *asked]


def taken_over(config: Mapping[str, Any], names: list[str]) -> dict[str, Path]:
    """The folders of earlier stages that a run goes on from, by name.

    Args:
        config: Of the new run; `from_run` names the earlier one.
        names: The stages that the new run runs.

    Raises:
        ConfigError: If there is no such run, or a stage that is taken over read other settings than `config` has.
        DataError: If the earlier run's files are damaged or of another version.
    """
    if not config["from_run"]:
        return {}
    runs, run = Path(config["runs"]), str(config["from_run"])
    result = runs / run / "result.json"
    if not result.exists():
        known = sorted(str(p.parent.relative_to(runs)) for p in runs.glob("*/result.json"))
        raise ConfigError(f"from_run: no finished run {run!r}: expected one of {', '.join(known[-5:]) or 'none yet'}")
    first = list(STAGES).index(names[0])
    stages = read_result(result)["stages"]
    taken = {n: Path(stages[n]["folder"]) for n in list(STAGES)[:first] if n in stages}
    if gone := [str(p) for p in taken.values() if not p.is_dir()]:
        raise DataError(f"from_run: run {run} went on from {gone[0]}, which is gone: run it anew, without from_run")
    before = read_run(runs / run, "run it again with this recsys")
    for name in taken:
        if found := changed_since(name, before.config, config):
            raise ConfigError(
                f"from_run: stage {name} of run {run} had {found[0]}: add {name} to stages, "
                "or leave that setting as it was"
            )
    return taken


def stages_before(folder: Path, done: Mapping[str, Path]) -> list[str]:
    """What a stage's result.json notes of the stages that it came after: their folders, as seen from its own."""
    return [relative(p, folder) for p in done.values()]


def check_same_before(run: Path, names: list[str], taken: Mapping[str, Path], id: str) -> None:
    """Each finished stage of a run that is resumed came after the very stages that now stand before it.

    Else its results would be of another model than the one beside them, such as a calibrator fitted before
    stage compress was added.

    Args:
        run: The run's folder.
        names: The stages that it is to run.
        taken: Folders of those that it takes over, by name.
        id: Of the run, for messages.

    Raises:
        ConfigError: If one came after others.
        DataError: If its result.json is damaged or of another version.
    """
    for number, name in enumerate(names):
        if not (run / name / "result.json").exists():
            continue
        now = stages_before(run / name, {**taken, **{n: run / n for n in names[:number]}})
        was = read_stage(run / name).get("after")
        if was is None or was == now:
            continue
        shown = [", ".join(p.lstrip("./") for p in paths) or "nothing" for paths in (was, now)]
        added = next((n for n in names if relative(run / n, run / name) in set(now) - set(was)), None)
        other = f"once it is finished, from_run={id} stages=[{','.join(names[names.index(added) :])}]" if added else ""
        raise ConfigError(
            f"run {id}: its stage {name} is done, and came after {shown[0]}, not {shown[1]}: "
            f"resume it with the stages that it had, or {other or 'begin a new run'}"
        )


def changed_since(stage: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs in the settings that a stage reads: `seed=0, not 5`, and so on, one entry a key."""
    return [d for key in STAGES[stage].reads for d in differences(_at(before, key), _at(now, key), key)]


def _at(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """What differs between two configurations: `seed=0, not 5`, and so on, one entry a key."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        keys = [*before, *(k for k in now if k not in before)]
        inside = [differences(before.get(k), now.get(k), f"{at}.{k}" if at else str(k)) for k in keys]
        return [d for some in inside for d in some]
    if at.endswith("._target_") and isinstance(before, str) and present_name(before) == now:
        return []
    return [] if before == now else [f"{at}={_short(before)}, not {_short(now)}"]


def _short(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"

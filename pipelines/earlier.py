"""The stages that a run takes over from an earlier one (`from_run=ID`), and the order of stages.

The rule: stages have an order (see `STAGES`), and a run takes over those *before* the first stage that it runs
anew. The earlier run's other stages belong to another model, and are not taken over.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.config import RunConfig
from pipelines.node import begun, check_ours, inputs_read
from pipelines.places import check_inside
from pipelines.stages import STAGES
from recsys.errors import ConfigError, DataError, nearest
from recsys.files import Json
from recsys.results import RunResult, read_result

__all__ = ["check_same", "finished", "noted_overrides", "settings", "stages_to_run", "taken_over"]

_NO_RESULT = ("stages", "tracking", "runs", "launcher", "distributed")  # settings that no figure of a run depends on


def settings(config: RunConfig) -> Json:
    """The part of a run's configuration that its figures depend on."""
    return {k: v for k, v in config.to_json().items() if k not in _NO_RESULT}


def _in_order(stages: list[str]) -> list[str]:
    return [s for s in STAGES if s in stages]


def stages_to_run(config: RunConfig) -> list[str]:
    """The stages of a run; prepare goes first unless it is taken over from an earlier run.

    Raises:
        ConfigError: If a stage is unknown, named twice or out of order, or none is named.
    """
    asked = config.stages
    if unknown := [s for s in asked if s not in STAGES]:
        raise ConfigError(
            f"stages: unknown {unknown}: expected some of {', '.join(STAGES)}{nearest(unknown[0], STAGES)}"
        )
    if not asked:
        raise ConfigError(f"stages is empty: name some of {', '.join(STAGES)}")
    if asked != _in_order(asked):
        right, got = ", ".join(_in_order(asked)), ", ".join(asked)
        raise ConfigError(f"stages: expected each once and in the order of the pipeline, got {got}: write {right}")
    if config.select.apply is not None and "train" not in asked and not config.from_run:
        raise ConfigError("select.apply is what stage train trains on, and stages lacks it: add train, or unset it")
    return asked if config.from_run or asked[0] == "prepare" else ["prepare", *asked]


def finished(config: RunConfig, run: str, place: str) -> RunResult:
    """The result of an earlier run.

    Args:
        config: Of the new run; it says where runs are.
        run: Id of the earlier one.
        place: The key that names it, for messages.

    Raises:
        ConfigError: If there is no such run in the folder of runs, or it is not finished.
        DataError: If its result is damaged or of another version.
    """
    runs = Path(config.runs)
    check_inside(runs / run, runs, place)
    result = runs / run / "result.json"
    if not result.exists():
        known = sorted(str(p.parent.relative_to(runs)) for p in runs.glob("*/result.json"))
        raise ConfigError(f"{place}: no finished run {run!r}: expected one of {', '.join(known[-5:]) or 'none yet'}")
    return read_result(result)


def taken_over(config: RunConfig, names: list[str]) -> dict[str, Path]:
    """The folders of earlier stages that a run goes on from, by name.

    Args:
        config: Of the new run; `from_run` names the earlier one.
        names: The stages that the new run runs.

    Raises:
        ConfigError: If there is no such run, or a stage that is taken over read other settings than `config` has.
        DataError: If the earlier run's files are damaged or of another version.
    """
    if not config.from_run:
        return {}
    run = config.from_run
    first = list(STAGES).index(names[0])
    stages = finished(config, run, "from_run").stages
    taken = {n: stages[n].folder for n in list(STAGES)[:first] if n in stages}
    if gone := [str(p) for p in taken.values() if not p.is_dir()]:
        raise DataError(f"from_run: run {run} went on from {gone[0]}, which is gone: run it anew, without from_run")
    for name, folder in taken.items():
        if (node := begun(folder)) and (changed := node.changes(config)):
            raise ConfigError(
                f"from_run: stage {name} of run {run} had {changed[0]}: add {name} to stages, "
                "or leave that setting as it was"
            )
    return taken


def check_same(run: Path, config: RunConfig, names: list[str], taken: Mapping[str, Path], id: str) -> None:
    """Check that a resumed run keeps the settings of its begun stages, and the stages before its finished ones.

    Settings that no stage has used yet may change, so that a mistake in a late one costs no training. A finished stage
    that came after other stages belongs to another model, as does a calibrator that was fitted before stage compress
    was added; an unfinished one is begun anew instead.

    Args:
        run: The run's folder.
        config: Of the run, now.
        names: The stages that it is to run.
        taken: Folders of those that it takes over, by name.
        id: Of the run, for messages.

    Raises:
        ConfigError: If a begun stage had other settings, a finished one came after other stages, or foreign files are
            in a stage's place.
        DataError: If a stage's node.json is damaged or of another version.
    """
    for name in names:
        check_ours(run / name)
    for name in STAGES:
        if (node := begun(run / name)) and (changed := node.changes(config)):
            raise ConfigError(
                f"run {run.name}: its stage {name} was begun with {changed[0]}: leave that out, or begin a new run"
            )
    for number, name in enumerate(names):
        before = begun(run / name)
        if before is None or not (run / name / "result.json").exists():
            continue
        now = inputs_read(run / name, {**taken, **{n: run / n for n in names[:number]}})
        if before.same_inputs(now):
            continue
        was, wanted = (", ".join(i.folder.lstrip("./") for i in s.values()) or "nothing" for s in (before.inputs, now))
        added = next((n for n in names if n in now and n not in before.inputs), None)
        other = f"once it is finished, from_run={id} stages=[{','.join(names[names.index(added) :])}]" if added else ""
        raise ConfigError(
            f"run {id}: its stage {name} is done, and came after {was}, not {wanted}: "
            f"resume it with the stages that it had, or {other or 'begin a new run'}"
        )


def noted_overrides(folder: Path) -> list[str] | None:
    """The overrides of the last attempt at a run, as Hydra recorded them; None if there is no record."""
    from omegaconf import OmegaConf

    noted = folder / ".hydra" / "overrides.yaml"
    if not noted.is_file():
        return None
    typed: Any = OmegaConf.to_container(OmegaConf.load(noted))  # as they were typed, not resolved
    return [str(o) for o in typed] if isinstance(typed, list) else None

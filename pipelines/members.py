"""Checks the finished runs whose models stage merge combines, before it runs.

Imports nothing slow, so that a mistake is reported at once.
"""

from dataclasses import dataclass
from pathlib import Path

from pipelines.config import RunConfig
from pipelines.earlier import finished
from pipelines.node import begun
from pipelines.stages import MODEL_STAGES
from recsys.errors import ConfigError
from recsys.features.schema import Schema
from recsys.files import read_json
from recsys.results import prepared_folder

__all__ = ["Members", "members"]


@dataclass(frozen=True)
class Members:
    """The models that stage merge combines into one.

    Args:
        models: Run → the folder of the stage that left its newest model.
        data: Name of the prepared data that all of them were trained on.
    """

    models: dict[str, Path]
    data: str


def members(config: RunConfig) -> Members:
    """The newest models of the runs that `merge.runs` names.

    Raises:
        ConfigError: If there are fewer than two, one is not finished or has no model, or they are of unlike data or
            fields.
        DataError: If a run's files are damaged or of another version.
    """
    ids = [_id(config, run) for run in config.merge.runs]
    if len(set(ids)) < max(2, len(ids)):
        given = config.merge.runs
        raise ConfigError(
            f"merge.runs: expected two finished runs or more, each once, got {given}: write [RUN_A,RUN_B]"
        )
    models: dict[str, Path] = {}
    data: dict[str, str] = {}
    fields: dict[str, list[str]] = {}
    for id in ids:
        stages = finished(config, id, "merge.runs").stages
        name = next((n for n in reversed(MODEL_STAGES) if n in stages), "")
        if name in ("", "merge"):
            what = "is a merge itself: name its runs" if name else "has no model: name one that trained"
            raise ConfigError(f"merge.runs: run {id} {what}")
        models[id], prepare = stages[name].folder, stages["prepare"].folder
        if (node := begun(prepare)) and (changed := node.changes(config)):
            raise ConfigError(f"merge.runs: run {id} had {changed[0]}: give the data settings that it had")
        mend = "run it again with this recsys"
        header = read_json(models[id] / "model.json", "a model", mend, shape={"schema": {"fields": [dict]}})
        data[id], fields[id] = prepared_folder(prepare).name, Schema.from_json(header["schema"]).names
        _check_alike(ids[0], id, data, fields)
    return Members(models, data[ids[0]])


def _id(config: RunConfig, run: str) -> str:
    """The one id of a run, however it is spelt.

    Raises:
        ConfigError: If it is not in the folder of runs.
    """
    runs = Path(config.runs).resolve()
    folder = (runs / run).resolve()
    if not folder.is_relative_to(runs):
        raise ConfigError(f"merge.runs: expected ids of runs in {config.runs}, got {run!r}: write [RUN_A,RUN_B]")
    return str(folder.relative_to(runs))


def _check_alike(first: str, id: str, data: dict[str, str], fields: dict[str, list[str]]) -> None:
    """Check that a run's data and fields are those of the first one."""
    if data[first] != data[id]:
        raise ConfigError(
            f"merge.runs: expected runs of one data set, {first} is of {data[first]} and {id} of {data[id]}: train "
            "them on the same table with the same recsys"
        )
    if fields[first] != fields[id]:
        other = ", ".join(sorted(set(fields[first]) ^ set(fields[id])))
        raise ConfigError(
            f"merge.runs: expected models of the same fields, {first} and {id} differ in {other}: train both on one "
            f"choice of fields, for example select.apply={first}"
        )

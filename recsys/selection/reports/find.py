"""Find a selection report by any of its names, and read which fields it keeps."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError
from recsys.files import read_json
from recsys.selection.reports.report import SHAPE, VERSION, Report

__all__ = ["find", "is_mlflow_id", "kept", "named", "read"]

_NAMES = ("report.json", "select/report.json")


def is_mlflow_id(name: Any) -> bool:
    """Whether it looks like the id of an MLflow run."""
    return isinstance(name, str) and bool(re.fullmatch(r"[0-9a-f]{32}", name))


def find(name: str, runs: Path) -> Path:
    """The report.json for a run id, a run folder, a file or an MLflow run id (that of the run or of its stage select).

    Raises:
        ConfigError: If no report is found.
    """
    for base in (Path(name), runs / name):
        for path in (base, *(base / n for n in _NAMES)):
            if path.is_file() and path.suffix == ".json":
                return path
    if is_mlflow_id(name):
        from recsys.tracking import artifact

        return artifact(name, "report.json", runs)
    wanted = f"a run id in {runs}, a run's folder, a report.json or an MLflow run id"
    raise ConfigError(f"no selection report for {name!r}: expected {wanted}")


def read(path: Path) -> Report:
    """The report in a file.

    Raises:
        DataError: If it is not a report, is damaged, or has another version.
    """
    mend = "select again, or give the report.json of another run"
    return Report.from_json(read_json(path, "a selection report", mend, VERSION, SHAPE))


def kept(source: "str | Sequence[str]", runs: Path, known: Sequence[str]) -> list[str]:
    """The fields that `select.apply` asks for.

    Args:
        source: Names of fields, or the file that holds them: report.json, selection.json, kept.yaml, or anything
            that `find` takes.
        runs: Folder of runs.
        known: Fields of the data.

    Raises:
        ConfigError: If there is no such selection, or it names an unknown field.
    """
    names, where = named(source, runs), source if isinstance(source, str) else "the list"
    if unknown := [n for n in names if n not in known]:
        have = ", ".join(known)
        raise ConfigError(f"select.apply: {where} keeps {unknown}, which this data lacks: expected some of {have}")
    return names


def named(source: "str | Sequence[str]", runs: Path) -> list[str]:
    """The fields that a selection keeps, not checked against the data; arguments as for `kept`.

    Raises:
        ConfigError, DataError: If there is no such selection.
    """
    names = _written(source, runs) if isinstance(source, str) else list(source)
    if not names or not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        where = source if isinstance(source, str) else "the list"
        raise ConfigError(f"select.apply: expected names of fields in {where}, got {names!r}: give a report.json")
    return names


def _written(source: str, runs: Path) -> Any:
    path = Path(source)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return _at(_yaml(path), ("select", "apply"))
    if path.name == "selection.json" and path.is_file():
        return _at(read_json(path, "a selection", "give the selection.json of another run"), ("keep",))
    return read(find(source, runs)).kept


def _yaml(path: Path) -> Any:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OSError) as error:
        raise ConfigError(f"select.apply: {path} is not YAML: give the kept.yaml of a run") from error


def _at(value: Any, keys: Sequence[str]) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value

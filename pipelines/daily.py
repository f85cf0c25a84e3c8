"""Stage daily: the trained model follows the days of its table, each from the day before.

Each day is a node in `days/NUMBER`, a full retrain for comparison one in `retrains/NUMBER`: a killed run goes on at the
day that it was in.
"""

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.text import Text

from pipelines.daily_page import write_page
from pipelines.daily_settings import check_daily
from pipelines.earlier import finished
from pipelines.node import Node, begun, make_node, run_node, settings_read
from pipelines.one_day import VERSION, Lineage, OneDay, one_day, retrain_day
from pipelines.retrains import device_name
from pipelines.stage import Result, Stage, newest_model, write_json
from recsys.config.factory import make
from recsys.data.preparation.days import DayRows, Span
from recsys.data.preparation.prepare import source_version
from recsys.errors import ConfigError, DataError
from recsys.events import raise_if_cancelled
from recsys.features.schema import Schema
from recsys.files import Json, read_json
from recsys.results import read_as
from recsys.terminal import console

__all__ = ["run"]

_LATER = ("daily.end", "daily.after", "daily.retrain_every")  # settings that a continued lineage may change
_console = console()


@dataclass(frozen=True)
class _Parent:
    """What the first day goes on from: a folder with a model, its number, and the time at which its rows end."""

    folder: Path
    number: int
    stop: datetime


@contextmanager
def _lineage(stage: Stage) -> Generator[Lineage]:
    """Read the table, and what is frozen."""
    settings, dates = check_daily(stage.config.daily, stage.config.data)
    first = newest_model(stage, before="refit")
    shape = {"schema": {"fields": [dict]}}
    header = read_json(first / "model.json", "a model", "run the stage that makes it", shape=shape)
    data, schema = stage.config.data, Schema.from_json(header["schema"])
    with tempfile.TemporaryDirectory(prefix=".rows.", dir=stage.folder) as place:
        rows = DayRows.read(data, make(data["source"], "data.source"), schema, Path(place), stage.reporter)
        try:
            yield Lineage(stage, settings, first, Span.between(*dates[0]), rows)
        finally:
            rows.close()


def _frozen(stage: Stage, lineage: Lineage) -> Json:
    """All that the days of a lineage share, so that none is continued by another recipe or from other data."""
    settings = {k: v for k, v in settings_read("daily", stage.config).items() if k != "daily"}
    daily = {f"daily.{k}": v for k, v in asdict(lineage.settings).items() if f"daily.{k}" not in _LATER}
    recipe = read_json(lineage.first / "recipe.json", "a recipe", "train the first model again")
    node = begun(lineage.first)
    return {**settings, **daily, "recipe": recipe, "first": node and node.digest, "prepared": stage.data.name}


def _parent(stage: Stage, lineage: Lineage, frozen: Json) -> _Parent:
    """The first model, or the last day of the run that `daily.after` names.

    Raises:
        ConfigError: If that run has no days, or they are of another recipe or other data.
        DataError: If its last day is gone.
    """
    after = lineage.settings.after
    if after is None:
        _, dates = check_daily(lineage.settings, stage.config.data)
        return _Parent(lineage.first, 0, dates[0][1])
    stages = finished(stage.config, after, "daily.after").stages
    if "daily" not in stages:
        raise ConfigError(f"daily.after: run {after} has no stage daily: name a run of experiment=daily")
    folder = stages["daily"].folder
    stored = read_json(folder / "lineage.json", "a lineage", "name another run", VERSION, {"frozen": dict, "last": int})
    before, now = stored["frozen"], frozen
    if other := [k for k in (*before, *(k for k in now if k not in before)) if before.get(k) != now.get(k)]:
        raise ConfigError(
            f"daily.after: run {after} had another {other[0]}, and a lineage keeps it: leave that as it was "
            f"(from_run={after} takes its first model over), or begin a new lineage without daily.after"
        )
    last = folder / "days" / f"{stored['last']:04}"
    if not (last / "day.json").exists():
        raise DataError(f"{last} is gone, and the next day goes on from it: restore it, or begin a new lineage")
    return _Parent(last, stored["last"], datetime.fromisoformat(_read_day(last).day.stop))


def _read_day(folder: Path) -> OneDay:
    return read_as(folder / "day.json", OneDay, "the results of a day", "remove it, and resume the run", VERSION)


def _node(stage: Stage, folder: Path, settings: Json, parent: Path, kind: str) -> Node:
    """The node of a day, whose digest holds that of the day before: another past makes another day."""
    done = {"prepare": stage.earlier("prepare"), kind: parent}
    return make_node("daily", settings, folder, done, ["pipelines.one_day"], device=device_name(stage.config))


def _days(stage: Stage, lineage: Lineage, frozen: Json) -> tuple[list[OneDay], dict[int, dict[str, float]]]:
    """Train every day that is not done → results of each, and of the retrains by number of the day."""
    parent, every = _parent(stage, lineage, frozen), lineage.settings.retrain_every
    last = datetime(1970, 1, 1) + timedelta(microseconds=lineage.rows.last)
    periods = list(lineage.settings.periods(parent.number + 1, parent.stop, last))
    if not periods:
        raise ConfigError(
            f"daily: expected rows after {parent.stop.date()} for one more period of {lineage.settings.days} days, "
            f"{lineage.settings.delay_days} for its labels and as many to be scored on; the table ends at "
            f"{last.date()} and daily.end is {lineage.settings.end}: raise daily.end, or wait for more rows"
        )
    place, results, retrains = parent.folder, list[OneDay](), dict[int, dict[str, float]]()
    source = make(stage.config.data["source"], "data.source")
    version = source_version(source()) if "path" in stage.config.data["source"] else ""
    for i, day in enumerate(periods):
        raise_if_cancelled(stage.reporter)
        folder, kind = stage.folder / "days" / f"{day.number:04}", "daily" if day.number > 1 else lineage.first.name
        settings = {**frozen, "day": asdict(day), "source": version}
        node = _node(stage, folder, settings, place, kind)
        run_node(node, folder, lambda day=day, place=place, folder=folder: one_day(lineage, day, place, folder))
        results.append(_read_day(folder))
        if every and day.number % every == 0:
            again = stage.folder / "retrains" / f"{day.number:04}"
            node = _node(stage, again, {**settings, "retrain": True}, lineage.first, lineage.first.name)
            done = run_node(node, again, lambda day=day, again=again: retrain_day(lineage, day, again))
            retrains[day.number] = done.metrics
        _show(stage, results[-1], retrains.get(day.number), i, len(periods))
        place = folder
    return results, retrains


def _show(stage: Stage, result: OneDay, retrain: dict[str, float] | None, i: int, total: int) -> None:
    """One line on the screen, and the figures for whoever watches."""
    day = result.day
    line = f"AUC {result.auc:.4f} on {day.scored_start[:10]} (first model {result.frozen_auc:.4f}"
    line += f", full retrain {retrain['auc']:.4f})" if retrain else ")"
    _console.print(Text(f"day {day.number}", "bold"), f"{day.start[:10]}: {result.rows:,} rows, {line}")
    figures = {"auc": result.auc, "logloss": result.logloss, "frozen_auc": result.frozen_auc}
    figures |= {f"retrain_{k}": retrain[k] for k in ("auc", "logloss")} if retrain else {}
    stage.reporter.metrics(figures, day.number)
    stage.reporter.progress(i + 1, total, "days")


def run(stage: Stage) -> Result:
    """Let the newest model follow the days of `config.daily` → daily.json, daily.html, and a folder for each day."""
    for left in stage.folder.glob(".rows.*"):  # of a killed process
        shutil.rmtree(left)
    with _lineage(stage) as lineage:
        frozen = _frozen(stage, lineage)
        results, retrains = _days(stage, lineage, frozen)
    last = results[-1]
    lineage_file = write_json(stage.folder / "lineage.json", {"frozen": frozen, "last": last.day.number}, VERSION)
    curves = ("auc", "logloss", "frozen_auc")
    history = [{"step": float(r.day.number), **{k: float(getattr(r, k)) for k in curves}} for r in results]
    figures = {"days": [asdict(r) for r in results], "retrains": {str(n): f for n, f in retrains.items()}}
    table = write_json(stage.folder / "daily.json", figures, VERSION)
    page = write_page(stage.folder / "daily.html", results, retrains)
    mean = {k: sum(float(getattr(r, k)) for r in results) / len(results) for k in curves}
    metrics = {"days": float(len(results)), **mean, "rows": float(sum(r.rows for r in results))}
    if retrains:
        both = [r for r in results if r.day.number in retrains]
        metrics["retrain_auc_change"] = sum(r.auc - retrains[r.day.number]["auc"] for r in both) / len(both)
        metrics["retrain_seconds_ratio"] = sum(f["seconds"] for f in retrains.values()) / sum(r.seconds for r in both)
    return Result(metrics, history, [lineage_file, table, page])

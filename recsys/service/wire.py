"""Rows, events and submissions as JSON, between the server and its clients, and for `recsys runs --json`.

A reader leaves out keys that it does not know, so that an older client reads a newer server.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from recsys.files import Json
from recsys.service.door import Submission
from recsys.service.queue.records import Event, Live, Needs, NewRun, QueuedRun, Schedule

__all__ = ["event_from", "row_from", "row_json", "schedule_from", "submission_from", "submission_json"]


def _known(kind: type, value: Mapping[str, Any]) -> Json:
    names = {f.name for f in fields(kind)}
    return {k: v for k, v in value.items() if k in names}


def row_json(row: QueuedRun) -> Json:
    """A row, with its `id` in front."""
    return {"id": row.id, **asdict(row)}


def row_from(value: Mapping[str, Any]) -> QueuedRun:
    """The row that `row_json` made JSON of."""
    row = _known(QueuedRun, value)
    row |= {"new": _new_from(value["new"]), "live": Live(**_known(Live, value["live"]))}
    return QueuedRun(**row)


def _new_from(value: Mapping[str, Any]) -> NewRun:
    new = _known(NewRun, value)
    new["needs"] = Needs(**_known(Needs, new["needs"]))
    return NewRun(**new)


def schedule_from(value: Mapping[str, Any]) -> Schedule:
    """The schedule that `dataclasses.asdict` made JSON of."""
    known = _known(Schedule, value)
    known["template"] = _new_from(value["template"])
    return Schedule(**known)


def event_from(value: Mapping[str, Any]) -> Event:
    """The event that `dataclasses.asdict` made JSON of."""
    return Event(**_known(Event, value))


def submission_json(asked: Submission) -> Json:
    """What is asked of `submit`."""
    return asdict(asked)


def submission_from(value: Mapping[str, Any]) -> Submission:
    """The submission that `submission_json` made JSON of; its values are not checked."""
    known = _known(Submission, value)
    known["needs"] = Needs(**_known(Needs, known.get("needs", {})))
    return Submission(**known)

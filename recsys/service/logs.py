"""Structured logs: one JSON object a line, with the run's id; no secret, header, query or body is in it."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import IO

from recsys.errors import printable
from recsys.files import Json

__all__ = ["LOG", "note", "to_stream"]

LOG = logging.getLogger("recsys.service")
_MOST = 300  # letters of a value


class _Lines(logging.Formatter):
    """Formats a record as JSON: `at`, `level`, `event`, and what `note` added."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; JSON escapes what could begin another."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: Json = {"at": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["error"] = type(error).__name__  # its message may hold what was sent
            line["trace"] = _places(record)
        return json.dumps(line)


def _places(record: logging.LogRecord) -> list[str]:
    """Files and lines of a traceback, the innermost last, without the source and without values."""
    trace, places = record.exc_info and record.exc_info[2], list[str]()
    while trace:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return places[-12:]


def note(level: int, event: str, error: BaseException | None = None, **fields: str | float | None) -> None:
    """Log an event.

    Args:
        level: As of `logging`.
        event: What happened, in a few fixed words.
        error: An exception, of which the kind and the places are logged.
        fields: Further keys, such as `run`; a text is cut and made printable.
    """
    kept = {k: printable(v, _MOST) if isinstance(v, str) else v for k, v in fields.items() if v is not None}
    LOG.log(level, event, exc_info=error, extra={"fields": kept})


def to_stream(stream: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Write the service's log to a stream, standard error by default, and nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines())
    LOG.handlers[:] = [handler]
    LOG.setLevel(level)
    LOG.propagate = False

"""The door of a server elsewhere (RECSYS_URL)."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from recsys.errors import ConfigError
from recsys.files import Json
from recsys.service.client import Client, Refused, Unreachable
from recsys.service.door import LogPart, Submission
from recsys.service.queue.records import Event, QueuedRun, Schedule, State
from recsys.service.wire import event_from, row_from, schedule_from, submission_json

__all__ = ["HttpDoor"]

T = TypeVar("T")


class HttpDoor:
    """Asks the server; implements `recsys.service.door.Door`.

    Args:
        url: Address of the server.
        token: Its token, if it asks for one.
    """

    def __init__(self, url: str, token: str | None = None):
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"RECSYS_URL: expected an address such as http://HOST:8081, got {url!r}: set it anew")
        self._url, self._client = url, Client(url, token)

    def _ask(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except Unreachable as error:
            raise ConfigError(f"{error}: start recsys service there, or unset RECSYS_URL") from error
        except Refused as error:
            if error.status in (401, 403):
                raise ConfigError(f"{self._url}: {error}: set RECSYS_TOKEN to a token that may do this") from error
            raise ConfigError(str(error)) from error
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{self._url} answers, but not as this recsys expects ({type(error).__name__}: {error}): "
                "install the same version on both sides"
            ) from error

    def submit(self, asked: Submission) -> list[QueuedRun]:
        body = submission_json(asked)
        return self._ask(lambda: [row_from(r) for r in self._client.submit(**body)])

    def check(self, asked: Submission) -> list[dict[str, Any]]:
        answer = self._ask(lambda: self._client.check(**submission_json(asked)))
        if answer.get("error"):
            raise ConfigError(str(answer["error"]))
        return list(answer["configs"])

    def runs(
        self,
        states: Sequence[State] = (),
        parent: str | None = None,
        text: str = "",
        before: int | None = None,
        limit: int = 50,
    ) -> list[QueuedRun]:
        query = {"state": list(states), "parent": parent, "text": text, "before": before, "limit": limit}
        return self._ask(lambda: [row_from(r) for r in self._client.runs(**query)])

    def get(self, id: str) -> QueuedRun:
        return self._ask(lambda: row_from(self._client.run(id)))

    def compare(self, ids: Sequence[str]) -> Json:
        return self._ask(lambda: self._client.compare(ids))

    def log(self, id: str, start: int = 0) -> LogPart:
        return self._ask(lambda: LogPart(*self._client.log(id, start)))

    def cancel(self, id: str) -> QueuedRun:
        return self._ask(lambda: row_from(self._client.cancel(id)))

    def resume(self, id: str, dead: bool = False) -> QueuedRun:
        return self._ask(lambda: row_from(self._client.resume(id, dead)))

    def retry(self, id: str) -> QueuedRun:
        return self._ask(lambda: row_from(self._client.retry(id)))

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[Event]:
        return self._ask(lambda: [event_from(e) for e in self._client.events(after, run, limit)])

    def schedule(self, asked: Submission) -> Schedule:
        return self._ask(lambda: schedule_from(self._client.schedule(**submission_json(asked))))

    def schedules(self) -> list[Schedule]:
        return self._ask(lambda: [schedule_from(s) for s in self._client.schedules()])

    def remove_schedule(self, id: str) -> Schedule:
        return self._ask(lambda: schedule_from(self._client.remove_schedule(id)))

    def close(self) -> None:
        """Nothing is kept open."""

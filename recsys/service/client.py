"""A client of the service, in one file that needs the standard library only: copy it where you need it.

>>> service = Client("http://127.0.0.1:8081", token="…")
>>> runs = service.submit(["experiment=demo", "seed=1,2"], multirun=True)
>>> for row in service.runs(parent=runs[0]["id"]):
...     print(row["id"], row["state"], row["live"]["metrics"])
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

__all__ = ["Client", "Refused", "Unreachable"]

_ENDED = ("finished", "failed", "cancelled", "killed")


class Refused(Exception):
    """The service refused what was asked; the message says why.

    Args:
        message: What is wrong, on one line.
        status: Of HTTP: 400 or 422 for a wrong setting, 401 and 403 for the token, 404 for a run that is not there,
            409 for one in another state.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Unreachable(Exception):
    """No service answers at the address."""


class Client:
    """Asks a service. Runs are JSON objects, as `recsys runs --json` prints them.

    Args:
        url: Its address, such as http://127.0.0.1:8081.
        token: What RECSYS_TOKEN of the service holds; None if it asks for none.
        timeout: Seconds until a request that is not answered fails.
    """

    def __init__(self, url: str, token: str | None = None, timeout: float = 30.0):
        self._url, self._timeout = url.rstrip("/"), timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def submit(self, overrides: Sequence[str], **options: Any) -> list[dict[str, Any]]:
        """Queue a run → it; or a sweep → the parent, then its runs.

        Args:
            overrides: Hydra overrides, such as `experiment=demo`.
            options: `multirun`, `name`, `priority`, `after` (ids), `client_key`, `needs` (`cores`, `memory` in bytes,
                `gpus`).
        """
        return self._json("POST", "/api/runs", {"overrides": list(overrides), **options})["runs"]

    def check(self, overrides: Sequence[str], **options: Any) -> dict[str, Any]:
        """What would be queued, without queueing it: `error` (None if all is well) and `configs`."""
        return self._json("POST", "/api/check", {"overrides": list(overrides), **options})

    def runs(self, **query: Any) -> list[dict[str, Any]]:
        """Runs, the newest first.

        Args:
            query: `state` (one or a list), `parent`, `text`, `before` (a run's number: the next page), `limit`,
                `top` ("true": without the runs of sweeps).
        """
        return self._json("GET", "/api/runs", query=query)["runs"]

    def run(self, id: str) -> dict[str, Any]:
        """One run."""
        return self._json("GET", _path(id))

    def compare(self, ids: Sequence[str]) -> dict[str, Any]:
        """Runs side by side: what differs in their configurations, their figures, and seeds grouped."""
        return self._json("GET", "/api/compare", query={"ids": ",".join(ids)})

    def log(self, id: str, start: int = 0) -> tuple[bytes, int]:
        """The next piece of a run's log, from a byte on → the piece, and the byte that it begins at."""
        headers, body = self._ask("GET", _path(id, "log"), query={"from": start})
        return body, int(headers.get("X-Log-Start", start))

    def cancel(self, id: str) -> dict[str, Any]:
        """Ask a run to stop, or all runs of a sweep."""
        return self._json("POST", _path(id, "cancel"), {})

    def resume(self, id: str, dead: bool = False) -> dict[str, Any]:
        """Queue a run again that was stopped; `dead` if you have seen that the processes of an unknown run are gone."""
        return self._json("POST", _path(id, "resume"), {"dead": dead})

    def retry(self, id: str) -> dict[str, Any]:
        """Queue a run's configuration as a new run."""
        return self._json("POST", _path(id, "retry"), {})

    def events(self, after: int = 0, run: str | None = None, limit: int = 1000) -> list[dict[str, Any]]:
        """What happened since the event `after`, the oldest first."""
        return self._json("GET", "/api/events", query={"after": after, "run": run, "limit": limit})["events"]

    def schedule(self, overrides: Sequence[str], every: str, **options: Any) -> dict[str, Any]:
        """Submit a run at set times from now on: `every` is `day@03:00`, `monday@02:00`, `hour@15` or `6h`."""
        body = {"overrides": list(overrides), "every": every, **options}
        return self._json("POST", "/api/runs", body)["schedule"]

    def schedules(self) -> list[dict[str, Any]]:
        """All schedules."""
        return self._json("GET", "/api/schedules")["schedules"]

    def remove_schedule(self, id: str) -> dict[str, Any]:
        """End a schedule; its runs stay."""
        return self._json("DELETE", f"/api/schedules/{quote(id, safe='')}")

    def wait(self, id: str, every: float = 1.0) -> dict[str, Any]:
        """Wait until a run has ended → it."""
        while (row := self.run(id))["state"] not in _ENDED:
            time.sleep(every)
        return row

    def follow(self, id: str, every: float = 0.5) -> Iterator[bytes]:
        """The log of a run, piece by piece, until the run has ended."""
        start = 0
        while True:
            ended = self.run(id)["state"] in _ENDED
            piece, start = self.log(id, start)
            start += len(piece)
            if piece:
                yield piece
            elif ended:
                return
            else:
                time.sleep(every)

    def _json(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> Any:
        _, answer = self._ask(method, path, body, query)
        try:
            return json.loads(answer or b"null")
        except ValueError:
            raise Unreachable(f"{self._url} answers, but not as the service does: check the address") from None

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> tuple[Mapping[str, str], bytes]:
        asked = {k: v for k, v in (query or {}).items() if v not in (None, "", [], ())}
        url = f"{self._url}{path}{'?' if asked else ''}{urlencode(asked, doseq=True)}"
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Accept": "application/json"}
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            with urlopen(Request(url, data, headers, method=method), timeout=self._timeout) as answer:
                return dict(answer.headers), answer.read()
        except HTTPError as error:
            with error:
                raise Refused(_why(error), error.code) from None
        except (URLError, HTTPException, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreachable(f"no service answers at {self._url}: {reason}") from error


def _path(id: str, action: str = "") -> str:
    return f"/api/runs/{quote(id, safe='/')}{'/' if action else ''}{action}"


def _why(error: HTTPError) -> str:
    """What the service says is wrong: `error` or `detail` of its JSON."""
    try:
        said = json.loads(error.read(1 << 20))
        return str(said.get("error") or said.get("detail"))
    except (ValueError, AttributeError, OSError):
        return f"HTTP {error.code} {error.reason}"

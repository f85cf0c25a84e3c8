"""Renews the leases of a worker's runs, in a thread of its own: what else the worker does must not cost it a run."""

import logging
import threading
from collections.abc import Callable

from recsys.errors import RecsysError
from recsys.service.queue.errors import LeaseLost, QueueDown
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import Claim

__all__ = ["Leases"]

_log = logging.getLogger("recsys.service.worker")
_ATTEND = 10.0  # seconds between two signs of life of a worker without runs
_AGAIN = 1.0  # seconds until a heartbeat that failed is tried again


class Leases:
    """The leases; used in a `with`, which ends its thread.

    Args:
        queue: The queue.
        attend: Tells the queue that the worker is there.
    """

    def __init__(self, queue: Queue, attend: Callable[[], None]):
        self._queue, self._attend = queue, attend
        self._claims: dict[str, Claim] = {}
        self.lost: set[str] = set()  # tokens of claims that another worker has now
        self.still = threading.Lock()  # while it is held, no lease is renewed
        self._change, self._wake, self._over = threading.Lock(), threading.Event(), False
        self._thread = threading.Thread(target=self._beat_on, name="leases", daemon=True)

    def add(self, claim: Claim) -> None:
        """Renew this one too."""
        with self._change:
            self._claims[claim.token] = claim
        self._wake.set()  # its lease may be shorter than the pause of the thread

    def drop(self, claim: Claim) -> None:
        """Renew it no longer."""
        with self._change:
            self._claims.pop(claim.token, None)
            self.lost.discard(claim.token)

    def __enter__(self) -> "Leases":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wake.set()
        self._thread.join()

    def _beat_on(self) -> None:
        while not self._over:
            try:
                wait = self._beat()
            except QueueDown:
                wait = _AGAIN  # the lease ends by the clock of the database, if at all: the run goes on
            except RecsysError as error:
                _log.error("heartbeat: %s", error)
                wait = _AGAIN
            self._wake.wait(wait)
            self._wake.clear()

    def _beat(self) -> float:
        """Renew all leases → seconds until the next time."""
        with self._change:
            claims = list(self._claims.values())
        for claim in claims:
            with self.still:
                if claim.token not in self._claims or claim.token in self.lost:
                    continue
                try:
                    self._queue.beat(claim)
                except LeaseLost:
                    with self._change:
                        if claim.token in self._claims:
                            self.lost.add(claim.token)
        self._attend()
        return min([_ATTEND, *(c.lease_seconds / 3 for c in claims)])

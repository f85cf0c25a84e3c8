"""/metrics for Prometheus: read from the queue when it is asked for, so that it is true whoever changed the queue."""

from collections.abc import Iterable
from threading import Lock

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from recsys.service.http.live import Streams
from recsys.service.queue.queue import Queue
from recsys.service.queue.records import STATES, Load, Needs

__all__ = ["CONTENT", "Metrics"]

CONTENT = "text/plain; version=0.0.4; charset=utf-8"
_SLOTS = ("cores", "memory", "gpus")


class Metrics:
    """Renders the state of the queue.

    Args:
        queue: The queue.
        streams: Open streams are counted.
    """

    def __init__(self, queue: Queue, streams: Streams):
        self._lock, self._registry = Lock(), CollectorRegistry(auto_describe=False)
        self._registry.register(_OfQueue(queue, streams))

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        with self._lock:
            return generate_latest(self._registry)


class _OfQueue(Collector):
    def __init__(self, queue: Queue, streams: Streams):
        self._queue, self._streams = queue, streams

    def collect(self) -> Iterable[Metric]:
        """All figures; Prometheus's client calls this."""
        counts, load = self._queue.counts(), self._queue.load()
        runs = GaugeMetricFamily("recsys_runs", "Runs by state; sweeps are not counted", labels=["state"])
        for state in STATES:
            runs.add_metric([state], counts.get(state, 0))
        yield runs
        yield GaugeMetricFamily("recsys_queue_length", "Runs that wait", value=counts.get("queued", 0))
        age = 0.0 if load.waiting_since is None else max(0.0, load.now - load.waiting_since)
        yield GaugeMetricFamily("recsys_queue_oldest_seconds", "Age of the run that waits longest", value=age)
        yield CounterMetricFamily("recsys_lease_losses", "Leases that workers have lost", value=load.lost)
        yield CounterMetricFamily("recsys_events", "Events of all runs", value=load.newest_event)
        broken = "Schedules whose next run cannot be submitted: recsys schedules says why"
        yield GaugeMetricFamily("recsys_schedules_broken", broken, value=len(load.broken))
        yield GaugeMetricFamily("recsys_streams", "Open streams of events and logs", value=self._streams.count)
        yield from _workers(load)


def _workers(load: Load) -> Iterable[Metric]:
    workers = GaugeMetricFamily("recsys_workers", "Workers that were heard in the last minute", labels=["host"])
    used = GaugeMetricFamily("recsys_slots_used", "What runs take of a host", labels=["host", "kind"])
    room = GaugeMetricFamily("recsys_slots", "What a host gives to runs", labels=["host", "kind"])
    for host in sorted({w.host for w in load.alive} | set(load.used)):
        rooms = [w.room for w in load.alive if w.host == host]
        workers.add_metric([host], len(rooms))
        for kind in _SLOTS:
            used.add_metric([host, kind], getattr(load.used.get(host, Needs(0, 0, 0)), kind))
            room.add_metric([host, kind], max((getattr(r, kind) for r in rooms), default=0))
    yield from (workers, used, room)

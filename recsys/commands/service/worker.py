"""`recsys worker`: runs what is queued on this machine, until it is told to stop."""

import os
import signal
from argparse import Namespace

from recsys.errors import ConfigError
from recsys.service.logs import to_stream
from recsys.service.queue.open import address, open_queue
from recsys.service.queue.schedules import submit_due
from recsys.service.scheduled import of_schedule
from recsys.service.worker.processes import die_with_parent
from recsys.service.worker.slots import machine
from recsys.service.worker.worker import Settings, Worker

__all__ = ["PARENT", "end_with_service", "main", "refuse_url"]

PARENT = "RECSYS_WORKER_PARENT"  # environment variable: process id of the service that started this worker


def refuse_url(command: str) -> None:
    """Refuse to work on a database if the environment names a server.

    Raises:
        ConfigError: If RECSYS_URL is set.
    """
    if os.environ.get("RECSYS_URL"):
        raise ConfigError(f"{command}: expected the database itself, and RECSYS_URL names a server: unset RECSYS_URL")


def main(given: Namespace) -> int:
    """Work; SIGTERM and Ctrl-C let the runs stop at a checkpoint, a second one ends them."""
    refuse_url("worker")
    room = machine(given.cores, given.memory, given.gpus)
    queue = open_queue(address(given.runs))
    try:
        worker = Worker(queue, room, Settings(grace=given.grace), chore=lambda: submit_due(queue, of_schedule))
        worker.obey_signals()
        end_with_service()
        to_stream()
        worker.run()
    finally:
        queue.close()
    return 0


def end_with_service() -> None:
    """Let the kernel tell this worker to stop once the service that started it has ended, however that ended."""
    if parent := os.environ.pop(PARENT, None):
        die_with_parent(signal.SIGTERM)
        if os.getppid() != int(parent):  # it has ended before
            os.kill(os.getpid(), signal.SIGTERM)

"""`recsys service`: the HTTP interface with its page, and workers, in one process tree."""

import sys
from argparse import Namespace

from recsys.commands.service.worker import refuse_url
from recsys.commands.service.workers import Workers
from recsys.service.http.server import serve, settings_for
from recsys.service.pages.site import make_site
from recsys.service.queue.open import address, open_queue
from recsys.service.worker.slots import machine

__all__ = ["main"]


def main(given: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; then no run is taken, and those that run stop at a checkpoint and are queued."""
    refuse_url("service")
    settings = settings_for(
        given.runs, given.host, hosts=given.allow_host, roots=given.root, launchers=given.allow_launcher
    )  # fmt: skip
    room = machine(given.cores, given.memory, given.gpus)
    arguments = [f"--runs={given.runs}", f"--cores={room.cores}", f"--memory={room.memory}", f"--gpus={room.gpus}"]
    arguments.append(f"--grace={given.grace}")
    queue, workers = open_queue(address(given.runs)), Workers(arguments, given.workers)

    def began(url: str) -> None:
        print(f"recsys service on {url}", flush=True)
        print(f"commands elsewhere: RECSYS_URL={url} recsys runs; Ctrl-C stops it", file=sys.stderr, flush=True)
        workers.start()

    try:
        serve(queue, settings, given.host, given.port, began, make_site, workers.ask)
    finally:
        workers.stop()
        queue.close()
    return 0

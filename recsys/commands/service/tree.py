"""Arguments of the service's commands. Imports no command."""

import argparse
from collections.abc import Callable
from pathlib import Path

from recsys.service.queue.records import MOST_LISTED, STATES

__all__ = ["SERVICE", "add_queue_of_sweep", "add_service"]

SERVICE = ("submit", "runs", "logs", "cancel", "resume", "retry", "schedules", "worker", "service")

_SUBMIT = """Queue a run: a worker runs it as soon as there is room for it. Overrides are those of recsys run.
  recsys submit experiment=demo
  recsys submit experiment=demo seed=1,2,3 model=fm,dcn -m          one run for each, under one parent
  recsys submit data=shop --after ID --priority 5 --cores 2 --memory 8G
  recsys submit data=shop --key monday                              given twice, it is one run
  recsys submit experiment=daily --every day@03:00                  each night; recsys schedules lists them
  recsys submit from_run=ID stages=[compress,export]

The ids are printed, one a line; of a sweep, the parent's first. recsys runs, logs, cancel and resume take them.
recsys worker or recsys service runs what is queued."""

_RUNS = """Every run with its state, stage, progress, speed, time left and validation AUC: those of the queue, and those
that recsys run began in the folder of runs.
  recsys runs                          the newest 50
  recsys runs --watch                  drawn anew each second, until Ctrl-C
  recsys runs --state running queued
  recsys runs ID                       one run in full; of a sweep, its runs too
  recsys runs ID --watch               until it has ended
  recsys runs ID ID                    side by side: only what differs, settings and figures; --json has more
  recsys runs --json                   one line of JSON a run"""

_WORKER = """Take queued runs and run them, each as a process group of its own, as many at once as the machine has
room for. If the worker is killed, its runs end with it, and go on from their checkpoints in the next worker.
  recsys worker
  recsys worker --cores 6 --memory 24G     leave the rest of this machine to others"""

_SERVICE = """The HTTP interface, its page, and a worker, in one process tree, until Ctrl-C or SIGTERM.
  recsys service
  recsys service --host 0.0.0.0 --port 8081      RECSYS_TOKEN must be set
Commands on other machines ask it if RECSYS_URL is set: RECSYS_URL=http://HOST:PORT recsys runs"""

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

Add = Callable[..., argparse.ArgumentParser]


def _bytes(text: str) -> int:
    """Bytes as people write them: 500M, 8G, 8GiB, 1.5G, 1000000."""
    upper = text.strip().upper().removesuffix("IB").removesuffix("B")
    unit = upper[-1:] if upper[-1:].isalpha() else ""
    number = float(upper.removesuffix(unit))
    if unit not in _UNITS or not 0 <= number * _UNITS[unit] < 2**63:
        raise ValueError
    return int(number * _UNITS[unit])


_bytes.__name__ = "size, such as 8G or 500M"


def _whole(least: int, most: int = 2**31) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not least <= (number := int(text)) <= most:
            raise ValueError
        return number

    count.__name__ = f"whole number of at least {least}" if most == 2**31 else f"whole number from {least} to {most}"
    return count


def _room(parser: argparse.ArgumentParser, cores: str, memory: str, gpus: str) -> None:
    parser.add_argument("--cores", type=_whole(1), metavar="N", help=cores)
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help=memory)
    parser.add_argument("--gpus", type=_whole(0), metavar="N", help=gpus)


def _grace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grace", type=_whole(1), default=60, metavar="SECONDS",
        help="for a run that is to stop to end its step and write a checkpoint (60), before it gets SIGTERM",
    )  # fmt: skip


def _runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, default="runs", metavar="FOLDER", help="folder of runs, whose service.db is the queue"
    )


def add_service(add: Add) -> None:
    """Add the commands to the tree."""
    _submit(add)
    _look(add)
    _change(add)
    _serve(add)


def _submit(add: Add) -> None:
    p = add("submit", "service.submit:main", "queue a run, or each run of a sweep",
            usage="recsys submit [OVERRIDE …] [OPTION …]", description=_SUBMIT)  # fmt: skip
    p.add_argument("overrides", nargs="*", default=[], help="Hydra overrides, as for recsys run")
    p.add_argument("-m", "--multirun", action="store_true", help="one run for each value: seed=1,2,3")
    p.add_argument("--name", help="for people; by default the name of the configuration")
    p.add_argument("--priority", type=int, default=0, metavar="N", help="larger runs earlier (0)")
    p.add_argument("--after", action="append", default=[], metavar="ID", help="wait until it has finished; repeatable")
    p.add_argument("--key", metavar="WORD", help="a second submission with the same key is the same run")
    p.add_argument("--every", metavar="WHEN", help="at set times: day@03:00, monday@02:00, hour@15, 6h")
    _room(p, "CPU cores of each run (1)", "memory of each run (2G)", "GPUs of each run (0)")


def add_queue_of_sweep(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `recsys sweep` that concern the queue."""
    parser.add_argument("--queue", action="store_true", help="submit each trial to the queue: recsys worker runs them")
    parser.add_argument(
        "--parallel", type=_whole(1), metavar="N", help="most trials that wait or run at once (what workers can take)"
    )
    parser.add_argument("--priority", type=int, metavar="N", help="larger runs earlier (0)")
    _room(parser, "CPU cores of each trial (1)", "memory of each trial (2G)", "GPUs of each trial (0)")


def _look(add: Add) -> None:
    p = add("runs", "service.runs:main", "list runs: state, progress, speed, validation AUC", description=_RUNS)
    p.add_argument("ids", nargs="*", metavar="ID", default=[], help="one run in full; several: what differs")
    p.add_argument("--state", nargs="+", choices=STATES, default=[], metavar="STATE", help=f"of {', '.join(STATES)}")
    p.add_argument("--parent", metavar="ID", help="only the runs of this sweep")
    p.add_argument("--text", default="", metavar="WORDS", help="only with these letters in id, name or overrides")
    p.add_argument("--limit", type=_whole(1, MOST_LISTED), default=50, metavar="N", help="most runs (50)")
    p.add_argument("--json", action="store_true", help="one line of JSON a run")
    p.add_argument("--watch", action="store_true", help="draw it anew each second")
    _runs(p)
    p = add("logs", "service.logs:main", "print what a run has said")
    p.add_argument("id", metavar="ID")
    p.add_argument("-f", "--follow", action="store_true", help="until it ends; exit code 0 if it finished")
    _runs(p)


def _change(add: Add) -> None:
    p = add("cancel", "service.change:cancel", "stop runs, or all runs of a sweep, at their next step")
    p.add_argument("ids", nargs="+", metavar="ID")
    _runs(p)
    p = add("resume", "service.change:resume", "queue a stopped run again: it goes on from its last checkpoint")
    p.add_argument("id", metavar="ID")
    p.add_argument("--dead", action="store_true", help="you have seen that the processes of an unknown run are gone")
    _runs(p)
    p = add("retry", "service.change:retry", "queue the configuration of a run as a new run")
    p.add_argument("id", metavar="ID")
    _runs(p)
    p = add("schedules", "service.schedules:main", "list or remove what runs again and again")
    p.add_argument("action", nargs="?", default="list", choices=["list", "remove"])
    p.add_argument("id", nargs="?", metavar="ID", help="of the schedule to remove")
    _runs(p)


def _serve(add: Add) -> None:
    p = add("worker", "service.worker:main", "run what is queued, on this machine", description=_WORKER)
    _room(p, "cores for runs (all)", "memory for runs (all but a tenth)", "GPUs for runs (all)")
    _grace(p)
    _runs(p)
    p = add("service", "service.serve:main", "HTTP interface, page and a worker, in one process tree",
            description=_SERVICE)  # fmt: skip
    p.add_argument("--host", default="127.0.0.1", help="other than this machine's own needs RECSYS_TOKEN")
    p.add_argument("--port", type=_whole(0), default=8081)
    p.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="name of a proxy in front; repeatable"
    )
    p.add_argument("--root", type=Path, action="append", default=[], metavar="FOLDER",
                   help="where data of submitted runs may be, beside this folder; repeatable")  # fmt: skip
    p.add_argument("--allow-launcher", action="append", default=[], metavar="NAME",
                   help="launcher that may be submitted beside local and torchrun; repeatable")  # fmt: skip
    p.add_argument("--workers", type=_whole(0), default=1, metavar="N", help="worker processes (1); 0: others run them")
    _room(p, "cores for runs (all)", "memory for runs (all but a tenth)", "GPUs for runs (all)")
    _grace(p)
    _runs(p)

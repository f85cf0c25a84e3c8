"""Says what a training waits for, if no step ends for a long time; it stops nothing."""

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, TypeVar

from recsys.data.ranks import Ranks

__all__ = ["Working", "watch_stalls"]

Item = TypeVar("Item")
_FASTEST = 0.02  # least seconds between two glances


class Working(Protocol):
    """What a training says of itself."""

    step: int  # steps taken
    part: str  # what it does now, such as `forward`


@contextmanager
def _glances(training: Working, seconds: float, tell: Callable[[str], None]) -> Generator[None]:
    """Within it a thread looks at a training now and then."""
    over, worker, ranks = threading.Event(), threading.get_ident(), Ranks.current()

    def say(text: str) -> None:
        if ranks.world == 1:
            tell(text)
        elif ranks.first:
            tell(f"rank 0 of {ranks.world}: {text}")
        else:  # only the first rank reports, and each says itself where it is stalled
            print(f"rank {ranks.rank} of {ranks.world}: {text}", file=sys.__stderr__, flush=True)

    def watch() -> None:
        seen, since, last = (training.step, training.part), time.monotonic(), 0.0
        while not over.wait(max(_FASTEST, min(seconds / 8, 10))):
            now, waited = (training.step, training.part), time.monotonic() - since
            if now != seen:
                if last:
                    say(f"training goes on after {waited:,.0f} seconds in {seen[1]}")
                seen, since, last = now, time.monotonic(), 0.0
            elif waited >= max(seconds, 2 * last):
                last = waited
                where = _where(sys._current_frames().get(worker))  # pyright: ignore[reportPrivateUsage]
                say(f"no step since {waited:,.0f} seconds: step {now[0] + 1} waits in {now[1]}{where}")

    thread = threading.Thread(target=watch, name="recsys stalls", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def watch_stalls(
    items: Iterable[Item], training: Working, seconds: float, tell: Callable[[str], None]
) -> Generator[Item]:
    """Yield the items of a training; tell if it stays in one part of one step for `seconds`, and at twice the time.

    Args:
        items: Its steps.
        training: What it does now.
        seconds: The limit, > 0.
        tell: Gets one line, from another thread.
    """
    with _glances(training, seconds, tell):
        yield from items


def _where(frame: FrameType | None) -> str:
    """The innermost line of Python that the training is in, and whether it waits for another process."""
    if frame is None:
        return ""
    line, collective = f" ({os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name})", ""
    place: FrameType | None = frame
    while place:
        if f"{os.sep}torch{os.sep}distributed{os.sep}" in place.f_code.co_filename:
            collective = ", in a collective: it waits for another rank"
        place = place.f_back
    return line + collective

"""A run of the queue as a row of a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from recsys.service.figures import auc_of
from recsys.service.pages.parts.words import ago, clock, duration
from recsys.service.queue.records import ENDED, QueuedRun
from recsys.service.typed import alike, settings

__all__ = ["Row", "rows_of"]


@dataclass(frozen=True)
class Row:
    """What the templates show of a run.

    Args:
        run: The row of the queue.
        now: The time by the database's clock.
        may: Whether the reader may cancel, resume and retry.
        alike: Overrides that all runs of its sweep have: they tell none apart.
    """

    run: QueuedRun
    now: float
    may: bool = False
    alike: frozenset[str] = frozenset()

    @property
    def id(self) -> str:
        """Its id."""
        return self.run.id

    @property
    def link(self) -> str:
        """The address of its page."""
        return f"/{'sweep' if self.run.new.kind == 'sweep' else 'runs'}/{quote(self.id)}"

    @property
    def action(self) -> str:
        """The address that its actions begin with."""
        return f"/runs/{quote(self.id)}"

    @property
    def settings(self) -> str:
        """What was typed, as far as it tells runs apart; of a sweep, what it sweeps over first."""
        return settings(self.run.new, self.alike)

    @property
    def dom(self) -> str:
        """An id in the page, by which an update finds its row."""
        return f"r{self.run.number}-{self.id.encode().hex()[-24:]}"

    @property
    def state(self) -> str:
        """Its state, in a word for people."""
        return self.run.word

    @property
    def share(self) -> float | None:
        """Share of the running stage that is done; None if it does not count."""
        progress = self.run.live.progress if self.run.state == "running" else None
        total = progress["total"] if progress else 0
        return min(1.0, progress["done"] / total) if progress and total else None

    @property
    def amount(self) -> str:
        """`1,200 of 3,000 rows`; "" if the stage does not count."""
        progress = self.run.live.progress
        return f"{progress['done']:,} of {progress['total']:,} {progress['unit']}" if progress else ""

    @property
    def rate(self) -> str:
        """Units a second; "" if it is not known."""
        progress = self.run.live.progress if self.run.state == "running" else None
        speed = progress.get("per_second") if progress else None
        return f"{speed:,.0f} {progress['unit']}/s" if progress and speed else ""

    @property
    def left(self) -> str:
        """Time left in the stage; "" if it is not known."""
        progress = self.run.live.progress if self.run.state == "running" else None
        speed = progress.get("per_second") if progress else None
        return duration(max(0, progress["total"] - progress["done"]) / speed) if progress and speed else ""

    @property
    def auc(self) -> tuple[float, str] | None:
        """The AUC on validation of the model that it keeps, and what it is of."""
        return auc_of(self.run.live.metrics)

    @property
    def reason(self) -> str:
        """Why it is in this state; the newest note while it runs."""
        return self.run.reason or (self.run.live.note if self.run.state == "running" else "") or ""

    @property
    def age(self) -> str:
        """When it was submitted."""
        return ago(self.run.submitted_at, self.now)

    @property
    def when(self) -> str:
        """When it was submitted, exactly."""
        return clock(self.run.submitted_at)

    @property
    def took(self) -> str:
        """How long it has run, or ran."""
        if self.run.started_at is None:
            return ""
        return duration((self.run.ended_at if self.run.ended_at is not None else self.now) - self.run.started_at)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.run.state in ENDED

    @property
    def can_cancel(self) -> bool:
        """Whether it can be asked to stop."""
        return self.may and not self.ended and self.run.cancel_asked_at is None

    @property
    def can_resume(self) -> bool:
        """Whether it can go on, or those of its runs that stopped."""
        begun = self.run.new.kind != "run" or self.run.attempt > 0
        return self.may and begun and self.run.state in ("cancelled", "failed", "killed")

    @property
    def can_bury(self) -> bool:
        """Whether a person may say that its processes are gone."""
        return self.may and self.run.new.kind == "run" and self.run.state == "unknown"

    @property
    def can_retry(self) -> bool:
        """Whether its like can be queued."""
        return self.may and self.run.new.kind == "run" and self.ended


def rows_of(runs: Sequence[QueuedRun], now: float, may: bool) -> list[Row]:
    """Runs as rows; those of one sweep show only the overrides in which they differ.

    Args:
        runs: The runs.
        now: The time by the database's clock.
        may: Whether the reader may cancel, resume and retry.
    """
    same = alike(runs)
    return [Row(run, now, may, same.get(run.new.parent or "", frozenset())) for run in runs]

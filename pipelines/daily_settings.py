"""The settings of daily training. Imports no torch, so that they are checked before a run starts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from recsys.config.ranges import Count, Fraction, Many, Natural
from recsys.data.preparation.split_settings import split_dates
from recsys.errors import ConfigError

__all__ = ["Daily", "Day", "check_daily"]


@dataclass(frozen=True)
class Day:
    """A period of a lineage: the model learns its rows, and is then scored on later ones.

    Args:
        number: From 1.
        start: ISO time of its start.
        stop: ISO time of its end.
        scored_start: ISO time of the first row that the model is scored on: the labels of the period are known by then.
        scored_stop: ISO time of their end.
    """

    number: int
    start: str
    stop: str
    scored_start: str
    scored_stop: str


@dataclass(frozen=True)
class Daily:
    """How a model follows the days.

    Args:
        days: Length of a period: 1 trains daily, 7 weekly.
        delay_days: Days after which a label is known: a model is scored on rows so much later than those it learned.
        end: ISO date; no row from then on is scored. None: the last whole period of the table is.
        admit: Rows with an id, over all days, from which it gets a table row; None: the field's min_count.
        evict_days: Days without an id after which its row is freed; None: never.
        rate: Share of the recipe's rate of dense layers at which a period is learned; tables learn at theirs.
        retrain_every: Periods between two full retrains, from scratch on all rows so far, for comparison; 0: none.
        after: Id of a finished run whose days go on here; None begins with the model of this run.
    """

    days: Many = 1
    delay_days: Natural = 0
    end: str | None = None
    admit: Count | None = None
    evict_days: Count | None = None
    rate: Fraction = 0.5
    retrain_every: Natural = 0
    after: str | None = None

    def __post_init__(self) -> None:
        self.until()

    def until(self) -> datetime | None:
        """`end` as a time.

        Raises:
            ConfigError: If it is not a date.
        """
        try:
            end = None if self.end is None else datetime.fromisoformat(self.end)
        except ValueError as error:
            raise ConfigError(f"daily.end: expected an ISO date, got {self.end!r}: write 2017-12-03") from error
        if end is not None and end.tzinfo is not None:
            raise ConfigError(f"daily.end: expected a date without a time zone, got {self.end!r}: write 2017-12-03")
        return end

    def periods(self, number: int, start: datetime, last: datetime) -> Iterator[Day]:
        """All whole periods that can be scored.

        Args:
            number: Of the first one.
            start: Where it begins.
            last: Time of the last row.
        """
        length, delay = timedelta(days=self.days), timedelta(days=self.delay_days)
        end = self.until()
        while (scored := start + length + delay) + length <= (end or last):
            times = (start, start + length, scored, scored + length)
            yield Day(number, *(t.isoformat() for t in times))
            number, start = number + 1, start + length


def check_daily(settings: Daily | None, data: Mapping[str, Any]) -> tuple[Daily, list[tuple[datetime, datetime]]]:
    """Check the key `daily` of a configuration, which stage daily needs → it, and the dates of the data's splits.

    Args:
        settings: The key.
        data: The group `data`.

    Raises:
        ConfigError: If the key is missing, the data is not split by dates, or `daily.end` is before the first period.
    """
    if settings is None:
        raise ConfigError("stage daily needs the key daily: start from experiment=daily")
    split = data.get("split") or {}
    other = [key for key in ("shares", "by", "column") if split.get(key)]
    if other or not {"train", "valid", "test"} <= set(split):
        has = f"has {other[0]} (~data.split.{other[0]} removes it)" if other else "has none"
        raise ConfigError(
            f"stage daily needs data.split by dates alone, since its first day begins where training ends; it {has}: "
            'write train: ["2017-01-01", "2017-04-01"], and valid and test likewise'
        )
    dates, end = split_dates(split, data.get("time")), settings.until()
    first = dates[0][1] + timedelta(days=2 * settings.days + settings.delay_days)
    if end is not None and end < first:
        raise ConfigError(
            f"daily.end: expected {first.date()} or later, since training ends at {dates[0][1].date()} and the first "
            f"period needs {settings.days} days, {settings.delay_days} for its labels and {settings.days} to be scored "
            f"on, got {settings.end}: give a later date"
        )
    return settings, dates

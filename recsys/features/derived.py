"""What a column can be made of that no raw table has: a part of a time, or earlier rows of the same key.

Imports nothing slow, so that a configuration is checked at once.
"""

from dataclasses import dataclass

__all__ = ["DAY_US", "PARTS", "WHATS", "WHERES", "Past"]

PARTS = {"hour": 24, "weekday": 7, "day": 31, "month": 12}  # part of a timestamp → how many values it has
WHATS = ("count", "rate", "days_since", "last")
WHERES = ("", "positive", "negative")
DAY_US = 86_400_000_000  # microseconds


@dataclass(frozen=True)
class Past:
    """A column made from earlier rows of the same key.

    Args:
        what: `count` of earlier rows; `rate`, their smoothed share of positives, (positives + prior ·
            rate) / (rows + prior); `days_since` the latest of them; `last`, their values of the column
            `of`, without missing ones, newest first.
        by: The raw columns of the key. If one is missing in a row, its past is missing too.
        dtypes: Types of the columns in `by`.
        of: The column whose values `last` gives.
        delay_days: Only rows older than this count, since labels are known late: at least the
            time after which it is known that there was no click.
        prior: Weight of `rate`, in rows, ≥ 0.
        rate: Label rate of the training rows.
        where: `positive` or `negative`: only the earlier rows with that label count, such as a user's
            last clicked items; "" counts all rows. Labels are known late: see `delay_days`.
    """

    what: str
    by: tuple[str, ...]
    dtypes: tuple[str, ...] = ()
    of: str = ""
    delay_days: float = 0.0
    prior: float = 10.0
    rate: float = 0.0
    where: str = ""

    @property
    def delay(self) -> int:
        """`delay_days` in microseconds."""
        return int(self.delay_days * DAY_US)

"""Spans of event time that judges of configurations compare, and how often they look.

The span is the unit: days differ more than windows do.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from model_service.rollout.guard_statistics import student_quantile

HISTORY = timedelta(days=7)
"""How far before the switch a judge sees."""
FEWEST, MOST = 3, 7
"""Earlier spans that a comparison needs, and takes at most."""
HARM_P, SHOWN_P = 0.025, 0.05
"""One-sided levels of a rollout: of a rise that aborts, at all looks together; and of one that is ruled out,
asked once a promotion. As for models (``guard_statistics.ALPHA``)."""
DAY = timedelta(days=1)


class Span(NamedTuple):
    """A stretch of event time, UTC; the end is not in it."""

    start: datetime
    end: datetime

    def back(self, by: timedelta) -> Span:
        """The same, so much earlier."""
        return Span(self.start - by, self.end - by)


def spans(switched_at: datetime, newest: datetime, period: timedelta) -> tuple[Span, list[Span]]:
    """The span since the switch, a day at most, and those that it is compared with.

    >>> from datetime import UTC
    >>> noon, minute = datetime(2026, 5, 4, 12, tzinfo=UTC), timedelta(minutes=1)
    >>> since, earlier = spans(noon, noon + 10 * minute, minute)
    >>> (since.end - since.start) // minute, [str(noon - e.start) for e in earlier][:2]
    (10, ['1 day, 0:00:00', '2 days, 0:00:00'])
    """
    length = max(min(newest - switched_at, DAY), period)
    since = Span(max(switched_at, newest - length), max(newest, switched_at + period))
    return since, earlier_days(switched_at, since)


def earlier_days(switched_at: datetime, since: Span) -> list[Span]:
    """The same time of earlier days, the newest first."""
    days = [since.back(k * DAY) for k in range(1, 2 * MOST)]
    return [s for s in days if s.end <= switched_at and s.start >= switched_at - HISTORY][:MOST]


class HarmLook(NamedTuple):
    """A look for harm: engine and guard ask every few seconds, but data are looked at for it only so often.

    Attributes:
        number: From 1 on.
        span: What it looks at; the same whenever it is asked for.
    """

    number: int
    span: Span

    def level(self, looks: int) -> float:
        """Its part of ``HARM_P``: the parts of all looks of all phases add up to no more (union bound).

        Args:
            looks: For how many promotions the rollout asks: each phase has looks of its own.
        """
        return HARM_P / looks / (self.number * (self.number + 1))


def last_look(switched_at: datetime, newest: datetime, period: timedelta) -> HarmLook | None:
    """The newest look for harm: each time that the time since the switch has doubled, then once a day.

    >>> from datetime import UTC
    >>> noon, minute = datetime(2026, 5, 4, 12, tzinfo=UTC), timedelta(minutes=1)
    >>> [last_look(noon, noon + n * minute, minute).number for n in (1, 3, 4, 30, 1440, 2880)]
    [1, 2, 3, 5, 11, 12]
    """
    periods = (newest - switched_at) // period
    if periods < 1:
        return None
    in_a_day = max(DAY // period, 1)
    doublings = min(periods, in_a_day).bit_length()
    if (days := (newest - switched_at) // DAY) > 1:
        return HarmLook(doublings + days - 1, Span(switched_at + (days - 1) * DAY, switched_at + days * DAY))
    return HarmLook(doublings, Span(switched_at, switched_at + 2 ** (doublings - 1) * period))


def just_before(switched_at: datetime, since: Span) -> list[Span]:
    """Spans of the same length that end with the switch, one before the other."""
    length = since.end - since.start
    return [Span(switched_at - k * length, switched_at - (k - 1) * length) for k in range(1, MOST + 1)]


class Rise(NamedTuple):
    """How far a span lies above earlier ones.

    Attributes:
        error: Standard error of the difference, between spans.
        spans: Number of earlier ones.
    """

    value: float
    error: float
    spans: int

    def end(self, p: float) -> float:
        """Upper end of the one-sided interval of level p."""
        return self.value + student_quantile(1 - p, self.spans - 1) * self.error

    def least(self, p: float) -> float:
        """Lower end of it."""
        return self.value - student_quantile(1 - p, self.spans - 1) * self.error

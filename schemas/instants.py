"""Instants: the wall clock in UTC, and microseconds since 1970 to and from aware datetimes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def utc_now() -> datetime:
    """The wall clock, aware, in UTC."""
    return datetime.now(UTC)


def to_us(instant: datetime) -> int:
    """Microseconds since 1970 UTC of an aware instant; exact, where ``timestamp() * 1e6`` would round."""
    return (instant - EPOCH) // _MICROSECOND


def from_us(us: int) -> datetime:
    """UTC instant of microseconds since 1970 UTC."""
    return EPOCH + timedelta(microseconds=us)


def has_passed(span: timedelta, since: datetime, now: datetime) -> bool:
    """Whether a wait is over; a clock that was set back ends it too, so that nobody waits for hours."""
    return not timedelta(0) <= now - since < span

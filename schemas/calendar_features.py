"""Calendar features: numbers that follow from a window's event time and a time zone alone. Pure.

Device, training and gates compute them here, so they are the same everywhere. All are of wall-clock time in
the zone: an hour that daylight saving repeats has the same values twice.
"""

from __future__ import annotations

import math
from calendar import isleap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from schemas.instants import from_us

CALENDAR = "calendar"
"""Stands for the channel in the names of calendar features, and is the name of a graph's input for them."""
_AROUND = tuple(round(-1 + k / 8, 3) for k in range(1, 16))
"""Inner bin edges of a sine or cosine."""
_GOLDEN_START = datetime(2026, 1, 5, tzinfo=UTC)
_GOLDEN_STEP = timedelta(days=41, hours=7, minutes=13)
"""Eight golden windows lie in both halves of a year, and on several days of the week."""


@dataclass(frozen=True, slots=True)
class CalendarKind:
    """One calendar feature.

    Attributes:
        meaning: For people.
        unit: Of its values.
        value: Hours since midnight, and the local time, to the value.
        edges: Inner bin edges.
    """

    meaning: str
    unit: str
    value: Callable[[float, datetime], float]
    edges: tuple[float, ...]


def _turn(share: float) -> float:
    return 2.0 * math.pi * share


def _week(hour: float, local: datetime) -> float:
    return _turn((local.weekday() + hour / 24.0) / 7.0)


def _year(hour: float, local: datetime) -> float:
    days = 366 if isleap(local.year) else 365
    return _turn((local.timetuple().tm_yday - 1 + hour / 24.0) / days)


CALENDAR_KINDS: dict[str, CalendarKind] = {
    "hour": CalendarKind("time of day", "h", lambda h, _: h, tuple(float(k) for k in range(2, 24, 2))),
    "hour_sin": CalendarKind("sine of the time of day", "1", lambda h, _: math.sin(_turn(h / 24)), _AROUND),
    "hour_cos": CalendarKind("cosine of the time of day", "1", lambda h, _: math.cos(_turn(h / 24)), _AROUND),
    "half_day_sin": CalendarKind(
        "sine of the time of day, twice around", "1", lambda h, _: math.sin(_turn(h / 12)), _AROUND
    ),
    "half_day_cos": CalendarKind(
        "cosine of the time of day, twice around", "1", lambda h, _: math.cos(_turn(h / 12)), _AROUND
    ),
    "weekday": CalendarKind(
        "day of the week, 0 is Monday",
        "1",
        lambda _, local: float(local.weekday()),
        tuple(k + 0.5 for k in range(6)),
    ),
    "weekend": CalendarKind(
        "1 on Saturday and Sunday, else 0", "1", lambda _, local: float(local.weekday() >= 5), (0.5,)
    ),
    "week_sin": CalendarKind(
        "sine of the time in the week", "1", lambda h, local: math.sin(_week(h, local)), _AROUND
    ),
    "week_cos": CalendarKind(
        "cosine of the time in the week", "1", lambda h, local: math.cos(_week(h, local)), _AROUND
    ),
    "year_sin": CalendarKind(
        "sine of the time in the year", "1", lambda h, local: math.sin(_year(h, local)), _AROUND
    ),
    "year_cos": CalendarKind(
        "cosine of the time in the year", "1", lambda h, local: math.cos(_year(h, local)), _AROUND
    ),
}
"""Calendar features by name."""


class StatesCalendar(Protocol):
    """What states a calendar: the features of a profile, or a manifest."""

    @property
    def calendar(self) -> tuple[str, ...]: ...  # noqa: D102  (names among ``CALENDAR_KINDS``)

    @property
    def time_zone(self) -> str: ...  # noqa: D102  (IANA zone)


class Calendar:
    """Computes calendar features.

    Args:
        names: Keys of ``CALENDAR_KINDS``, in the order of the columns.
        time_zone: IANA zone.

    Raises:
        ValueError: This machine does not know the zone.

    >>> Calendar(("hour", "weekend"), "America/Chicago").row(datetime(2026, 7, 4, 3, 30, tzinfo=UTC)).tolist()
    [22.5, 0.0]
    """

    def __init__(self, names: Sequence[str], time_zone: str) -> None:
        self._kinds = [CALENDAR_KINDS[name].value for name in names]
        self._zone = zone_named(time_zone)

    @classmethod
    def of(cls, stated: StatesCalendar) -> Calendar:
        """That of a profile's features, or of a manifest."""
        return cls(stated.calendar, stated.time_zone)

    @property
    def width(self) -> int:
        """Number of its columns, K."""
        return len(self._kinds)

    def row(self, at: datetime) -> NDArray[np.float32]:
        """The values at an aware instant, shape (K,)."""
        return np.array(self._values(at), dtype=np.float32)

    def rows(self, end_us: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float64]:
        """The values at instants in microseconds since 1970, shape (n, K)."""
        if not self._kinds:
            return np.empty((len(end_us), 0))
        ends = np.asarray(end_us, dtype=np.int64).tolist()
        return np.array([self._values(from_us(us)) for us in ends], dtype=np.float64).reshape(len(ends), -1)

    def _values(self, at: datetime) -> list[float]:
        local = at.astimezone(self._zone)
        hour = local.hour + local.minute / 60 + (local.second + local.microsecond / 1e6) / 3600
        return [value(hour, local) for value in self._kinds]


def zone_named(name: str) -> tzinfo:
    """The zone of an IANA name; UTC needs no database.

    Raises:
        ValueError: This machine does not know it.
    """
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo  # noqa: PLC0415  (a device without a calendar does without)

    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError) as exc:
        raise ValueError(
            f"time zone '{name}' is not known on this machine: it is misspelt, or the machine has no zone "
            "database (install the system's tzdata)"
        ) from exc


def golden_ends(count: int) -> NDArray[np.int64]:
    """Event times of golden windows, microseconds since 1970: always the same, spread over a year."""
    ends = [_GOLDEN_START + k * _GOLDEN_STEP for k in range(count)]
    return np.array([round(end.timestamp()) * 1_000_000 for end in ends], dtype=np.int64)

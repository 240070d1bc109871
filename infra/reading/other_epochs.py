"""Counts of days or ticks since other instants than 1970, as spreadsheets and laboratories write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.reading.time_forms import Bools, Ints

_DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class OtherEpoch:
    """A count since another instant.

    Attributes:
        unit_us: Microseconds in one.
        at_1970: The count at the beginning of 1970.
        words: What it is, for people.
        naive: Whether it counts local time.
    """

    unit_us: float
    at_1970: float
    words: str
    naive: bool

    def read(self, values: NDArray[np.float64], whole: Ints | None, ok: Bools) -> Ints:
        """Microseconds since 1970."""
        if whole is not None and self.unit_us < 1:
            return np.where(ok, whole - round(self.at_1970), 0) // round(1 / self.unit_us)
        return _rounded((np.where(ok, values, self.at_1970) - self.at_1970) * self.unit_us, ok)

    def covers(self, values: NDArray[np.float64], first_year: int = 1973, last_year: int = 2103) -> bool:
        """Whether all of these counts lie in these years, about."""
        years = (values - self.at_1970) * self.unit_us / _DAY_US / 365.2425 + 1970
        return bool(((years >= first_year) & (years < last_year)).all())


OTHER_EPOCHS: Mapping[str, OtherEpoch] = {
    "excel": OtherEpoch(_DAY_US, 25_569.0, "days since 1899, as spreadsheets count them", naive=True),
    "matlab": OtherEpoch(_DAY_US, 719_529.0, "days since the year 0, as MATLAB counts them", naive=True),
    "julian": OtherEpoch(_DAY_US, 2_440_587.5, "Julian days", naive=False),
    "mjd": OtherEpoch(_DAY_US, 40_587.0, "modified Julian days", naive=False),
    "since_1904": OtherEpoch(1e6, 2_082_844_800.0, "seconds since 1904, as LabVIEW counts them", naive=False),
    "epoch_min": OtherEpoch(6e7, 0.0, "minutes since 1970", naive=False),
    "filetime": OtherEpoch(0.1, 116_444_736_000_000_000.0, "ticks of 100 ns since 1601", naive=False),
    "dotnet": OtherEpoch(0.1, 621_355_968_000_000_000.0, "ticks of 100 ns since the year 1", naive=False),
}
"""By the name in a profile's ``time_format``."""
_DAYS = ("excel", "matlab", "julian")
_TICKS = ("filetime", "dotnet")


def days_of(values: NDArray[np.float64]) -> str:
    """The count of days that these values are, if any: ``mjd`` looks like ``excel`` of another century."""
    first_years = {"excel": 1955}
    return next((n for n in _DAYS if OTHER_EPOCHS[n].covers(values, first_years.get(n, 1973))), "")


def ticks_of(values: NDArray[np.float64]) -> str:
    """The count of ticks that these values are, if any; as nanoseconds they would lie before 1992."""
    return next((n for n in _TICKS if OTHER_EPOCHS[n].covers(values, 1980)), "")


def _rounded(us: NDArray[np.float64], ok: Bools) -> Ints:
    """Five digits of a day are half a second off, so rows that lie apart are rounded."""
    steps = np.abs(np.diff(us[ok]))
    to = 1_000_000 if len(steps) and np.median(steps) >= 2e6 else 1000
    return np.round(us / to).astype(np.int64) * to

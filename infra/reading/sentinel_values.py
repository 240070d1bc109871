"""Finds values that stand for "no value": they repeat exactly, far from the rest. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.printing import count as count_of

CODES = frozenset(
    (-200.0, -99.0, -99.9, -99.99, -999.0, -999.9, -999.99, -9999.0, -9999.9, -9999.99, -99999.0,
    -999999.0, -99999.9,
     999.0, 999.9, 999.99, 9999.0, 9999.9, 9999.99, 99999.0, 99999.9, 999999.0, 9999999.0, -6999.0,
     6999.0, 7999.0,
     -127.0, -999.25, -32767.0,
     -7999.0, 8888.0, -8888.0, 32767.0, -32768.0, 65535.0, 2147483647.0, -2147483648.0,
     4294967295.0, -777.0, -888.0,
     1e20, -1e20, 1e30, -1e30, 1e10, -1e10, 3.4028234663852886e38, -3.4028234663852886e38, -1e34, 1e34)
)  # fmt: skip
"""Values that loggers are known to write where they have none."""
_FILL = 1e19
"""Magnitude from which a number is no measurement."""
MOST = 4
_ENOUGH = 3
_LARGE, _FAR = 999.0, 10.0
"""A code of this size means "no value" though it stands once, if it lies this many times farther out."""


@dataclass(frozen=True, slots=True)
class SentinelValue:
    """A value that stands for "no value".

    Attributes:
        count: Cells that hold it.
        evidence: Why.
    """

    value: float
    count: int
    evidence: str


def find_sentinels(values: NDArray[np.float64], known: Collection[float] = ()) -> list[SentinelValue]:
    """The sentinels of one column.

    Zero is none: a machine that stands still measures it.

    Args:
        values: NaN where blank.
        known: Sentinels of other columns of the file.
    """
    given = values[np.isfinite(values)]
    distinct, counts = np.unique(given, return_counts=True)
    found: list[SentinelValue] = []
    if len(distinct) == 1 and counts[0] >= _ENOUGH and _is_fill(float(distinct[0])):
        return [SentinelValue(float(distinct[0]), int(counts[0]), f"every cell is {distinct[0]:g}")]
    while len(found) < MOST and len(distinct) > 1:
        ends = [e for e in (0, len(distinct) - 1) if _is_sentinel(e, distinct, counts, known)]
        ends = [
            e for e in ends if _is_code(float(distinct[e]), known) or _runs(given, distinct[e]) >= _ENOUGH
        ]
        if not ends:
            break
        end = max(ends, key=lambda e: (distinct[e] in CODES, counts[e]))
        rest = np.delete(distinct, end)
        value, count = float(distinct[end]), int(counts[end])
        found.append(SentinelValue(value, count, _apart(value, count, rest)))
        distinct, counts = rest, np.delete(counts, end)
    return found


def unusual_values(values: NDArray[np.float64], sentinels: Collection[float]) -> list[SentinelValue]:
    """Values that repeat exactly and lie far from the rest, and may be measured all the same.

    Args:
        values: NaN where blank.
        sentinels: What stands for "no value" already.
    """
    given = values[np.isfinite(values)]
    given = given[~np.isin(given, list(sentinels))] if sentinels else given
    distinct, counts = np.unique(given, return_counts=True)
    found: list[SentinelValue] = []
    while len(found) < MOST and len(distinct) > 2:
        ends = [e for e in (0, len(distinct) - 1) if counts[e] >= 2 and _is_far(e, distinct)]
        # One run of a value may be a fault that holds; of zero, or of a code, it is said all the same.
        ends = [e for e in ends if distinct[e] == 0 or distinct[e] in CODES or _runs(given, distinct[e]) >= 2]
        if not ends:
            break
        end = max(ends, key=lambda e: counts[e])
        rest = np.delete(distinct, end)
        value, count = float(distinct[end]), int(counts[end])
        found.append(SentinelValue(value, count, _apart(value, count, rest)))
        distinct, counts = rest, np.delete(counts, end)
    return [*found, *_codes_within(given, distinct, counts)]


def _codes_within(
    given: NDArray[np.float64], distinct: NDArray[np.float64], counts: NDArray[np.int64]
) -> list[SentinelValue]:
    """Known codes among values that are as large, and that repeat as none of them does."""
    usual = float(np.median(counts)) if len(counts) else 0.0
    often = np.flatnonzero(np.isin(distinct, list(CODES)) & (counts >= max(_ENOUGH, 5 * usual)))
    values = [(float(distinct[i]), int(counts[i])) for i in often if _runs(given, distinct[i]) >= _ENOUGH]
    return [
        SentinelValue(v, n, f"{v:g} stands {count_of(n, 'time')}, exactly, other values about {usual:g}")
        for v, n in values[:MOST]
    ]


def _apart(value: float, n: int, rest: NDArray[np.float64]) -> str:
    seen = f"{value:g} stands {count_of(n, 'time')}, exactly"
    return f"{seen}, while the rest lies in {rest[0]:g} to {rest[-1]:g}"


def _is_far(end: int, distinct: NDArray[np.float64]) -> bool:
    rest = np.delete(distinct, end)
    gap = float(np.abs(rest - distinct[end]).min())
    return gap > 3 * _width(rest)


def _width(rest: NDArray[np.float64]) -> float:
    low, high = (float(q) for q in np.quantile(rest, (0.01, 0.99)))
    return max(high - low, 1e-12)


def shared_sentinels(found: Mapping[int, list[SentinelValue]]) -> frozenset[float]:
    """Values that are sentinels in some column."""
    return frozenset(s.value for sentinels in found.values() for s in sentinels)


def _is_code(value: float, known: Collection[float]) -> bool:
    return value in CODES or value in known or value == -1.0 or abs(value) >= _FILL


def _is_fill(value: float) -> bool:
    """Whether a value means "no value" even where nothing else stands in its column."""
    return abs(value) >= _FILL or (value in CODES and (value <= -777 or value >= 32_767))


def _runs(values: NDArray[np.float64], value: float) -> int:
    """How many times a value begins anew: one run of equal values may be a fault, and is no sentinel."""
    held = values == value
    return int(held[0]) + int((held[1:] & ~held[:-1]).sum())


def _is_beyond(value: float, other: float) -> bool:
    """Whether a code lies far from the only other value of a column: it may be a flag of two numbers."""
    if value == -1.0:
        return False
    below = value < 0 <= other and abs(value) > other
    return below or abs(value) >= _FAR * max(abs(other), 1.0)


def _is_sentinel(
    end: int, distinct: NDArray[np.float64], counts: NDArray[np.int64], known: Collection[float]
) -> bool:
    """Whether the smallest or largest value is a sentinel."""
    value, count = float(distinct[end]), int(counts[end])
    rest = np.delete(distinct, end)
    if value == 0:
        return False
    if len(rest) < 2:
        return count >= 2 and _is_code(value, known) and _is_beyond(value, float(rest[0]))
    if abs(value) >= _FILL and np.abs(rest[np.abs(rest) < _FILL]).max(initial=0) < abs(value) / 1e6:
        return True
    if value in CODES and not np.isin(rest, list(CODES)).all():
        rest = rest[~np.isin(rest, list(CODES))]  # two codes of one column lie far from each other, too
    gap = float(rest[0] - value if value < rest[0] else value - rest[-1])
    width = _width(rest)
    other_side = (value < 0 <= rest[0]) or (rest[-1] <= 0 < value)
    if value in CODES or value in known:
        alone = abs(value) >= _LARGE and gap > _FAR * max(width, float(np.abs(rest).max()))
        repeats = count >= 2 or value in known or alone
        return repeats and (gap > width or (other_side and gap > 0.05 * width and value < 0))
    if value == -1.0 and other_side:
        # Minus one is a code only where it is not the next value: among many others, and not close to them.
        return len(rest) >= 20 and gap > 0.3 * width and count >= 3 * float(np.median(np.delete(counts, end)))
    # A value that nobody knows must repeat more often than its neighbours, and lie farther away.
    usual = float(np.median(np.delete(counts, end)))
    rare = _ENOUGH if len(rest) >= 8 else 10**9
    return count >= max(rare, 3 * usual) and gap > 3 * max(width, float(rest[-1] - rest[0]))

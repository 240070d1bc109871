"""One channel's values on the grid: what an instant has of it, by the channel's policy. Pure."""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter, deque
from dataclasses import dataclass

from schemas.profile import Channel
from schemas.source_section import AlignPolicy

REMEMBERED = 64
"""Times of a channel's newest values, by which a repeated one is known."""
Point = tuple[int, float]
"""Time, µs since 1970, and value."""


@dataclass(slots=True)
class _Cell:
    """What was measured within half a step of one instant.

    Attributes:
        before: Newest point at the instant or before it; ``after``: oldest at the instant or after it.
        oldest: Oldest point of all; ``newest``: newest.
        total: Sum of the ``n`` values within the channel's range.
    """

    before: Point | None = None
    after: Point | None = None
    oldest: Point | None = None
    newest: Point | None = None
    total: float = 0.0
    n: int = 0
    points: int = 0

    def add(self, instant_us: int, point: Point) -> None:
        self.points += 1
        if point[0] <= instant_us and (self.before is None or point[0] > self.before[0]):
            self.before = point
        if point[0] >= instant_us and (self.after is None or point[0] < self.after[0]):
            self.after = point
        if self.oldest is None or point[0] < self.oldest[0]:
            self.oldest = point
        if self.newest is None or point[0] > self.newest[0]:
            self.newest = point
        if math.isfinite(point[1]):
            self.total += point[1]
            self.n += 1


class ChannelCells:
    """One channel of one device.

    Args:
        channel: Gives the range: a value outside it becomes an infinity of its side.
        policy: How an instant gets its value.
        max_age_us: A value older than this is missing.
        stuck_us: A channel that repeats one value for longer is missing; None: it never is.

    Attributes:
        slow: Its values may come less often than instants do, so that no instant waits for one.
        counts: Instants that are ``missing`` a value, whose value is ``held`` from before or whose sensor is
            ``stuck``; values that are ``surplus``, because their instant has a newer one, or ``absurd``,
            because they are outside the channel's range.
    """

    def __init__(
        self, channel: Channel, policy: AlignPolicy, max_age_us: float, stuck_us: float | None, *, slow: bool
    ) -> None:
        self._low, self._high = channel.min, channel.max
        self._policy = policy
        self._max_age_us, self._stuck_us = max_age_us, stuck_us
        self.slow = slow
        self._cells: dict[int, _Cell] = {}
        self._numbers: list[int] = []
        self._held: Point | None = None
        self._changed: Point | None = None
        self._times: deque[int] = deque(maxlen=REMEMBERED)
        self._newest_us = self._void_us = -(2**63)
        self._plain = policy == "last" and not slow
        self.counts: Counter[str] = Counter(absurd=0, missing=0, held=0, stuck=0, surplus=0)

    @property
    def empty(self) -> bool:
        """Whether nothing waits for its instant."""
        return not self._numbers

    def knows(self, us: int) -> bool:
        """Whether a value of this time came before."""
        return us in self._times

    def add(self, number: int, instant_us: int, us: int, value: float) -> bool:
        """Take a value for an instant that is open; whether it is older than one that came before."""
        reordered = us < max(self._times, default=us)
        self._times.append(us)
        self._newest_us = max(self._times)
        point = us, self._limited(value)
        if number not in self._cells:
            self._cells[number] = _Cell()
            insort(self._numbers, number)
        self._cells[number].add(instant_us, point)
        return reordered

    def passes(self, instant_us: int, us: int) -> bool:
        """Whether a value that is ready for the next instant would be that instant's, whatever comes."""
        fresh = self._newest_us < us and instant_us - us <= self._max_age_us
        return fresh and self._plain and not self._numbers

    def pass_on(self, us: int, value: float) -> float:
        """Take such a value, and close its instant: what ``add`` and ``close`` do, in a fifth of the time."""
        self._times.append(us)
        self._newest_us = us
        value = self._limited(value)
        self._hold((us, value))
        if self._stuck:
            self.counts["stuck"] += 1
            value = math.nan
            self.counts["missing"] += 1
        return value

    def hold(self, us: int, value: float) -> bool:
        """Take a value whose instant is closed for the next ones; False: it is older than what they have."""
        self._times.append(us)
        self._newest_us = max(self._times)
        if self._policy == "interpolate" or (self._held is not None and us <= self._held[0]):
            return False
        if us <= self._void_us:
            return False
        self._hold((us, self._limited(value)))
        return True

    def void(self) -> None:
        """Hold none of the values that have come: instants that they were measured in keep them."""
        self._held, self._void_us = None, self._newest_us

    def ready(self, number: int, from_us: int) -> bool:
        """Whether nothing that is still to come can change the instant's value, as far as one can know."""
        newer = bool(self._numbers) and self._numbers[-1] > number
        if self._policy == "mean":
            return newer or self.slow
        if self._policy == "interpolate":
            return newer or self._after(number) is not None
        cell = self._cells.get(number)
        return self.slow or (cell is not None and cell.newest is not None and cell.newest[0] >= from_us)

    def close(self, number: int, instant_us: int) -> float:
        """The instant's value; NaN where it is missing."""
        value = self._value(number, instant_us)
        cell = self._cells.pop(number, None)
        if cell is not None:
            self._numbers.remove(number)
            self.counts["surplus"] += cell.points - 1 if self._policy == "last" else 0
            if cell.newest is not None:
                self._hold(cell.newest)
        elif not math.isnan(value) and self._policy != "interpolate":
            self.counts["held"] += 1
        if self._stuck and not math.isnan(value):
            self.counts["stuck"] += 1
            value = math.nan
        self.counts["missing"] += math.isnan(value)
        return value

    @property
    def _stuck(self) -> bool:
        if self._stuck_us is None or self._held is None or self._changed is None:
            return False
        return self._held[0] - self._changed[0] > self._stuck_us

    def _value(self, number: int, instant_us: int) -> float:
        cell = self._cells.get(number)
        if self._policy == "interpolate":
            return self._between(cell.before if cell and cell.before else self._held, number, instant_us)
        if cell is not None and self._policy == "mean" and cell.n:
            return cell.total / cell.n
        return self._fresh(cell.newest if cell is not None else self._held, instant_us)

    def _between(self, before: Point | None, number: int, instant_us: int) -> float:
        after = self._after(number)
        if before is None or after is None or after[0] - before[0] > self._max_age_us:
            return self._fresh(before, instant_us)
        if after[0] == before[0]:
            return before[1]
        part = (instant_us - before[0]) / (after[0] - before[0])
        if not (math.isfinite(before[1]) and math.isfinite(after[1])):
            return before[1] if part < 0.5 else after[1]
        return before[1] + part * (after[1] - before[1])

    def _after(self, number: int) -> Point | None:
        cell = self._cells.get(number)
        if cell is not None and cell.after is not None:
            return cell.after
        later = next((n for n in self._numbers if n > number), None)
        return None if later is None else self._cells[later].oldest

    def _fresh(self, point: Point | None, instant_us: int) -> float:
        if point is None or instant_us - point[0] > self._max_age_us:
            return math.nan
        return point[1]

    def _hold(self, point: Point) -> None:
        if point[0] > self._void_us:
            self._held = point
        if self._changed is None or self._changed[1] != point[1]:
            self._changed = point

    def _limited(self, value: float) -> float:
        if self._low <= value <= self._high:
            return value
        self.counts["absurd"] += 1
        return math.inf if value > self._high else -math.inf

"""Puts one device's values, at whatever rates and times they come, on the grid of the profile's rate. Pure.

Instant k lies k steps after the first sample and takes what was measured within half a step of it. It is
closed once every channel that comes as often as instants do has its value, or once the time that the policy
waits has passed; with no value at all it is closed all the same. So a silent source gives windows without
samples, and the device decides ``fail_safe``.

The grid follows the times of the samples. Between them it goes on as the device's steady clock does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edge_producer.sources.channel_cells import ChannelCells
from schemas.profile import Profile

JUMP_S, JUMP_STEPS = 60.0, 10
"""A time further than both from where the clock stands is a stray, until others agree with it."""
CLOCK_S = 60.0
"""The source's clock is judged by the times that came within this span and the one before."""
AGREED = 3
"""So many strays in a row that agree are the source's clock, which has been set."""
READY = 0.25
"""A value within this share of a step before its instant, or after it, is the instant's own."""


class GridRow(NamedTuple):
    """One instant of the grid.

    Attributes:
        begins: It does not continue the row before: the source's clock was set.
        arrived_s: Steady clock when the sample came that closed it; 0: none did, time has passed.
    """

    us: int
    values: list[float]
    begins: bool
    arrived_s: float = 0.0


class Aligner:
    """One device's grid. Each value that is handed in counts as used or under one name of what was wrong.

    Args:
        profile: Channels, rate, window and ``[align]``.

    Attributes:
        counts: ``values`` handed in. Of them ``duplicate`` (same channel and time: the first is kept),
            ``late`` (its instant was closed: not used), ``ahead`` (from the future: not used), ``carried``
            (late, but used from the next instant on), ``reordered`` (used, though a newer one came before).
            ``clock_steps`` of the source; instants that were ``skipped`` after a long silence; and what
            ``ChannelCells.counts`` has.
    """

    def __init__(self, profile: Profile) -> None:
        step_s = 1.0 / profile.sampling.rate_hz
        self._step_us = 1e6 * step_s
        self._jump_us = max(JUMP_S * 1e6, JUMP_STEPS * self._step_us)
        self._wait_us = profile.align.wait_s * 1e6
        self._window = profile.sampling.window_samples
        self._channels: dict[str, ChannelCells] = {}
        for channel in profile.channels:
            policy, age_s, stuck_s = profile.align.of(channel.name, step_s)
            own = profile.align.channels.get(channel.name)
            slow = own is not None and own.max_age_s is not None and own.max_age_s > 1.5 * step_s
            stuck_us = None if stuck_s is None else stuck_s * 1e6
            cells = ChannelCells(channel, policy, age_s * 1e6, stuck_us, slow=slow)
            self._channels[channel.name] = cells
        self._anchor_us, self._next = 0, 0
        self._offsets_us, self._offsets_since_s = (-math.inf, -math.inf), 0.0
        self._begins, self._untouched = True, True
        self._strays: list[int] = []
        self._closed: list[GridRow] = []
        self._heard_s = 0.0
        names = ("values", "duplicate", "late", "carried", "ahead", "reordered", "clock_steps", "skipped")
        self._counts: Counter[str] = Counter(dict.fromkeys(names, 0))

    @property
    def counts(self) -> Counter[str]:
        """As described above; only grows."""
        total = Counter(self._counts)
        for cells in self._channels.values():
            total.update(cells.counts)
        return total

    def begin(self, us: int, now_s: float) -> None:
        """Begin the grid at an instant by the device's clock: without any sample it goes on from there."""
        self._anchor(us, now_s)

    def push(self, us: int, values: Mapping[str, float], now_s: float, *, stamped: bool) -> None:
        """Take a sample.

        Args:
            us: When it was measured, or when it came, µs since 1970.
            values: Finite, or infinite; by channel.
            now_s: Steady clock when it came.
            stamped: The source said when it was measured: others may be on their way.
        """
        if not stamped:
            self._wait_us = 0.0
        self._heard_s = now_s
        self._counts["values"] += len(values)
        if self._untouched:
            self._closed += self._due(now_s)
            self._anchor(us, now_s)
            self._untouched = False
        elif abs(us - self._now_us(now_s)) > self._jump_us:
            if not self._agreed(us):
                self._counts["ahead" if us > self._now_us(now_s) else "late"] += len(values)
                return
            self._closed += self._rest()
            self._counts["clock_steps"] += 1
            self._anchor(us, now_s)
        self._strays.clear()
        self._hear(us - now_s * 1e6, now_s)
        number = round((us - self._anchor_us) / self._step_us)
        if number != self._next or not self._passed_on(us, values):
            for name, value in values.items():
                self._take(self._channels[name], number, us, value)
        self._closed += self._due(now_s)  # at once: what is late must not depend on how samples are batched

    def void(self, channels: Iterable[str]) -> None:
        """Hold none of the values of these channels that have come."""
        for name in channels:
            if name in self._channels:
                self._channels[name].void()

    def due(self, now_s: float) -> list[GridRow]:
        """Instants that are closed by now, in their order."""
        closed, self._closed = self._closed, []
        closed += self._due(now_s)
        self._heard_s = 0.0
        return closed

    def rest(self) -> list[GridRow]:
        """All instants that have a value: the source has ended."""
        closed, self._closed = self._closed, []
        return closed + self._rest()

    def wait_s(self, now_s: float) -> float:
        """Time until the next instant is closed, whatever comes."""
        return max(self._deadline_us(self._next) - self._now_us(now_s), 0.0) / 1e6

    def _anchor(self, us: int, now_s: float) -> None:
        self._anchor_us, self._next, self._begins = us, 0, True
        self._offsets_us, self._offsets_since_s = (-math.inf, us - now_s * 1e6), now_s

    def _hear(self, offset_us: float, now_s: float) -> None:
        """Take note of how far a sample's time is from the steady clock: the least delayed one says it."""
        before, newest = self._offsets_us
        if now_s - self._offsets_since_s >= CLOCK_S:
            before, newest, self._offsets_since_s = newest, -math.inf, now_s
        self._offsets_us = before, max(newest, offset_us)

    def _now_us(self, now_s: float) -> float:
        """The source's clock, which goes on while nothing comes."""
        return now_s * 1e6 + max(self._offsets_us)

    def _instant_us(self, number: int) -> int:
        return self._anchor_us + round(number * self._step_us)

    def _ready_us(self, instant_us: int) -> int:
        return round(instant_us - READY * self._step_us)

    def _deadline_us(self, number: int) -> float:
        return self._instant_us(number) + self._step_us / 2 + self._wait_us

    def _agreed(self, us: int) -> bool:
        if self._strays and abs(us - self._strays[-1]) > self._jump_us:
            self._strays.clear()
        self._strays.append(us)
        return len(self._strays) >= AGREED

    def _passed_on(self, us: int, values: Mapping[str, float]) -> bool:
        """Close the next instant with a sample that has all its values, as most have; whether it was one."""
        channels, instant_us = self._channels, self._instant_us(self._next)
        if len(values) < len(channels) or us < self._ready_us(instant_us):
            return False
        if not all(cells.passes(instant_us, us) for cells in channels.values()):
            return False
        found = [cells.pass_on(us, values[name]) for name, cells in channels.items()]
        self._next += 1
        begins, self._begins = self._begins, False
        self._closed.append(GridRow(instant_us, found, begins, self._heard_s))
        return True

    def _take(self, cells: ChannelCells, number: int, us: int, value: float) -> None:
        if cells.knows(us):
            self._counts["duplicate"] += 1
        elif number < self._next:
            self._counts["carried" if cells.hold(us, value) else "late"] += 1
        elif cells.add(number, self._instant_us(number), us, value):
            self._counts["reordered"] += 1

    def _due(self, now_s: float) -> list[GridRow]:
        rows: list[GridRow] = []
        now_us = self._now_us(now_s)
        while self._is_closed(self._next, now_us):
            if all(c.empty for c in self._channels.values()):
                self._skip(now_us)
            rows.append(self._close())
        return rows

    def _is_closed(self, number: int, now_us: float) -> bool:
        if now_us >= self._deadline_us(number):
            return True
        from_us = self._ready_us(self._instant_us(number))
        channels = self._channels.values()
        return not all(c.slow for c in channels) and all(c.ready(number, from_us) for c in channels)

    def _skip(self, now_us: float) -> None:
        """Leave out what nobody needs of a long silence: a window without samples says it all."""
        behind = math.floor((now_us - self._deadline_us(self._next)) / self._step_us)
        if behind > 2 * self._window + 64:
            self._counts["skipped"] += behind - self._window
            self._next += behind - self._window

    def _rest(self) -> list[GridRow]:
        rows: list[GridRow] = []
        while not all(c.empty for c in self._channels.values()):
            rows.append(self._close())
        return rows

    def _close(self) -> GridRow:
        number, self._next = self._next, self._next + 1
        instant_us = self._instant_us(number)
        values = [cells.close(number, instant_us) for cells in self._channels.values()]
        begins, self._begins = self._begins, False
        return GridRow(instant_us, values, begins, self._heard_s)

"""Samples of sources that report channels one by one, and changes only, from a thread of their own.

What they report waits in bounded room; what they do not report again stands while they say that they live.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from edge_producer.sources.payloads import PayloadReader
from edge_producer.sources.reading_queue import ChannelReading, ReadingQueue
from edge_producer.sources.samples import Sample
from edge_producer.sources.standing_values import StandingValues
from schemas.instants import from_us
from schemas.profile import Profile

MOST_READINGS = 4096
"""Readings that may wait to become samples; beyond them the oldest of the busiest channel are dropped."""
LONGEST_TEXT = 64
"""A longer text is no number."""
OLD_STEPS = 1.5
"""A value that was measured so long before it was first reported has stood since."""


class ReportedChannels:
    """What becomes of a source's readings. One thread puts them in, another takes samples out.

    A reading with a flaw has no value; nor is an older one of its channel held from then on. One without a
    value at all has the flaw ``null``.

    Args:
        profile: Channels, rate and ``[source]``.
        counted: Names of what the source itself counts, flaws among them.
        own_time: The source never says when it lives: what stands is repeated by the clock.
    """

    def __init__(self, profile: Profile, counted: Iterable[str], *, own_time: bool = False) -> None:
        self._step_s = 1.0 / profile.sampling.rate_hz
        self._patience_s = self._step_s if own_time else None
        self._reader = PayloadReader(profile)
        self._standing = StandingValues(self._step_s)
        self._queue = ReadingQueue(MOST_READINGS)
        self._counts: Counter[str] = Counter(dict.fromkeys((*counted, "overrun", "null"), 0))
        self._changed = threading.Condition()
        self._lost: Exception | None = None
        self._closed = self._answered = False
        self._clock_us, self._heard_s = 0, 0.0

    @property
    def counts(self) -> Mapping[str, int]:
        """What the source counted, and ``PayloadReader``.

        Of the values, some are dropped unread (``overrun``), ``null``, or ``repeated``.
        """
        with self._changed:
            return {**self._reader.counts, **self._counts, **self._standing.counts}

    def count(self, name: str, n: int = 1) -> None:
        """Count something of the source's, or of ``PayloadReader.counts``."""
        with self._changed:
            (self._reader.counts if name in self._reader.counts else self._counts)[name] += n

    def take(self, readings: Iterable[ChannelReading], now_us: int) -> None:
        """Take in what the source reports; nothing: all is as it was.

        A value that no number can be is counted as ``malformed``, one without a time as ``unreadable_time``;
        neither is used.

        Args:
            readings: In their order by channel.
            now_us: When the source reports them, by its clock, µs since 1970.
        """
        with self._changed:
            for reading in readings:
                fit = self._fit(reading, now_us)
                if fit is not None:
                    self._counts["overrun"] += self._queue.put(fit)
            self._clock_us, self._heard_s, self._answered = now_us, time.monotonic(), True
            self._changed.notify_all()

    def lose(self, why: Exception) -> None:
        """Let ``next`` raise this, once all that came before was taken."""
        with self._changed:
            self._lost = self._lost or why
            self._changed.notify_all()

    def close(self) -> None:
        """Let ``next`` return None."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def next(self) -> list[Sample] | None:
        """The next samples, perhaps none; waits for something to happen. None: it was closed.

        Raises:
            Exception: What the source was lost by.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._queue or self._answered or self._lost or self._closed, self._patience_s
            )
            if self._closed:
                return None
            if self._queue:
                return self._read(self._queue.get())
            if self._lost is not None:
                raise self._lost
            self._answered = False
            now_s = time.monotonic()
            return self._standing.due(now_s, self._clock_us + round((now_s - self._heard_s) * 1e6))

    def _fit(self, reading: ChannelReading, now_us: int) -> ChannelReading | None:
        """The reading as it is queued."""
        given, us = reading.given, reading.us
        if reading.flaw:
            return reading
        if given is None:
            return reading._replace(flaw="null")
        if not isinstance(given, bool | int | float | str) or len(str(given)) > LONGEST_TEXT:
            self._reader.counts["malformed"] += 1
            return None
        if us is None:
            self._reader.counts["unreadable_time"] += 1
            return None
        stands = reading.first and now_us - us > OLD_STEPS * self._step_s * 1e6
        return reading._replace(us=None) if stands else reading

    def _read(self, readings: Sequence[ChannelReading]) -> list[Sample]:
        """The sample of readings of one device and time."""
        values: dict[str, float] = {}
        void: list[str] = []
        us, device_id, now_s = readings[0].us, readings[0].device_id, time.monotonic()
        for reading in readings:
            if reading.flaw:
                self._counts[reading.flaw] += 1
                void.append(reading.channel)
            elif (value := self._reader.value(reading.channel, reading.given)) is not None:
                values[reading.channel] = value
                if not math.isnan(value):
                    self._standing.report(device_id, reading.channel, value, us, now_s)
        self._standing.void(device_id, void)
        if us is None:
            values = {}  # they stand, and are repeated at a time of their own
        elif values:
            self._reader.counts["records"] += 1
        if not values and not void:
            return []
        return [Sample(values, None if us is None else from_us(us), device_id, tuple(void))]

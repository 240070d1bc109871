"""Windows of live sources: samples as they come, aligned to the profile's rate and cut."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from edge_producer.clock import Clock
from edge_producer.sources.alignment import Aligner, GridRow
from edge_producer.sources.framing import Framed, Framer
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_feed import SourceFeed
from edge_producer.window import SourcePause, SourceWait, Window
from schemas.instants import from_us
from schemas.profile import Profile
from schemas.row_schemas import TimeQuality

AT_ONCE = 256
"""Samples that are taken before other work may be done."""
LONGEST_WAIT_S = 1.0


class LiveWindows:
    """A ``WindowSource`` over a source that runs by itself.

    A device whose samples stay away gets windows without samples: it decides ``fail_safe``.

    Args:
        feed: The source.
        profile: Channels, sampling and ``[align]``.
        devices: Whose samples are expected; one that is alone gets those that name no device.
        clock: Steady seconds since 1970.
        monotonic: Seconds of the device's monotonic clock.
    """

    def __init__(
        self,
        feed: SourceFeed,
        profile: Profile,
        devices: Sequence[str],
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._devices = {name: _LiveDevice(profile) for name in devices}
        self._alone = devices[0] if len(devices) == 1 else ""
        self._channels = frozenset(profile.channel_names)
        self._clock = clock
        self._monotonic = monotonic
        self._begun_s = 0.0
        self._counts: Counter[str] = Counter(other_device=0, unknown_channel=0, blank=0)

    @property
    def counts(self) -> Mapping[str, int]:
        """What was read, refused, aligned and framed so far, by name."""
        total = Counter(self._counts)
        total.update(self._feed.counts)
        for device in self._devices.values():
            total.update(device.counts)
        return total

    @property
    def state(self) -> dict[str, Any]:
        """How the source does, for the status file."""
        return asdict(self._feed.state)

    def windows(self) -> Iterator[Window | SourcePause | SourceWait]:
        """Windows as they become complete, until the source ends."""
        self._begun_s = self._clock()
        for device in self._devices.values():
            device.aligner.begin(round(self._begun_s * 1e6), self._begun_s)
        self._feed.start()
        complete_s = 0.0
        try:
            while True:
                arrived = self._feed.take(AT_ONCE)
                over = not arrived and self._feed.ended
                for at_s, sample in arrived:
                    self._push(sample, at_s)
                newest_s = (arrived[-1].at_s if arrived else self._clock()) - self._begun_s
                complete_s = max(complete_s, newest_s)  # what has come may be older than what was waited for
                for name, device in self._devices.items():
                    yield from self._windows(name, device, complete_s, over=over)
                if over:
                    return
                yield SourcePause(self._now_s()) if arrived else self._wait()
        finally:
            self._feed.stop()
            for device in self._devices.values():
                device.finish()

    def _now_s(self) -> float:
        return self._clock() - self._begun_s

    def _wait(self) -> SourceWait:
        now_s = self._clock()
        most_s = min((d.aligner.wait_s(now_s) for d in self._devices.values()), default=LONGEST_WAIT_S)
        near = ((name, d) for name, d in self._devices.items() if d.framer.lacks == 1)
        preview = next((partial(self._preview, *one) for one in near), None)
        return SourceWait(self._now_s(), min(most_s, LONGEST_WAIT_S), self._feed.wait, preview)

    def _preview(self, name: str, device: _LiveDevice) -> Window | None:
        framed = device.framer.preview()
        return None if framed is None else self._window(name, framed, 0.0, 0.0)

    def _push(self, sample: Sample, at_s: float) -> None:
        device = self._devices.get(sample.device_id or self._alone)
        if device is None:
            self._counts["other_device"] += 1
            return
        if sample.void:
            device.aligner.void(sample.void)
            if not sample.values:
                return
        values = {}
        for name, value in sample.values.items():
            if name not in self._channels:
                self._counts["unknown_channel"] += 1
            elif math.isnan(value):
                self._counts["blank"] += 1
            else:
                values[name] = value
        us = sample.us
        stamped = us is not None
        device.aligner.push(round(at_s * 1e6) if us is None else us, values, at_s, stamped=stamped)

    def _windows(self, name: str, device: _LiveDevice, complete_s: float, *, over: bool) -> Iterator[Window]:
        rows = device.aligner.due(self._clock())
        if over:
            rows += device.aligner.rest()
        arrived_s = {row.us: row.arrived_s for row in rows}
        for framed in device.frame(rows):
            yield self._window(name, framed, complete_s, arrived_s.get(framed.end_us, 0.0))

    def _window(self, name: str, framed: Framed, complete_s: float, arrived_s: float) -> Window:
        return Window(
            device_id=name,
            samples=framed.samples,
            end=from_us(framed.end_us),
            mono_ns=round(self._monotonic() * 1e9),
            time_quality=TimeQuality.UNKNOWN,
            due_s=complete_s,
            arrived_ns=self._arrived_ns(arrived_s),
        )

    def _arrived_ns(self, at_s: float) -> int:
        """An instant of the steady clock by the monotonic one; 0: it is not known."""
        return round((self._monotonic() - (self._clock() - at_s)) * 1e9) if at_s else 0


class _LiveDevice:
    """One device's grid, and the windows on it."""

    def __init__(self, profile: Profile) -> None:
        self.aligner = Aligner(profile)
        self._profile = profile
        self._dtype = np.dtype(np.float64 if any(profile.wide) else np.float32)
        self.framer = self._new_framer()
        self._past: Counter[str] = Counter(dict.fromkeys(self.framer.counts, 0))

    @property
    def counts(self) -> Counter[str]:
        """What was aligned and framed."""
        total = self.aligner.counts
        total.update(self._past)
        total.update(self.framer.counts)
        return total

    def frame(self, rows: Sequence[GridRow]) -> Iterator[Framed]:
        """Windows that these rows complete; none spans a step of the source's clock."""
        if len(rows) == 1 and not rows[0].begins:
            yield from self.framer.push_row(rows[0].us, rows[0].values)
            return
        starts = [i for i, row in enumerate(rows) if row.begins]
        for first, last in zip([0, *starts], [*starts, len(rows)], strict=True):
            part = rows[first:last]
            if part and part[0].begins:
                self.finish()
                self._past.update(self.framer.counts)
                self.framer = self._new_framer()
            if part:
                us = np.array([row.us for row in part], dtype=np.int64)
                yield from self.framer.push(us, np.array([row.values for row in part], dtype=self._dtype))

    def finish(self) -> None:
        """Count the samples that are in no window."""
        self.framer.finish()

    def _new_framer(self) -> Framer:
        gap, channels = self._profile.replay.max_gap_steps, len(self._profile.channels)
        return Framer(self._profile.sampling, gap, channels, self._dtype)

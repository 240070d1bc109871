"""Repeats values of sources that report changes only: what was not reported again is still so.

It is so while the source says that it lives; whoever reads the source asks for repetitions only then. Each
channel goes on by its own clock, in steps of the profile's rate. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from edge_producer.sources.samples import Sample
from schemas.instants import from_us

MOST_STEPS = 600
"""Repetitions of a channel at once; of a longer silence the newest so many are given."""


@dataclass(slots=True)
class _Standing:
    """One channel's newest value: when it was measured, µs since 1970, and heard, by the steady clock."""

    value: float
    us: int | None
    heard_s: float


class StandingValues:
    """Newest values of all channels of all devices.

    Args:
        step_s: From one sample of the profile to the next.

    Attributes:
        counts: ``repeated`` values.
    """

    def __init__(self, step_s: float) -> None:
        self._step_s = step_s
        self._devices: defaultdict[str, dict[str, _Standing]] = defaultdict(dict)
        self.counts: Counter[str] = Counter(repeated=0)

    def report(self, device_id: str, channel: str, value: float, us: int | None, now_s: float) -> None:
        """Take a channel's newest value.

        Args:
            device_id: Whose it is.
            channel: Its name.
            value: In the channel's unit.
            us: When it was measured; None: some time ago, and it is so now.
            now_s: Steady clock.
        """
        self._devices[device_id][channel] = _Standing(value, us, now_s)

    def void(self, device_id: str, channels: Iterable[str] | None = None) -> tuple[str, ...]:
        """Forget channels of a device, None: all of them; returns those that it knew."""
        known = self._devices[device_id]
        gone = [name for name in (list(known) if channels is None else channels) if name in known]
        for name in gone:
            del known[name]
        return tuple(gone)

    def due(self, now_s: float, now_us: int) -> list[Sample]:
        """Values that no report has replaced for a step or more, once for each step, the oldest first.

        Args:
            now_s: Steady clock.
            now_us: The source's time, where no report of the device says it.
        """
        samples = []
        for device_id, known in self._devices.items():
            self._date(known, now_s, now_us)
            times: defaultdict[int, dict[str, float]] = defaultdict(dict)
            for name, standing in known.items():
                for us in self._steps(standing, now_s):
                    times[us][name] = standing.value
            for us in sorted(times):
                self.counts["repeated"] += len(times[us])
                samples.append(Sample(times[us], from_us(us), device_id))
        return samples

    def _date(self, known: dict[str, _Standing], now_s: float, now_us: int) -> None:
        """Give values that are of some earlier time one that is due at once."""
        clocks = [s.us + round((now_s - s.heard_s) * 1e6) for s in known.values() if s.us is not None]
        for standing in known.values():
            if standing.us is None:
                standing.us = max(clocks, default=now_us) - round(self._step_s * 1e6)
                standing.heard_s = now_s - self._step_s

    def _steps(self, standing: _Standing, now_s: float) -> list[int]:
        """Times at which a value is repeated by now: those that are nearer than half a step are due too."""
        n = int((now_s - standing.heard_s) / self._step_s + 0.5)
        if n <= 0 or standing.us is None:
            return []
        first, step_us = standing.us, self._step_s * 1e6
        standing.us, standing.heard_s = first + round(n * step_us), standing.heard_s + n * self._step_s
        return [first + round(k * step_us) for k in range(max(1, n - MOST_STEPS + 1), n + 1)]

"""Simulates the sensors of a fleet from a seed: windows in the order in which they are due."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count

import numpy as np

from edge_producer.sources.rotating_machine import RotatingMachine
from edge_producer.sources.scenario import Scenario
from edge_producer.window import Samples, Window
from schemas.cohorts import share_of
from schemas.errors import SourceError
from schemas.profile import Profile, Sampling
from schemas.row_schemas import TimeQuality

GENERATORS: dict[str, type[RotatingMachine]] = {"rotating_machine": RotatingMachine}


class SimulateSource:
    """Windows of simulated devices.

    Window k of a device ends ``(k + 1) * hop + phase`` after the scenario's start; the phase (less than
    one hop) is the device's own, so that a fleet does not act in one instant. Windows that ended before
    ``start`` are left out: a restarted process continues in the middle of the scenario.

    Args:
        profile: Needs ``[simulate]``.
        devices: The devices that this process runs.
        scenario: Seed, origin of time and injections.
        start: UTC instant at which the source starts, from which ``due_s`` counts; or a clock, which is asked
            when the first window is: what a process does between would make every window as late.
        duration_s: Seconds after which the source ends; None for never.

    Raises:
        SourceError: The profile names no generator, or a channel that the generator does not have.
    """

    def __init__(
        self,
        profile: Profile,
        devices: Sequence[str],
        scenario: Scenario,
        start: datetime | Callable[[], datetime],
        duration_s: float | None = None,
    ) -> None:
        generator = _generator(profile, scenario)
        self._feeds = [_Feed(generator, profile, device, scenario) for device in devices]
        self._feeds.sort(key=lambda feed: feed.phase_s)
        self._sampling = profile.sampling
        self._scenario_start, self._start = scenario.start, start
        self._duration_s = math.inf if duration_s is None else duration_s
        self._counts: Counter[str] = Counter(samples=0, blank=0)

    @property
    def counts(self) -> Mapping[str, int]:
        """``samples``: samples sensed; ``blank``: values that dropped out."""
        return self._counts

    def windows(self) -> Iterator[Window]:
        """Windows of all devices, by the instant at which they are due."""
        hop_s = self._sampling.hop_s
        start = self._start if isinstance(self._start, datetime) else self._start()
        offset_s = (start - self._scenario_start).total_seconds()
        first = max(math.floor(offset_s / hop_s) - 1, _whole_blocks(self._sampling) - 1, 0)
        for k in count(first):
            if (k + 1) * hop_s - offset_s > self._duration_s:
                return
            for feed in self._feeds:
                due_s = (k + 1) * hop_s + feed.phase_s - offset_s
                if 0 <= due_s <= self._duration_s:
                    yield self._counted(feed.window(k, due_s))

    def _counted(self, window: Window) -> Window:
        fresh = window.samples[-self._sampling.hop_samples :]
        self._counts["samples"] += len(fresh)
        self._counts["blank"] += int(np.isnan(fresh).sum())
        return window


class _Feed:
    """One device: its sensors' blocks of one hop, joined to windows."""

    def __init__(
        self, generator: type[RotatingMachine], profile: Profile, device_id: str, scenario: Scenario
    ) -> None:
        sampling = profile.sampling
        self.phase_s = share_of(device_id, "phase") * sampling.hop_s
        self._device_id = device_id
        self._scenario = scenario
        self._sampling = sampling
        injections = scenario.of(device_id)
        self._sensors = generator(scenario.seed, device_id, sampling.rate_hz, injections, self.phase_s)
        self._columns = [generator.channels.index(c) for c in profile.channel_names]
        self._clock_steps = [i for i in injections if i.kind == "clock_step"]
        self._blocks: deque[tuple[int, Samples]] = deque(maxlen=_whole_blocks(sampling))

    def window(self, k: int, due_s: float) -> Window:
        end_s = (k + 1) * self._sampling.hop_s + self.phase_s
        wrong_s = sum(i.offset for i in self._clock_steps if i.start_s <= end_s < i.end_s)
        return Window(
            device_id=self._device_id,
            samples=self._samples(k),
            end=self._scenario.start + timedelta(seconds=end_s + wrong_s),
            mono_ns=round(end_s * 1e9),
            time_quality=TimeQuality.SYNCHRONISED,
            due_s=due_s,
        )

    def _samples(self, k: int) -> Samples:
        hop, kept = self._sampling.hop_samples, dict(self._blocks)
        for number in range(k + 1 - _whole_blocks(self._sampling), k + 1):
            if number not in kept:
                self._blocks.append((number, self._sensors.block(number, hop)[:, self._columns]))
        joined = np.concatenate([block for _, block in self._blocks])
        return joined[-self._sampling.window_samples :]


def _whole_blocks(sampling: Sampling) -> int:
    """Blocks of one hop that cover a window."""
    return -(-sampling.window_samples // sampling.hop_samples)


def _generator(profile: Profile, scenario: Scenario) -> type[RotatingMachine]:
    if profile.simulate is None:
        raise SourceError(f"profile '{profile.name}' has no [simulate]: name a generator, or replay a file")
    generator = GENERATORS.get(profile.simulate.generator)
    if generator is None:
        known = ", ".join(GENERATORS)
        raise SourceError(f"unknown generator '{profile.simulate.generator}'; known: {known}")
    named = {*profile.channel_names, *(i.channel for i in scenario.injections if i.channel)}
    strange = sorted(named - set(generator.channels))
    if strange:
        raise SourceError(f"generator '{profile.simulate.generator}' has no channels {strange}")
    return generator

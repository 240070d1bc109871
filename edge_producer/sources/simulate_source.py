"""Simulates the sensors of a fleet from a seed: windows in the order in which they are due."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import count

import numpy as np

from edge_producer.sources.recorded_windows import PacedSource
from edge_producer.sources.samples import SampleBlock
from edge_producer.sources.scenario import Scenario
from edge_producer.sources.sensor_generator import (
    GeneratorRequest,
    SensorGenerator,
    load_generator,
    require_known,
)
from edge_producer.window import Samples
from schemas.cohorts import share_of
from schemas.errors import SourceError
from schemas.instants import to_us
from schemas.profile import Profile, Sampling
from schemas.row_schemas import TimeQuality


class SimulateSource(PacedSource):
    """Samples, and windows, of simulated devices.

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
        super().__init__(profile, devices)
        generator = _generator(profile, scenario)
        self._feeds = [_Feed(generator, profile, device, scenario) for device in devices]
        self._feeds.sort(key=lambda feed: feed.phase_s)
        self._sampling = profile.sampling
        self._scenario_start, self._start = scenario.start, start
        self._begun: datetime | None = None
        self._duration_s = math.inf if duration_s is None else duration_s
        self._counts: Counter[str] = Counter(blank=0)

    @property
    def counts(self) -> Mapping[str, int]:
        """``samples``: samples sensed; ``blank``: values that dropped out; and how they were framed."""
        return {**self._counts, **self.framed_counts()}

    def streams(self) -> Mapping[str, Iterator[SampleBlock]]:
        """Each device's samples, hop by hop; the first block is a whole window."""
        if self._begun is None:
            self._begun = self._start if isinstance(self._start, datetime) else self._start()
        offset_s = (self._begun - self._scenario_start).total_seconds()
        return {feed.device_id: self._blocks(feed, offset_s) for feed in self._feeds}

    def origins_us(self) -> tuple[int, int]:
        """A device's own clock counts from the scenario's start, ``due_s`` from the source's."""
        return to_us(self._scenario_start), to_us(self._begun or self._scenario_start)

    def _blocks(self, feed: _Feed, offset_s: float) -> Iterator[SampleBlock]:
        hop_s = self._sampling.hop_s
        first = max(math.floor(offset_s / hop_s) - 1, _whole_blocks(self._sampling) - 1, 0)
        whole = True
        for k in count(first):
            due_s = (k + 1) * hop_s + feed.phase_s - offset_s
            if due_s > self._duration_s:
                return
            if due_s >= 0:
                block = feed.block(k, whole=whole)
                whole = False
                self._counts["blank"] += int(np.isnan(block.values).sum())
                yield block


class _Feed:
    """One device: its sensors' blocks of one hop, joined to windows."""

    def __init__(
        self, generator: type[SensorGenerator], profile: Profile, device_id: str, scenario: Scenario
    ) -> None:
        sampling = profile.sampling
        self.phase_s = share_of(device_id, "phase") * sampling.hop_s
        self.device_id = device_id
        self._scenario = scenario
        self._sampling = sampling
        injections = scenario.of(device_id)
        request = GeneratorRequest(
            scenario.seed, device_id, sampling.rate_hz, injections, self.phase_s, scenario.start
        )
        self._sensors = generator.of(request)
        self._columns = [generator.channels.index(c) for c in profile.channel_names]
        self._clock_steps = [i for i in injections if i.kind == "clock_step"]
        self._blocks: deque[tuple[int, Samples]] = deque(maxlen=_whole_blocks(sampling))

    def block(self, k: int, *, whole: bool) -> SampleBlock:
        """Samples up to the end of window k: those since the window before, or the whole window."""
        sampling = self._sampling
        end_s = (k + 1) * sampling.hop_s + self.phase_s
        wrong_s = sum(i.offset for i in self._clock_steps if i.start_s <= end_s < i.end_s)
        samples = self._samples(k)[-sampling.window_samples if whole else -sampling.hop_samples :]
        ends_s = end_s - np.arange(len(samples) - 1, -1, -1) / sampling.rate_hz
        return SampleBlock(
            device_id=self.device_id,
            us=to_us(self._scenario.start) + np.round(ends_s * 1e6).astype(np.int64),
            values=samples,
            quality=TimeQuality.SYNCHRONISED,
            clock_error_us=round(wrong_s * 1e6),
        )

    def _samples(self, k: int) -> Samples:
        """Samples of all whole blocks that end with window k."""
        hop, kept = self._sampling.hop_samples, dict(self._blocks)
        for number in range(k + 1 - _whole_blocks(self._sampling), k + 1):
            if number not in kept:
                self._blocks.append((number, self._sensors.block(number, hop)[:, self._columns]))
        return np.concatenate([block for _, block in self._blocks])


def _whole_blocks(sampling: Sampling) -> int:
    """Blocks of one hop that cover a window."""
    return -(-sampling.window_samples // sampling.hop_samples)


def _generator(profile: Profile, scenario: Scenario) -> type[SensorGenerator]:
    if profile.simulate is None:
        raise SourceError(f"profile '{profile.name}' has no [simulate]: name a generator, or replay a file")
    name = profile.simulate.generator
    generator = load_generator(name)
    require_known(name, generator, profile.channel_names, scenario.injections)
    return generator

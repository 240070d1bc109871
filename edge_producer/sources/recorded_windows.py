"""Cuts the samples of a paced source into windows, of all devices in the order in which they are due."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edge_producer.sources.framing import Framed, Framer
from edge_producer.sources.samples import SampleBlock
from edge_producer.sources.stuck_channels import StuckChannels
from edge_producer.window import Window
from schemas.instants import from_us
from schemas.profile import Profile


class PacedSource(ABC):
    """A source whose samples are at the profile's rate already; the runner paces its windows.

    Args:
        profile: Sampling and channels.
        devices: Whose samples it gives.
    """

    def __init__(self, profile: Profile, devices: Sequence[str]) -> None:
        dtype = np.dtype(np.float64 if any(profile.wide) else np.float32)
        gap, channels = profile.replay.max_gap_steps, len(profile.channels)
        self._stuck = {d: StuckChannels(profile) for d in devices}
        self._framers = {d: Framer(profile.sampling, gap, channels, dtype) for d in devices}

    @property
    @abstractmethod
    def counts(self) -> Mapping[str, int]:
        """What was read, refused and cut into windows so far, by name."""
        ...

    @abstractmethod
    def streams(self) -> Mapping[str, Iterator[SampleBlock]]:
        """Each device's samples in the order in which they were measured."""
        ...

    @abstractmethod
    def origins_us(self) -> tuple[int, int]:
        """Instants from which the devices' monotonic clock and ``due_s`` count, µs since 1970."""
        ...

    def samples(self) -> Iterator[SampleBlock]:
        """All devices' samples, by the time of the last one of each block."""
        streams = [_by_end(name, blocks) for name, blocks in self.streams().items()]
        for _, _, block in heapq.merge(*streams, key=lambda item: item[:2]):
            yield block

    def close(self) -> None:  # noqa: B027  (it has nothing to end, and need not be overridden)
        """Nothing to end: a paced source never waits."""

    def windows(self) -> Iterator[Window]:
        """Windows of all devices by their ends.

        Raises:
            SourceError: The input cannot be read as the profile says.
        """
        streams = [self._framed(name, blocks) for name, blocks in self.streams().items()]
        for end_us, device, framed, block in heapq.merge(*streams, key=lambda item: item[:2]):
            mono_us, due_us = self.origins_us()
            yield Window(
                device_id=device,
                samples=framed.samples,
                end=from_us(end_us + block.clock_error_us),
                mono_ns=(end_us - mono_us) * 1000,
                time_quality=block.quality,
                due_s=(end_us - due_us) / 1e6,
            )

    def framed_counts(self) -> Counter[str]:
        """What was cut into windows, over all devices; ``stuck``: samples of channels that were."""
        total: Counter[str] = Counter(stuck=sum(stuck.count for stuck in self._stuck.values()))
        for framer in self._framers.values():
            total.update(framer.counts)
        return total

    def _framed(
        self, device: str, blocks: Iterator[SampleBlock]
    ) -> Iterator[tuple[int, str, Framed, SampleBlock]]:
        framer = self._framers[device]
        for block in blocks:
            for framed in framer.push(block.us, self._stuck[device].look(block.us, block.values)):
                yield framed.end_us, device, framed, block
        framer.finish()


def _by_end(name: str, blocks: Iterator[SampleBlock]) -> Iterator[tuple[int, str, SampleBlock]]:
    for block in blocks:
        if len(block.us):
            yield int(block.us[-1]), name, block

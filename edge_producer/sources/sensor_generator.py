"""What replaces sensors: seeded generators, ours and those of entry points ``edgeloop.generators``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from schemas.errors import SourceError
from schemas.plug_ins import load_plug_in, plug_in_names

GROUP = "edgeloop.generators"


@dataclass(frozen=True)
class GeneratorRequest:
    """What a generator is made of.

    Attributes:
        seed: Of the scenario.
        device_id: Whose sensors.
        rate_hz: Samples a second.
        injections: Those that hit this device.
        first_s: Time of sample 0, seconds after ``start``.
        start: Start of the scenario, UTC.
    """

    seed: int
    device_id: str
    rate_hz: float
    injections: tuple[Injection, ...]
    first_s: float
    start: datetime


class SensorBlocks(Protocol):
    """One device's simulated sensors."""

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``; of request, number and size alone.

        Returns:
            Shape (size, C), columns in the order of the generator's channels; NaN where there is no sample.
        """
        ...


class SensorGenerator(Protocol):
    """A class of simulated sensors; the entry point names it.

    Attributes:
        channels: In the order of its columns.
        kinds: Injections that it knows, and whether an alarm is right during one. ``clock_step`` is the
            source's own, and known to all.
    """

    channels: ClassVar[tuple[str, ...]]
    kinds: ClassVar[Mapping[str, bool]]

    @classmethod
    def of(cls, request: GeneratorRequest) -> SensorBlocks:
        """The sensors of one device."""
        ...


def device_number(device_id: str) -> int:
    """A stable number for seeding."""
    return int.from_bytes(hashlib.sha256(device_id.encode()).digest()[:8], "big")


def generator_names() -> frozenset[str]:
    """Names of all generators that this program has."""
    return frozenset(plug_in_names(GROUP))


def load_generator(name: str) -> type[SensorGenerator]:
    """The generator of a name.

    Raises:
        SourceError: None is installed, or two are, or it cannot be imported.
    """
    loaded: type[SensorGenerator] = load_plug_in(
        GROUP, name, "generator", SourceError, lambda known: f"unknown generator '{name}'; known: {known}"
    )
    return loaded


def fault_kinds(name: str) -> frozenset[str]:
    """Kinds of a generator's injections for which an alarm is right.

    Raises:
        SourceError: As ``load_generator``.
    """
    return frozenset(kind for kind, is_fault in load_generator(name).kinds.items() if is_fault)


def require_known(
    name: str, used: type[SensorGenerator], channels: Sequence[str], items: Sequence[Injection]
) -> None:
    """Return if a generator has these channels and knows these injections.

    Raises:
        SourceError: It does not; the text names which.
    """
    named = {*channels, *(item.channel for item in items if item.channel)}
    if strange := sorted(named - set(used.channels)):
        raise SourceError(f"generator '{name}' has no channels {strange}")
    if unknown := sorted({item.kind for item in items} - {*used.kinds, "clock_step"}):
        raise SourceError(f"generator '{name}' knows no {unknown}; it knows: {', '.join(sorted(used.kinds))}")

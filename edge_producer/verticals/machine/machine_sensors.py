"""The generator ``rotating_machine``: what simulates the sensors of one machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from edge_producer.sources.sensor_generator import GeneratorRequest, SensorBlocks
from edge_producer.verticals.machine.rotating_machine import RotatingMachine


class MachineSensors:
    """Sensors of rotating machines."""

    channels: ClassVar[tuple[str, ...]] = RotatingMachine.channels
    kinds: ClassVar[Mapping[str, bool]] = {
        "bearing_wear": True,
        "imbalance": True,
        "recalibration": False,
        "new_regime": False,
        "dropout": False,
    }

    @classmethod
    def of(cls, request: GeneratorRequest) -> SensorBlocks:
        """The sensors of one machine."""
        r = request
        return RotatingMachine(r.seed, r.device_id, r.rate_hz, r.injections, r.first_s)

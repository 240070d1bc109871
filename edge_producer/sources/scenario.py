"""Which faults and changes hit which devices when: a scenario, and its exact ground truth."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    model_validator,
)

from schemas.cohorts import share_of
from schemas.errors import SourceError
from schemas.offending_keys import describe

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
"""A generator says which it knows; what it does not know is refused when the source is opened."""
FAULTS: frozenset[str] = frozenset({"bearing_wear", "imbalance"})
"""Kinds for which an alarm is right. The others are harmless, or faults of the measurement."""


class Injection(BaseModel):
    """One change to some devices.

    Attributes:
        kind: ``bearing_wear``: impulses at the bearing's defect frequency, later heat; ``imbalance``: more
            vibration at shaft speed; ``recalibration``: one channel reads gain * x + offset;
            ``new_regime``: another load and speed; ``dropout``: samples go missing; ``clock_step``: the
            device's clock is off by ``offset`` seconds. Other generators have kinds of their own.
        start_s: Seconds after the scenario's start.
        duration_s: Seconds that it lasts; None where it does not end.
        severity: 1 is a clear case. ``dropout``: share of samples lost (in [0, 1]).
        ramp_s: Time constant of growth of ``bearing_wear`` and ``imbalance``, seconds.
        devices: Device ids; empty: chosen by ``share``.
        share: Share of devices hit; the seed and their ids alone determine which.
        channel: For ``recalibration`` and ``dropout``; empty: every channel (``dropout`` only).
        gain: For ``recalibration``.
        offset: For ``recalibration`` in the channel's unit, for ``clock_step`` in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    start_s: NonNegativeFloat
    duration_s: PositiveFloat | None = None
    severity: NonNegativeFloat = 1.0
    ramp_s: NonNegativeFloat = 5.0
    devices: tuple[str, ...] = ()
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    channel: str = ""
    gain: float = 1.0
    offset: float = 0.0

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "recalibration" and not self.channel:
            raise ValueError("recalibration needs a channel")
        return self

    @property
    def end_s(self) -> float:
        """End in seconds after the scenario's start; infinite where it does not end."""
        return float("inf") if self.duration_s is None else self.start_s + self.duration_s


class Scenario(BaseModel):
    """A seeded simulation: the same scenario and device give the same samples in any process.

    Attributes:
        start: UTC instant that ``start_s`` counts from.
        devices: The whole fleet, for the ground truth.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    start: AwareDatetime
    devices: tuple[str, ...] = ()
    injections: tuple[Injection, ...] = ()

    def of(self, device_id: str) -> tuple[Injection, ...]:
        """Injections that hit a device."""
        return tuple(
            item
            for number, item in enumerate(self.injections)
            if device_id in item.devices
            or (not item.devices and share_of(device_id, f"{self.seed}/{number}") < item.share)
        )


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """Ground truth: one device under one injection.

    Attributes:
        end: None where it does not end.
        is_fault: Whether an alarm in this span is right.
    """

    device_id: str
    kind: Kind
    start: datetime
    end: datetime | None
    is_fault: bool


def truth(scenario: Scenario, devices: Sequence[str] = (), faults: Set[str] = FAULTS) -> list[FaultSpan]:
    """Every span of every device, by start and device.

    Args:
        scenario: What was injected.
        devices: The fleet; default: the scenario's own list.
        faults: Kinds for which an alarm is right.
    """
    spans = [
        _span(scenario.start, device, item, faults)
        for device in (devices or scenario.devices)
        for item in scenario.of(device)
    ]
    return sorted(spans, key=lambda s: (s.start, s.device_id, s.kind))


def _span(start: datetime, device_id: str, item: Injection, faults: Set[str]) -> FaultSpan:
    end = None if item.duration_s is None else start + timedelta(seconds=item.end_s)
    begin = start + timedelta(seconds=item.start_s)
    return FaultSpan(device_id, item.kind, begin, end, item.kind in faults)


def load_scenario(path: Path) -> Scenario:
    """Scenario from its JSON file.

    Raises:
        SourceError: The file is missing or no valid scenario; names each offending key.
    """
    try:
        return Scenario.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise SourceError(f"{path}: cannot be read: {exc}") from exc
    except ValidationError as exc:
        raise SourceError(f"{path}: {describe(exc)}") from exc

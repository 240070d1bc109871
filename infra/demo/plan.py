"""What happens when in a demo; pure, so that the same seed tells the same story."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edge_producer.sources.scenario import Injection, Scenario

WEAR_AT = 0.20
CUT_FROM, CUT_TO = 0.30, 0.50
RECALIBRATION_AT = 0.50
RECALIBRATED_SHARE = 0.8
NORTH, SOUTH = "north", "south"


@dataclass(frozen=True)
class Plan:
    """One demo.

    Attributes:
        sites: Devices by site; ``south`` is the one that loses its network.
        seconds: Length of the story.
        cut_from_s, cut_to_s: Seconds after the start between which ``south`` has no network.
        scenario: What is injected, and thereby the ground truth.
    """

    sites: dict[str, tuple[str, ...]]
    seconds: float
    cut_from_s: float
    cut_to_s: float
    scenario: Scenario

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices."""
        return tuple(d for devices in self.sites.values() for d in devices)

    @property
    def recalibration(self) -> Injection:
        """The injected drift."""
        return next(i for i in self.scenario.injections if i.kind == "recalibration")


def make_plan(profile: str, devices: int, seconds: float, seed: int, start: datetime) -> Plan:
    """The story for so many devices: one wears out, the south loses its network, most are recalibrated."""
    ids = tuple(f"{profile}-{i:02d}" for i in range(devices))
    half = (devices + 1) // 2
    failing = ids[seed % half]
    injections = (
        Injection(
            kind="bearing_wear", start_s=WEAR_AT * seconds, severity=1.0, ramp_s=5.0, devices=(failing,)
        ),
        Injection(
            kind="recalibration",
            start_s=RECALIBRATION_AT * seconds,
            channel="temperature",
            gain=1.0,
            offset=6.0,
            share=RECALIBRATED_SHARE,
        ),
    )
    scenario = Scenario(seed=seed, start=start, devices=ids, injections=injections)
    sites = {NORTH: ids[:half], SOUTH: ids[half:]}
    return Plan(
        {name: members for name, members in sites.items() if members},
        seconds,
        CUT_FROM * seconds,
        CUT_TO * seconds,
        scenario,
    )

"""Plans a demo: which changes are injected when. Pure, so that the same seed gives the same demo."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from edge_producer.sources.scenario import Injection, Scenario
from schemas.profile_file import IN_MINUTES

# When changes begin and the cut lasts, as parts of the demo's length; LINE_: without the loop.
FAULT_AT = 0.10
RECALIBRATION_AT = 0.25
WEAR_AT = 0.70
CUT_FROM, CUT_TO = 0.66, 0.78
LINE_FAULT_AT, LINE_RECALIBRATION_AT = 0.20, 0.50
LINE_CUT_FROM, LINE_CUT_TO = 0.30, 0.50
RECALIBRATED_SHARE = 0.8
"""Of all machines."""
WORN_SHARE = 0.6
"""Of the north's machines."""
RECALIBRATED_BY = 8.0
"""Degrees Celsius."""
NORTH, SOUTH = "north", "south"


@dataclass(frozen=True)
class DemoPlan:
    """The plan of one demo.

    Attributes:
        sites: Devices by site; ``south`` is the one that loses its network.
        seconds: Length of the simulation.
        cut_from_s, cut_to_s: Seconds after the start between which ``south`` has no network.
        scenario: The injected changes, which are also the ground truth.
        worn: Devices that wear out together later; empty without the loop.
    """

    sites: dict[str, tuple[str, ...]]
    seconds: float
    cut_from_s: float
    cut_to_s: float
    scenario: Scenario
    worn: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices."""
        return tuple(d for devices in self.sites.values() for d in devices)

    @property
    def failing(self) -> str:
        """The device whose bearing fails at the beginning."""
        return self.scenario.injections[0].devices[0]

    @property
    def recalibration(self) -> Injection:
        """The injected drift."""
        return next(i for i in self.scenario.injections if i.kind == "recalibration")

    @property
    def wear(self) -> Injection | None:
        """The wear of many machines, which must not become normal."""
        return next((i for i in self.scenario.injections if self.worn and i.devices == self.worn), None)


def make_plan(
    profile: str, devices: int, seconds: float, seed: int, start: datetime, *, loop: bool = True
) -> DemoPlan:
    """The plan for a number of devices.

    One bearing wears out; most machines are recalibrated, which the loop must learn; the south loses its
    network; many machines of the north wear out together, which the loop must not learn. Without the loop
    there is no such wear, and the changes lie closer to the middle.
    """
    kind = profile.removesuffix(IN_MINUTES)
    ids = tuple(f"{kind}-{i:02d}" for i in range(devices))
    half = (devices + 1) // 2
    failing = ids[seed % half]
    fault_at, drift_at = (FAULT_AT, RECALIBRATION_AT) if loop else (LINE_FAULT_AT, LINE_RECALIBRATION_AT)
    cut = (CUT_FROM, CUT_TO) if loop else (LINE_CUT_FROM, LINE_CUT_TO)
    injections = [
        Injection(
            kind="bearing_wear", start_s=fault_at * seconds, severity=1.0, ramp_s=5.0, devices=(failing,)
        ),
        Injection(
            kind="recalibration",
            start_s=drift_at * seconds,
            channel="temperature",
            gain=1.0,
            offset=RECALIBRATED_BY,
            share=RECALIBRATED_SHARE,
        ),
    ]
    healthy = [d for d in ids[:half] if d != failing]
    worn = tuple(healthy[: round(WORN_SHARE * half)]) if loop else ()
    if worn:
        injections.append(
            Injection(kind="bearing_wear", start_s=WEAR_AT * seconds, severity=0.6, ramp_s=20.0, devices=worn)
        )
    scenario = Scenario(seed=seed, start=start, devices=ids, injections=tuple(injections))
    sites = {NORTH: ids[:half], SOUTH: ids[half:]}
    return DemoPlan(
        {name: members for name, members in sites.items() if members},
        seconds,
        cut[0] * seconds,
        cut[1] * seconds,
        scenario,
        worn,
    )

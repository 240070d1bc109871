"""The machines' demo: a bearing fails, sensors are recalibrated, many bearings wear out together."""

from __future__ import annotations

from edge_producer.sources.scenario import Injection
from infra.demo.story import DemoStory, StoryTimes, degrade_together

RECALIBRATED_SHARE = 0.8
"""Of all machines."""
WORN_SHARE = 0.6
"""Of the first site's machines."""
RECALIBRATED_BY = 8.0
"""Degrees Celsius."""


def tell(sites: tuple[tuple[str, ...], ...], seed: int, times: StoryTimes) -> DemoStory:
    """What happens to the machines of these sites.

    One bearing of the first site wears out; most machines are recalibrated, which the loop must learn; many
    machines of the first site wear out together, which it must not learn.
    """
    first = sites[0]
    failing = first[seed % len(first)]
    fault = Injection(
        kind="bearing_wear", start_s=times.fault_s, severity=1.0, ramp_s=5.0, devices=(failing,)
    )
    drift = Injection(
        kind="recalibration",
        start_s=times.drift_s,
        channel="temperature",
        gain=1.0,
        offset=RECALIBRATED_BY,
        share=RECALIBRATED_SHARE,
    )
    told = [
        f"from {fault.start_s:.0f} s the bearing of {failing} wears out",
        f"at {drift.start_s:.0f} s temperature reads {drift.offset:+.0f} degC on {{drifted}} machines",
    ]
    wear = _wear(first, failing, times)
    if wear is not None:
        told.append(f"from {wear.start_s:.0f} s {len(wear.devices)} more bearings wear out together")
    return DemoStory("machines", fault, drift, "temperature", wear, tuple(told))


def _wear(first: tuple[str, ...], failing: str, times: StoryTimes) -> Injection | None:
    worn = degrade_together(first, failing, WORN_SHARE)
    if times.wear_s is None or not worn:
        return None
    return Injection(kind="bearing_wear", start_s=times.wear_s, severity=0.6, ramp_s=20.0, devices=worn)

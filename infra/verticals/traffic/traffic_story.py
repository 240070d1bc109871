"""The demo of intersections: a blocked lane, new pulses for vehicles, blocked lanes at many intersections.

The streets carry an afternoon's demand whatever the clock says: a drift of demand takes days to tell from the
hour, so the drift of this demo is one of the detectors.
"""

from __future__ import annotations

from edge_producer.sources.scenario import Injection
from infra.demo.story import DemoSize, DemoStory, StoryTimes, degrade_together

SECONDS = 360.0
"""An hour of the streets, played ten times as fast: what a street is like, and whether a change of it
has ended, takes longer to know than of a machine."""
DEMAND = 0.6
"""Share of the peak's."""
PULSES = 4.0
"""Pulses a vehicle that the through street's counters give after their new firmware: two coils, two axles."""
BLOCKED_SHARE = 0.6
"""Of the first site's."""


class TrafficStory:
    """See ``StoryTeller``.

    Attributes:
        size: The streets are played ten times as fast, and still slower than machines.
    """

    size = DemoSize(seconds=SECONDS)

    def __call__(self, sites: tuple[tuple[str, ...], ...], seed: int, times: StoryTimes) -> DemoStory:
        """What happens at the intersections of these sites.

        A lane of one intersection is blocked; the through street's counters of all give more pulses a
        vehicle, which the model must learn; then lanes are blocked at many intersections of the first site,
        which it must not learn.
        """
        first = sites[0]
        blocked = first[seed % len(first)]
        fault = Injection(kind="incident", start_s=times.fault_s, channel="queue_n", devices=(blocked,))
        drift = Injection(kind="recalibration", start_s=times.drift_s, channel="flow_ns", gain=PULSES)
        setting = (Injection(kind="steady_demand", start_s=0.0, severity=DEMAND),)
        told = [
            f"the streets run ten times as fast, with {DEMAND:.0%} of the peak's demand whatever the clock "
            f"says; from {fault.start_s:.0f} s the north approach of {blocked} is blocked",
            f"at {drift.start_s:.0f} s the through street's counters of {{drifted}} get a firmware "
            f"that gives {PULSES:.0f} pulses a vehicle",
        ]
        wear = _snow(first, blocked, times)
        if wear is not None:
            more = f"the east approach of {len(wear.devices)} more is blocked, as by snow"
            told.append(f"from {wear.start_s:.0f} s {more}")
        return DemoStory("intersections", fault, drift, "flow_ns", wear, tuple(told), setting)


def _snow(first: tuple[str, ...], blocked: str, times: StoryTimes) -> Injection | None:
    hit = degrade_together(first, blocked, BLOCKED_SHARE)
    if times.wear_s is None or not hit:
        return None
    return Injection(kind="incident", start_s=times.wear_s, channel="queue_e", devices=hit)


STORY = TrafficStory()

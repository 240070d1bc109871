"""Plans a demo: which changes are injected when. Pure, so that the same seed gives the same demo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from edge_producer.sources.scenario import FAULTS, FaultSpan, Scenario, truth
from edge_producer.sources.sensor_generator import fault_kinds
from infra.demo.story import DemoStory, StoryTimes, story_of
from schemas.profile import Profile
from schemas.profile_file import IN_MINUTES

# When changes begin and the cut lasts, as parts of the demo's length; LINE_: without the loop.
FAULT_AT = 0.10
DRIFT_AT = 0.25
WEAR_AT = 0.70
CUT_FROM, CUT_TO = 0.66, 0.78
LINE_FAULT_AT, LINE_DRIFT_AT = 0.20, 0.50
LINE_CUT_FROM, LINE_CUT_TO = 0.30, 0.50
NORTH, SOUTH = "north", "south"
LONGEST_WAIT_S = 15.0
"""A demo waits no longer for the start of a drift window."""


@dataclass(frozen=True)
class DemoPlan:
    """The plan of one demo.

    Attributes:
        sites: Devices by site; ``south`` is the one that loses its network.
        seconds: Length of the simulation.
        cut_from_s, cut_to_s: Seconds after the start between which ``south`` has no network.
        story: What changes.
        scenario: The injected changes, which are also the ground truth.
        faults: Kinds of changes during which an alarm is right.
    """

    sites: dict[str, tuple[str, ...]]
    seconds: float
    cut_from_s: float
    cut_to_s: float
    story: DemoStory
    scenario: Scenario
    faults: frozenset[str] = FAULTS

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices."""
        return tuple(d for devices in self.sites.values() for d in devices)

    @property
    def worn(self) -> tuple[str, ...]:
        """Devices that wear out together later."""
        return () if self.story.wear is None else self.story.wear.devices

    @property
    def spans(self) -> list[FaultSpan]:
        """The ground truth."""
        return truth(self.scenario, faults=self.faults)

    def told(self) -> str:
        """The story for people, one line."""
        hit = sum(1 for d in self.devices if self.story.drift in self.scenario.of(d))
        fault, *rest = (part.format(drifted=hit) for part in self.story.told)
        length = f"{len(self.devices)} {self.story.noun} at {len(self.sites)} sites for {self.seconds:.0f} s"
        cut = [f"{self.cut_from_s:.0f}-{self.cut_to_s:.0f} s {SOUTH} has no network"] * (SOUTH in self.sites)
        return "; ".join([f"{length}: {fault}", *rest[:1], *cut, *rest[1:]]) + "."


def on_window(at: datetime, window_s: float) -> datetime:
    """The next start of a drift window, where these are short; else the same instant.

    A demo has few windows before its drift: where a first one held a part of a robot's cycle, it lay as far
    off as a change does, and the drift watch took that much more evidence, or missed the change.
    """
    if window_s > LONGEST_WAIT_S:
        return at
    return datetime.fromtimestamp(math.ceil(at.timestamp() / window_s) * window_s, UTC)


def make_plan(
    profile: Profile, devices: int, seconds: float, seed: int, start: datetime, *, loop: bool = True
) -> DemoPlan:
    """The plan for a number of devices of a profile, which names a generator.

    One device fails; something changes for most of them, which the loop must learn; the south loses its
    network; many devices of the north degrade together, which the loop must not learn. Without the loop there
    is no such wear, and the changes lie closer to the middle.

    Raises:
        ProfileError: The generator has no demo.
    """
    kind = profile.name.removesuffix(IN_MINUTES)
    ids = tuple(f"{kind}-{i:02d}" for i in range(devices))
    half = (devices + 1) // 2
    sites = {name: members for name, members in ((NORTH, ids[:half]), (SOUTH, ids[half:])) if members}
    fault_at, drift_at = (FAULT_AT, DRIFT_AT) if loop else (LINE_FAULT_AT, LINE_DRIFT_AT)
    cut = (CUT_FROM, CUT_TO) if loop else (LINE_CUT_FROM, LINE_CUT_TO)
    times = StoryTimes(fault_at * seconds, drift_at * seconds, WEAR_AT * seconds if loop else None)
    generator = profile.simulate.generator if profile.simulate else ""
    tell = story_of(generator)
    faults = fault_kinds(generator)
    story = tell(tuple(sites.values()), seed, times)
    scenario = Scenario(seed=seed, start=start, devices=ids, injections=story.injections)
    return DemoPlan(sites, seconds, cut[0] * seconds, cut[1] * seconds, story, scenario, faults)

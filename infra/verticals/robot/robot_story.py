"""The robots' demo: an arm strikes something, most get another tool, several gears wear out together."""

from __future__ import annotations

from edge_producer.sources.scenario import Injection
from edge_producer.verticals.robot.robot_sensors import PAYLOAD_KG
from edge_producer.verticals.robot.work_program import CYCLE_S
from infra.demo.story import DemoSize, DemoStory, StoryTimes, degrade_together

TOOL_SHARE, TOOL = 0.8, 1.5
"""Of all robots, and the severity of what they get: 1.8 kg more. An arm that does not know it is close to
stopping."""
WORN_SHARE, WORN = 0.6, 0.8
"""Of the first site's robots."""
STRIKES = 2
FOUND_BY = {"collision": "collision", "joint_wear": "degradation"}
"""Output that is to find each fault of the demo."""


class RobotStory:
    """See ``StoryTeller``.

    Attributes:
        size: Twenty windows a second of each robot: fleet, broker and cloud share two cores.
    """

    size = DemoSize(devices=8, seconds=260.0)

    def __call__(self, sites: tuple[tuple[str, ...], ...], seed: int, times: StoryTimes) -> DemoStory:
        """What happens to the robots of these sites.

        One robot strikes something, which it must notice by itself; most get another tool, which the loop
        must learn; gears of the first site wear out together, which it must not learn.
        """
        first = sites[0]
        struck = first[seed % len(first)]
        hit = Injection(
            kind="collision", start_s=times.fault_s, duration_s=STRIKES * CYCLE_S, devices=(struck,)
        )
        tool = Injection(kind="payload", start_s=times.drift_s, severity=TOOL, share=TOOL_SHARE)
        told = [
            f"from {hit.start_s:.0f} s the arm of {struck} strikes something, {STRIKES} times",
            f"at {tool.start_s:.0f} s {{drifted}} robots get a tool of {TOOL * PAYLOAD_KG:.2g} kg more",
        ]
        wear = _wear(first, struck, times)
        if wear is not None:
            told.append(f"from {wear.start_s:.0f} s {len(wear.devices)} shoulder gears wear out together")
        return DemoStory("robots", hit, tool, "current_2", wear, tuple(told), found_by=FOUND_BY)


def _wear(first: tuple[str, ...], struck: str, times: StoryTimes) -> Injection | None:
    worn = degrade_together(first, struck, WORN_SHARE)
    if times.wear_s is None or not worn:
        return None
    return Injection(
        kind="joint_wear",
        start_s=times.wear_s,
        severity=WORN,
        ramp_s=10.0,
        channel="current_1",
        devices=worn,
    )


STORY = RobotStory()

"""The local decision of an intersection, window by window: next phase and its green time. Pure.

Bounds are kept three times: here, by the numbers that the policy role signed, and by the signal head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from edge_producer.verticals.traffic.intersection_lanes import IntersectionLanes
from schemas.verticals.traffic.phase_control import PhaseChoice, SignalView, next_phase
from schemas.verticals.traffic.plan_table import plan_in_force
from schemas.verticals.traffic.signal_plan import infeasible
from schemas.verticals.traffic.standard_junction import NAMES, detected

ACTION = "serve_phase"
LONGEST_STEP_S = 30.0
"""After a longer time without windows, the phases' red times begin anew."""


@dataclass
class ShownPhase:
    """What the decision knows of the signal from window to window; JSON values only."""

    phase: int
    green_since_s: float
    last_green_s: list[float]
    at_s: float


class SignalDecision:
    """Chooses phases for one intersection.

    Args:
        lanes: Phases, bounds, and how wide they are.
        step_s: Seconds between two windows.
        time_zone: Of the plan table's hours.
        pace: Seconds of the street in one of the clock: above 1 where a profile plays it faster.
    """

    def __init__(self, lanes: IntersectionLanes, step_s: float, time_zone: str, pace: float = 1.0) -> None:
        self._junction, self._widths = lanes.junction, lanes.widths
        self._step_s, self._time_zone, self._pace = step_s * pace, time_zone, pace

    def decide(
        self,
        features: Mapping[str, float],
        event_time: datetime,
        parameters: Mapping[str, Any],
        state: Mapping[str, Any] | None,
    ) -> tuple[PhaseChoice, dict[str, Any]]:
        """The next phase, and the state for the next window.

        Args:
            features: ``queue_<phase>_queued_last``, or of its approaches: one more than wait, in a phase of
                the shipped width; what is missing or NaN makes the signal follow the plan as it is.
            event_time: UTC end of the window.
            parameters: The plan table in force; empty: none. An infeasible plan counts as none.
            state: What was returned for the window before; None at the beginning.
        """
        now_s = event_time.timestamp() * self._pace
        shown = self._shown(state, now_s)
        plan = plan_in_force(parameters, event_time, self._time_zone)
        if plan is not None and infeasible(plan, self._junction):
            plan = None
        vehicles = [
            [width * (features.get(f"queue_{part}_queued_last", math.nan) - 1.0) for part in detected(name)]
            for name, width in zip(NAMES, self._widths, strict=True)
        ]
        view = SignalView(
            shown.phase,
            max(now_s - shown.green_since_s, 0.0),
            tuple(0.0 if k == shown.phase else now_s - last for k, last in enumerate(shown.last_green_s)),
        )
        choice = next_phase(self._junction, view, vehicles, now_s, plan, self._step_s)
        return choice, asdict(self._after(shown, choice, now_s))

    def _shown(self, state: Mapping[str, Any] | None, now_s: float) -> ShownPhase:
        if state is not None:
            found = ShownPhase(**state)
            if 0 <= now_s - found.at_s <= LONGEST_STEP_S and len(found.last_green_s) == len(
                self._junction.phases
            ):
                return found
        return ShownPhase(0, now_s, [now_s] * len(self._junction.phases), now_s)

    def _after(self, shown: ShownPhase, choice: PhaseChoice, now_s: float) -> ShownPhase:
        last = list(shown.last_green_s)
        if now_s >= shown.green_since_s:
            last[shown.phase] = now_s
        if choice.phase == shown.phase:
            return ShownPhase(shown.phase, shown.green_since_s, last, now_s)
        return ShownPhase(choice.phase, now_s + self._junction.intergreen_s, last, now_s)

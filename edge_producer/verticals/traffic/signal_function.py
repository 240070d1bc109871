"""The decision function ``intersection_phase``: entry point of ``edgeloop.decisions``, made once a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_producer.deciding.decision_function import DecisionAnswer, DecisionRequest
from edge_producer.verticals.traffic.intersection_lanes import lanes_of
from edge_producer.verticals.traffic.signal_decision import ACTION, SignalDecision
from schemas.profile import Profile
from schemas.verticals.traffic.plan_table import own_faults


class IntersectionPhase:
    """The next phase of one intersection, as numbers ``phase`` and ``green_s`` of the action ``serve_phase``.

    An incident that the rules alarm changes nothing in what is served: the choice sees the queue behind it.

    Args:
        device_id: Of the intersection.
        profile: Gives the hop, and the time zone of the plan table.

    Raises:
        ValueError: The file of lanes cannot be read, or is none.
    """

    def __init__(self, device_id: str, profile: Profile) -> None:
        self.device_id = device_id
        lanes = lanes_of(device_id)
        self._junction = lanes.junction
        zone = profile.calendar_zone or "UTC"
        sampling = profile.sampling
        # A sample is a second of the street: more of them a second are a street that is played faster.
        self._decision = SignalDecision(lanes, sampling.hop_s, zone, sampling.rate_hz)

    def __call__(self, request: DecisionRequest) -> DecisionAnswer:
        """Phase and green time from the queues of the window, and the plan in force."""
        choice, state = self._decision.decide(
            request.features, request.event_time, request.parameters, request.state
        )
        numbers = {"phase": float(choice.phase), "green_s": choice.green_s}
        return DecisionAnswer(ACTION, numbers, state)

    def check_parameters(self, values: Mapping[str, Any]) -> None:
        """Refuse a plan table that this intersection cannot run.

        Raises:
            ValueError: A plan of it is missing or infeasible; the text says of which hour.
        """
        if found := own_faults(values, self._junction):
            raise ValueError("; ".join(found[:3]))

"""The intersection of the shipped profile: a phase for each street, one for its left turns."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.verticals.traffic.junction import LANE_SATURATION, Junction, Phase, all_conflicts
from schemas.verticals.traffic.road_site import Arm, RoadSite

NAMES = ("ns", "ns_left", "ew", "ew_left")
_STREAMS = (
    ("n_through", "s_through"),
    ("n_left", "s_left"),
    ("e_through", "w_through"),
    ("e_left", "w_left"),
)
_LANES = (2, 2, 2, 2)
APPROACHES = {"ns": ("n", "s"), "ew": ("e", "w")}
"""Approaches of the phases that have detectors for each; those of left turns count both together."""
MIN_GREEN_S, MAX_GREEN_S = (5.0, 6.0, 5.0, 6.0), 50.0


def standard_junction() -> Junction:
    """Its phases and bounds; the same for each device of the profile."""
    streams = [frozenset(group) for group in _STREAMS]
    phases = tuple(
        Phase(name, group, LANE_SATURATION * lanes, shortest, MAX_GREEN_S)
        for name, group, lanes, shortest in zip(NAMES, streams, _LANES, MIN_GREEN_S, strict=True)
    )
    return Junction(phases, all_conflicts(streams))


def detected(phase: str) -> tuple[str, ...]:
    """What the queue detectors of a phase are named after: its approaches, or the phase."""
    return APPROACHES.get(phase, (phase,))


def approach_site(name: str, shares: Sequence[float]) -> RoadSite:
    """One such intersection by itself, an arm for each detector of queues.

    Args:
        name: Of the intersection.
        shares: Of the first approach in the vehicles of its phase, for each phase of ``APPROACHES``.
    """
    junction, firsts = standard_junction(), dict(zip(APPROACHES, shares, strict=True))
    arms = []
    for k, phase in enumerate(junction.phases):
        parts = detected(phase.name)
        for place, part in enumerate(parts):
            share = 1.0 if len(parts) == 1 else (firsts[phase.name], 1 - firsts[phase.name])[place]
            arms.append(Arm(f"{name}/{part}", name, k, phase.saturation / len(parts), share))
    return RoadSite({name: junction}, tuple(arms))


def single_site(name: str) -> RoadSite:
    """One such intersection by itself, an arm for each phase."""
    junction = standard_junction()
    arms = tuple(Arm(f"{name}/{k}", name, k, p.saturation, 1.0) for k, p in enumerate(junction.phases))
    return RoadSite({name: junction}, arms)

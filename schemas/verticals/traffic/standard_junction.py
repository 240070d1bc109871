"""The intersection of the shipped profile: a phase for each street, one for its left turns."""

from __future__ import annotations

from schemas.verticals.traffic.junction import Junction, Phase, all_conflicts
from schemas.verticals.traffic.road_site import Arm, RoadSite

NAMES = ("ns", "ns_left", "ew", "ew_left")
_STREAMS = (
    ("n_through", "s_through"),
    ("n_left", "s_left"),
    ("e_through", "w_through"),
    ("e_left", "w_left"),
)
_LANES = (2, 2, 2, 2)
LANE_SATURATION = 0.5
"""Vehicles a second and lane."""
MIN_GREEN_S, MAX_GREEN_S = (5.0, 6.0, 5.0, 6.0), 50.0


def standard_junction() -> Junction:
    """Its phases and bounds; the same for each device of the profile."""
    streams = [frozenset(group) for group in _STREAMS]
    phases = tuple(
        Phase(name, group, LANE_SATURATION * lanes, shortest, MAX_GREEN_S)
        for name, group, lanes, shortest in zip(NAMES, streams, _LANES, MIN_GREEN_S, strict=True)
    )
    return Junction(phases, all_conflicts(streams))


def single_site(name: str) -> RoadSite:
    """One such intersection by itself, an arm for each phase."""
    junction = standard_junction()
    arms = tuple(Arm(f"{name}/{k}", name, k, p.saturation, 1.0) for k, p in enumerate(junction.phases))
    return RoadSite({name: junction}, arms)

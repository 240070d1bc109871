"""Chooses the next phase of a signal and its green time, from vehicles at its detectors. Pure.

Without a plan the rule is the optimisation part of Lämmer and Helbing, Self-control of traffic lights and
vehicle flows in urban road networks (J. Stat. Mech. P04019, 2008): serve the phase that clears most
vehicles a second, where another phase than the green one first costs the intergreen and the start of its
queue, and what it costs to come back. Their stabilisation is here that a green is kept while its queue
leaves well, and a longest red. With a plan, the phase
whose part of the cycle it is counts for more by the plan's ``pull``: 0 leaves the choice free, and the
larger it is, the closer the signal keeps to the plan while its detectors see vehicles.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.verticals.traffic.junction import START_LOSS_S, Junction
from schemas.verticals.traffic.signal_plan import SignalPlan

APPROACH_S = 7.0
"""Seconds that a moving vehicle takes from where it is first detected to the stop line: fewer vehicles than
leave a queue in this time are traffic that passes, and leave no faster than they come."""
KEPT_SHARE = 0.4
"""A green is kept, up to its longest, while it clears so much of its saturation flow. Chosen with our own
queue model, detectors of 100 m given: without it a wide street takes the green back from a narrow one whose
queue still leaves, and the delay is 10 to 60 % more near capacity."""
SETUPS_LOST = 2.0
"""Set-ups (intergreen and start) that it costs to leave a phase before its vehicles have passed. Chosen with
our own queue model: against 0 it saves 5 to 30 % of the delay near capacity."""
MOST_VEHICLES = 1000.0
"""What a detector says beyond is counted as so many."""
LONGEST_RED_S = 90.0
"""A phase with vehicles that has waited so long is served next."""

Counts = Sequence[Sequence[float]]
"""Vehicles by phase and approach; the approaches of a phase count as equally wide."""


@dataclass(frozen=True, slots=True)
class SignalView:
    """What a signal shows.

    Attributes:
        phase: Number of the phase that is green, or will be after the intergreen.
        green_s: Seconds since its green began; 0 during the intergreen.
        red_s: Seconds since each phase was green last; 0 for the one that is.
    """

    phase: int
    green_s: float
    red_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class PhaseChoice:
    """Phase to show next (or to keep), and the whole length that its green is to have, seconds."""

    phase: int
    green_s: float


def next_phase(
    junction: Junction,
    view: SignalView,
    vehicles: Counts,
    now_s: float,
    plan: SignalPlan | None,
    step_s: float,
) -> PhaseChoice:
    """The phase to show from now on.

    Args:
        junction: Phases and bounds.
        view: What the signal shows.
        vehicles: Waiting or approaching, by phase and approach; NaN where the detectors do not say.
        now_s: Seconds since 1970, UTC.
        plan: The plan in force, if there is one; where detectors fail it is followed as it stands.
        step_s: Seconds until the next choice.
    """
    if any(math.isnan(count) for counts in vehicles for count in counts):
        return _planned(junction, view, now_s, plan, step_s)
    return _kept(junction, view, _best(junction, view, vehicles, _weights(junction, now_s, plan)), step_s)


def fixed_phase(
    junction: Junction, view: SignalView, now_s: float, plan: SignalPlan, step_s: float
) -> PhaseChoice:
    """The phase of a fixed plan."""
    phase, left_s = plan.at(now_s)
    if left_s <= junction.intergreen_s:  # its green is over: the intergreen leads to the next
        phase = (phase + 1) % len(junction.phases)
    return _kept(junction, view, phase, step_s)


def equal_plan(junction: Junction, cycle_s: float = 80.0) -> SignalPlan:
    """A plan without knowledge of demand: above the shortest greens, each phase gets as much."""
    cycle_s = max(cycle_s, junction.shortest_cycle_s)
    spare = (cycle_s - junction.shortest_cycle_s) / len(junction.phases)
    parts = [(p.min_green_s + junction.intergreen_s + spare) / cycle_s for p in junction.phases]
    return SignalPlan(cycle_s, 0.0, tuple(parts))


def _planned(
    junction: Junction, view: SignalView, now_s: float, plan: SignalPlan | None, step_s: float
) -> PhaseChoice:
    return fixed_phase(junction, view, now_s, plan or equal_plan(junction), step_s)


def _weights(junction: Junction, now_s: float, plan: SignalPlan | None) -> list[float]:
    """How much each phase's rate counts; a planned phase whose green is over gives way to the next."""
    weights = [1.0] * len(junction.phases)
    if plan is not None and plan.pull > 0:
        planned, left_s = plan.at(now_s)
        if left_s <= junction.intergreen_s:
            planned = (planned + 1) % len(weights)
        weights[planned] += plan.pull
    return weights


def _best(junction: Junction, view: SignalView, vehicles: Counts, weights: Sequence[float]) -> int:
    """The phase to serve.

    The green one while it clears well; then the one that waits longest beyond the longest red; then the one
    that clears most vehicles a second.
    """
    every = range(len(junction.phases))
    if _clears(junction, view, vehicles[view.phase], weights):
        return view.phase
    late = [k for k in every if any(vehicles[k]) and view.red_s[k] >= LONGEST_RED_S]
    if late:
        return max(late, key=lambda k: view.red_s[k])
    waiting = any(vehicles[view.phase]) and view.green_s > 0
    left_s = SETUPS_LOST * (junction.intergreen_s + START_LOSS_S) if waiting else 0.0
    rates = [weights[k] * _rate(junction, view, vehicles[k], k, left_s) for k in every]
    best = max(every, key=lambda k: rates[k])
    # Nothing to gain: the green phase stays.
    return best if rates[best] > rates[view.phase] else view.phase


def _clears(junction: Junction, view: SignalView, counts: Sequence[float], weights: Sequence[float]) -> bool:
    """Whether the green phase clears enough of its saturation flow; a plan that pulls elsewhere asks more."""
    if view.green_s <= 0:
        return False
    rate = _rate(junction, view, counts, view.phase, 0.0)
    least = KEPT_SHARE * junction.phases[view.phase].saturation
    return weights[view.phase] * rate >= least * max(weights)


def _rate(junction: Junction, view: SignalView, counts: Sequence[float], phase: int, left_s: float) -> float:
    """Vehicles a second that a phase would clear; ``left_s``: what leaving the green phase costs.

    Each approach leaves at its own part of the saturation flow: where one is empty, the phase clears no more
    than the other lets. It may end with any of its approaches, whichever clears most a second.
    """
    saturation = junction.phases[phase].saturation / len(counts)
    waiting = [min(count, MOST_VEHICLES) for count in counts if count > 0]
    is_green = phase == view.phase and view.green_s > 0
    first_s = 0.0 if is_green else junction.intergreen_s + START_LOSS_S + left_s
    best = 0.0
    for last in waiting:
        served_s = max(last / saturation, APPROACH_S) if is_green else last / saturation
        served = sum(min(count, saturation * served_s) for count in waiting)
        best = max(best, served / (first_s + served_s))
    return best


def _kept(junction: Junction, view: SignalView, wanted: int, step_s: float) -> PhaseChoice:
    """The wanted phase, or the green one while its shortest green lasts; with its green time in bounds."""
    shown = junction.phases[view.phase]
    if wanted != view.phase and view.green_s < shown.min_green_s:
        wanted = view.phase
    phase = junction.phases[wanted]
    so_far = view.green_s if wanted == view.phase else 0.0
    green_s = min(max(so_far + step_s, phase.min_green_s), phase.max_green_s)
    if wanted == view.phase and view.green_s >= phase.max_green_s:
        wanted = _after_longest(view)
        green_s = junction.phases[wanted].min_green_s
    return PhaseChoice(wanted, green_s)


def _after_longest(view: SignalView) -> int:
    """The phase that has been red longest."""
    return max(range(len(view.red_s)), key=lambda k: view.red_s[k])

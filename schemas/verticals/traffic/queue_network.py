"""Our own queue model of a site: point queues with saturation flow, platoons that travel and spread. Seeded.

A queue has no length on the road: it never blocks the intersection before it. Second by second; vehicles
are whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.verticals.traffic.junction import LANE_SATURATION, START_LOSS_S
from schemas.verticals.traffic.late_orders import LateOrders
from schemas.verticals.traffic.phase_control import fixed_phase, next_phase
from schemas.verticals.traffic.road_site import RoadSite
from schemas.verticals.traffic.signal_head import SignalHead
from schemas.verticals.traffic.signal_plan import SignalPlan

Array = NDArray[np.float64]
ZONE_S = 7
"""Seconds before the stop line from which on a vehicle is counted."""
SPREAD = 0.15
"""Standard deviation of a vehicle's travel time, as a share of the time in free flow."""

Demand = Callable[[int], Mapping[str, float]]
"""Vehicles a second that reach each arm from outside, at a second."""


@dataclass(frozen=True)
class QueueRun:
    """What a run of the queue model cost.

    Attributes:
        delay_s: Mean seconds in queues a vehicle that entered.
        vehicles: Vehicles that entered the site.
        standing: Vehicles in queues at the end.
    """

    delay_s: float
    vehicles: int
    standing: int


class QueueNetwork:
    """The queues of a site and its signals.

    Args:
        site: Arms and intersections.
        demand: From outside, by second.
        seed: Of arrivals, turns and travel times.
        step_s: Seconds between two choices of a signal.
        now_s: Seconds since 1970 of the first second.
        zone: Vehicles of a lane that its detectors can see; what stands behind them is not counted.
        late_s: Seconds that a choice takes to reach its signal.
    """

    def __init__(
        self,
        site: RoadSite,
        demand: Demand,
        seed: int,
        step_s: int = 2,
        now_s: float = 0.0,
        zone: float = math.inf,
        late_s: int = 0,
    ) -> None:
        self._site, self._demand, self._step_s, self._begin_s = site, demand, step_s, now_s
        self._rng = np.random.default_rng(seed)
        self._on_their_way = LateOrders(late_s)
        self._number = {arm.name: k for k, arm in enumerate(site.arms)}
        self._saturation = np.array([arm.saturation for arm in site.arms])
        self._most = zone * self._saturation / LANE_SATURATION
        self._exits = self._exits_of(site)
        self._of_phase = {
            name: [
                [k for k, a in enumerate(site.arms) if (a.junction, a.phase) == (name, p)]
                for p in range(len(j.phases))
            ]
            for name, j in site.junctions.items()
        }
        longest = max((f.travel_s for a in site.arms for f in a.feeders), default=0.0)
        self._ring = np.zeros((int(longest * 2) + 2 * ZONE_S + 4, len(site.arms)), dtype=np.int64)
        self.queue: NDArray[np.int64] = np.zeros(len(site.arms), dtype=np.int64)
        self.departed: NDArray[np.int64] = np.zeros(len(site.arms), dtype=np.int64)
        self.arrived: NDArray[np.int64] = np.zeros(len(site.arms), dtype=np.int64)
        self._credit = np.zeros(len(site.arms))
        self.heads = {name: SignalHead(j, now_s) for name, j in site.junctions.items()}
        self.capacity: Array = np.ones(len(site.arms))
        """Share of the saturation flow that each arm has: below 1 in an incident."""
        self.waited = 0.0
        self.entered = 0
        self._second = 0

    def _exits_of(self, site: RoadSite) -> list[list[tuple[int, float, float]]]:
        found: list[list[tuple[int, float, float]]] = [[] for _ in site.arms]
        for arm in site.arms:
            for feeder in arm.feeders:
                found[self._number[feeder.arm]].append(
                    (self._number[arm.name], feeder.share, feeder.travel_s)
                )
        return found

    def vehicles(self) -> dict[str, list[list[float]]]:
        """Waiting or approaching, by intersection, phase and arm: what its detectors count."""
        soon = [(self._second + k) % len(self._ring) for k in range(ZONE_S)]
        counted = np.minimum(self.queue + self._ring[soon].sum(axis=0), self._most).tolist()
        return {
            n: [[float(counted[k]) for k in arms] for arms in phases] for n, phases in self._of_phase.items()
        }

    def step(self, plans: Mapping[str, SignalPlan] | None, *, choosing: bool = True) -> None:
        """One second: signals, then arrivals, then departures.

        Args:
            plans: In force, by intersection; None: each signal chooses freely.
            choosing: False: the plans are followed as they stand.
        """
        now_s = self._begin_s + self._second
        green = self._signals(now_s, plans or {}, choosing=choosing)
        place = self._second % len(self._ring)
        outside = self._demand(self._second)
        rates = np.array([outside.get(arm.name, 0.0) for arm in self._site.arms])
        fresh = self._rng.poisson(rates)
        self.entered += int(fresh.sum())
        self._ring[(self._second + ZONE_S) % len(self._ring)] += fresh
        came = self._ring[place].copy()
        self._ring[place] = 0
        self.arrived = came
        self.queue += came
        self._depart(green)
        self.waited += float(self.queue.sum())
        self._second += 1

    def _signals(self, now_s: float, plans: Mapping[str, SignalPlan], *, choosing: bool) -> NDArray[np.bool_]:
        green = np.zeros(len(self._site.arms), dtype=bool)
        choose = self._second % self._step_s == 0
        counts = self.vehicles() if choose and choosing else {}
        for name, head in self.heads.items():
            if choose:
                junction, plan = self._site.junctions[name], plans.get(name)
                if choosing:
                    made = next_phase(junction, head.view, counts[name], now_s, plan, float(self._step_s))
                    self._on_their_way.send(self._second, head, made.phase)
                elif plan is not None:
                    head.tell(fixed_phase(junction, head.view, now_s, plan, float(self._step_s)).phase)
            self._on_their_way.arrive(self._second)
            shown = head.step(now_s)
            if shown is not None and head.green_s >= START_LOSS_S:
                green[self._of_phase[name][shown]] = True
        return green

    def _depart(self, green: NDArray[np.bool_]) -> None:
        self._credit = np.where(green, np.minimum(self._credit + self._saturation * self.capacity, 8.0), 0.0)
        free = np.minimum(np.floor(self._credit), self.queue).astype(np.int64)
        self._credit -= free
        self._credit[self.queue == free] = np.minimum(self._credit[self.queue == free], 1.0)
        self.queue -= free
        self.departed = free
        for k in np.flatnonzero(free):
            self._send(int(k), int(free[k]))

    def _send(self, k: int, count: int) -> None:
        exits = self._exits[k]
        if not exits:
            return
        for draw, spread in zip(self._rng.random(count), self._rng.normal(1.0, SPREAD, count), strict=True):
            below = 0.0
            for target, share, travel_s in exits:
                below += share
                if draw < below:
                    after = int(np.clip(round(travel_s * spread), ZONE_S + 1, len(self._ring) - 1))
                    self._ring[(self._second + after) % len(self._ring), target] += 1
                    break


def run_queues(
    site: RoadSite,
    demand: Demand,
    seed: int,
    seconds: int,
    plans: Mapping[str, SignalPlan] | None,
    *,
    choosing: bool = True,
) -> QueueRun:
    """Run the queue model from empty streets."""
    network = QueueNetwork(site, demand, seed)
    for _ in range(seconds):
        network.step(plans, choosing=choosing)
    entered = max(network.entered, 1)
    return QueueRun(network.waited / entered, network.entered, int(network.queue.sum()))


def constant(rates: Mapping[str, float], quarters: Sequence[float] = (1.0,), quarter_s: int = 900) -> Demand:
    """The same demand all the time, times a factor a quarter of an hour."""
    made = [{name: rate * factor for name, rate in rates.items()} for factor in quarters]
    return lambda second: made[(second // quarter_s) % len(made)]

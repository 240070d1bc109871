"""Delay of fixed-time plans in a network: cyclic flow profiles with platoon dispersion, as in TRANSYT. Pure.

D. I. Robertson, TRANSYT: a traffic network study tool, RRL report LR 253, 1969. Many plans are computed
at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.verticals.traffic.junction import START_LOSS_S
from schemas.verticals.traffic.road_site import RoadSite

Array = NDArray[np.float64]
PASSES = 3
"""How often profiles are carried along the links: a site may have circles."""
DISPERSION = 0.35
FASTEST = 0.8
"""Robertson's two constants: of the dispersion, and the head of a platoon's share of the mean travel time."""
HORIZON_S = 900.0
"""Seconds over which a queue above its capacity grows."""


class CyclicProfiles:
    """Delay of many plans of one cycle.

    Args:
        site: Arms and links.
        flows: Vehicles a second of each arm.
        cycle_s: Whole seconds.
    """

    def __init__(self, site: RoadSite, flows: Mapping[str, float], cycle_s: int) -> None:
        self._cycle = cycle_s
        names = {arm.name: k for k, arm in enumerate(site.arms)}
        self._flow = np.array([flows[arm.name] for arm in site.arms])
        self._saturation = np.array([arm.saturation for arm in site.arms])
        entering = site.entering(flows)
        self._outside = np.array([entering[arm.name] for arm in site.arms])
        self._links = [
            (names[f.arm], names[arm.name], f.share, self._kernel(f.travel_s))
            for arm in site.arms
            for f in arm.feeders
        ]

    def _kernel(self, travel_s: float) -> NDArray[np.complex128]:
        """Transform of what one vehicle's departure becomes downstream, around the cycle."""
        head_s = FASTEST * travel_s
        smooth = 1.0 / (1.0 + DISPERSION * head_s)
        steps = np.arange(40 * self._cycle)
        weights = smooth * (1 - smooth) ** steps
        around = np.bincount((round(head_s) + steps) % self._cycle, weights, minlength=self._cycle)
        return np.asarray(np.fft.rfft(around / around.sum()))

    def delay(self, begins_s: Array, greens_s: Array) -> Array:
        """Vehicles that wait at a time, in the mean: seconds of delay a second.

        Args:
            begins_s: Shape (plans, arms): when each arm's green begins, seconds into the cycle.
            greens_s: Shape (plans, arms): its length.

        Returns:
            Shape (plans,).
        """
        open_ = self._open(begins_s, greens_s)
        arrivals = np.broadcast_to(self._flow[:, None], open_.shape).copy()
        waiting = np.zeros(open_.shape[:2])
        for _ in range(PASSES):
            departures, waiting = self._discharge(arrivals, open_)
            spectrum = np.fft.rfft(departures, axis=-1)
            moved = np.zeros_like(spectrum)
            for source, target, share, kernel in self._links:
                moved[:, target] += share * spectrum[:, source] * kernel
            arrivals = self._outside[:, None] + np.fft.irfft(moved, n=self._cycle, axis=-1)
        return np.asarray((waiting + self._random(open_.mean(axis=-1))).sum(axis=1))

    def _open(self, begins_s: Array, greens_s: Array) -> Array:
        """Share of the saturation flow at each second, shape (plans, arms, cycle)."""
        into = (np.arange(self._cycle) - begins_s[..., None]) % self._cycle
        return ((into >= START_LOSS_S) & (into < greens_s[..., None])).astype(np.float64)

    def _discharge(self, arrivals: Array, open_: Array) -> tuple[Array, Array]:
        """Departures, and the mean queue of the second of two cycles."""
        queue = np.zeros(arrivals.shape[:2])
        departures = np.empty_like(arrivals)
        waiting = np.zeros_like(queue)
        for second in range(2 * self._cycle):
            k = second % self._cycle
            queue = queue + arrivals[..., k]
            leave = np.minimum(queue, self._saturation * open_[..., k])
            queue = queue - leave
            departures[..., k] = leave
            if second >= self._cycle:
                waiting += queue
        return departures, waiting / self._cycle

    def _random(self, share: Array) -> Array:
        """Queue from chance and from demand above capacity: Akcelik's time-dependent form."""
        capacity = np.maximum(self._saturation * share, 1e-6)
        load = self._flow / capacity
        excess = load - 1
        root = np.sqrt(excess**2 + 4 * load / (capacity * HORIZON_S))
        return np.asarray(self._flow * HORIZON_S / 4 * (excess + root))


def arm_times(
    site: RoadSite,
    offsets_s: Mapping[str, Array],
    starts: Mapping[str, Sequence[float]],
    greens: Mapping[str, Sequence[float]],
) -> tuple[Array, Array]:
    """Begin and length of each arm's green, for plans that differ in their offsets.

    Args:
        site: Arms.
        offsets_s: Shape (plans,) of each intersection.
        starts: Seconds into the cycle at which each phase begins, by intersection.
        greens: Seconds of green of each phase, by intersection.
    """
    begins = [offsets_s[arm.junction] + starts[arm.junction][arm.phase] for arm in site.arms]
    count = len(begins[0])
    lengths = [np.full(count, greens[arm.junction][arm.phase]) for arm in site.arms]
    return np.stack(begins, axis=1), np.stack(lengths, axis=1)

"""Runs of an arm in lock step: physics goes on for as long as deciding took, and then has the order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.judge.robot.arm_process import ArmRun, Order
from edge_producer.decider import LocalDecision

MOVING = ("stop", "retreat")
"""Actions that the arm carries out; what else a profile names does not move it."""
AFTER_S, BEFORE_S = 0.8, 0.05
REACTIONS: dict[str, float | None] = {"none": None, "cloud 150 ms": 0.15, "cloud 50 ms": 0.05, "local": 0.0}
"""Round trip to where it is decided, s; None: nobody decides."""
CHUNK_S = 1.0


class Simulated(Protocol):
    """What advances; `ArmProcess` in the judge."""

    def begin(self, run: ArmRun) -> dict[str, Any]: ...

    def advance(self, to_s: float, orders: Sequence[Order] = ()) -> NDArray[np.float32]: ...

    def end(self) -> dict[str, Any]: ...


class Decides(Protocol):
    """What decides; `ReflexPath` in the judge."""

    def begin(self) -> None: ...

    def decide(self, samples: NDArray[np.float32], at_s: float) -> tuple[LocalDecision, float]: ...


class Cut(NamedTuple):
    """How samples become windows: numbers of samples, and seconds between two."""

    window: int
    hop: int
    step_s: float


class Struck(NamedTuple):
    """What came of a strike.

    Attributes:
        found: As MuJoCo tells it.
        ordered_s: When the arm had the last order that came of it; None: none did.
        early: An action that moves the arm was in force while it had touched nothing.
        latencies: Seconds of each decision that started an action.
    """

    found: dict[str, Any]
    ordered_s: float | None
    early: bool
    latencies: tuple[float, ...]


def strike(arm: Simulated, run: ArmRun, path: Decides, cut: Cut, trip_s: float | None) -> Struck:
    """One strike.

    A window is decided when its last sample is there, and no window before the one ahead of it is done; its
    order reaches the arm after the measured time and the round trip.

    Args:
        arm: The physics.
        run: With a strike.
        path: Decides; it is measured.
        cut: Windows of the profile.
        trip_s: Round trip; None: without any reflex.
    """
    assert run.strike_s is not None
    arm.begin(run)
    path.begin()
    last_s, at_s, busy_s = run.strike_s + AFTER_S, 0.0, 0.0
    samples: list[NDArray[np.float32]] = []
    orders: list[Order] = []
    given: list[Order] = []
    latencies, nervous = [], False
    while at_s < last_s:
        at_s = round(at_s + cut.hop * cut.step_s, 6)
        samples.extend(arm.advance(at_s, orders))
        orders = [o for o in orders if o[0] >= at_s]
        samples = samples[-cut.window :]
        if trip_s is None or len(samples) < cut.window:
            continue
        decision, latency_s = path.decide(np.stack(samples), at_s)
        busy_s = max(at_s, busy_s) + latency_s
        nervous |= at_s < run.strike_s - BEFORE_S and decision.action in MOVING
        if at_s >= run.strike_s - BEFORE_S and decision.started:
            latencies.append(latency_s)
            if decision.action in MOVING:
                orders.append((busy_s + trip_s, decision.action))
                given.append((at_s, decision.action))
    found = arm.end()
    touched = found["touched_s"]
    early = nervous or (bool(given) and (touched is None or given[0][0] < touched))
    return Struck(found, found["ordered_s"], early, tuple(latencies))


class FreeRun(NamedTuple):
    """What a device did while nothing was struck.

    Attributes:
        stops: Seconds at which an action that moves the arm came into force.
        windows: How many were decided.
        latencies: Seconds of each decision.
    """

    stops: tuple[float, ...]
    windows: int
    latencies: tuple[float, ...]


def move_freely(arm: Simulated, run: ArmRun, path: Decides, cut: Cut, seconds: float) -> FreeRun:
    """A run without a strike; what is decided does not reach the arm, so that it can be wrong again."""
    stops, latencies = [], []
    path.begin()
    for at_s, window in windows_of(free_samples(arm, run, seconds), cut):
        decision, latency_s = path.decide(window, at_s)
        latencies.append(latency_s)
        if decision.started and decision.action in MOVING:
            stops.append(at_s)
    return FreeRun(tuple(stops), len(latencies), tuple(latencies))


def free_samples(arm: Simulated, run: ArmRun, seconds: float) -> NDArray[np.float32]:
    """Samples of a run without a strike, shape (n, 10)."""
    arm.begin(run)
    return np.concatenate(
        [arm.advance(at_s) for at_s in np.arange(CHUNK_S, seconds + 1e-9, CHUNK_S).tolist()]
    )


def windows_of(samples: NDArray[np.float32], cut: Cut) -> Iterator[tuple[float, NDArray[np.float32]]]:
    """End in seconds, and samples, of each window."""
    for last in range(cut.window, len(samples) + 1, cut.hop):
        yield last * cut.step_s, samples[last - cut.window : last]

"""``arm_on_vehicle``: currents, angles and speeds of an arm of two joints, a wheel, and an inertial unit.

Time is cut into cycles of the robot's program, each from rest at home: a sample depends on seed, device and
its time alone. Torques are those of the planned motion (the drives know their arm); after a collision the
motion is integrated, with the drives pressing towards the plan until the cycle ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest, device_number
from edge_producer.verticals.robot.arm_dynamics import GRAVITY, ArmBody, Contact, Pair, Struck
from edge_producer.verticals.robot.work_program import CYCLE_S, MOVES_S, STEP_RAD, PlannedCycle, plan_cycle

Array = NDArray[np.float64]

CHANNELS = (
    "current_1",
    "position_1",
    "velocity_1",
    "current_2",
    "position_2",
    "velocity_2",
    "wheel_current",
    "wheel_speed",
    "acceleration_x",
    "acceleration_z",
)
KEPT = 3
TORQUE_CONSTANT, WHEEL_CONSTANT = 5.0, 1.2
"""N m/A, gears included."""
WHEEL_M, VEHICLE_KG = 0.06, 22.0
ROLLING, WHEEL_INERTIA = 0.9, 0.04
"""N m of the rolling wheel, and kg m² of the wheel and its motor."""
AHEAD, BEHIND, GRIP_S = 0.4, 0.5, 0.08
"""Shares of the planned speed by which the rim runs ahead and the vehicle stays behind while the wheel slips,
and the seconds in which it loses and finds its grip."""
PAYLOAD_KG = 1.2
"""What the payload of severity 1 weighs, beside the robot's own tool."""
WORN = 1.5
"""Share by which the friction of a joint of wear 1 grows."""
RIPPLES_PER_RAD, RIPPLE_A = 320.0, 0.9
"""Twice a turn of the wave generator, at a ratio of 160; and the ripple of wear 1."""
STIFFNESS = 8000.0
"""N/m of what is struck at severity 1."""
NOISE = (0.05, 2e-4, 0.006, 0.05, 2e-4, 0.006, 0.04, 0.02, 0.06, 0.06)
ROUGH = 0.25
"""m/s² of shaking by m/s."""
RESOLUTION = 1e-5
"""Samples are multiples of this, so that no result depends on the last bit of a processor's sine."""


@dataclass(slots=True)
class _Motion:
    """A cycle as it happened."""

    q: Array
    dq: Array
    torques: Array
    forces: Array
    pushed: Array
    wheel: Array
    body: Array


class RobotSensors:
    """The sensors of one robot.

    Injections: ``collision``: once a cycle, the arm strikes something in a move that begins in the span;
    ``slip``: the wheel slips while the vehicle speeds up; ``joint_wear``: the gear of joint ``channel``
    (``current_1`` or ``current_2``) rubs and ripples more and more; ``payload``: another tool or load, of
    ``severity`` times ``PAYLOAD_KG``; ``dropout``: samples go missing.
    """

    channels: ClassVar[tuple[str, ...]] = CHANNELS
    kinds: ClassVar[Mapping[str, bool]] = {
        "collision": True,
        "slip": True,
        "joint_wear": True,
        "payload": False,
        "dropout": False,
    }

    def __init__(self, request: GeneratorRequest) -> None:
        self._request = request
        self._key = [request.seed, device_number(request.device_id)]
        rng = np.random.default_rng(self._key)
        self._rate_hz = request.rate_hz
        self._n = round(CYCLE_S * request.rate_hz)
        spread = np.exp(rng.normal(0.0, 0.05, 6))
        usual = ArmBody()
        self._body = ArmBody(
            coulomb=(usual.coulomb[0] * spread[0], usual.coulomb[1] * spread[1]),
            viscous=(usual.viscous[0] * spread[2], usual.viscous[1] * spread[3]),
            payload=usual.payload + rng.normal(0.0, 0.05),
        )
        self._constant = TORQUE_CONSTANT * (1 + rng.normal(0.0, 0.01, 2))
        self._vehicle_kg, self._rolling = VEHICLE_KG * spread[4], ROLLING * spread[5]
        self._points = np.array([(0.45, -0.9), (0.85, -0.45)]) + rng.normal(0.0, 0.08, (2, 2))
        self._way_m = rng.uniform(0.5, 0.7)
        self._cycles: dict[int, Array] = {}

    @classmethod
    def of(cls, request: GeneratorRequest) -> RobotSensors:
        """The sensors of one robot."""
        return cls(request)

    def block(self, number: int, size: int) -> NDArray[np.float32]:
        """Samples ``number * size`` to ``(number + 1) * size``.

        Returns:
            Shape (size, 10), in the order of ``CHANNELS``; NaN where samples dropped out.
        """
        first, last = number * size, (number + 1) * size
        cycles = range(first // self._n, (last - 1) // self._n + 1)
        whole = np.concatenate([self._cycle(c) for c in cycles])
        begin = first - cycles[0] * self._n
        samples = whole[begin : begin + size].copy()
        self._drop(self._times(first, size), samples, number)
        return samples.astype(np.float32)

    def _times(self, first: int, size: int) -> Array:
        return self._request.first_s + (np.arange(size) + first) / self._rate_hz

    def _of(self, kind: str) -> list[Injection]:
        return [i for i in self._request.injections if i.kind == kind]

    def _cycle(self, number: int) -> Array:
        if number not in self._cycles:
            while len(self._cycles) >= KEPT:
                self._cycles.pop(next(iter(self._cycles)))
            self._cycles[number] = self._simulated(number)
        return self._cycles[number]

    def _simulated(self, number: int) -> Array:
        """Samples of a cycle, shape (n, 10)."""
        rng = np.random.default_rng([*self._key, number + 1, 0])
        t = self._times(number * self._n, self._n)
        points = self._points + rng.normal(0.0, STEP_RAD, (2, 2))
        plan = plan_cycle(points, self._way_m, self._n, self._rate_hz)
        body = self._body.with_payload(self._payload(t[0]))
        wear = np.stack([self._wear(t, f"current_{j}") for j in (1, 2)], axis=1)
        motion = self._moved(t, plan, body, wear)
        samples = np.empty((self._n, len(CHANNELS)))
        for j in (0, 1):
            ripple = (0.03 + RIPPLE_A * wear[:, j]) * np.tanh(np.abs(motion.dq[:, j]) / 0.1)
            samples[:, 3 * j] = motion.torques[:, j] / self._constant[j]
            samples[:, 3 * j] += ripple * np.sin(RIPPLES_PER_RAD * motion.q[:, j])
            samples[:, 3 * j + 1], samples[:, 3 * j + 2] = motion.q[:, j], motion.dq[:, j]
        samples[:, 6] = self._wheel_current(motion)
        samples[:, 7] = motion.wheel / WHEEL_M
        shaking = ROUGH * np.abs(motion.body)[:, None] * rng.normal(0.0, 1.0, (self._n, 2))
        samples[:, 8:] = shaking + motion.pushed / self._vehicle_kg
        samples[:, 8] += np.gradient(motion.body) * self._rate_hz
        samples[:, 9] += GRAVITY
        samples += rng.normal(0.0, 1.0, samples.shape) * np.array(NOISE)
        return np.round(samples / RESOLUTION) * RESOLUTION

    def _payload(self, at_s: float) -> float:
        active = (i for i in self._of("payload") if i.start_s <= at_s < i.end_s)
        return self._body.payload + PAYLOAD_KG * sum(i.severity for i in active)

    def _wear(self, t: Array, channel: str) -> Array:
        found = np.zeros_like(t)
        for item in self._of("joint_wear"):
            if (item.channel or "current_1") == channel:
                since = np.clip(t - item.start_s, 0.0, item.end_s - item.start_s)
                grown = 1 - 2 / 3 * np.exp(-since / max(item.ramp_s, 1e-9))
                found += item.severity * grown * ((t >= item.start_s) & (t < item.end_s))
        return found

    def _moved(self, t: Array, plan: PlannedCycle, body: ArmBody, wear: Array) -> _Motion:
        torques = body.torques(plan.q, plan.dq, plan.ddq, WORN * wear)
        wheel, vehicle = self._driven(t, plan)
        q, dq = plan.q.copy(), plan.dq.copy()
        forces, pushed = np.zeros(self._n), np.zeros((self._n, 2))
        if (hit := self._hit(t)) is not None:
            k, severity = hit
            contact = _in_the_way(body, plan, k, severity)
            start = (float(q[k - 1, 0]), float(q[k - 1, 1])), (float(dq[k - 1, 0]), float(dq[k - 1, 1]))
            arm = Struck(body, contact, *start)
            wanted = list(zip(*(map(_pair, x[k:].tolist()) for x in (plan.q, plan.dq, torques)), strict=True))
            found = arm.follow(wanted.__getitem__, self._n - k, 1 / self._rate_hz)
            q[k:], dq[k:], torques[k:], forces[k:] = found
            pushed = -np.outer(forces, contact.inwards)
        return _Motion(q, dq, torques, forces, pushed, wheel, vehicle)

    def _hit(self, t: Array) -> tuple[int, float] | None:
        """Sample of the cycle at which something is struck, and the severity; None: nothing is."""
        for begin, end in MOVES_S:
            k = round((begin + 0.55 * (end - begin)) * self._rate_hz)
            for item in self._of("collision"):
                if item.start_s <= t[k] < item.end_s:
                    return k, item.severity
        return None

    def _driven(self, t: Array, plan: PlannedCycle) -> tuple[Array, Array]:
        """Speeds of the wheel's rim and of the vehicle, m/s: apart while it slips."""
        lost = np.zeros(self._n)
        for item in self._of("slip"):
            speeding = plan.speed * plan.acceleration > 0
            lost += item.severity * (speeding & (t >= item.start_s) & (t < item.end_s))
        if not lost.any():
            return plan.speed, plan.speed
        lost = _settling(np.clip(lost, 0.0, 1.0), GRIP_S * self._rate_hz)
        return plan.speed * (1 + AHEAD * lost), plan.speed * (1 - BEHIND * lost)

    def _wheel_current(self, motion: _Motion) -> Array:
        rate = np.gradient(motion.body) * self._rate_hz
        torque = self._vehicle_kg * rate * WHEEL_M + self._rolling * np.tanh(motion.wheel / 0.02)
        spin = WHEEL_INERTIA * np.gradient(motion.wheel) * self._rate_hz / WHEEL_M
        return np.asarray((torque + spin) / WHEEL_CONSTANT)

    def _drop(self, t: Array, samples: Array, number: int) -> None:
        for index, item in enumerate(self._of("dropout")):
            rng = np.random.default_rng([*self._key, number + 1, 100 + index])
            hit = (rng.random(t.size) < item.severity) & (t >= item.start_s) & (t < item.end_s)
            columns = [CHANNELS.index(item.channel)] if item.channel else range(len(CHANNELS))
            for column in columns:
                samples[hit, column] = np.nan


def _pair(values: list[float]) -> Pair:
    return values[0], values[1]


def _in_the_way(body: ArmBody, plan: PlannedCycle, k: int, severity: float) -> Contact:
    """A wall across the tip's way, at the place of sample k."""
    q, dq = _pair(plan.q[k].tolist()), _pair(plan.dq[k].tolist())
    rows = body.jacobian(q)
    speed = [row[0] * dq[0] + row[1] * dq[1] for row in rows]
    length = math.hypot(*speed) or 1.0
    return Contact(body.tip(q), (speed[0] / length, speed[1] / length), STIFFNESS * severity)


def _settling(wanted: Array, samples: float) -> Array:
    """What follows a share with a lag of so many samples."""
    found, now = np.empty_like(wanted), 0.0
    for k, share in enumerate(wanted.tolist()):
        now += (share - now) / samples
        found[k] = now
    return found

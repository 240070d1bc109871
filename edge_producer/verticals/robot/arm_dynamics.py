"""A rigid arm of two joints in a vertical plane: torques of a motion, and motion under an outer force.

Angles in rad: the first from the horizontal, the second from the first link. Torques in N m.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pair = tuple[float, float]

GRAVITY = 9.81
SMOOTH = 0.03
"""rad/s within which Coulomb friction changes its sign."""


@dataclass(frozen=True, slots=True)
class ArmBody:
    """Masses in kg, lengths in m, inertias in kg m², friction in N m and N m s, of each joint.

    Attributes:
        payload: Mass at the tip, tool and load together.
    """

    masses: Pair = (4.0, 2.5)
    lengths: Pair = (0.35, 0.30)
    centres: Pair = (0.17, 0.14)
    inertias: Pair = (0.05, 0.025)
    rotors: Pair = (0.25, 0.12)
    coulomb: Pair = (1.6, 0.9)
    viscous: Pair = (1.2, 0.6)
    payload: float = 0.8

    def with_payload(self, payload: float) -> ArmBody:
        """The same arm with another mass at its tip."""
        return replace(self, payload=payload)

    def terms(self) -> tuple[float, float, float]:
        """The three numbers of the inertia matrix that do not depend on the angles."""
        (m1, m2), (l1, l2), (c1, c2), (i1, i2) = self.masses, self.lengths, self.centres, self.inertias
        outer = m2 * c2**2 + i2 + self.payload * l2**2
        inner = m1 * c1**2 + i1 + (m2 + self.payload) * l1**2
        return inner, outer, (m2 * c2 + self.payload * l2) * l1

    def weights(self) -> Pair:
        """Torque of the weight about each joint with the link level, N m."""
        (m1, m2), (l1, l2), (c1, c2) = self.masses, self.lengths, self.centres
        return (
            GRAVITY * (m1 * c1 + (m2 + self.payload) * l1),
            GRAVITY * (m2 * c2 + self.payload * l2),
        )

    def torques(self, q: Array, dq: Array, ddq: Array, wear: Array | float = 0.0) -> Array:
        """What the gears must give for a motion.

        Args:
            q: Angles, shape (n, 2).
            dq: Their rates, rad/s.
            ddq: The rates of these, rad/s².
            wear: Share by which friction is larger, shape (n, 2).

        Returns:
            Shape (n, 2), N m.
        """
        inner, outer, coupled = self.terms()
        first, second = self.weights()
        c2, s2 = np.cos(q[:, 1]), np.sin(q[:, 1])
        swing = coupled * s2
        cross = outer + coupled * c2
        found = np.empty_like(q)
        found[:, 0] = (
            (inner + outer + 2 * coupled * c2 + self.rotors[0]) * ddq[:, 0]
            + cross * ddq[:, 1]
            - swing * dq[:, 1] * (2 * dq[:, 0] + dq[:, 1])
            + first * np.cos(q[:, 0])
            + second * np.cos(q[:, 0] + q[:, 1])
        )
        found[:, 1] = (
            cross * ddq[:, 0]
            + (outer + self.rotors[1]) * ddq[:, 1]
            + swing * dq[:, 0] ** 2
            + second * np.cos(q[:, 0] + q[:, 1])
        )
        friction = np.array(self.coulomb) * np.tanh(dq / SMOOTH) + np.array(self.viscous) * dq
        return np.asarray(found + (1 + wear) * friction)

    def tip(self, q: Pair) -> Pair:
        """Where the tip is, m."""
        l1, l2 = self.lengths
        both = q[0] + q[1]
        return l1 * math.cos(q[0]) + l2 * math.cos(both), l1 * math.sin(q[0]) + l2 * math.sin(both)

    def jacobian(self, q: Pair) -> tuple[Pair, Pair]:
        """Tip's velocity by joint velocities: rows x and y."""
        l1, l2 = self.lengths
        both = q[0] + q[1]
        x2, y2 = -l2 * math.sin(both), l2 * math.cos(both)
        return (x2 - l1 * math.sin(q[0]), x2), (y2 + l1 * math.cos(q[0]), y2)

    def accelerations(self, q: Pair, dq: Pair, torque: Pair) -> Pair:
        """What the joints do under torques of gears and contact together, rad/s²."""
        inner, outer, coupled = self.terms()
        first, second = self.weights()
        c2, swing = math.cos(q[1]), coupled * math.sin(q[1])
        m11, m12, m22 = (
            inner + outer + 2 * coupled * c2 + self.rotors[0],
            outer + coupled * c2,
            outer + self.rotors[1],
        )
        weight = second * math.cos(q[0] + q[1])
        (f1, f2), (v1, v2) = self.coulomb, self.viscous
        t1 = torque[0] + swing * dq[1] * (2 * dq[0] + dq[1]) - first * math.cos(q[0]) - weight
        t2 = torque[1] - swing * dq[0] ** 2 - weight
        t1 -= f1 * math.tanh(dq[0] / SMOOTH) + v1 * dq[0]
        t2 -= f2 * math.tanh(dq[1] / SMOOTH) + v2 * dq[1]
        det = m11 * m22 - m12**2
        return (m22 * t1 - m12 * t2) / det, (m11 * t2 - m12 * t1) / det


@dataclass(frozen=True, slots=True)
class Contact:
    """A wall that yields: a spring and a damper against the tip.

    Attributes:
        at: A point of its face, m.
        inwards: Unit vector into it.
        stiffness: N/m.
        damping: N s/m.
    """

    at: Pair
    inwards: Pair
    stiffness: float
    damping: float = 60.0

    def force(self, tip: Pair, speed: Pair) -> float:
        """Against the tip, along ``-inwards``, N; 0 without contact."""
        depth = sum((p - a) * n for p, a, n in zip(tip, self.at, self.inwards, strict=True))
        if depth <= 0:
            return 0.0
        rate = sum(v * n for v, n in zip(speed, self.inwards, strict=True))
        return max(self.stiffness * depth + self.damping * rate, 0.0)


STEPS = 4
"""Steps of the integration within a sample."""
STIFF, DAMPED = (900.0, 450.0), (60.0, 30.0)
"""The drives hold the planned motion with these, N m/rad and N m s/rad."""
STRONGEST = (90.0, 45.0)


@dataclass(slots=True)
class Struck:
    """An arm whose drives follow a plan while something is in its way.

    Attributes:
        q: Angles, rad.
        dq: Their velocities, rad/s.
    """

    body: ArmBody
    contact: Contact
    q: Pair
    dq: Pair

    def follow(
        self, plan: Callable[[int], tuple[Pair, Pair, Pair]], n: int, step_s: float
    ) -> tuple[Array, Array, Array, Array]:
        """Samples of the next ``n`` instants.

        Args:
            plan: Angles, velocities and torques of sample k as planned.
            n: Number of samples.
            step_s: Seconds between them.

        Returns:
            Angles, velocities and torques, each of shape (n, 2), and the contact force (n,), N.
        """
        q, dq, torques, forces = np.empty((n, 2)), np.empty((n, 2)), np.empty((n, 2)), np.empty(n)
        for k in range(n):
            wanted = plan(k)
            for _ in range(STEPS):
                torque, force = self._step(wanted, step_s / STEPS)
            q[k], dq[k], torques[k], forces[k] = self.q, self.dq, torque, force
        return q, dq, torques, forces

    def _step(self, wanted: tuple[Pair, Pair, Pair], step_s: float) -> tuple[Pair, float]:
        (x1, x2), (y1, y2) = self.body.jacobian(self.q)
        speed = (x1 * self.dq[0] + x2 * self.dq[1], y1 * self.dq[0] + y2 * self.dq[1])
        force = self.contact.force(self.body.tip(self.q), speed)
        nx, ny = self.contact.inwards
        outer = (-force * (x1 * nx + y1 * ny), -force * (x2 * nx + y2 * ny))
        torque = self._drive(wanted, 0), self._drive(wanted, 1)
        a1, a2 = self.body.accelerations(self.q, self.dq, (torque[0] + outer[0], torque[1] + outer[1]))
        self.dq = (self.dq[0] + step_s * a1, self.dq[1] + step_s * a2)
        self.q = (self.q[0] + step_s * self.dq[0], self.q[1] + step_s * self.dq[1])
        return torque, force

    def _drive(self, wanted: tuple[Pair, Pair, Pair], j: int) -> float:
        """Torque of a joint: what was planned, and more towards the plan, as strong as it is."""
        off = STIFF[j] * (wanted[0][j] - self.q[j]) + DAMPED[j] * (wanted[1][j] - self.dq[j])
        return max(-STRONGEST[j], min(STRONGEST[j], wanted[2][j] + off))

"""Runs in the judge's environment: an arm of two joints in MuJoCo, as lines of JSON. Imports no edgeloop.

A line ``{"seed": n, "speed": share, "payload_kg": m, "strike_s": t or null, "changes": [[t, payload_kg],
...]}`` begins a run. Then each line ``{"to_s": t, "orders": [[t, "stop" or "retreat"], ...]}`` advances the
physics to ``to_s``, carries out orders at their instants, and brings ``{"samples": [[...], ...]}``: one row
each 2 ms, in the order of ``QUANTITIES`` in ``arm_models.py``. ``{"end": true}`` brings what came of it.
Physics has steps of 0.2 ms, the drives of 1 ms.
"""

from __future__ import annotations

import json
import math
import sys

import mujoco
import numpy as np

STEP_S, DRIVE_EVERY, SAMPLE_EVERY = 0.0002, 5, 10
LINKS_M, LINK_KG, LINK_RADIUS_M = (0.35, 0.30), (4.0, 2.5), (0.05, 0.04)
ROTOR, DAMPING, FRICTION = (0.25, 0.12), (1.2, 0.6), (1.6, 0.9)
TOOL_KG, TIP_M = 0.8, 0.03
CART_KG, ROLLING_N, WHEEL_M = 22.0, 15.0, 0.06
TORQUE_CONSTANT, WHEEL_CONSTANT = 5.0, 1.2
STIFF, DAMPED, STRONGEST = np.array([900.0, 450.0]), np.array([60.0, 30.0]), np.array([90.0, 45.0])
BRAKE = 3.0
"""Multiple of the drives' damping while they stop the arm."""
CART_STIFF, CART_DAMPED, CART_N = 20000.0, 1500.0, 250.0
PLATE_N_M, PLATE_NS_M, PLATE_KG, PLATE_M = 10000.0, 40.0, 0.3, 0.005
"""What is struck: a plate on a spring of 10 N/mm, which ISO/TS 15066 gives for a belly."""
HOME, POINTS = np.array([1.25, -1.5]), np.array([(0.45, -0.9), (0.85, -0.45)])
CYCLE_S, MOVES_S = 2.5, ((0.10, 0.80), (0.95, 1.60), (1.75, 2.40))
OWN_RAD, CYCLE_RAD = 0.08, 0.04
"""Spread of the points from robot to robot, and from cycle to cycle."""
RETREAT_S = 0.15
APPROACH_S = 0.05
NOISE = np.array([0.05, 2e-4, 0.006, 0.05, 2e-4, 0.006, 0.04, 0.02, 0.06, 0.06])


def model_of(tool_kg: float, *, cart: bool, plate: tuple | None = None) -> mujoco.MjModel:
    """The model; with a plate: its place and the direction into it, x and z."""
    (l1, l2), (r1, r2) = LINKS_M, LINK_RADIUS_M
    slide = f'<joint name="cart" type="slide" axis="1 0 0" frictionloss="{ROLLING_N}"/>' if cart else ""
    struck = ""
    if plate is not None:
        (x, z), (nx, nz) = plate
        struck = f"""<body name="plate" pos="{x} 0 {z}" xyaxes="{nx} 0 {nz} 0 1 0" gravcomp="1">
          <joint name="plate" type="slide" axis="1 0 0" stiffness="{PLATE_N_M}" damping="{PLATE_NS_M}"/>
          <geom name="plate" type="box" size="{PLATE_M} .1 .1" mass="{PLATE_KG}" contype="0" conaffinity="0"/>
        </body>"""
    joint = '<joint name="j{0}" axis="0 -1 0" damping="{1}" armature="{2}" frictionloss="{3}"/>'
    first, second = (joint.format(n + 1, DAMPING[n], ROTOR[n], FRICTION[n]) for n in (0, 1))
    free = 'contype="0" conaffinity="0"'
    return mujoco.MjModel.from_xml_string(f"""<mujoco>
      <option timestep="{STEP_S}" integrator="implicitfast"/>
      <worldbody>
        <body name="base">{slide}
          <geom type="box" size=".2 .15 .05" pos="0 0 -.1" mass="{CART_KG}" {free}/><site name="imu"/>
          <body>{first}
            <geom type="capsule" fromto="0 0 0 {l1} 0 0" size="{r1}" mass="{LINK_KG[0]}" {free}/>
            <body pos="{l1} 0 0">{second}
              <geom type="capsule" fromto="0 0 0 {l2} 0 0" size="{r2}" mass="{LINK_KG[1]}" {free}/>
              <body name="tool" pos="{l2} 0 0">
                <geom name="tip" type="sphere" size="{TIP_M}" mass="{tool_kg}" contype="0" conaffinity="0"
                  solref=".002 1"/>
              </body>
            </body>
          </body>
        </body>{struck}
      </worldbody>
      <sensor><accelerometer site="imu"/></sensor>
    </mujoco>""")


def smooth(u: float) -> tuple[float, float, float]:
    """Share of a way with the least jerk, its rate and the rate's rate, at share ``u`` of its time."""
    u = min(max(u, 0.0), 1.0)
    return (
        u**3 * (10 - 15 * u + 6 * u**2),
        30 * u**2 * (1 - u) ** 2,
        60 * u * (1 - u) * (1 - 2 * u),
    )


class Program:
    """Moves between home and two points, again and again, a little elsewhere each time."""

    def __init__(self, seed: int, speed: float) -> None:
        self._seed, self._speed = seed, speed
        self._points = POINTS + np.random.default_rng([seed, 1]).normal(0.0, OWN_RAD, (2, 2))
        self.cycle_s = CYCLE_S / speed
        self._stops: dict[int, np.ndarray] = {}

    def at(self, t: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Angles, velocities and accelerations that the drives are to follow."""
        number = int(t / self.cycle_s)
        since = (t - number * self.cycle_s) * self._speed
        stops = self.stops(number)
        for move, (begin, end) in enumerate(MOVES_S):
            if since < end or move == len(MOVES_S) - 1:
                place, rate, change = smooth((since - begin) / (end - begin))
                way, scale = stops[move + 1] - stops[move], self._speed / (end - begin)
                return stops[move] + place * way, rate * scale * way, change * scale**2 * way
        raise AssertionError("there is a last move")

    def stops(self, number: int) -> np.ndarray:
        """Home, the two points, and home, of a cycle; shape (4, 2)."""
        if number not in self._stops:
            away = np.random.default_rng([self._seed, 2, number]).normal(0, CYCLE_RAD, (2, 2))
            self._stops = {number: np.vstack([HOME, self._points + away, HOME])}
        return self._stops[number]


def tip_of(q: np.ndarray) -> np.ndarray:
    """Place of the tip, x and z, over the base."""
    both = q[0] + q[1]
    return np.array(
        [
            LINKS_M[0] * math.cos(q[0]) + LINKS_M[1] * math.cos(both),
            LINKS_M[0] * math.sin(q[0]) + LINKS_M[1] * math.sin(both),
        ]
    )


class Arm:
    """One run."""

    def __init__(self, run: dict) -> None:
        self.program = Program(run["seed"], run["speed"])
        self._strike_s = run["strike_s"]
        plate = None if self._strike_s is None else self._plate(self._strike_s)
        payload = run["payload_kg"]
        self._model = model_of(TOOL_KG + payload, cart=True, plate=plate)
        self._known = model_of(TOOL_KG + payload, cart=False)
        self._data, self._planned = mujoco.MjData(self._model), mujoco.MjData(self._known)
        self._data.qpos[1:3] = HOME
        self._rng = np.random.default_rng([run["seed"], 3])
        self._changes = [tuple(c) for c in run["changes"]]
        self._steps, self._torque, self._cart_n = 0, np.zeros(2), 0.0
        self._order: tuple[float, str, np.ndarray] | None = None
        self._touched_s, self._speed_at_touch, self._last_tip = None, 0.0, (0.0, 0.0, 0.0)
        self._peak_n, self._deepest_m, self._trace, self._in_the_way = 0.0, 0.0, [], False
        self._tool = self._model.body("tool").id

    @property
    def now_s(self) -> float:
        return self._steps * STEP_S

    def advance(self, to_s: float, orders: list) -> list[list[float]]:
        """Samples up to an instant."""
        samples, last = [], round(to_s / STEP_S)
        waiting = sorted((math.ceil(at_s / STEP_S - 1e-6), action) for at_s, action in orders)
        while self._steps < last:
            while waiting and waiting[0][0] <= self._steps:
                self._order = (self.now_s, waiting.pop(0)[1], self._data.qpos[1:3].copy())
            # A step at a time while something is near; else up to the drives' next turn.
            near = self._strike_s is not None and self.now_s >= self._strike_s - APPROACH_S
            until = self._steps + (1 if near else DRIVE_EVERY - self._steps % DRIVE_EVERY)
            self._step(min(until, last, waiting[0][0] if waiting else last) - self._steps, near=near)
            if self._steps % SAMPLE_EVERY == 0:
                samples.append(self._sensed())
        return samples

    def outcome(self) -> dict:
        """What came of it: m, N, s; the trace has the force and the depth by ms."""
        return {
            "touched_s": self._touched_s,
            "speed_m_s": self._speed_at_touch,
            "deepest_m": self._deepest_m,
            "peak_n": self._peak_n,
            "ordered_s": None if self._order is None else self._order[0],
            "trace": self._trace,
        }

    def _plate(self, at_s: float) -> tuple:
        q, dq, _ = self.program.at(at_s)
        ahead = tip_of(q + 1e-4 * dq) - tip_of(q)
        inwards = ahead / np.linalg.norm(ahead)
        return tuple(tip_of(q) + (TIP_M + PLATE_M) * inwards), tuple(inwards)

    def _step(self, steps: int, *, near: bool) -> None:
        if self._changes and self._changes[0][0] <= self.now_s:
            self._load(TOOL_KG + self._changes.pop(0)[1])
        if near and not self._in_the_way:
            self._put_in_the_way()
        if self._steps % DRIVE_EVERY == 0:
            self._drive()
        applied = self._data.qfrc_applied
        applied[0], applied[1], applied[2] = self._cart_n, self._torque[0], self._torque[1]
        mujoco.mj_step(self._model, self._data, steps)
        self._steps += steps
        if near:
            self._look()

    def _put_in_the_way(self) -> None:
        """The plate can be struck from now on: the tip is still short of it."""
        model, self._in_the_way = self._model, True
        for name in ("plate", "tip"):
            geom = model.geom(name).id
            body = model.geom_bodyid[geom]
            for bits in (model.geom_contype, model.geom_conaffinity):
                bits[geom] = 1
            for bits in (model.body_contype, model.body_conaffinity):
                bits[body] = 1

    def _load(self, kg: float) -> None:
        """Another mass at the tip: what the drives know of it stays as it was."""
        tool = self._model.body("tool").id
        self._model.body_mass[tool] = kg
        self._model.body_inertia[tool] = 0.4 * kg * TIP_M**2
        mujoco.mj_setConst(self._model, mujoco.MjData(self._model))

    def _drive(self) -> None:
        q, dq = self._data.qpos[1:3], self._data.qvel[1:3]
        wanted, rate, change, damped = *self.program.at(self.now_s), DAMPED
        if self._order is not None:
            wanted, rate, change, damped = self._ordered()
        self._planned.qpos[:], self._planned.qvel[:], self._planned.qacc[:] = wanted, rate, change
        mujoco.mj_inverse(self._known, self._planned)
        torque = self._planned.qfrc_inverse + STIFF * (wanted - q) + damped * (rate - dq)
        self._torque = np.clip(torque, -STRONGEST, STRONGEST)
        cart = -CART_STIFF * self._data.qpos[0] - CART_DAMPED * self._data.qvel[0]
        self._cart_n = float(np.clip(cart, -CART_N, CART_N))

    def _ordered(self) -> tuple:
        """Stand still where the order came, or go back on the way that led there."""
        at_s, action, place = self._order
        since, still = self.now_s - at_s, np.zeros(2)
        if action != "retreat":
            return place, still, still, BRAKE * DAMPED
        q, dq, _ = self.program.at(at_s - min(since, RETREAT_S))
        going = since < RETREAT_S
        return q, -dq if going else still, still, DAMPED if going else BRAKE * DAMPED

    def _look(self) -> None:
        """Force of the spring and the damper behind the plate, and its way, after a step."""
        data = self._data
        depth, rate = float(data.qpos[3]), float(data.qvel[3])
        self._deepest_m = max(self._deepest_m, depth)
        force = PLATE_N_M * depth + PLATE_NS_M * rate
        self._peak_n = max(self._peak_n, force)
        if self._touched_s is None:
            tip = data.xpos[self._tool]
            if data.ncon:
                self._touched_s = self.now_s
                self._speed_at_touch = math.dist(tip, self._last_tip) / STEP_S
            self._last_tip = tuple(tip)
        if self._steps % DRIVE_EVERY == 0:
            self._trace.append([round(self.now_s, 4), round(force, 1), round(depth, 5)])

    def _sensed(self) -> list[float]:
        data = self._data
        values = []
        for j in (0, 1):
            values += [self._torque[j] / TORQUE_CONSTANT, data.qpos[1 + j], data.qvel[1 + j]]
        values += [self._cart_n * WHEEL_M / WHEEL_CONSTANT, data.qvel[0] / WHEEL_M]
        values += [data.sensordata[0], data.sensordata[2]]
        noisy = np.array(values) + NOISE * self._rng.normal(size=len(values))
        return np.round(noisy, 5).tolist()


def main() -> None:
    """Runs, one after the other, until the input ends."""
    arm = None
    for line in sys.stdin:
        asked = json.loads(line)
        if "seed" in asked:
            arm = Arm(asked)
            said = {"cycle_s": arm.program.cycle_s, "mujoco": mujoco.__version__}
        elif asked.get("end"):
            said = arm.outcome()
        else:
            said = {"samples": arm.advance(asked["to_s"], asked["orders"])}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()

"""Samples of rotors whose vibration ROSS computed: played at a fleet's own speeds, loads and faults.

What ROSS gives is the housing's velocity: steady states by speed for a healthy rotor, unbalance and
misalignment, and a rubbing rotor's motion in time. Between the speeds and severities it is interpolated. Not
of ROSS, and apart from our own generator: the load (a random walk that returns), broad noise, the temperature
(one lump that warms), and the current (magnetising and torque current at a right angle, as an induction
motor's). Needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CHANNELS = ("vibration", "temperature", "current")
SEED = 9114
FAULT_KINDS = ("unbalance", "misalignment", "rub")
LOAD, LOAD_SD, LOAD_RETURN_S = 0.6, 0.06, 40.0
SLIP = 0.025
NOISE_MM_S, SENSOR_MM_S = 0.06, 0.02
AMBIENT_C, WARMTH_C, WARMING_S = 22.0, 26.0, 120.0
AMBIENT_SD_C, AMBIENT_RETURN_S = 0.4, 300.0
MISALIGNED_C, RUB_C_W = 2.0, 4.0
"""What a whole misalignment warms the bearing, and a watt of friction: of the stand-in, not of ROSS."""
MAGNETISING_A, TORQUE_A, RIPPLE_A, RUB_A_W = 5.0, 14.0, 0.3, 1 / 230


@dataclass(frozen=True, slots=True, eq=False)
class RotorResponses:
    """One rotor, as ``ross_rotors.py`` wrote it.

    Attributes:
        speeds_hz: Shape (S,), ascending.
        healthy: Complex amplitudes of the harmonics, mm/s, shape (S, K).
        unbalance: What the whole fault adds, shape (S, K).
        severities: Shape (V,), ascending, the last 1.
        misalignment: What each severity adds, shape (V, S, K).
        rub: What each severity adds at the nominal speed, mm/s, shape (V, n): whole turns.
        rub_w: Mean power of the friction, shape (V,).
        per_turn: Samples of ``rub`` in a turn.
    """

    speeds_hz: Array
    healthy: NDArray[np.complex128]
    unbalance: NDArray[np.complex128]
    severities: Array
    misalignment: NDArray[np.complex128]
    rub: Array
    rub_w: Array
    per_turn: int


@dataclass(frozen=True, slots=True)
class RigChange:
    """Something that happens to some machines of a fleet.

    Attributes:
        kind: One of ``FAULT_KINDS``; ``gain`` or ``offset`` of a sensor; ``ambient`` (by ``size`` degrees);
            ``regime`` (``size`` is added to the load, and its sixtieth to the speed's share).
        at_s: Seconds after the fleet's start.
        size: Severity in (0, 1], factor, or what is added.
        ramp_s: Seconds in which it grows; 0: at once.
        channel: Of ``gain`` and ``offset``.
        machines: Places of the machines that it hits.
    """

    kind: str
    at_s: float
    size: float
    ramp_s: float = 0.0
    channel: str = ""
    machines: tuple[int, ...] = ()


def read_rotors(folder: Path) -> list[RotorResponses]:
    """All rotors of a folder, by number.

    Raises:
        FileNotFoundError: It holds none.
    """
    found = []
    for path in sorted(folder.glob("rotor-??.npz")):
        with np.load(path) as stored:
            found.append(
                RotorResponses(
                    stored["speeds_hz"],
                    stored["healthy"],
                    stored["unbalance"],
                    stored["severities"],
                    stored["misalignment"],
                    stored["rub"] - stored["rub_free"],
                    stored["rub_w"],
                    int(stored["per_turn"]),
                )
            )
    if not found:
        raise FileNotFoundError(f"{folder} holds no rotor: run `make judge`")
    return found


def rig_samples(
    rotor: RotorResponses, seed: int, machine: int, seconds: int, rate_hz: int, changes: Sequence[RigChange]
) -> Array:
    """What the sensors of one machine measure, shape (seconds * rate_hz, 3), columns as ``CHANNELS``.

    Args:
        rotor: Its rotor.
        seed: Of the fleet.
        machine: Place in the fleet; with the seed it draws everything that is the machine's own.
        seconds: Length.
        rate_hz: Samples a second.
        changes: Those that hit it.
    """
    rng = np.random.default_rng([SEED, seed, machine])
    own_speed, own_gain = 1 + rng.normal(0.0, 0.004), 1 + rng.normal(0.0, 0.02)
    own_load, own_c, own_a = rng.normal(0.0, 0.03), rng.normal(0.0, 1.0), np.exp(rng.normal(0.0, 0.03))
    load = LOAD + own_load + _returning(rng, seconds, LOAD_SD, LOAD_RETURN_S)
    ambient = AMBIENT_C + own_c + _returning(rng, seconds, AMBIENT_SD_C, AMBIENT_RETURN_S)
    faster = np.zeros(seconds)
    for change in changes:
        grown = change.size * _grown(change, seconds)
        if change.kind == "regime":
            load, faster = load + grown, faster + 0.3 * grown
        elif change.kind == "ambient":
            ambient = ambient + grown
    speed_hz = 20.0 * own_speed * (1 + faster - SLIP * (load - LOAD))
    faults = {kind: _severity(changes, kind, seconds) for kind in FAULT_KINDS}
    vibration = own_gain * _vibration(rotor, rng, speed_hz, faults, rate_hz)
    noise = rng.normal(size=vibration.shape)
    vibration += np.hypot(NOISE_MM_S * (0.7 + 0.5 * load), SENSOR_MM_S)[:, None] * noise
    power_w = _between(rotor.severities, rotor.rub_w, faults["rub"])
    temperature = _warmed(ambient, load, power_w, faults["misalignment"])
    current = own_a * np.hypot(MAGNETISING_A, TORQUE_A * load) + RUB_A_W * power_w
    samples = np.stack(
        [
            vibration.ravel(),
            np.repeat(temperature, rate_hz) + rng.normal(0.0, 0.05, vibration.size),
            np.repeat(current, rate_hz) + rng.normal(0.0, RIPPLE_A, vibration.size),
        ],
        axis=1,
    )
    return _sensed(samples, changes, seconds, rate_hz)


def _vibration(
    rotor: RotorResponses, rng: np.random.Generator, speed_hz: Array, faults: dict[str, Array], rate_hz: int
) -> Array:
    """Housing velocity, shape (seconds, rate_hz): amplitudes hold for a second, the angle goes on."""
    turns = (np.cumsum(speed_hz) - speed_hz)[:, None] + speed_hz[:, None] * np.arange(rate_hz) / rate_hz
    turns = turns + rng.uniform()
    at = np.clip(
        np.interp(speed_hz, rotor.speeds_hz, np.arange(len(rotor.speeds_hz))), 0, len(rotor.speeds_hz) - 1.001
    )
    place, share = at.astype(int), at - at.astype(int)

    def by_speed(table: NDArray[np.complex128]) -> NDArray[np.complex128]:
        return np.asarray(table[place] * (1 - share)[:, None] + table[place + 1] * share[:, None])

    amplitudes = by_speed(rotor.healthy) + faults["unbalance"][:, None] * by_speed(rotor.unbalance)
    bent = np.stack([by_speed(table) for table in rotor.misalignment])
    for (low, high), weight in _weights(rotor.severities, faults["misalignment"]):
        below = bent[low] if low >= 0 else np.zeros_like(amplitudes)
        amplitudes = amplitudes + weight[0][:, None] * below + weight[1][:, None] * bent[high]
    turned = np.exp(2j * np.pi * turns)
    power, total = np.ones_like(turned), np.zeros(turns.shape)
    for k in range(amplitudes.shape[1]):
        power = power * turned
        total += (amplitudes[:, k : k + 1] * power).real
    if faults["rub"].any():
        total += _rubbed(rotor, turns, faults["rub"])
    return total


def _rubbed(rotor: RotorResponses, turns: Array, severity: Array) -> Array:
    """What rub adds: ROSS's motion by the angle, played again and again."""
    length, total = rotor.rub.shape[1], np.zeros(turns.shape)
    at = (turns * rotor.per_turn) % length
    for (low, high), weight in _weights(rotor.severities, severity):
        for place, share in zip((low, high), weight, strict=True):
            if place >= 0 and share.any():
                hit = share > 0
                played = np.interp(at[hit], np.arange(length), rotor.rub[place], period=length)
                total[hit] += share[hit][:, None] * played
    return total


def _weights(severities: Array, size: Array) -> list[tuple[tuple[int, int], tuple[Array, Array]]]:
    """Shares of the two severities that a size lies between; place -1 is no fault."""
    edges, found = [0.0, *severities.tolist()], []
    for n in range(1, len(edges)):
        inside = (size > edges[n - 1]) & (size <= edges[n])
        share = np.where(inside, (size - edges[n - 1]) / (edges[n] - edges[n - 1]), 0.0)
        found.append(((n - 2, n - 1), (np.where(inside, 1 - share, 0.0), share)))
    return found


def _between(severities: Array, values: Array, size: Array) -> Array:
    return np.asarray(np.interp(size, [0.0, *severities], [0.0, *values]))


def _severity(changes: Sequence[RigChange], kind: str, seconds: int) -> Array:
    return sum((c.size * _grown(c, seconds) for c in changes if c.kind == kind), np.zeros(seconds))


def _grown(change: RigChange, seconds: int) -> Array:
    """Share of the whole change by second."""
    since = np.arange(seconds) - change.at_s
    return np.asarray(np.where(since < 0, 0.0, np.clip((since + 1) / max(change.ramp_s, 1.0), 0.0, 1.0)))


def _returning(rng: np.random.Generator, seconds: int, sd: float, return_s: float) -> Array:
    """A random walk that returns to 0 (Ornstein-Uhlenbeck), one value a second."""
    kept = np.exp(-1 / return_s)
    steps = rng.normal(0.0, sd * np.sqrt(1 - kept**2), seconds)
    found, now = np.empty(seconds), rng.normal(0.0, sd)
    for k in range(seconds):
        now = kept * now + steps[k]
        found[k] = now
    return found


def _warmed(ambient: Array, load: Array, power_w: Array, misalignment: Array) -> Array:
    goal = ambient + WARMTH_C * load**2 + 12.0 + RUB_C_W * power_w + MISALIGNED_C * misalignment
    share, now, found = 1 - np.exp(-1 / WARMING_S), goal[0], np.empty(len(goal))
    for k, wanted in enumerate(goal):
        now += share * (wanted - now)
        found[k] = now
    return found


def _sensed(samples: Array, changes: Sequence[RigChange], seconds: int, rate_hz: int) -> Array:
    for change in changes:
        if change.kind in ("gain", "offset"):
            column, grown = CHANNELS.index(change.channel), np.repeat(_grown(change, seconds), rate_hz)
            if change.kind == "gain":
                samples[:, column] *= 1 + (change.size - 1) * grown
            else:
                samples[:, column] += change.size * grown
    return np.round(samples, 4)

"""How rotors of ROSS vibrate, healthy and with faults. Runs in the judge's own environment, nowhere else.

    python ross_rotors.py FOLDER FIRST LAST      # rotors FIRST to LAST - 1, a file each

The rotor is ROSS's own documented example (``rotor_example_with_damping``: 33 Timoshenko elements, two disks,
two bearings), with unbalance, flexible-coupling misalignment and rub as in the examples of
``run_misalignment`` and ``run_rubbing``. Added is a pedestal under each bearing: its velocity is what a
sensor on a housing measures. Unbalance and misalignment are forces that do not depend on the motion: their
steady state is solved with ROSS's matrices, harmonic by harmonic. Rub is not: ROSS integrates it in time.
``check`` says how far the two ways are apart where both can be had. A file that is there is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import ross as rs
from ross.faults import MisalignmentFlex, Rubbing

SEED = 7301
NOMINAL_HZ = 20.0
SPEEDS_HZ = np.array([18.5, 19.0, 19.5, 20.0, 20.5, 21.0, 21.5, 22.0, 22.5])
HARMONICS = 12
"""Of the shaft speed: all below half of the profile's 512 Hz."""
DISKS, HOUSING, SPAN = (12, 24), 34, 33
UNBALANCE = 5e-4
"""kg m on the first disk, of ROSS's examples: the whole fault. A healthy rotor has 1.5e-4 (between G 6.3 and
G 16 of ISO 21940-11 at this speed)."""
RESIDUAL = 1.5e-4
COUPLING = {
    "n": 0,
    "mis_type": "combined",
    "mis_distance_x": 2e-4,
    "mis_distance_y": 2e-4,
    "mis_angle": 5 * np.pi / 180,
    "radial_stiffness": 40e3,
    "bending_stiffness": 38e3,
}
"""Misalignment of ROSS's example of a flexible coupling: the whole fault. A healthy one has a twentieth."""
CONTACT = {"n": 12, "contact_stiffness": 1.1e6, "contact_damping": 40, "friction_coeff": 0.3}
"""Rub of ROSS's example, at the first disk."""
CLEARANCES = {0.3: 0.95, 0.6: 0.87, 1.0: 0.8}
"""Clearance as a share of the healthy orbit's radius there, by severity; ROSS's example has 0.80."""
SEVERITIES = (0.3, 0.6, 1.0)
PEDESTAL_KG, PEDESTAL_N_M, PEDESTAL_NS_M = 4.0, 1e6, 400.0
STEP_S, SETTLE_S, KEPT_S = 1e-4, 2.0, 2.0
PER_TURN = 100
"""Samples of a rubbing rotor's turn that are kept."""
BAND_HZ = 230.0


class JudgedRotor:
    """One rotor of the pool.

    Args:
        number: Draws bearings, residual unbalance and its place.
    """

    def __init__(self, number: int) -> None:
        rng = np.random.default_rng([SEED, number])
        stiff, damp = np.exp(rng.normal(0.0, 0.05, 2)), np.exp(rng.normal(0.0, 0.1, 2))
        self.rotor = _rotor(stiff, damp)
        self.residual = RESIDUAL * np.exp(rng.normal(0.0, 0.2)) * np.array([1.0, 0.4])
        self.phases = rng.uniform(0, 2 * np.pi, 2)
        self.fault_phase = self.phases[0] + rng.normal(0.0, 0.5)
        self.coupling = 0.05 * float(np.exp(rng.normal(0.0, 0.3)))

    def steady(self, hz: float, unbalance: float = 0.0, misalignment: float = 0.0) -> np.ndarray:
        """Complex amplitudes of the housing's vertical velocity, mm/s, harmonics 1 to ``HARMONICS``."""
        omega = 2 * np.pi * hz
        angle = 2 * np.pi * np.arange(256) / 256
        nodes, sizes, phases = [*DISKS, DISKS[0]], [*self.residual, unbalance * UNBALANCE], [
            *self.phases, self.fault_phase,
        ]  # fmt: skip
        force = MisalignmentFlex(self.rotor, **_scaled(self.coupling + misalignment)).compute_reaction_force(
            angle
        )
        for node, size, phase in zip(nodes, sizes, phases, strict=True):
            force[6 * node] += size * omega**2 * np.cos(angle + phase)
            force[6 * node + 1] += size * omega**2 * np.sin(angle + phase)
        spectrum = 2 * np.fft.fft(force, axis=1)[:, 1 : HARMONICS + 1] / len(angle)
        found = []
        for k in range(1, HARMONICS + 1):
            w = k * omega
            stiffness = (
                self.rotor.K(w) - w**2 * self.rotor.M(w) + 1j * w * (self.rotor.C(w) + omega * self.rotor.G())
            )
            moved = np.linalg.solve(stiffness, spectrum[:, k - 1])
            found.append(1e3 * 1j * w * moved[_vertical()])
        return np.array(found)

    def orbit(self, hz: float) -> float:
        """Largest radius at the first disk while healthy, m: what the clearances are shares of."""
        t = np.arange(0, SETTLE_S + 0.5, STEP_S)
        response = self._integrated(hz, t)
        return float(_radius(response)[int(SETTLE_S / STEP_S) :].max())

    def rubbing(self, hz: float, clearance_m: float) -> tuple[np.ndarray, float]:
        """Housing velocity, mm/s, ``PER_TURN`` samples a turn, over ``KEPT_S``; and friction's power, W."""
        t = np.arange(0, SETTLE_S + KEPT_S, STEP_S)
        fault = Rubbing(self.rotor, distance=clearance_m, **CONTACT)
        with _quiet():
            result = fault.run([*DISKS], [*self.residual], [*self.phases], 2 * np.pi * hz, t, **_REDUCED)
        kept = slice(round(SETTLE_S / STEP_S), None)
        response = np.asarray(result.yout)
        pressed = np.maximum(_radius(response)[kept] - clearance_m, 0.0) * CONTACT["contact_stiffness"]
        speed = 2 * np.pi * hz * fault.shaft_elem.odl / 2
        power = float(CONTACT["friction_coeff"] * pressed.mean() * speed)
        velocity = 1e3 * np.gradient(response[kept, _vertical()], STEP_S)
        return _per_turn(velocity, hz), power

    def _integrated(self, hz: float, t: np.ndarray) -> np.ndarray:
        omega = 2 * np.pi * hz
        force = self.rotor.unbalance_force_over_time([*DISKS], [*self.residual], [*self.phases], omega, t)
        with _quiet():
            return np.asarray(
                self.rotor.run_time_response(omega, force.T, t, method="newmark", **_REDUCED).yout
            )


_REDUCED = {"model_reduction": {"num_modes": 24}}


def _rotor(stiff: np.ndarray, damp: np.ndarray) -> rs.Rotor:
    base = rs.rotor_example_with_damping()
    bearings = [
        rs.BearingElement(n=4, n_link=34, kxx=4.40e5 * stiff[0], kyy=4.6114e5 * stiff[0], cxx=27.4 * damp[0],
                          cyy=2.505 * damp[0], kzz=0, czz=0),
        rs.BearingElement(n=31, n_link=35, kxx=9.50e5 * stiff[1], kyy=1.09e8 * stiff[1], cxx=50.4 * damp[1],
                          cyy=100.4553 * damp[1], kzz=0, czz=0),
    ]  # fmt: skip
    for node in (34, 35):
        k, c = PEDESTAL_N_M, PEDESTAL_NS_M
        bearings.append(rs.BearingElement(n=node, kxx=k, kyy=k, cxx=c, cyy=c, kzz=0, czz=0))
    masses = [rs.PointMass(n=node, m=PEDESTAL_KG) for node in (34, 35)]
    return rs.Rotor(base.shaft_elements, base.disk_elements, bearings, point_mass_elements=masses)


def _scaled(share: float) -> dict:
    lengths = {name: share * COUPLING[name] for name in ("mis_distance_x", "mis_distance_y", "mis_angle")}
    return {**COUPLING, **lengths}


def _vertical() -> int:
    """Place of the first housing's vertical displacement: nodes of the shaft have six, housings three."""
    return 6 * (SPAN + 1) + 1


def _radius(response: np.ndarray) -> np.ndarray:
    return np.hypot(response[:, 6 * CONTACT["n"]], response[:, 6 * CONTACT["n"] + 1])


def _per_turn(velocity: np.ndarray, hz: float) -> np.ndarray:
    """Without what the profile's rate cannot carry, at equal angles."""
    spectrum, found = np.fft.rfft(velocity), np.fft.rfftfreq(len(velocity), STEP_S)
    spectrum[(found > BAND_HZ) | (found == 0)] = 0
    kept = np.fft.irfft(spectrum, len(velocity))
    turns = round(len(velocity) * STEP_S * hz)
    at = np.arange(turns * PER_TURN) / PER_TURN / hz / STEP_S
    return np.interp(at, np.arange(len(kept)), kept, period=len(kept))


class _quiet:  # noqa: N801
    """ROSS says each reduction on the standard output."""

    def __enter__(self) -> None:
        self._out, sys.stdout = sys.stdout, sys.stderr

    def __exit__(self, *_: object) -> None:
        sys.stdout = self._out


def check(rotor: JudgedRotor) -> float:
    """By how much the first harmonic differs from ROSS's integration, as a share; without the coupling."""
    rotor.coupling = 1e-9
    t = np.arange(0, 4 * SETTLE_S, STEP_S)
    y = rotor._integrated(NOMINAL_HZ, t)[-round(1 / STEP_S) :, _vertical()]
    at = t[-len(y) :]
    whole = 2 * np.mean(y * np.exp(-2j * np.pi * NOMINAL_HZ * at))
    there = rotor.steady(NOMINAL_HZ)[0] / (1e3 * 2j * np.pi * NOMINAL_HZ)
    return float(abs(whole - there) / abs(there))


def write(folder: Path, number: int) -> None:
    """One rotor's responses: linear ones by speed, and what each fault adds; rubbing by severity."""
    rotor = JudgedRotor(number)
    healthy = np.array([rotor.steady(hz) for hz in SPEEDS_HZ])
    whole = np.array([rotor.steady(hz, unbalance=1.0) for hz in SPEEDS_HZ]) - healthy
    bent = [np.array([rotor.steady(hz, misalignment=s) for hz in SPEEDS_HZ]) - healthy for s in SEVERITIES]
    orbit = rotor.orbit(NOMINAL_HZ)
    rubbed = [rotor.rubbing(NOMINAL_HZ, CLEARANCES[s] * orbit) for s in SEVERITIES]
    free, _ = rotor.rubbing(NOMINAL_HZ, 10 * orbit)
    path = folder / f"rotor-{number:02d}.npz"
    partial = path.with_suffix(".part.npz")
    np.savez(
        partial, speeds_hz=SPEEDS_HZ, severities=np.array(SEVERITIES), healthy=healthy, unbalance=whole,
        misalignment=np.array(bent), rub=np.array([v for v, _ in rubbed]), rub_free=free,
        rub_w=np.array([p for _, p in rubbed]), orbit_m=orbit, nominal_hz=NOMINAL_HZ, per_turn=PER_TURN,
        checked=check(rotor) if number == 0 else np.nan, ross=rs.__version__,
    )  # fmt: skip
    partial.rename(path)


def main() -> None:
    """Make the rotors that are missing."""
    folder, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        if not (folder / f"rotor-{number:02d}.npz").is_file():
            write(folder, number)
            sys.stderr.write(f"rotor {number} of {last}\n")


if __name__ == "__main__":
    main()

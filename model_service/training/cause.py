"""Decides whether a drift is a reason to retrain: a new normal, wear, or something for a person to decide.

Pure. To learn a fault as the new normal would be the worst failure of this system, so the burden of proof
lies with retraining: most devices of a cohort must have moved, at once, in the same way, and not as a known
fault moves them. What progresses, looks like a fault, or hits single devices is degradation; what is neither
waits for a person. Devices that look faulty within a genuine regime are named and kept out of the training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model_service.training.sensor_change import moved_channels, sensor_changed
from schemas.drift_vocabulary import NEW_NORMAL, DriftKind
from schemas.profile import Profile

Array = NDArray[np.float64]

FEW_DEVICES = 3
"""Devices that must be known from before and after the onset to judge a cohort."""
CLEAR = 3.0
"""A shift counts from this many standard deviations of a healthy device's wandering on."""
SMALLEST = 0.5
"""A shift counts from this many spreads of healthy windows on: smaller ones do not matter."""
SINGLE_SHARE = 0.15
"""Share of a cohort up to which devices that moved are taken for single faults."""
TOLERATED_FAULTS = 0.1
"""Share of the devices that moved that may look faulty without discrediting the rest; one always may."""
MOST_IN_ALARM = 1 / 3
"""Share of a cohort in alarm before the onset above which the rest is not representative."""
LEAST_PARTS = 3
"""Parts of the time since the onset from which a pace is known."""
STEADY = 0.7
"""Share of the final shift from which, in the first part of the time since the onset, it counts as a step."""
ON_PACE = 0.5
"""Share of the shift, explained by the pace since the onset, from which the change counts as still going on.

What is found late looks like a step for a while, as most of it lies before the onset. Its pace tells."""
PACE_ERRORS = 2.0
"""Standard errors by which that share must lie below or above ``ON_PACE`` before it decides."""
COHERENT = 0.7
"""Mean cosine to the common shift from which devices count as moved in the same way."""
TOO_SHORT_AGO = "the onset is too short ago to tell a change that came at once from one that goes on"
ALARMED_SHARE = 0.5
"""Share of the moved devices in alarm from which a shift of several channels is not taken for harmless."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceShift:
    """One device before and after an onset, on the reference scale of the champion.

    Attributes:
        shift: Mean after less mean before, shape (F,).
        parts: The same for equal parts of the time since the onset, shape (p, F); NaN: no window.
        since: Mean time of each part after the mean time before the onset, in drift windows, shape (p,).
        part_noise: Standard deviation of each part while nothing happens, shape (p, F).
        noise: Standard deviation of ``shift`` while nothing happens, shape (F,).
        position: Mean after, on the reference scale, shape (F,).
        alarmed_before: It was in alarm at the onset.
        alarmed_after: An alarm began after the onset.
    """

    device_id: str
    cohort: str
    shift: Array
    parts: Array
    since: Array
    part_noise: Array
    noise: Array
    position: Array
    alarmed_before: bool = False
    alarmed_after: bool = False

    @property
    def clear(self) -> Array:
        """The shift where it is clear, 0 elsewhere."""
        far = np.abs(self.shift) >= np.maximum(CLEAR * self.noise, SMALLEST)
        return np.where(far, self.shift, 0.0)


@dataclass(frozen=True, slots=True)
class CohortShifts:
    """The shifts of the devices of some cohorts.

    Attributes:
        devices: Those with windows before and after the onset.
        active: Number of devices registered in these cohorts.
        features: Names in column order.
        log_unit: One spread of each feature that is compared by logarithm; NaN for the others, shape (F,).
    """

    devices: tuple[DeviceShift, ...]
    active: int
    features: tuple[str, ...]
    log_unit: Array


@dataclass(frozen=True, slots=True)
class Cause:
    """What a drift was found to be.

    Attributes:
        kind: By the evidence.
        retrain: Whether it is a reason to retrain without a person's decision.
        enough: False: too few devices sent anything since the onset, or it is too short ago to tell a step
            from a change that goes on; examine again when there is more.
        moved: Features that moved in common.
        faulty: Ids of devices that look faulty: never train on them.
        evidence: The numbers behind it, by name.
        text: One sentence for a person.
        centre: Median position of the devices that moved together, shape (F,); None: there is no new normal.
    """

    kind: DriftKind
    retrain: bool
    enough: bool
    moved: tuple[str, ...]
    faulty: tuple[str, ...]
    evidence: Mapping[str, float]
    text: str
    centre: Array | None = None


class _Pace(NamedTuple):
    """Share of a shift that its pace since the onset explains, as if it had gone on at it all the time.

    1 and more: a ramp, wherever its onset is put; 0: a step. With its standard error.
    """

    share: float
    error: float

    @property
    def goes_on(self) -> bool:
        """Whether the change is still going on, clearly."""
        return self.share - PACE_ERRORS * self.error > ON_PACE

    @property
    def has_ended(self) -> bool:
        """Whether the change came at once and stays, clearly."""
        return -ON_PACE < self.share + PACE_ERRORS * self.error < ON_PACE


NOTHING_MOVED = _Pace(0.0, 0.0)
TOO_SHORT = _Pace(0.0, math.inf)


class _Movement(NamedTuple):
    """How the devices of a cohort moved.

    Attributes:
        movers: Devices with a clear shift.
        faulty: Ids of those that look faulty.
        common: Common shift, 0 where most did not move clearly, shape (F,).
        whole: Median shift of the movers, clear or not, shape (F,).
        least: Smallest difference from ``whole`` that counts, shape (F,).
        centre: Median position of the movers, shape (F,).
        similarity: Largest cosine of the common shift to a known fault.
        steadiness: 1: a step; less: the shift still grew.
        pace: Share of the shift that the pace since the onset explains, and its standard error.
        coherence: Mean cosine of the movers to the common shift.
        alarmed: Share of the movers with an alarm since the onset.
    """

    movers: list[DeviceShift]
    faulty: list[str]
    common: Array
    whole: Array
    least: Array
    centre: Array
    similarity: float
    steadiness: float
    pace: _Pace
    coherence: float
    alarmed: float


def judge(
    observed: CohortShifts, directions: Sequence[Array], profile: Profile, *, slow_verdicts: float = 0.0
) -> Cause:
    """The cause of a drift.

    Args:
        observed: How the devices of the cohorts moved.
        directions: Unit vectors in which known faults move the features, shape (F,), on the same scale.
        profile: Gives ``regime_share`` and ``fault_similarity`` of its training policy, and its channels.
        slow_verdicts: Share of the verdicts by which the change is still going on.
    """
    policy = profile.training
    known = [d for d in observed.devices if not d.alarmed_before]
    already_alarmed = [d.device_id for d in observed.devices if d.alarmed_before]
    found = _analyse(known, directions, policy.fault_similarity, len(observed.features))
    evidence = {
        "active_devices": float(observed.active),
        "devices": float(len(known)),
        "alarmed_before": float(len(already_alarmed)),
        "moved_devices": float(len(found.movers)),
        "moved_share": len(found.movers) / len(known) if known else 0.0,
        "faulty_devices": float(len(found.faulty)),
        "fault_similarity": found.similarity,
        "steadiness": found.steadiness,
        "pace": found.pace.share,
        "pace_error": found.pace.error if math.isfinite(found.pace.error) else -1.0,
        "coherence": found.coherence,
        "alarmed_share": found.alarmed,
        "slow_verdicts": slow_verdicts,
    }
    evidence |= {
        f"shift_{n}": round(float(x), 3) for n, x in zip(observed.features, found.common, strict=True) if x
    }
    enough = len(known) >= FEW_DEVICES and 2 * len(observed.devices) >= observed.active
    kind, text = _kind(found, evidence, observed.log_unit, profile, enough=enough)
    enough = enough and text != TOO_SHORT_AGO
    moved = tuple(n for n, x in zip(observed.features, found.common, strict=True) if x)
    faulty = tuple(sorted({*already_alarmed, *found.faulty}))
    retrain = kind in NEW_NORMAL
    return Cause(kind, retrain, enough, moved, faulty, evidence, text, found.centre if retrain else None)


def _kind(
    found: _Movement, evidence: Mapping[str, float], log_unit: Array, profile: Profile, *, enough: bool
) -> tuple[DriftKind, str]:
    """The first rule that holds: every reason against a new normal comes before the proof of one."""
    policy, n, share = profile.training, len(found.movers), evidence["moved_share"]
    count = f"{n} of {evidence['devices']:.0f} devices moved"
    names = ", ".join(d.device_id for d in found.movers[:3])
    channels = moved_channels(found.common, profile)
    slow = found.steadiness < STEADY or evidence["slow_verdicts"] > 0.5 or found.pace.goes_on
    rules: tuple[tuple[bool, DriftKind, str], ...] = (
        (not enough, DriftKind.UNCLASSIFIED, "too few devices have windows both before and after the onset"),
        (
            evidence["alarmed_before"] > MOST_IN_ALARM * (evidence["alarmed_before"] + evidence["devices"]),
            DriftKind.UNCLASSIFIED,
            f"{evidence['alarmed_before']:.0f} devices were in alarm at the onset: no normal to compare with",
        ),
        (n == 0, DriftKind.UNCLASSIFIED, "no device moved clearly beyond its usual wandering"),
        (
            len(found.faulty) > max(1.0, TOLERATED_FAULTS * n),
            DriftKind.DEGRADATION,
            f"{count}, {len(found.faulty)} of them as a known fault moves them",
        ),
        (n == 1 or share <= SINGLE_SHARE, DriftKind.SINGLE_DEVICE_FAULT, f"{count}: inspect {names}"),
        (
            found.similarity >= policy.fault_similarity,
            DriftKind.DEGRADATION,
            f"{count}, in common as a known fault moves them (cosine {found.similarity:.2f})",
        ),
        (
            slow,
            DriftKind.DEGRADATION,
            f"{count} and go on moving: taken for wear unless a person decides otherwise",
        ),
        (
            share < policy.regime_share,
            DriftKind.UNCLASSIFIED,
            f"{count}: too many for single faults, too few for a new normal",
        ),
        (not found.pace.has_ended, DriftKind.UNCLASSIFIED, TOO_SHORT_AGO),
        (found.coherence < COHERENT, DriftKind.UNCLASSIFIED, f"{count}, each in its own way"),
        (
            sensor_changed(found.common, found.whole, found.least, log_unit, profile),
            DriftKind.SENSOR_RECALIBRATION,
            f"{count} at once, in one channel, as by a sensor's gain or offset",
        ),
        (
            len(channels) <= 1,
            DriftKind.UNCLASSIFIED,
            f"{count} at once, in {''.join(channels)} alone, and not as its sensor's gain or offset moves it",
        ),
        (
            found.alarmed >= ALARMED_SHARE,
            DriftKind.UNCLASSIFIED,
            f"{count} at once, and most of them raise alarms",
        ),
    )
    proven: tuple[DriftKind, str] = (
        DriftKind.COVARIATE,
        f"{count} at once and in the same way, as no known fault moves them",
    )
    return next(((kind, text) for holds, kind, text in rules if holds), proven)


def _analyse(
    known: Sequence[DeviceShift], directions: Sequence[Array], similar: float, width: int
) -> _Movement:
    """How the devices moved; those that look faulty do not count where others are left."""
    movers = [d for d in known if d.clear.any()]
    common = np.zeros(width)
    if not movers:
        return _Movement([], [], common, common, common, common, 0.0, 1.0, NOTHING_MOVED, 1.0, 0.0)
    # First by the whole shift, then by what is left without the common one: a regime may hide a fault.
    faulty = [d for d in movers if _clear_similarity(d.clear, d.shift, directions) >= similar]
    sound = [d for d in movers if d not in faulty]
    common = _common(sound or movers)
    faulty += [d for d in sound if _faulty_beside(d, common, directions, similar)]
    sound = [d for d in movers if d not in faulty] or movers
    cosines = [cosine(d.clear, common) for d in sound]
    return _Movement(
        movers=movers,
        faulty=[d.device_id for d in faulty],
        common=common,
        whole=np.median([d.shift for d in sound], axis=0),
        least=_least([d.noise for d in sound]),
        centre=np.median([d.position for d in sound], axis=0),
        similarity=similarity(common, directions),
        steadiness=_steadiness(sound, common),
        pace=_pace(sound, common),
        coherence=float(np.mean(cosines)),
        alarmed=float(np.mean([d.alarmed_after for d in sound])),
    )


def _least(noises: Sequence[Array]) -> Array:
    """Difference from the median shift of some devices that counts: it must be clear, and matter."""
    of_median = np.median(noises, axis=0) * (math.pi / 2 / len(noises)) ** 0.5
    return np.asarray(np.maximum(CLEAR * of_median, SMALLEST))


def _common(movers: Sequence[DeviceShift]) -> Array:
    """Median shift of those that moved, where most of them moved clearly."""
    clear = np.array([d.clear != 0 for d in movers]).mean(axis=0) >= 0.5
    return np.where(clear, np.median([d.shift for d in movers], axis=0), 0.0)


def _faulty_beside(device: DeviceShift, common: Array, directions: Sequence[Array], similar: float) -> bool:
    """Whether the device's shift beyond the common one looks like a fault."""
    rest = device.shift - common
    far = np.abs(rest) >= np.maximum(CLEAR * device.noise, 2 * SMALLEST)
    return _clear_similarity(np.where(far, rest, 0.0), rest, directions) >= similar


def _clear_similarity(clear: Array, whole: Array, directions: Sequence[Array]) -> float:
    """Similarity of the clear part of a shift to a known fault; at most that of the whole shift."""
    return min(similarity(clear, directions), similarity(whole, directions))


def _steadiness(movers: Sequence[DeviceShift], common: Array) -> float:
    """Shift in the first part of the time as a share of that in the last part: the median of the devices.

    1 where there are too few parts to compare.
    """
    length = float(np.linalg.norm(common))
    if length == 0:
        return 1.0
    ratios = []
    for device in movers:
        along = device.parts @ (common / length)
        along = along[np.isfinite(along)]
        if len(along) >= 2 and along[-1] > 0:
            ratios.append(float(along[0] / along[-1]))
    return float(np.median(ratios)) if ratios else 1.0


def _pace(movers: Sequence[DeviceShift], common: Array) -> _Pace:
    """The share of the shift that its pace since the onset explains: the median of the devices."""
    length = float(np.linalg.norm(common))
    if length == 0:
        return NOTHING_MOVED
    direction = common / length
    shares, errors = [], []
    for device in movers:
        whole = np.isfinite(device.parts).all(axis=1)
        along, since = device.parts[whole] @ direction, device.since[whole]
        if len(along) < LEAST_PARTS or along.mean() <= 0:
            continue
        noise = np.sqrt((device.part_noise[whole] ** 2) @ direction**2)
        # In shifts: how far the change would have gone since the windows before the onset at its pace.
        spans = float(since.mean() / (since[-1] - since[0]) / along.mean())
        shares.append(float(along[-1] - along[0]) * spans)
        errors.append(float(np.hypot(noise[0], noise[-1])) * spans)
    if not shares:
        return TOO_SHORT
    # Of a median; devices wander each in its own way.
    return _Pace(float(np.median(shares)), float(np.median(errors)) * (math.pi / 2 / len(shares)) ** 0.5)


def similarity(shift: Array, directions: Sequence[Array]) -> float:
    """Largest cosine to a known fault's direction; 0 where nothing moved or no fault is known."""
    return max((cosine(shift, s) for s in directions), default=0.0)


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors; 0 where one is 0."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0

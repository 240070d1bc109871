"""How the devices of a cohort moved since an onset: which, how far, at what pace, and how alike. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

CLEAR = 3.0
"""A shift counts from this many standard deviations of a healthy device's wandering on."""
SMALLEST = 0.5
"""A shift counts from this many spreads of healthy windows on: smaller ones do not matter."""
LEAST_PARTS = 3
"""Parts of the time since the onset from which a pace is known."""
ON_PACE = 0.5
"""Share of the shift, explained by the pace since the onset, from which the change counts as still going on.

What is found late looks like a step for a while, as most of it lies before the onset. Its pace tells."""
PACE_ERRORS = 2.0
"""Standard errors by which that share must lie below or above ``ON_PACE`` before it decides."""


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


class Pace(NamedTuple):
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


NOTHING_MOVED = Pace(0.0, 0.0)
TOO_SHORT = Pace(0.0, math.inf)


class Movement(NamedTuple):
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
        apart: Of an announced change: by id of each sound mover that moved clearly farther or less far than
            the median of them, the features in which it did, shape (F,). Features of channels that the change
            must move are left out: by how much they move is each device's own.
    """

    movers: list[DeviceShift]
    faulty: list[str]
    common: Array
    whole: Array
    least: Array
    centre: Array
    similarity: float
    steadiness: float
    pace: Pace
    coherence: float
    alarmed: float
    apart: Mapping[str, Mask]


def analyse(
    known: Sequence[DeviceShift],
    directions: Sequence[Array],
    similar: float,
    width: int,
    announced: Sequence[Mask] = (),
) -> Movement:
    """How the devices moved; those that look faulty do not count where others are left.

    Args:
        known: Devices that were not in alarm at the onset.
        directions: Unit vectors in which known faults move the features, shape (F,).
        similar: Cosine to one of them from which a device looks faulty.
        width: F.
        announced: By channel that an announced change must move, which features are its own, shape (F,). Then
            not the whole shift of a device is compared with known faults, which the change may well resemble,
            but only what is its own; and a device in which one of these channels did not move looks faulty.
    """
    movers = [d for d in known if d.clear.any()]
    common = np.zeros(width)
    if not movers:
        return Movement([], [], common, common, common, common, 0.0, 1.0, NOTHING_MOVED, 1.0, 0.0, {})
    # First by the whole shift, then by what is left without the common one: a regime may hide a fault.
    if announced:
        faulty = [d for d in movers if not all(d.clear[mask].any() for mask in announced)]
    else:
        faulty = [d for d in movers if _clear_similarity(d.clear, d.shift, directions) >= similar]
    sound = [d for d in movers if d not in faulty]
    common = _common(sound or movers)
    faulty += [d for d in sound if _faulty_beside(d, common, directions, similar)]
    sound = [d for d in movers if d not in faulty] or movers
    cosines, whole = [cosine(d.clear, common) for d in sound], np.median([d.shift for d in sound], axis=0)
    return Movement(
        movers=movers,
        faulty=[d.device_id for d in faulty],
        common=common,
        whole=whole,
        least=_least([d.noise for d in sound]),
        centre=np.median([d.position for d in sound], axis=0),
        similarity=similarity(common, directions),
        steadiness=_steadiness(sound, common),
        pace=_pace(sound, common),
        coherence=float(np.mean(cosines)),
        alarmed=float(np.mean([d.alarmed_after for d in sound])),
        apart=_apart(sound, whole, ~np.any(announced, axis=0)) if announced else {},
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
    far = _is_far(device, rest)
    return _clear_similarity(np.where(far, rest, 0.0), rest, directions) >= similar


def _is_far(device: DeviceShift, rest: Array) -> Mask:
    """Where a device's shift beyond that of the others is clear, and matters."""
    return np.asarray(np.abs(rest) >= np.maximum(CLEAR * device.noise, 2 * SMALLEST))


def _apart(sound: Sequence[DeviceShift], whole: Array, judged: Mask) -> dict[str, Mask]:
    """The features in which a device moved clearly farther or less far than most, by id of those devices."""
    far = {d.device_id: _is_far(d, d.shift - whole) & judged for d in sound}
    return {device_id: where for device_id, where in far.items() if where.any()}


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


def _pace(movers: Sequence[DeviceShift], common: Array) -> Pace:
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
    return Pace(float(np.median(shares)), float(np.median(errors)) * (math.pi / 2 / len(shares)) ** 0.5)


def similarity(shift: Array, directions: Sequence[Array]) -> float:
    """Largest cosine to a known fault's direction; 0 where nothing moved or no fault is known."""
    return max((cosine(shift, s) for s in directions), default=0.0)


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors; 0 where one is 0."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0

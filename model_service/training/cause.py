"""Whether a drift is a reason to retrain: a new normal, wear, or something a person must look at.

Pure. Learning a fault as the new normal is the worst failure this system could have, so the burden of proof
lies with retraining: most of a cohort must have moved, at once, the same way, and not as a known fault moves.
Whatever progresses, looks like a fault, or hits single devices is degradation; what fits neither waits for a
person. Devices that look faulty within an honest regime are named and kept out of the training set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.profile import UNITLESS_KINDS, Profile

Array = NDArray[np.float64]
Kind = Literal["recalibration", "regime", "degradation", "single_device", "unclear"]

FEW_DEVICES = 3
"""Fewer devices than this tell nothing about a cohort."""
CLEAR = 3.0
"""Shifts below so many standard deviations of healthy wandering are none."""
SMALLEST = 0.5
"""Shifts below so many spreads of healthy windows matter to nobody."""
SINGLE_SHARE = 0.15
"""Share of a cohort up to which movers are single devices."""
TOLERATED_FAULTS = 0.1
"""Share of the movers that may look faulty while the rest are believed; one device always may."""
MOST_SICK = 1 / 3
"""Share of a cohort in alarm before an onset from which the rest cannot speak for it."""
STEADY = 0.7
"""Share of the final shift that a step has reached in the first part of the time since the onset."""
COHERENT = 0.7
"""Mean cosine of the movers to their common shift from which they moved the same way."""
ALARMED_SHARE = 0.5
"""Share of movers in alarm from which more than one channel moving is not believed to be harmless."""


@dataclass(frozen=True, slots=True, eq=False)
class DeviceShift:
    """One device before and after an onset, in the champion's units (spreads of healthy windows).

    Attributes:
        shift: Mean after less mean before, shape (F,).
        parts: The same for equal parts of the time since the onset, shape (p, F); NaN: nothing seen.
        noise: Standard deviation of ``shift`` while nothing happens, shape (F,).
        place: Mean after, on the yardstick, shape (F,).
        alarmed_before: It was in alarm when the onset came.
        alarmed_after: An alarm began since.
    """

    device_id: str
    cohort: str
    shift: Array
    parts: Array
    noise: Array
    place: Array
    alarmed_before: bool = False
    alarmed_after: bool = False

    @property
    def clear(self) -> Array:
        """The shift where it is clear, 0 elsewhere."""
        far = np.abs(self.shift) >= np.maximum(CLEAR * self.noise, SMALLEST)
        return np.where(far, self.shift, 0.0)


@dataclass(frozen=True, slots=True)
class CohortShifts:
    """Devices of the cohorts in question.

    Attributes:
        shifts: Devices that were seen before and after the onset.
        active: Devices registered in these cohorts.
        features: Names in column order.
    """

    shifts: tuple[DeviceShift, ...]
    active: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """What a drift is.

    Attributes:
        kind: What the evidence says.
        retrain: Whether it is a reason to retrain by itself.
        enough: False: too few devices were heard of since the onset; look again when there is more.
        moved: Features that moved in common.
        faulty: Devices that look faulty: never train on them.
        centre: Middle of those that moved together, on the yardstick, shape (F,); None: it is no new normal.
        evidence: The numbers behind it.
        text: One sentence for a person.
    """

    kind: Kind
    retrain: bool
    enough: bool
    moved: tuple[str, ...]
    faulty: tuple[str, ...]
    evidence: Mapping[str, float]
    text: str
    centre: Array | None = None


class _Found(NamedTuple):
    """What can be said of a scene."""

    movers: list[DeviceShift]
    faulty: list[str]
    common: Array
    centre: Array
    similarity: float
    steadiness: float
    coherence: float
    alarmed: float


def judge(
    scene: CohortShifts, signatures: Sequence[Array], profile: Profile, *, slow_verdicts: float = 0.0
) -> Cause:
    """The cause of a drift.

    Args:
        scene: What the cohorts did.
        signatures: Unit vectors in which known faults move the features, shape (F,), in the same units.
        profile: Its training policy: ``regime_share`` and ``fault_similarity``; its channels.
        slow_verdicts: Share of the verdicts that the drift watch itself calls progressive.
    """
    policy = profile.training
    known = [d for d in scene.shifts if not d.alarmed_before]
    sick_before = [d.device_id for d in scene.shifts if d.alarmed_before]
    found = _look(known, signatures, policy.fault_similarity, len(scene.features))
    evidence = {
        "active_devices": float(scene.active),
        "devices": float(len(known)),
        "alarmed_before": float(len(sick_before)),
        "moved_devices": float(len(found.movers)),
        "moved_share": len(found.movers) / len(known) if known else 0.0,
        "faulty_devices": float(len(found.faulty)),
        "fault_similarity": found.similarity,
        "steadiness": found.steadiness,
        "coherence": found.coherence,
        "alarmed_share": found.alarmed,
        "slow_verdicts": slow_verdicts,
    }
    evidence |= {
        f"shift_{n}": round(float(x), 3) for n, x in zip(scene.features, found.common, strict=True) if x
    }
    enough = len(known) >= FEW_DEVICES and 2 * len(scene.shifts) >= scene.active
    kind, text = _kind(found, evidence, profile, enough=enough)
    moved = tuple(n for n, x in zip(scene.features, found.common, strict=True) if x)
    faulty = tuple(sorted({*sick_before, *found.faulty}))
    retrain = kind in ("recalibration", "regime")
    return Cause(kind, retrain, enough, moved, faulty, evidence, text, found.centre if retrain else None)


def _kind(
    found: _Found, evidence: Mapping[str, float], profile: Profile, *, enough: bool
) -> tuple[Kind, str]:
    """The first rule that holds; what proves a new normal comes last."""
    policy, n, share = profile.training, len(found.movers), evidence["moved_share"]
    told = f"{n} of {evidence['devices']:.0f} devices moved"
    names = ", ".join(d.device_id for d in found.movers[:3])
    one_channel = _one_scaled_channel(found.common, profile)
    slow = found.steadiness < STEADY or evidence["slow_verdicts"] > 0.5
    rules: tuple[tuple[bool, Kind, str], ...] = (
        (not enough, "unclear", "too few devices were heard of on both sides of the onset"),
        (
            evidence["alarmed_before"] > MOST_SICK * (evidence["alarmed_before"] + evidence["devices"]),
            "unclear",
            f"{evidence['alarmed_before']:.0f} devices were in alarm when it came: what is normal?",
        ),
        (n == 0, "unclear", "no device moved clearly beyond its usual wandering"),
        (
            len(found.faulty) > max(1.0, TOLERATED_FAULTS * n),
            "degradation",
            f"{told}, {len(found.faulty)} of them as a known fault does",
        ),
        (n == 1 or share <= SINGLE_SHARE, "single_device", f"{told}: inspect {names}"),
        (
            found.similarity >= policy.fault_similarity,
            "degradation",
            f"{told}, in common as a known fault does (cosine {found.similarity:.2f})",
        ),
        (slow, "degradation", f"{told} and go on moving: wear, until a person says otherwise"),
        (
            share < policy.regime_share,
            "unclear",
            f"{told}: too many for single faults, too few for a new normal",
        ),
        (found.coherence < COHERENT, "unclear", f"{told}, each its own way"),
        (one_channel, "recalibration", f"{told} at once, in one channel, as by a sensor's gain or offset"),
        (found.alarmed >= ALARMED_SHARE, "unclear", f"{told} at once, and most of them raise alarms"),
    )
    proven: tuple[Kind, str] = ("regime", f"{told} at once and the same way, as no known fault does")
    return next(((kind, text) for holds, kind, text in rules if holds), proven)


def _look(known: Sequence[DeviceShift], signatures: Sequence[Array], similar: float, width: int) -> _Found:
    movers = [d for d in known if d.clear.any()]
    common = np.zeros(width)
    if not movers:
        return _Found([], [], common, common, 0.0, 1.0, 1.0, 0.0)
    faulty = [d for d in movers if _alike(d.clear, d.shift, signatures) >= similar]
    honest = [d for d in movers if d not in faulty]
    common = _common(honest or movers)
    faulty += [d for d in honest if _faulty_beside(d, common, signatures, similar)]
    honest = [d for d in movers if d not in faulty] or movers
    cosines = [cosine(d.clear, common) for d in honest]
    return _Found(
        movers=movers,
        faulty=[d.device_id for d in faulty],
        common=common,
        centre=np.median([d.place for d in honest], axis=0),
        similarity=similarity(common, signatures),
        steadiness=_steadiness(honest, common),
        coherence=float(np.mean(cosines)),
        alarmed=float(np.mean([d.alarmed_after for d in honest])),
    )


def _common(movers: Sequence[DeviceShift]) -> Array:
    """Median shift of those that moved, where most of them moved clearly."""
    clear = np.array([d.clear != 0 for d in movers]).mean(axis=0) >= 0.5
    return np.where(clear, np.median([d.shift for d in movers], axis=0), 0.0)


def _faulty_beside(device: DeviceShift, common: Array, signatures: Sequence[Array], similar: float) -> bool:
    """Whether what a device did beyond the common shift looks like a fault."""
    rest = device.shift - common
    far = np.abs(rest) >= np.maximum(CLEAR * device.noise, 2 * SMALLEST)
    return _alike(np.where(far, rest, 0.0), rest, signatures) >= similar


def _alike(clear: Array, whole: Array, signatures: Sequence[Array]) -> float:
    """Similarity to a known fault of what is clear, unless the rest of the shift speaks against it."""
    return min(similarity(clear, signatures), similarity(whole, signatures))


def _steadiness(movers: Sequence[DeviceShift], common: Array) -> float:
    """How much of the last part's shift the first part had already; the median device counts.

    1 where there are too few parts to tell.
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


def _one_scaled_channel(common: Array, profile: Profile) -> bool:
    """Whether one channel moved, as a gain or an offset moves it: nothing without a unit does."""
    moved = [s for s, x in zip(profile.feature_specs(), common, strict=True) if x]
    return len({s.channel for s in moved}) == 1 and not any(s.kind in UNITLESS_KINDS for s in moved)


def similarity(shift: Array, signatures: Sequence[Array]) -> float:
    """Largest cosine to a known fault's direction; 0 where nothing moved or no fault is known."""
    return max((cosine(shift, s) for s in signatures), default=0.0)


def cosine(a: Array, b: Array) -> float:
    """Cosine of two vectors; 0 where one is 0."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths > 0 else 0.0

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

import numpy as np
from numpy.typing import NDArray

from model_service.training.announced_change import AnnouncedChange
from model_service.training.movement import CohortShifts, DeviceShift, Movement, analyse
from model_service.training.sensor_change import moved_channels, sensor_changed
from schemas.drift_vocabulary import NEW_NORMAL, DriftKind
from schemas.profile import Profile

Array = NDArray[np.float64]

FEW_DEVICES = 3
"""Devices that must be known from before and after the onset to judge a cohort."""
SINGLE_SHARE = 0.15
"""Share of a cohort up to which devices that moved are taken for single faults."""
TOLERATED_FAULTS = 0.1
"""Share of the devices that moved that may look faulty without discrediting the rest; one always may."""
MOST_IN_ALARM = 1 / 3
"""Share of a cohort in alarm before the onset above which the rest is not representative."""
STEADY = 0.7
"""Share of the final shift from which, in the first part of the time since the onset, it counts as a step."""
COHERENT = 0.7
"""Mean cosine to the common shift from which devices count as moved in the same way."""
TOO_SHORT_AGO = "the onset is too short ago to tell a change that came at once from one that goes on"
MOST_APART = 1 / 3
"""Share of the devices that moved above which devices that moved by another measure than the rest speak
against an announced change: it comes to all alike, a fault to each by its own measure."""
ALARMED_SHARE = 0.5
"""Share of the moved devices in alarm from which a shift of several channels is not taken for harmless."""


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
        announced: Id of the announced change that it is; empty: of none.
    """

    kind: DriftKind
    retrain: bool
    enough: bool
    moved: tuple[str, ...]
    faulty: tuple[str, ...]
    evidence: Mapping[str, float]
    text: str
    centre: Array | None = None
    announced: str = ""


def judge(
    observed: CohortShifts,
    directions: Sequence[Array],
    profile: Profile,
    *,
    slow_verdicts: float = 0.0,
    announced: AnnouncedChange | None = None,
) -> Cause:
    """The cause of a drift.

    Args:
        observed: How the devices of the cohorts moved.
        directions: Unit vectors in which known faults move the features, shape (F,), on the same scale.
        profile: Gives ``regime_share`` and ``fault_similarity`` of its training policy, and its channels.
        slow_verdicts: Share of the verdicts by which the change is still going on.
        announced: A change that a person announced for this time and these cohorts; it counts where the
            devices show it.
    """
    known = [d for d in observed.devices if not d.alarmed_before]
    already_alarmed = [d.device_id for d in observed.devices if d.alarmed_before]
    found = analyse(known, directions, profile.training.fault_similarity, len(observed.features))
    shown = None if announced is None else _as_announced(known, directions, profile, announced)
    found = shown or found
    by = announced if shown is not None else None
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
        "apart_devices": float(len(found.apart)),
        "slow_verdicts": slow_verdicts,
    }
    evidence |= {
        f"shift_{n}": round(float(x), 3) for n, x in zip(observed.features, found.common, strict=True) if x
    }
    enough = len(known) >= FEW_DEVICES and 2 * len(observed.devices) >= observed.active
    kind, text = _kind(found, evidence, observed.log_unit, profile, by, enough=enough)
    enough = enough and text != TOO_SHORT_AGO
    moved = tuple(n for n, x in zip(observed.features, found.common, strict=True) if x)
    faulty = tuple(sorted({*already_alarmed, *found.faulty}))
    retrain = kind in NEW_NORMAL
    centre, of = (found.centre, by.change_id if by else "") if retrain else (None, "")
    return Cause(kind, retrain, enough, moved, faulty, evidence, text, centre, of)


def _as_announced(
    known: Sequence[DeviceShift], directions: Sequence[Array], profile: Profile, announced: AnnouncedChange
) -> Movement | None:
    """How the devices moved, given that a change was announced; None: what they show is another one."""
    channels = np.array([s.channel for s in profile.feature_specs()])
    must_move = [channels == name for name in announced.moves]
    found = analyse(known, directions, profile.training.fault_similarity, len(channels), must_move)
    return found if announced.is_shown_by(moved_channels(found.common, profile)) else None


def _kind(
    found: Movement,
    evidence: Mapping[str, float],
    log_unit: Array,
    profile: Profile,
    announced: AnnouncedChange | None,
    *,
    enough: bool,
) -> tuple[DriftKind, str]:
    """The first rule that holds: every reason against a new normal comes before the proof of one."""
    policy, n, share = profile.training, len(found.movers), evidence["moved_share"]
    count = f"{n} of {evidence['devices']:.0f} devices moved"
    names = ", ".join(d.device_id for d in found.movers[:3])
    otherwise = "not as announced" if announced else "as a known fault moves them"
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
            f"{count}, {len(found.faulty)} of them {otherwise}",
        ),
        (n == 1 or share <= SINGLE_SHARE, DriftKind.SINGLE_DEVICE_FAULT, f"{count}: inspect {names}"),
        (
            announced is None and found.similarity >= policy.fault_similarity,
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
    )
    against = next(((kind, text) for holds, kind, text in rules if holds), None)
    return against or _as_it_came(found, log_unit, profile, announced, count)


def _as_it_came(
    found: Movement, log_unit: Array, profile: Profile, announced: AnnouncedChange | None, count: str
) -> tuple[DriftKind, str]:
    """What a change is that came at once, to most devices, in the same way, and looks like no known fault."""
    channels = moved_channels(found.common, profile)
    as_announced = "" if announced is None else f", as {announced.by} announced ({announced.change_id})"
    if len(found.apart) > MOST_APART * len(found.movers):
        return DriftKind.UNCLASSIFIED, f"{count} at once{as_announced}, but {_by_own_measure(found, profile)}"
    if sensor_changed(found.common, found.whole, found.least, log_unit, profile):
        text = f"{count} at once, in one channel, as by a sensor's gain or offset{as_announced}"
        return DriftKind.SENSOR_RECALIBRATION, text
    if announced is not None:
        return DriftKind.COVARIATE, f"{count} at once{as_announced}"
    if len(channels) <= 1:
        where = "".join(channels)
        text = f"{count} at once, in {where} alone, and not as its sensor's gain or offset moves it"
        return DriftKind.UNCLASSIFIED, text
    if found.alarmed >= ALARMED_SHARE:
        return DriftKind.UNCLASSIFIED, f"{count} at once, and most of them raise alarms"
    return DriftKind.COVARIATE, f"{count} at once and in the same way, as no known fault moves them"


def _by_own_measure(found: Movement, profile: Profile) -> str:
    """What speaks against an announced change that not all devices show alike, and where to look."""
    where = np.any(list(found.apart.values()), axis=0)
    names = ", ".join(n for n, far in zip(profile.feature_names, where, strict=True) if far)
    devices = ", ".join([*found.apart][:3])
    return f"{len(found.apart)} of them by another measure than the rest ({names}): inspect {devices}"

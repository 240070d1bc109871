"""Reads a report's comparison of two models as one of the new with the old, whichever decides. Pure."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from model_service.rollout.observed import LabelledWindows, PairedAlarms, PairedShadow
from schemas.proto.delivery_pb2 import Shadow


def paired_shadow(shadow: Shadow, versions: AbstractSet[str]) -> PairedShadow | None:
    """The comparison as the guard takes it; None: it compares other models, or nothing.

    A device may send any number: counts are brought into the bounds that an honest one keeps.

    Args:
        shadow: As the device sent it.
        versions: Versions of the new model. Until the swap it is the shadow, afterwards the old one is.
    """
    windows = shadow.windows
    if windows < 1 or not {shadow.active_version, shadow.shadow_version} & versions:
        return None
    active_is_new = shadow.active_version in versions
    risen = shadow.shadow_alarms - shadow.active_alarms
    took = (tuple(shadow.shadow_took), tuple(shadow.active_took))
    scores = (tuple(shadow.shadow_scores), tuple(shadow.active_scores))
    old, new = (0, 1) if active_is_new else (1, 0)
    return PairedShadow(
        windows,
        max(-1.0, min(1.0, (-risen if active_is_new else risen) / windows)),
        shadow.deadline_misses,
        _alarms(shadow, active_is_new=active_is_new) if shadow.HasField("alarms") else None,
        _labelled(shadow, active_is_new=active_is_new) if shadow.labelled.windows > 0 else None,
        old_took=took[old],
        new_took=took[new],
        old_scores=scores[old],
        new_scores=scores[new],
    )


def _alarms(shadow: Shadow, *, active_is_new: bool) -> PairedAlarms:
    pairs, windows = shadow.alarms, shadow.windows
    active = (shadow.active_alarms, pairs.active_only, pairs.active_only_runs)
    other = (shadow.shadow_alarms, pairs.shadow_only, pairs.shadow_only_runs)
    new, old = (active, other) if active_is_new else (other, active)
    new_alarms, gained, gained_runs = (_within(n, windows) for n in new)
    old_alarms, lost, lost_runs = (_within(n, windows) for n in old)
    return PairedAlarms(old_alarms, new_alarms, gained, lost, min(gained_runs, gained), min(lost_runs, lost))


def _labelled(shadow: Shadow, *, active_is_new: bool) -> LabelledWindows:
    found = shadow.labelled
    new, old = found.active_detected, found.shadow_detected
    if not active_is_new:
        new, old = old, new
    return LabelledWindows(found.windows, _within(old, found.windows), _within(new, found.windows))


def _within(count: int, most: int) -> int:
    return max(0, min(count, most))

"""What differs between two profiles, of which kind each change is, and who must sign them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from schemas.profile import Profile
from schemas.profile_bounds import DEFAULT_BOUNDS, ProfileBounds
from schemas.profile_versions import flat

ChangeKind = Literal["everyday", "guarded", "range", "incompatible"]
Authority = Literal["operator", "policy"]
Scored = Callable[[Profile], NDArray[np.float64]]
"""Scores of the golden windows under a profile; NaN where a window has none."""

KINDS: tuple[tuple[str, ChangeKind], ...] = (
    ("name", "incompatible"),
    ("channels", "incompatible"),
    ("channels.*.unit", "incompatible"),
    ("channels.*.dtype", "incompatible"),
    ("channels.*.min", "range"),
    ("channels.*.max", "range"),
    ("channels.*.usual_*", "range"),
    ("channels.*", "guarded"),  # leaves_device, required
    ("sampling.max_*", "guarded"),
    ("sampling.*", "incompatible"),
    ("features.*", "incompatible"),
    ("model.label", "everyday"),
    ("model.hardware", "guarded"),  # these keep a model from machines that it was not made for
    ("model.runtime", "guarded"),
    ("model.*", "incompatible"),
    ("decision.calibrates", "incompatible"),  # rows have another column then
    ("decision.rules.*.enter", "everyday"),
    ("decision.rules.*.leave", "everyday"),
    ("decision.rules.*.after_windows", "everyday"),
    ("decision.rules.*.hold_s", "everyday"),
    ("decision.rules.*.numbers.*", "everyday"),  # within decision.numbers, which the policy role signs
    ("decision.refractory_windows", "everyday"),
    ("decision.*", "guarded"),  # actions, their order, alerts and bounds, the function, idle, fail_safe
    ("filter.*", "everyday"),
    ("summaries.period_s", "everyday"),
    ("summaries.*", "guarded"),  # sketches and moments tell more of what was measured
    ("drift.*", "everyday"),
    ("clock.*", "everyday"),
    ("replay.*", "everyday"),
    ("description", "everyday"),
    ("training.clip_weight", "guarded"),  # these keep a fault, or one device, from being learnt
    ("training.device_share", "guarded"),
    ("training.regime_share", "guarded"),
    ("training.fault_similarity", "guarded"),
    ("training.trainer", "guarded"),  # names the code that learns
    ("training.*", "everyday"),
)
"""Kind of a change by the path of what changes: the first pattern that fits counts. Whatever none fits is
guarded: gates, guards of a rollout, what replaces the sensors, and keys that a later release adds."""
RANGE_BY_POLICY = ("channels.*.min", "channels.*.max")
"""Ranges outside which samples do not count: they hide faults, or show some."""
ADVICE = (
    "devices that run this profile cannot change to it: give the profile another name, have a model learnt "
    "for it, and let the devices join under that name"
)


@dataclass(frozen=True)
class ProfileChange:
    """One value that differs.

    Attributes:
        path: As ``flat`` has it, such as ``decision.rules.stop.enter``.
        before: Absent: None.
        after: Absent: None.
    """

    path: str
    before: Any
    after: Any
    kind: ChangeKind

    @property
    def by_policy(self) -> bool:
        """Whether the policy role must sign it, whatever its values are."""
        return self.kind == "guarded" or any(fnmatchcase(self.path, p) for p in RANGE_BY_POLICY)


@dataclass(frozen=True)
class ProfileVerdict:
    """What may be done with a profile that is to follow another.

    Attributes:
        compatible: Devices of the former can change to it, with the model that they have.
        authority: Who must sign it.
        reasons: Why it is not compatible, or not an operator's to sign.
    """

    compatible: bool
    authority: Authority
    reasons: tuple[str, ...] = ()


def kind_of(path: str) -> ChangeKind:
    """Kind of a change of this value.

    >>> kind_of("filter.p"), kind_of("channels.vibration.leaves_device"), kind_of("gates.min_recall")
    ('everyday', 'guarded', 'guarded')
    """
    return next((kind for pattern, kind in KINDS if fnmatchcase(path, pattern)), "guarded")


def diff(before: Profile, after: Profile) -> list[ProfileChange]:
    """Every value that differs, by path."""
    old, new = flat(before.canonical()), flat(after.canonical())
    return [
        ProfileChange(path, old.get(path), new.get(path), kind_of(path))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    ]


def judge(
    before: Profile,
    after: Profile,
    bounds: ProfileBounds = DEFAULT_BOUNDS,
    scored: Scored | None = None,
) -> ProfileVerdict:
    """Whether a profile may follow another in place, and who must sign it.

    Args:
        before: The version that it follows.
        after: The new one.
        bounds: Of what an operator may sign.
        scored: Scores the golden windows of the model in force; None: there is nothing to compare ranges by,
            so a change of them counts as incompatible.
    """
    changes = diff(before, after)
    against = [f"{c.path} changes" for c in changes if c.kind == "incompatible"]
    ranges = [c for c in changes if c.kind == "range"]
    if ranges and not against:
        against += _against_ranges(before, after, [c.path for c in ranges], scored)
    beyond = [f"{c.path} touches privacy or safety" for c in changes if c.by_policy]
    beyond += outside(after, changes, bounds)
    if against:
        return ProfileVerdict(False, "policy" if beyond else "operator", (*against, ADVICE))
    return ProfileVerdict(True, "policy" if beyond else "operator", tuple(beyond))


def outside(after: Profile, changes: Iterable[ProfileChange], bounds: ProfileBounds) -> list[str]:
    """Everyday changes that lie outside what the policy lets an operator sign, in words.

    Bounds hold for what changes: a value that the policy role signed before may stay.
    """
    changed = {c.path for c in changes if c.kind == "everyday"}
    values = flat(after.canonical())
    found = []
    for path in sorted(changed & values.keys()):
        limits = bounds.of(path)
        if limits is not None and not limits.allow(values[path]):
            found.append(f"{path} = {values[path]} lies outside {limits}, which the policy sets")
    return found


def same_scores(before: Profile, after: Profile, scored: Scored) -> bool:
    """Whether the golden windows score the same, to the bit, under both."""
    return bool(np.array_equal(scored(before), scored(after), equal_nan=True))


def _against_ranges(
    before: Profile, after: Profile, paths: Sequence[str], scored: Scored | None
) -> list[str]:
    named = ", ".join(paths)
    if scored is None:
        return [f"{named}: no golden windows are at hand that would show whether scores stay the same"]
    if same_scores(before, after, scored):
        return []
    return [f"{named}: golden windows would score differently"]

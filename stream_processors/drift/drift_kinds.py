"""What kind of drift the evidence suggests, and what to do about it.

Only aggregates of the cohort are available, so the kinds are told apart by what aggregates show:

* *How many devices moved.* If a share f of a cohort moves by D, the cohort's mean moves by f*D and its
  variance grows by f*(1-f)*D^2, so f = shift^2 / (shift^2 + growth). A share that comes to less than two
  devices, with an extreme value to match, is a ``single_device_fault``.
* *How fast.* A ramp that still goes on is ``degradation``; only a step can be the rest.
* *What else moved.* One channel's features, at least half of those that carry its unit and none of those
  without (no gain or offset moves a crest factor), and nothing of the other channels:
  ``sensor_recalibration``. Two channels or more: ``covariate``.

Anything else is ``unclassified``. A kind is a suggestion; the evidence carries the numbers. The words are
those of ``schemas.drift_vocabulary``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from schemas.drift_vocabulary import DriftKind
from schemas.profile import Profile
from stream_processors.windowing.moments import Moments

ACTIONS: Mapping[DriftKind, str] = {
    DriftKind.UNCLASSIFIED: "look at the evidence before anything is retrained",
    DriftKind.SINGLE_DEVICE_FAULT: "inspect the outlying device; keep its data out of training",
    DriftKind.SENSOR_RECALIBRATION: "confirm the recalibration, then retrain on data from the onset on",
    DriftKind.COVARIATE: "confirm a new operating regime, then retrain on data from the onset on",
    DriftKind.DEGRADATION: "inspect the fleet for wear; do not retrain: wear must not become normal",
}
FEW_DEVICES = 3
"""In cohorts smaller than this, one moved device looks like all of them."""
_SINGLE = 1.8
"""Estimated number of moved devices below which a single device is the cause."""


class DriftEvidence(NamedTuple):
    """What the kind of a drift is derived from.

    Attributes:
        abrupt: Whether the change came at once (``change.SeriesChange``).
        windows_since_onset: Onset window included.
        devices: Devices in the window of the verdict.
        moved_share: Estimated share of them that moved, in [0, 1].
        channels_moved: Channels with a moved feature.
        scaled_share: Share that moved of the one channel's features that carry its unit and have a baseline;
            0 where features of several channels moved, or features without a unit.
    """

    abrupt: bool
    windows_since_onset: int
    devices: int
    moved_share: float
    channels_moved: int
    scaled_share: float


def classify(evidence: DriftEvidence) -> DriftKind:
    """The kind that the evidence suggests."""
    if is_single(evidence.devices, evidence.moved_share):
        return DriftKind.SINGLE_DEVICE_FAULT
    if not evidence.abrupt:
        return DriftKind.DEGRADATION
    if evidence.channels_moved == 1 and evidence.scaled_share >= 0.5:
        return DriftKind.SENSOR_RECALIBRATION
    return DriftKind.COVARIATE if evidence.channels_moved > 1 else DriftKind.UNCLASSIFIED


def is_single(devices: int, share: float) -> bool:
    """Whether so small a share of so many devices is a single one."""
    return devices >= FEW_DEVICES and share * devices < _SINGLE


def moved_share(baseline_mean: float, baseline_sd: float, window: Moments) -> float:
    """Estimated share of the cohort that moved, in [0, 1].

    1 where the variance did not grow, or where no value lies far enough out to be the single device that
    moments alone would suggest (a spread that grew everywhere looks like that).
    """
    shift = window.mean - baseline_mean
    growth = max(window.variance - baseline_sd**2, 0.0)
    if growth <= 0:
        return 1.0
    share = shift**2 / (shift**2 + growth)
    reach = window.max - window.mean if shift > 0 else window.mean - window.min
    # growth / |shift| = (1 - f) * D: how far out the moved devices lie.
    return share if growth <= 1.5 * abs(shift) * reach else 1.0


def channels_of(moved: Mapping[str, bool | None], profile: Profile) -> tuple[int, float]:
    """``channels_moved`` and ``scaled_share`` of the evidence.

    Args:
        moved: Whether each feature moved; None: not known.
        profile: Maps features to channels; ``score`` belongs to no channel.
    """
    specs = [s for s in profile.feature_specs() if s.name in moved]
    channels = {s.channel for s in specs if moved[s.name]}
    if len(channels) != 1:
        return len(channels), 0.0
    own = [s for s in specs if s.channel in channels]
    known = [moved[s.name] for s in own if s.scales and moved[s.name] is not None]
    if any(moved[s.name] for s in own if not s.scales) or not known:
        return 1, 0.0
    return 1, sum(map(bool, known)) / len(known)

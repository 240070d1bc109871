"""The generic fault bank of a profile: what generic faults do to its features, in its own raw windows.

Pairs are windows of the history without and with the fault, nothing else changed. The bank holds effects on
features, so that it can be injected into any rows of the lake later, when the raw samples are gone.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.generic_faults import GENERIC_FAULTS, ChannelScale, FaultSubject
from model_service.models.fault_bank import GENERIC, BankFile
from model_service.models.features import logged_features, profile_features
from model_service.models.mahalanobis import SMALLEST
from model_service.models.rounding import rounded
from schemas.calendar_features import golden_ends
from schemas.errors import DatasetError
from schemas.profile import Profile

Windows = NDArray[np.float64]

MEMBERS = 12
"""Windows of the history that each fault is injected into."""
LEAST_WINDOWS = 4
SHARED = ("step", "ramp", "noise_growth")
"""Faults that a machine can have as well as a sensor: they are injected once more so that they reach the
other channels, too."""
REACH = 0.5
"""Size in the other channels as a share of that in the first; the direction is drawn."""


def generic_bank(profile: Profile, windows: Windows, seed: int) -> BankFile:
    """The bank, kinds named ``<fault>:<channel>``.

    Args:
        profile: Gives channels and features.
        windows: Healthy raw windows in the order of time, shape (n, W, C).
        seed: Of the noise.

    Raises:
        DatasetError: Too few complete windows.
    """
    members = _members(windows)
    logged, ends = logged_features(profile), golden_ends(len(members[0]))
    healthy = profile_features(profile, members[0], ends)
    effects: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
    for kind, size, faulty in _injected(profile, windows, *members, seed):
        effect = _effect(healthy, profile_features(profile, faulty, ends), logged)
        effects.setdefault(kind, {})[str(size)] = tuple(tuple(row) for row in effect.tolist())
    return BankFile(
        profile=profile.name,
        featureset=profile.featureset,
        features=profile.feature_names,
        logged=tuple(logged.tolist()),
        seed=seed,
        effects=effects,
        origin=GENERIC,
    )


def injected_windows(profile: Profile, windows: Windows, seed: int) -> Iterator[tuple[str, float, Windows]]:
    """Kind, size and raw windows with each generic fault, for detectors that read raw windows.

    Raises:
        DatasetError: Too few complete windows.
    """
    return _injected(profile, windows, *_members(windows), seed)


def _injected(
    profile: Profile, windows: Windows, chosen: Windows, others: Windows, seed: int
) -> Iterator[tuple[str, float, Windows]]:
    channels = profile.channels
    sources = {name for spec in profile.feature_specs() for name in spec.sources}
    used = [at for at, c in enumerate(channels) if c.name in sources]
    rng = np.random.default_rng([seed, 2])
    noise = rng.standard_normal(chosen.shape[:2])
    signs = rng.choice((-1.0, 1.0), (len(channels), len(channels)))
    subjects = {
        at: FaultSubject(chosen[:, :, at], others[:, :, at], noise, _scale(windows[:, :, at])) for at in used
    }
    # Beyond these a sample counts as missing, and says so by itself.
    limits = np.array([(c.min, c.max) for c in channels]).T
    for at in used:
        for kind, (inject, sizes) in GENERIC_FAULTS.items():
            if kind == "decoupled" and len(used) < 2:
                continue
            for size in sizes:
                faulty = chosen.copy()
                faulty[:, :, at] = inject(subjects[at], size)
                yield f"{kind}:{channels[at].name}", size, np.clip(faulty, *limits)
                if kind not in SHARED or len(used) < 2:
                    continue
                for other in used:
                    if other != at:
                        reach = REACH * (1.0 if kind == "noise_growth" else signs[at, other])
                        faulty[:, :, other] = inject(subjects[other], reach * size)
                yield f"shared_{kind}:{channels[at].name}", size, np.clip(faulty, *limits)


def _members(windows: Windows) -> tuple[Windows, Windows]:
    """Complete windows spread over the history, and for each one from another time."""
    complete = windows[np.isfinite(windows).all(axis=(1, 2))]
    if len(complete) < LEAST_WINDOWS:
        raise DatasetError(
            f"{len(complete)} complete windows in the history: a fault bank needs {LEAST_WINDOWS} at least"
        )
    count = min(MEMBERS, len(complete))
    at = np.linspace(0, len(complete) - 1, count).astype(int)
    # Half the history apart, so that the other window follows another state of the machine.
    other = (at + len(complete) // 2) % len(complete)
    return complete[at], complete[other]


def _scale(samples: Windows) -> ChannelScale:
    flat = samples[np.isfinite(samples)]
    off = np.abs(flat - np.median(flat))
    level = max(1.4826 * float(np.median(off)), 1.2533 * float(off.mean()), SMALLEST)
    within = np.nanstd(samples, axis=1)
    noise = max(float(np.nanmedian(within)), 0.01 * level)
    return ChannelScale(level, noise)


def _effect(healthy: Windows, faulty: Windows, logged: NDArray[np.bool_]) -> Windows:
    logs = np.log(np.maximum(faulty, SMALLEST)) - np.log(np.maximum(healthy, SMALLEST))
    return rounded(np.where(logged, logs, faulty - healthy), digits=4)

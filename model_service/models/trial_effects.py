"""What a bundle tells devices beyond its model: fault effects for the trial, hardware, runtime."""

from __future__ import annotations

import numpy as np

from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.models.fault_bank import FaultBank
from model_service.models.golden import with_effects
from schemas.errors import BundleError
from schemas.fault_effects import LARGEST_LOG, MAX_EFFECTS, FaultEffects
from schemas.model_version import ModelVersion
from schemas.profile import Profile
from schemas.recent_level import RECENT
from schemas.score_part import score_part


def effects_of(bank: FaultBank) -> FaultEffects:
    """At most ``MAX_EFFECTS`` effects of a bank, spread evenly over its kinds, severities and members."""
    faults = [(kind, severity) for kind in bank.kinds for severity in bank.severities(kind)]
    if len(faults) > MAX_EFFECTS:
        faults = [faults[at] for at in np.linspace(0, len(faults) - 1, MAX_EFFECTS).astype(int)]
    each = MAX_EFFECTS // len(faults)
    kinds: list[str] = []
    rows = []
    for kind, severity in faults:
        members = bank.effects[kind][severity]
        for at in np.linspace(0, len(members) - 1, min(each, len(members))).astype(int):
            kinds.append(kind)
            rows.append(members[at])
    found = np.array(rows)
    bounded = np.where(bank.logged, np.clip(found, -LARGEST_LOG, LARGEST_LOG), found)
    return FaultEffects(tuple(kinds), bank.logged, bounded)


def for_devices(bundle: BundleFiles, profile: Profile, bank: FaultBank | None) -> BundleFiles:
    """The bundle as devices get it; the same bundle where neither profile nor bank has anything to add.

    Args:
        bundle: As the training made it.
        profile: Says on which hardware classes and runtimes its models may run.
        bank: Faults for the trial; None: there are none. A model whose score depends on more than its
            features, such as one that reads raw windows, carries none either.
    """
    effects = None if bank is None or not _reads_features(bundle) else effects_of(bank)
    terms = {"hardware": profile.model.hardware, "runtime": profile.model.runtime}
    if effects is None and not any(terms.values()):
        return bundle
    golden = bundle.golden if effects is None else with_effects(bundle.golden, effects)
    major = ModelVersion.parse(bundle.manifest.version).major
    return build_bundle(
        bundle.manifest.model_copy(update={**terms, "version": ""}), bundle.model, golden, major
    )


def _reads_features(bundle: BundleFiles) -> bool:
    """Whether the score depends on features alone, now and before, so that effects can be put between."""
    manifest = bundle.manifest
    try:
        score_part(bundle.model, len(manifest.features), manifest.version, (RECENT,))
    except BundleError:
        return False
    return True

"""What the cloud goes by itself: of a profile the newest version that a channel named, else the registered.

Rows are not judged by this: each names its own version, or none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.version_store import VersionStore
from schemas.errors import PipelineError
from schemas.profile import Profile

log = logging.getLogger(__name__)


def current_profiles(lake: Lake) -> dict[str, Profile]:
    """Every registered profile as the fleet is told to run it now, by name."""
    return as_told(ProfileRegistry(lake).profiles(), VersionStore(lake.root))


def as_told(registered: Mapping[str, Profile], versions: VersionStore) -> dict[str, Profile]:
    """These profiles, each in its newest version that a channel named and whose signatures hold."""
    return {name: _newest(name, versions) or profile for name, profile in registered.items()}


def _newest(name: str, versions: VersionStore) -> Profile | None:
    for version in reversed(versions.history(name)):
        try:
            found = versions.version(version) if versions.groups_of(version) else None
        except PipelineError as exc:  # a damaged one stops nothing: the one before it counts
            log.warning("%s does not count: %s", version, exc)
            continue
        if found is not None:
            return found.profile
    return None

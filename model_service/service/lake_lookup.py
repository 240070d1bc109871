"""Looks up in the lake which profile a model family or a drift verdict belongs to."""

from __future__ import annotations

from pathlib import Path

from feature_store import connect
from feature_store.current_profiles import current_profiles
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry, used_profiles
from schemas.profile import Profile


class LakeLookup:
    """Queries the lake. Its methods block: call them in a thread.

    Args:
        lake_root: Folder of the lake.
    """

    def __init__(self, lake_root: Path) -> None:
        self._lake_root = lake_root

    def profiles(self) -> dict[str, Profile]:
        """Registered profiles by name."""
        return dict(ProfileRegistry(Lake.open(self._lake_root)).profiles())

    def current_profile(self, name: str) -> Profile | None:
        """A profile as the fleet is told to run it now; None: it is not registered."""
        return current_profiles(Lake.open(self._lake_root)).get(name)

    def used_profiles(self) -> frozenset[str]:
        """Names of the profiles that registered devices run."""
        return used_profiles(Lake.open(self._lake_root))

    def verdict_profile(self, event_id: str) -> Profile | None:
        """Profile that the drift verdict is about; None: there is no such verdict."""
        lake = Lake.open(self._lake_root)
        with connect(self._lake_root, comments=False) as connection:
            found = connection.execute("SELECT profile FROM drift WHERE event_id = ?", [event_id]).fetchone()
        return None if found is None else ProfileRegistry(lake).profiles().get(found[0])

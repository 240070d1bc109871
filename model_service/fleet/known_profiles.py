"""Profiles that the model service knows: those of the lake as devices are told to run them, and shipped."""

from __future__ import annotations

import time
from collections.abc import Callable

from feature_store.current_profiles import current_profiles
from feature_store.lake import Lake
from schemas.errors import ProfileError
from schemas.profile import Profile
from schemas.profile_file import find_profile

_FRESH_S = 2.0


class KnownProfiles:
    """Looks profiles up by name.

    Args:
        lake: Has the registered profiles.
        monotonic: Seconds; measures how old the kept profiles are.
    """

    def __init__(self, lake: Lake, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._lake = lake
        self._monotonic = monotonic
        self._read_at = float("-inf")
        self._known: dict[str, Profile | None] = {}

    def named(self, name: str) -> Profile | None:
        """The profile of that name; None: it is neither registered nor shipped."""
        if self._monotonic() - self._read_at > _FRESH_S:
            self._known = dict(current_profiles(self._lake))
            self._read_at = self._monotonic()
        if name not in self._known:
            self._known[name] = _shipped(name)
        return self._known[name]

    def family(self, name: str) -> str:
        """Model family of the profile's devices; empty: the profile is not known."""
        found = self.named(name)
        return "" if found is None else found.model.name


def _shipped(name: str) -> Profile | None:
    try:
        return find_profile(name)
    except ProfileError:
        return None

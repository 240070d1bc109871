"""Profiles that the model service knows: those that the lake has registered, else those shipped with it."""

from __future__ import annotations

import time
from collections.abc import Callable

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
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
        self._registered = ProfileRegistry(lake)
        self._monotonic = monotonic
        self._read_at = float("-inf")
        self._known: dict[str, Profile | None] = {}

    def named(self, name: str) -> Profile | None:
        """The profile of that name; None: it is neither registered nor shipped."""
        if self._monotonic() - self._read_at > _FRESH_S:
            self._known = dict(self._registered.profiles())
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

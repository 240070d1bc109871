"""Which version of its profile a process runs: updaters say it, the sensing loop follows between windows.

A process runs one profile for all its devices: the highest number that one of them is told to run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from schemas.profile import Profile
from schemas.profile_changes import diff
from schemas.profile_versions import ProfileVersion
from schemas.version_names import VersionHeader

AT_NEXT_START = (
    "channels.*", "decision.fail_safe", "source*", "align*", "replay*", "simulate*", "rollout*"
)  # fmt: skip
"""Values that source, watchdog, model and updater read once, when the process starts. What the device itself
makes of a channel's limits changes at once."""


@dataclass(frozen=True)
class RunningProfile:
    """The profile that a process runs.

    Attributes:
        number: Of its version; 0: it is of a file.
    """

    profile: Profile
    number: int = 0

    @property
    def header(self) -> VersionHeader | None:
        """How messages of its boots name it; None: they do not."""
        return ProfileVersion(self.number, self.profile).header if self.number else None


class ProfileSwitch:
    """What devices are told to run, and what the process runs. From any thread.

    Args:
        running: What the process starts with.

    Attributes:
        running: What the sensing loop runs.
        wanted: The version that it is to take over now; None: it runs what it is to run.
        problem: Why the loop could not take over what it was told; empty: it could.
        later: Values of it that come into force at the next start.
        on_change: Called when the loop has taken something over, or could not; must not block.
    """

    def __init__(self, running: RunningProfile) -> None:
        self.running = running
        self.problem = ""
        self.later: tuple[str, ...] = ()
        self.on_change: list[Callable[[], None]] = []
        self.wanted: ProfileVersion | None = None
        self._started = running.profile
        self._told: dict[str, ProfileVersion] = {}
        self._failed: ProfileVersion | None = None
        self._lock = threading.Lock()

    def tell(self, device_id: str, version: ProfileVersion) -> None:
        """Note what a device's channel wants it to run."""
        with self._lock:
            self._told[device_id] = version
            self._decide()

    def _decide(self) -> None:
        told = max(self._told.values(), key=lambda v: v.number, default=None)
        runs = RunningProfile(told.profile, told.number) == self.running if told is not None else True
        self.wanted = None if runs or told == self._failed else told

    def taken_over(self, running: RunningProfile) -> None:
        """The sensing loop has begun boots under this profile."""
        changed = [c.path for c in diff(self._started, running.profile)]
        self.later = tuple(p for p in changed if any(fnmatchcase(p, pattern) for pattern in AT_NEXT_START))
        with self._lock:
            self.running, self.problem = running, ""
            self._decide()
        for woken in self.on_change:
            woken()

    def failed(self, version: ProfileVersion, reason: str) -> None:
        """The sensing loop could not take it over, and goes on as before."""
        with self._lock:
            self._failed, self.problem = version, reason
            self._decide()
        for woken in self.on_change:
            woken()

    def status(self) -> Mapping[str, Any]:
        """For the status file."""
        header = self.running.header
        return {
            "number": self.running.number,
            "digest": self.running.profile.digest() if header is None else header.digest,
            "at_next_start": list(self.later),
            "problem": self.problem,
        }

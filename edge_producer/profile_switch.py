"""Which version of its profile each device of a process runs: updaters say it, the sensing loop follows."""

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
    "channels.*", "decision.fail_safe", "decision.numbers.*.value",
    "source*", "align*", "replay*", "simulate*", "rollout*"
)  # fmt: skip
"""Values that source, watchdog, model and updater read once, when the process starts. What the device itself
makes of a channel's limits changes at once."""


@dataclass(frozen=True)
class RunningProfile:
    """The profile that a device runs.

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
    """What devices are told to run, and what they run. From any thread.

    Args:
        given: What devices run that were told nothing.
        own: By device id, what others run at the start.

    Attributes:
        wanted: By device id, the versions that the sensing loop is to take over now; a new mapping each time.
        on_change: Called when the loop has taken something over, or could not; must not block.
    """

    def __init__(self, given: RunningProfile, own: Mapping[str, RunningProfile] | None = None) -> None:
        self.wanted: Mapping[str, ProfileVersion] = {}
        self.on_change: list[Callable[[], None]] = []
        self._given = given
        self._own = dict(own or {})
        self._started = self.process.profile
        self._told: dict[str, ProfileVersion] = {}
        self._failed: dict[str, tuple[ProfileVersion, str]] = {}
        self._lock = threading.Lock()

    @property
    def process(self) -> RunningProfile:
        """What the parts go by that all devices share: the highest version that one of them runs."""
        return max(self._own.copy().values(), key=lambda running: running.number, default=self._given)

    def running(self, device_id: str) -> RunningProfile:
        """What a device runs."""
        return self._own.get(device_id, self._given)

    def tell(self, device_id: str, version: ProfileVersion) -> None:
        """Note what a device's channel wants it to run."""
        with self._lock:
            self._told[device_id] = version
            self._decide()

    def taken_over(self, device_id: str, running: RunningProfile) -> None:
        """The sensing loop has begun a boot of the device under this profile."""
        with self._lock:
            self._own[device_id] = running
            self._failed.pop(device_id, None)
            self._decide()
        self._notify()

    def failed(self, device_id: str, version: ProfileVersion, reason: str) -> None:
        """The sensing loop could not begin one, and goes on as before."""
        with self._lock:
            self._failed[device_id] = version, reason
            self._decide()
        self._notify()

    def problem(self, device_id: str) -> str:
        """Why the loop could not take over what the device was told; empty: it could, or has not tried."""
        version, reason = self._failed.get(device_id, (None, ""))
        return reason if version is not None and version == self._told.get(device_id) else ""

    def later(self, device_id: str) -> tuple[str, ...]:
        """Values of what the device runs that come into force at the next start."""
        changed = [c.path for c in diff(self._started, self.running(device_id).profile)]
        return tuple(path for path in changed if any(fnmatchcase(path, pattern) for pattern in AT_NEXT_START))

    def status(self) -> Mapping[str, Any]:
        """For the status file."""
        process = self.process
        return {
            "number": process.number,
            "digest": process.profile.digest(),
            "devices": {name: running.number for name, running in sorted(self._own.copy().items())},
        }

    def _decide(self) -> None:
        self.wanted = {
            name: told
            for name, told in self._told.items()
            if RunningProfile(told.profile, told.number) != self.running(name)
            and told != self._failed.get(name, (None, ""))[0]
        }

    def _notify(self) -> None:
        for woken in self.on_change:
            woken()

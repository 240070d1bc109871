"""When other work may be done without a window waiting for it. Pure."""

from __future__ import annotations

from schemas.profile import Sampling

STOPPED_HOPS = 3.0
"""Hops without a window after which none is expected any more."""
SHORTEST_HOP_S, LONGEST_HOP_S = 0.004, 0.1
"""Windows that come faster leave no calm time, and for slower ones a millisecond does not matter."""
REHEARSED_STEP_S = 0.005
"""Longest step between samples at which a rehearsal is still fresh when the last sample comes."""
REHEARSAL_SHARE = 0.9
"""Part of a step that a rehearsal may take: a sample that comes meanwhile waits for its end."""
TOO_SLOW = 100
"""So many rehearsals in a row that took longer mean that they do not fit; a busy start is over sooner."""


class CalmTime:
    """Finds it right behind a window, where windows of one device come fast and at an even pace.

    Args:
        sampling: Of the profile.
        devices: Devices whose windows come in turn: of several, the next may come at any time.

    Attributes:
        known: Whether there is such a time.
    """

    def __init__(self, sampling: Sampling, devices: int) -> None:
        hop_s = sampling.hop_s
        self.known = devices == 1 and SHORTEST_HOP_S <= hop_s <= LONGEST_HOP_S
        self._step_s = hop_s / sampling.hop_samples
        # Right behind a decision nothing has left the caches; long before the next, it does so once more.
        self._rehearsing = self.known and sampling.hop_samples > 1 and self._step_s <= REHEARSED_STEP_S
        self._expected_s = STOPPED_HOPS * hop_s if self.known else 0.0
        self._newest_s = -float("inf")
        self._rehearsed = False
        self._too_slow = 0

    def wait_s(self, now_s: float, *, window: bool) -> float:
        """Seconds until other work may be done; 0: now.

        Args:
            now_s: Steady clock.
            window: A window has just been decided on.
        """
        if window:
            self._newest_s, self._rehearsed = now_s, False
            return 0.0
        return max(self._newest_s + self._expected_s - now_s, 0.0)

    def rehearses(self) -> bool:
        """Whether to prepare for the next window now that one sample of it is missing: once before each."""
        due = self._rehearsing and not self._rehearsed
        self._rehearsed = True
        return due

    def rehearsed(self, took_s: float) -> None:
        """Take note of how long that took; where it does not fit between two samples, none comes any more."""
        self._too_slow = self._too_slow + 1 if took_s > REHEARSAL_SHARE * self._step_s else 0
        self._rehearsing = self._rehearsing and self._too_slow < TOO_SLOW

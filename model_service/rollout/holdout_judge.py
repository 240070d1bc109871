"""Holds treated devices against those held out in the same period: silence, and ends of the process. Pure.

Both are compared by the exact test of Fisher (1935): given how many devices of both parts are concerned, how
likely are so many among the treated? A power cut or a broken network concerns both parts alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from model_service.rollout.device_progress import DeviceProgress, ProgressKind, unclean_ends
from model_service.rollout.observed import Observed
from model_service.rollout.rollout_record import RolloutRecord

ABOVE = 0.1
"""Ends of processes of treated devices are above the holdout's where chance makes so many less often."""
SILENT = 0.0015
"""Error probability for aborting because treated devices fell silent more often than those held out."""


@dataclass(frozen=True)
class PartsCompared:
    """How many devices of each part are concerned.

    Attributes:
        treated, held: Devices that can be compared.
        p: Probability of so many treated ones by chance; 1 where one part is empty.
    """

    treated: int = 0
    treated_hit: int = 0
    held: int = 0
    held_hit: int = 0

    @property
    def p(self) -> float:
        """Fisher's exact test, one-sided."""
        if not self.treated or not self.held:
            return 1.0
        hit, all_ = self.treated_hit + self.held_hit, self.treated + self.held
        ways = math.comb(all_, hit)
        most = min(hit, self.treated)
        counts = range(self.treated_hit, most + 1)
        return sum(math.comb(self.treated, k) * math.comb(self.held, hit - k) for k in counts) / ways

    def numbers(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "treated": self.treated,
            "treated_hit": self.treated_hit,
            "held": self.held,
            "held_hit": self.held_hit,
            "p": float(f"{self.p:.3g}"),
        }


@dataclass(frozen=True)
class HoldoutFinding:
    """What the holdout shows besides its alarms.

    Attributes:
        silence: Devices that sent no window for ``silent_s``.
        ends: Devices whose process ended without order since they accepted the rollout.
    """

    silence: PartsCompared = PartsCompared()
    ends: PartsCompared = PartsCompared()

    @property
    def harm(self) -> str:
        """Why the rollout ends, in words; empty: it need not."""
        s = self.silence
        if s.p > SILENT:
            return ""
        return (
            f"{s.treated_hit} of {s.treated} treated devices send no windows any more,"
            f" of {s.held} held out {s.held_hit}"
        )

    @property
    def excuses(self) -> bool:
        """Whether one end of a process is excused: not where treated devices have more of them."""
        return self.ends.p >= ABOVE

    def numbers(self) -> dict[str, Any]:
        """As JSON values."""
        return {"silence": self.silence.numbers(), "ends": self.ends.numbers()}


def holdout_finding(
    record: RolloutRecord, phase: int, progress: Mapping[str, DeviceProgress], observed: Observed, now: float
) -> HoldoutFinding:
    """Treated devices of a phase beside the holdout.

    Args:
        record: The rollout.
        phase: Number of the phase.
        progress: How far each treated device is.
        observed: Devices, reports and the newest windows.
        now: UTC seconds.
    """
    held_out = record.held_out(phase)
    held = [d for d in observed.members if held_out.includes(d)]
    running = [d for d, s in progress.items() if s.kind is ProgressKind.COMMITTED]
    ended = {d: s.ends for d, s in progress.items() if s.ends is not None}
    held_ended = {d: n for d in held if (n := unclean_ends(observed.reports.get(d, ()))) is not None}
    ends = PartsCompared(
        len(ended),
        sum(n > 0 for n in ended.values()),
        len(held_ended),
        sum(n > 0 for n in held_ended.values()),
    )
    if observed.rates is None or not observed.rates.newest:
        return HoldoutFinding(ends=ends)
    newest, oldest = observed.rates.newest, now - record.settings.silent_s

    def silent(devices: list[str]) -> int:
        return sum(newest.get(d, now) < oldest for d in devices)

    silence = PartsCompared(len(running), silent(running), len(held), silent(held))
    return HoldoutFinding(silence, ends)

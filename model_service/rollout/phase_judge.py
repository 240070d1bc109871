"""Judges one phase from raw reports: the engine promotes by it, the guard evaluator computes it anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from model_service.rollout import guard_statistics
from model_service.rollout.device_progress import DeviceProgress, ProgressKind, device_progress
from model_service.rollout.guard_statistics import GuardFinding
from model_service.rollout.observed import Observed
from model_service.rollout.rollout_record import RolloutRecord

SMALLEST = 20
"""Failures are judged on at least so many devices, or on the whole phase where it is smaller."""
_SETTLED = (ProgressKind.COMMITTED, ProgressKind.FAILED, ProgressKind.SILENT)
_BAD = (ProgressKind.FAILED, ProgressKind.SILENT)


class PhaseDecision(NamedTuple):
    """What to do about a phase.

    Attributes:
        answer: ``ask``: a person decides.
        reason: Why, for people.
        kind: What a person is asked about, where one is.
    """

    answer: Literal["wait", "promote", "ask", "abort"]
    reason: str = ""
    kind: Literal["not_shown", "failures"] = "failures"


@dataclass(frozen=True)
class PhaseJudgement:
    """What a phase looks like now.

    Attributes:
        standings: Of each treated device.
        verdict: Of the quality guard.
        due: When it can change without a new report, UTC seconds; None: it cannot.
    """

    decision: PhaseDecision
    standings: Mapping[str, DeviceProgress]
    verdict: GuardFinding
    due: float | None = None

    def count(self, *kinds: ProgressKind) -> int:
        """Treated devices that stand at one of these."""
        return sum(s.kind in kinds for s in self.standings.values())

    def numbers(self) -> dict[str, Any]:
        """As JSON values: for evidence, events and the command line."""
        counts = {kind.value: self.count(kind) for kind in ProgressKind}
        v = self.verdict
        return {
            "treated": len(self.standings),
            **counts,
            "guard": v.answer,
            "gain": round(v.gain, 6),
            "low": round(v.low, 6),
            "high": round(v.high, 6),
            "bound": v.bound,
            "guard_devices": v.devices,
            "unseen": round(v.unseen, 4),
            "guard_text": v.text,
            "failures": dict(self._failures()),
        }

    def _failures(self) -> list[tuple[str, str]]:
        bad = [(device, s.why) for device, s in sorted(self.standings.items()) if s.kind in _BAD]
        return bad[:20]


def judge(
    record: RolloutRecord, phase: int, published_at: float, seen: Observed, now: float
) -> PhaseJudgement:
    """Judge a phase.

    Args:
        record: The rollout.
        phase: Which of its phases.
        published_at: When the phase's document came out, UTC seconds.
        seen: Devices and reports.
        now: UTC seconds.
    """
    standings = place(record, phase, seen, now)
    verdict = _quality(record, phase, standings, seen)
    found = _Phase(record, phase, published_at, standings, verdict, now)
    decision = found.answer()
    due = found.due() if decision.answer == "wait" else None
    return PhaseJudgement(decision, standings, verdict, due)


def place(record: RolloutRecord, phase: int, seen: Observed, now: float) -> dict[str, DeviceProgress]:
    """Where each device stands that the phase treats."""
    target = record.target[record.family]
    return {
        d: device_progress(
            seen.told.get(d, ()),
            seen.statuses.get(d),
            target,
            record.family,
            now,
            record.settings.silent_s,
            health=not record.security,
        )
        for d, m in seen.members.items()
        if record.treats(phase, d, m.pool)
    }


def _quality(
    record: RolloutRecord, phase: int, standings: Mapping[str, DeviceProgress], seen: Observed
) -> GuardFinding:
    settings = record.settings
    first = [s.first.gain for s in standings.values() if s.first is not None]
    newest = [s.paired.gain for s in standings.values() if s.paired is not None]
    found = guard_statistics.judge(first, newest, settings.max_alarm_gain, settings.min_devices, record.looks)
    if record.security or phase > record.last_soaking:
        return replace(found, answer="skipped", text=f"not asked: {found.text}")
    harm = ""
    if seen.rates is not None:
        harm = guard_statistics.holdout_harm(seen.rates.treated, seen.rates.holdout, settings.max_alarm_gain)
    return replace(found, answer="harmful", text=harm) if harm else found


@dataclass(frozen=True)
class _Phase:
    record: RolloutRecord
    phase: int
    published_at: float
    standings: Mapping[str, DeviceProgress]
    verdict: GuardFinding
    now: float

    def answer(self) -> PhaseDecision:
        """The decision at this instant."""
        bad, reached = self._count(*_BAD), self._count(*_SETTLED, ProgressKind.TRYING)
        if self.verdict.answer == "harmful":
            return PhaseDecision("abort", self.verdict.text, "not_shown")
        of = reached if self._is_over() else max(reached, min(len(self.standings), SMALLEST))
        if self._too_many(bad, of):
            return PhaseDecision("abort", self._told(bad, reached))
        return self._at_end(bad, reached) if self._is_over() else PhaseDecision("wait")

    def _at_end(self, bad: int, reached: int) -> PhaseDecision:
        if self.phase in self.record.waived or self.phase > self.record.last_soaking:
            return PhaseDecision("promote")
        if bad > self.record.settings.max_failed * reached:
            return PhaseDecision(
                "ask", f"{self._told(bad, reached)}: too few to tell a bad model from a bad device"
            )
        if self.verdict.answer == "not_shown" and self.record.asks(self.phase):
            reason = f"not shown that the new model is no worse: {self.verdict.text}"
            return PhaseDecision("ask", reason, "not_shown")
        return PhaseDecision("promote")

    def _told(self, bad: int, reached: int) -> str:
        limit = self.record.settings.max_failed
        return f"{bad} of {reached} devices that took the offer failed; allowed {limit:.0%}"

    def _too_many(self, bad: int, of: int) -> bool:
        """Whether so many failures speak against the model: one device alone may be a bad device."""
        return bad > self.record.settings.max_failed * of and (bad >= 2 or len(self.standings) == 1)

    def _is_over(self) -> bool:
        return (
            (until := self.due()) is not None and self.now >= until and not self._count(ProgressKind.TRYING)
        )

    def due(self) -> float | None:
        """When the phase is over, if nothing more comes; None: only a report or silence ends it."""
        settings = self.record.settings
        soak = 0.0 if self.record.security or self.phase > self.record.last_soaking else settings.soak_s
        last = max((s.since for s in self.standings.values() if s.kind in _SETTLED), default=0.0)
        over = max(last, self.published_at) + soak
        if self._count(ProgressKind.UNREACHED, ProgressKind.DEFERRED):
            over = max(over, self.published_at + settings.reach_s)
        trying = [s.since for s in self.standings.values() if s.kind is ProgressKind.TRYING]
        return max(over, min(trying) + settings.silent_s) if trying else over

    def _count(self, *kinds: ProgressKind) -> int:
        return sum(s.kind in kinds for s in self.standings.values())

"""Judges one phase from raw reports. The engine promotes by it; the guard evaluator computes it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

from model_service.rollout import guard_statistics
from model_service.rollout.config_evidence import ConfigFinding
from model_service.rollout.device_progress import DeviceProgress, ProgressKind, device_progress
from model_service.rollout.guard_statistics import Answer, GuardFinding
from model_service.rollout.holdout_judge import HoldoutFinding, holdout_finding
from model_service.rollout.observed import Observed
from model_service.rollout.paired_finding import PairedFinding, paired_finding
from model_service.rollout.rollout_record import CONFIG, PROFILE, RolloutRecord

SMALLEST = 20
"""Until a phase is over, failures count as a share of at least this many devices, or of all that it has."""
_NO_CANARY = (
    "none of the group's devices is a canary, so nobody tries the model first: name some with"
    " `edgeloop trust policy --canary {group}=ID,ID` for the next rollout"
)
_SETTLED = (ProgressKind.COMMITTED, ProgressKind.FAILED, ProgressKind.SILENT)
_BAD = (ProgressKind.FAILED, ProgressKind.SILENT)


class PhaseDecision(NamedTuple):
    """What to do about a phase.

    Attributes:
        answer: ``ask``: a person decides.
        reason: Why, for people; of ``wait``, why the soak is lengthened; of ``promote``, what was not shown.
        kind: What the person is asked about.
    """

    answer: Literal["wait", "promote", "ask", "abort"]
    reason: str = ""
    kind: Literal["not_shown", "failures"] = "failures"


@dataclass(frozen=True)
class PhaseJudgement:
    """State of a phase at one instant, and what to do about it.

    Attributes:
        progress: How far each treated device is, by device id.
        finding: What the quality guard finds of the rise of alarms.
        paired: What it finds in both directions, where devices count it.
        beside: What the holdout shows besides alarms.
        due: When the decision can change without a new report, UTC seconds; None: it cannot.
    """

    decision: PhaseDecision
    progress: Mapping[str, DeviceProgress]
    finding: GuardFinding
    due: float | None = None
    paired: PairedFinding = field(default_factory=PairedFinding)
    beside: HoldoutFinding = field(default_factory=HoldoutFinding)

    def count(self, *kinds: ProgressKind) -> int:
        """Number of treated devices of these kinds."""
        return sum(s.kind in kinds for s in self.progress.values())

    def numbers(self) -> dict[str, Any]:
        """The judgement as JSON values: for evidence, events and the command line."""
        counts = {kind.value: self.count(kind) for kind in ProgressKind}
        finding = self.finding
        return {
            "treated": len(self.progress),
            **counts,
            "guard": finding.answer,
            "gain": round(finding.gain, 6),
            "low": round(finding.low, 6),
            "high": round(finding.high, 6),
            "bound": finding.bound,
            "guard_devices": finding.devices,
            "unseen": round(finding.unseen, 4),
            "guard_text": finding.text,
            "lengthened": self.decision.reason if self.decision.answer == "wait" else "",
            "excused": sum(s.is_excused for s in self.progress.values()),
            "paired": self.paired.numbers(),
            "holdout": self.beside.numbers(),
            "failures": dict(self._failures()),
        }

    def _failures(self) -> list[tuple[str, str]]:
        bad = [(device, s.why) for device, s in sorted(self.progress.items()) if s.kind in _BAD]
        return bad[:20]


def judge(
    record: RolloutRecord, phase: int, published_at: float, observed: Observed, now: float
) -> PhaseJudgement:
    """Judge a phase.

    Args:
        record: The rollout.
        phase: Number of the phase; it need not be the current one.
        published_at: When the phase's document was published, UTC seconds.
        observed: Devices and reports.
        now: UTC seconds.
    """
    progress = progress_of_treated(record, phase, observed, now)
    beside = holdout_finding(record, phase, progress, observed, now)
    if not beside.excuses and not record.security:
        progress = {d: _unexcused(s, beside) for d, s in progress.items()}
    paired = paired_finding(progress, observed.members, observed.predicted)
    finding = _quality(record, phase, progress, observed, paired, beside)
    found = _Phase(record, phase, published_at, progress, finding, paired, now)
    decision = found.answer()
    due = found.next_look() if decision.answer == "wait" else None
    return PhaseJudgement(decision, progress, finding, due, paired, beside)


def _unexcused(progress: DeviceProgress, beside: HoldoutFinding) -> DeviceProgress:
    """The same where an end of its process is not excused."""
    if not progress.is_excused:
        return progress
    ends = beside.ends
    why = (
        f"its process ended without order, as on {ends.treated_hit} of {ends.treated} treated devices;"
        f" of {ends.held} held out on {ends.held_hit}"
    )
    return replace(progress, kind=ProgressKind.FAILED, why=why)


def progress_of_treated(
    record: RolloutRecord, phase: int, observed: Observed, now: float
) -> dict[str, DeviceProgress]:
    """How far each device is that the phase treats, by device id."""
    target, treats = record.target[record.family], record.treated(phase)
    now = _silent_from(record, phase, observed, now)
    return {
        d: device_progress(
            observed.reports.get(d, ()),
            observed.statuses.get(d),
            target,
            record.family,
            now,
            record.settings.silent_s,
            health=not record.security,
        )
        for d, m in observed.members.items()
        if treats(d, m.pool)
    }


def _silent_from(record: RolloutRecord, phase: int, observed: Observed, now: float) -> float:
    """Instant by which silence is judged: a device with a held configuration reports when it is due."""
    if record.kind != CONFIG:
        return now
    published = observed.published_at("phase", phase, record.ring(phase))
    due = record.switch_at(now if published is None else published)
    return now if now > due + record.settings.silent_s else 0.0


def _quality(
    record: RolloutRecord,
    phase: int,
    progress: Mapping[str, DeviceProgress],
    observed: Observed,
    paired: PairedFinding,
    beside: HoldoutFinding,
) -> GuardFinding:
    settings = record.settings
    first = [s.first.gain for s in progress.values() if s.first is not None]
    newest = [s.paired.gain for s in progress.values() if s.paired is not None]
    found = guard_statistics.judge(first, newest, settings.max_alarm_gain, settings.min_devices, record.looks)
    if record.kind == CONFIG and not record.security:
        return _of_config(found, observed.judged)
    if record.security or record.kind == PROFILE or phase > record.last_soaking:
        return replace(found, answer="skipped", text=f"not tested: {found.text}")
    harm = paired.harm or beside.harm
    if not harm and observed.rates is not None:
        harm = guard_statistics.holdout_harm(
            observed.rates.treated, observed.rates.holdout, settings.max_alarm_gain
        )
    return replace(found, answer="harmful", text=harm) if harm else found


def _of_config(found: GuardFinding, judged: ConfigFinding | None) -> GuardFinding:
    """What the judge of a configuration finds, in the form of the quality guard's finding."""
    if judged is None:
        return replace(found, answer="not_shown", text="nothing has been judged yet")
    if judged.harm:
        return replace(found, answer="harmful", text=judged.harm, devices=judged.units)
    answer: Answer = "not_shown" if judged.open else "shown"
    return replace(found, answer=answer, text=judged.open or judged.text, devices=judged.units)


@dataclass(frozen=True)
class _Phase:
    record: RolloutRecord
    phase: int
    published_at: float
    progress: Mapping[str, DeviceProgress]
    finding: GuardFinding
    paired: PairedFinding
    now: float

    def answer(self) -> PhaseDecision:
        """The decision at this instant.

        Harm and too many failures end a phase at any time; everything else waits until it is over.
        """
        bad, reached = self._count(*_BAD), self._count(*_SETTLED, ProgressKind.TRYING)
        if self.finding.answer == "harmful":
            return PhaseDecision("abort", self.finding.text, "not_shown")
        # Early on few devices have reported: one failure among two would be half. So until the phase is over
        # the share is taken of more devices than have reported.
        of = reached if self._is_over() else max(reached, min(len(self.progress), SMALLEST))
        if self._too_many(bad, of):
            return PhaseDecision("abort", self._failure_text(bad, reached))
        return self._at_end(bad, reached) if self._is_over() else PhaseDecision("wait")

    def _at_end(self, bad: int, reached: int) -> PhaseDecision:
        """The decision once the phase is over and has neither done harm nor failed on too many devices.

        Args:
            bad: Devices that failed or fell silent.
            reached: Devices that took the offer, the bad ones included.
        """
        # Step 1: an approver who resumed a paused phase has accepted what it did not show. And the phase that
        # releases the holdout is the last one: nothing follows that evidence could still prevent.
        if self.phase in self.record.waived or self.phase > self.record.last_soaking:
            return PhaseDecision("promote")
        # Step 2: the share of failures is too high, yet `_too_many` did not abort: it is a single device, and
        # the cause may be that device. Only a person can find out.
        if bad > self.record.settings.max_failed * reached:
            return PhaseDecision(
                "ask", f"{self._failure_text(bad, reached)}: too few to tell a bad model from a bad device"
            )
        # Step 3: no harm was shown, but neither was its absence. Promotion needs the second. ``skipped``
        # (a security rollout) passes; so does a phase after which nobody else gets the model.
        if self.finding.answer == "skipped" or not self.record.asks(self.phase):
            return PhaseDecision("promote")
        return self._on_evidence()

    def _on_evidence(self) -> PhaseDecision:
        """The decision on a phase that must show that the model does no harm, and is over otherwise."""
        if self.record.kind == CONFIG:
            return self._on_config_evidence()
        nobody = _NO_CANARY.format(group=self.record.group) if self.phase == 0 and not self.progress else ""
        not_shown = "" if self.finding.answer == "shown" else nobody or self.finding.text
        open_ = "; ".join(text for text in (not_shown, self.paired.open) if text)
        if not open_:
            return PhaseDecision("promote")
        # Step 4: what is decided against the model, and yet no more than the gate may have overlooked.
        settings = self.record.settings
        if suspect := self.paired.suspect:
            return PhaseDecision("ask", f"too many alarms, or too few were predicted: {suspect}", "not_shown")
        # Step 5: wait where time decides: windows go on coming from devices that count both models' alarms.
        counts, stuck = self.paired.counts_alarms, self.paired.settled
        more = counts and not stuck and self.finding.devices >= settings.min_devices
        if settings.lengthens and more and self.now < self.soak_end(settings.soak_limit_s):
            return PhaseDecision("wait", f"the soak is lengthened: {open_}")
        # Step 6: ask. A profile that lengthens no soak goes on with what nothing speaks against.
        if leaning := not_shown or ((stuck or open_) if settings.lengthens else self.paired.leans):
            return PhaseDecision("ask", f"not shown that the new model is no worse: {leaning}", "not_shown")
        return PhaseDecision("promote", f"passed without a longer soak, although open: {open_}")

    def _on_config_evidence(self) -> PhaseDecision:
        """The same of a configuration: sites are few; what nothing speaks against goes on after its soak."""
        if self.finding.answer == "shown":
            return PhaseDecision("promote")
        settings, open_ = self.record.settings, self.finding.text
        if settings.lengthens and self.now < self.soak_end(settings.soak_limit_s):
            return PhaseDecision("wait", f"the soak is lengthened: {open_}")
        if settings.lengthens:
            return PhaseDecision(
                "ask", f"not shown that the configuration does no harm: {open_}", "not_shown"
            )
        return PhaseDecision("promote", f"passed without a longer soak, although open: {open_}")

    def _failure_text(self, bad: int, reached: int) -> str:
        limit = self.record.settings.max_failed
        return f"{bad} of {reached} devices that took the offer failed; allowed {limit:.0%}"

    def _too_many(self, bad: int, of: int) -> bool:
        """Whether so many failures count against the model: a single one may be the fault of the device."""
        return bad > self.record.settings.max_failed * of and (bad >= 2 or len(self.progress) == 1)

    def _is_over(self) -> bool:
        return self.now >= self.due() and not self._count(ProgressKind.TRYING)

    def next_look(self) -> float:
        """When a phase that waits is to be judged again without a new report, UTC seconds."""
        due = self.due()
        return due if self.now < due else self.soak_end(self.record.settings.soak_limit_s)

    def due(self) -> float:
        """When the phase is over if no further report arrives, UTC seconds."""
        return self.soak_end(self.record.settings.soak_s)

    def soak_end(self, soak_s: float) -> float:
        """When it is over with such a soak, UTC seconds."""
        settings = self.record.settings
        soak = 0.0 if self.record.security or self.phase > self.record.last_soaking else soak_s
        # The soak begins with the last device that settled: each is observed for a whole soak.
        last = max((s.since for s in self.progress.values() if s.kind in _SETTLED), default=0.0)
        over = max(last, self.published_at) + soak
        if self._count(ProgressKind.UNREACHED, ProgressKind.DEFERRED):
            over = max(over, self.published_at + settings.reach_s)
        # A device that tries either reports or counts as silent after ``silent_s``.
        trying = [s.since for s in self.progress.values() if s.kind is ProgressKind.TRYING]
        return max(over, min(trying) + settings.silent_s) if trying else over

    def _count(self, *kinds: ProgressKind) -> int:
        return sum(self._kinds[kind] for kind in kinds)

    @cached_property
    def _kinds(self) -> Counter[ProgressKind]:
        return Counter(s.kind for s in self.progress.values())

"""The rollout state machine: a record, an instant and what is seen, to a new record and actions. Pure.

    draft → running(k) ⇄ paused → completed | completed_partial | superseded
                 └──────────┴───→ aborting → rolled_back | rolled_back_partial

Channels are desired state: a phase is a document, and so is the way back. A document is never said to be out
before ``Observed.sent`` says so, and a step that was interrupted is taken again from what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import PhaseJudgement, judge, place
from model_service.rollout.return_to_baseline import turn_back_further
from model_service.rollout.rollout_record import ENDED, RolloutPause, RolloutRecord, State
from model_service.rollout.transitions import (
    Note,
    Propose,
    Transition,
    Withdraw,
    moved,
    refusal,
    supersede,
    version_of,
)
from schemas.errors import RegistryError


def begin(record: RolloutRecord) -> Transition:
    """Start a draft; the caller sees to it that no other rollout of the group is active."""
    if record.state != "draft":
        raise ValueError(f"{record.rollout_id} is {record.state}, not a draft")
    detail = {
        "version": record.version,
        "group": record.group,
        "baseline": version_of(record.baseline, record.family),
        "security": record.security or "",
        "imbalance": f"{record.imbalance:.2f}",
    }
    return Transition(moved(record, state="running"), (Note("rollout_started", "started", detail),))


def advance(record: RolloutRecord, seen: Observed, now: float) -> Transition:
    """One look at an active rollout.

    Args:
        record: Running, paused or aborting; any other is left alone.
        seen: The world.
        now: UTC seconds.
    """
    if record.state == "aborting":
        return turn_back_further(record, seen, now)
    if record.state not in ("running", "paused"):
        return Transition(record)
    if seen.successor and _is_safe(record, seen, now):
        return supersede(record, seen.successor)
    published = seen.published_at("phase", record.phase, record.ring(record.phase))
    if published is None:
        return _until_out(record, seen, now)
    return _judged(record, judge(record, record.phase, published, seen, now), seen, now)


def pause(record: RolloutRecord, actor: str, reason: str, now: float) -> Transition:
    """Hold before the next phase: devices that were offered the model may still take it.

    Raises:
        RegistryError: It does not run.
    """
    if record.state == "paused":
        return Transition(record)
    if record.state != "running":
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: only a running one can pause")
    return _paused(record, "person", f"{actor}: {reason or 'asked'}", now)


def resume(record: RolloutRecord, actor: str, reason: str, seen: Observed, *, approves: bool) -> Transition:
    """Go on after a pause; an approver passes what evidence did not show.

    Raises:
        RegistryError: It is not paused, or the actor may not decide this.
    """
    if record.pause is None:
        if record.state == "running":
            return Transition(record)
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: nothing to resume")
    if record.pause.needs == "approver" and not approves:
        raise RegistryError(
            f"rollout {record.rollout_id} waits for an approver ({record.pause.reason}); {actor} is none"
        )
    waives = record.pause.needs == "approver"
    waived = tuple(sorted({*record.waived, record.phase})) if waives else record.waived
    resumed = moved(
        record,
        state="aborting" if record.state == "aborting" else "running",
        pause=None,
        waived=waived,
        handled_refusal=max((s.seq for s in seen.sent if s.state == "refused"), default=0),
    )
    key = f"resumed/{record.phase}/{record.pause.at:.3f}"
    detail = {"phase": record.phase, "by": actor, "reason": reason, "passed": record.pause.reason}
    return Transition(resumed, (Note("rollout_resumed", key, detail),))


def abort(record: RolloutRecord, reason: str, actor: str, now: float) -> Transition:
    """Turn back: the group returns to baseline by a signed channel.

    Raises:
        RegistryError: It has ended.
    """
    if record.state == "aborting":
        return Transition(record)
    if record.state in ENDED:
        raise RegistryError(
            f"rollout {record.rollout_id} is {record.state}: roll out an earlier version instead"
        )
    if record.state == "draft":
        return supersede(record, f"{actor}: {reason}")
    aborted = moved(record, state="aborting", pause=None, ended_because=reason)
    detail = {"phase": record.phase, "by": actor, "reason": reason}
    return Transition(aborted, (Withdraw(), Note("rollout_aborted", "aborted", detail)), due=now)


def _until_out(record: RolloutRecord, seen: Observed, now: float) -> Transition:
    """The phase's document is not out yet: make it, wait for it, or ask a person about its refusal."""
    if (harm := _harm_before(record, seen, now)) is not None:
        return abort(record, harm, "guard", now)
    if record.state == "paused" or seen.pending():
        return Transition(record)
    refused = refusal(record, seen)
    return _offered(record, {}) if refused is None else _paused(record, "refused", refused, now)


def _harm_before(record: RolloutRecord, seen: Observed, now: float) -> str | None:
    """What the phase before shows meanwhile that must end the rollout."""
    before = record.phase - 1
    out = seen.published_at("phase", before, record.ring(before)) if before >= 0 else None
    if out is None:
        return None
    decision = judge(record, before, out, seen, now).decision
    return decision.reason if decision.answer == "abort" else None


def _judged(record: RolloutRecord, judgement: PhaseJudgement, seen: Observed, now: float) -> Transition:
    decision = judgement.decision
    if decision.answer == "abort":
        return abort(record, decision.reason, "guard", now)
    if record.state == "paused" or decision.answer == "wait":
        return Transition(record, due=judgement.due)
    if decision.answer == "ask":
        return _paused(record, decision.kind, decision.reason, now)
    return _promoted(record, judgement, seen)


def _is_safe(record: RolloutRecord, seen: Observed, now: float) -> bool:
    """Whether nobody is amid an update and no document is on its way."""
    if seen.pending():
        return False
    return all(s.kind is not ProgressKind.TRYING for s in place(record, record.phase, seen, now).values())


def _paused(record: RolloutRecord, kind: Any, reason: str, now: float) -> Transition:
    paused = moved(record, state="paused", pause=RolloutPause(kind=kind, reason=reason, at=now))
    detail = {"phase": record.phase, "kind": kind, "reason": reason}
    return Transition(
        paused, (Withdraw(), Note("rollout_paused", f"paused/{record.phase}/{now:.3f}", detail))
    )


def _offered(record: RolloutRecord, evidence: Mapping[str, Any]) -> Transition:
    """The current phase's document."""
    phase = record.phase
    document = Propose(
        ring=record.ring(phase),
        purpose="phase",
        phase=phase,
        target=record.target,
        cohort=record.cohort(phase),
        holdout=record.held_out(phase),
        reason="security" if record.security else "normal",
        evidence=evidence,
    )
    return Transition(record, (document,))


def _promoted(record: RolloutRecord, judgement: PhaseJudgement, seen: Observed) -> Transition:
    numbers = judgement.numbers()
    told = {k: numbers[k] for k in ("treated", "committed", "failed", "silent", "unreached", "guard_text")}
    passed = Note("phase_passed", f"passed/{record.phase}", {"phase": record.phase, **told})
    if record.phase >= record.last_phase:
        return _completed(record, judgement, passed)
    following = moved(record, phase=record.phase + 1)
    offered = _offered(following, {"passed": numbers, "members": len(seen.members)})
    return Transition(following, (passed, *offered.actions))


def _completed(record: RolloutRecord, judgement: PhaseJudgement, passed: Note) -> Transition:
    treated, committed = len(judgement.standings), judgement.count(ProgressKind.COMMITTED)
    whole = committed == treated
    because = "" if whole else f"{committed} of {treated} devices run it"
    state: State = "completed" if whole else "completed_partial"
    ended = moved(record, state=state, ended_because=because)
    detail = {"version": record.version, "committed": committed, "treated": treated}
    return Transition(ended, (passed, Note(f"rollout_{state}", "ended", detail)))

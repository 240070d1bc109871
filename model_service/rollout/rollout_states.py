"""The rollout state machine: from a record, an observation and an instant to a new record and actions. Pure.

    draft → running(k) ⇄ paused → completed | completed_partial | superseded
                 └──────────┴───→ aborting → rolled_back | rolled_back_partial

Channel documents are desired state: a phase is a document, and so is the return to the baseline. A document
counts as published only once ``Observed.sent`` has it so; an interrupted step is repeated from what is then
observed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import PhaseJudgement, judge, progress_of_treated
from model_service.rollout.return_to_baseline import advance_return
from model_service.rollout.rollout_record import (
    ACTIVE,
    COMPLETED,
    ENDED,
    PROFILE,
    PauseKind,
    RolloutPause,
    RolloutRecord,
    RolloutState,
)
from model_service.rollout.transitions import (
    Note,
    Propose,
    Transition,
    Withdraw,
    refusal,
    supersede,
    version_of,
    with_changes,
)
from schemas.errors import RegistryError


def begin(record: RolloutRecord) -> Transition:
    """Start a draft; the caller makes sure that no other rollout of the group is active."""
    if record.state != "draft":
        raise ValueError(f"{record.rollout_id} is {record.state}, not a draft")
    detail = {
        "version": record.version,
        "group": record.group,
        "baseline": version_of(record.baseline, record.family),
        "security": record.security or "",
        "imbalance": f"{record.imbalance:.2f}",
    }
    return Transition(with_changes(record, state="running"), (Note("rollout_started", "started", detail),))


def advance(record: RolloutRecord, observed: Observed, now: float) -> Transition:
    """The next step of an active rollout.

    Args:
        record: Running, paused or aborting; any other stays as it is.
        observed: Devices, reports and documents.
        now: UTC seconds.
    """
    if record.state == "aborting":
        return advance_return(record, observed, now)
    if record.state not in ("running", "paused"):
        return Transition(record)
    if observed.successor and _is_safe(record, observed, now):
        return supersede(record, observed.successor)
    published = observed.published_at("phase", record.phase, record.ring(record.phase))
    if published is None:
        return _until_published(record, observed, now)
    return _judged(record, judge(record, record.phase, published, observed, now), observed, now)


def pause(record: RolloutRecord, actor: str, reason: str, now: float) -> Transition:
    """Stop before the next phase; devices that were offered the model may still take it.

    Raises:
        RegistryError: The rollout is not running.
    """
    if record.state == "paused":
        return Transition(record)
    if record.state != "running":
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: only a running one can pause")
    return _paused(record, "person", f"{actor}: {reason or 'asked'}", now)


def resume(
    record: RolloutRecord, actor: str, reason: str, observed: Observed, *, approves: bool
) -> Transition:
    """Go on after a pause; an approver may accept missing evidence.

    Raises:
        RegistryError: The rollout is not paused, or the actor may not decide this.
    """
    if record.pause is None:
        if record.state == "running":
            return Transition(record)
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: nothing to resume")
    if record.pause.needs == "approver" and not approves:
        raise RegistryError(
            f"rollout {record.rollout_id} waits for an approver ({record.pause.reason}); {actor} is not one"
        )
    waives = record.pause.needs == "approver"
    waived = tuple(sorted({*record.waived, record.phase})) if waives else record.waived
    resumed = with_changes(
        record,
        state="aborting" if record.state == "aborting" else "running",
        pause=None,
        waived=waived,
        handled_refusal=max((s.seq for s in observed.sent if s.state == "refused"), default=0),
    )
    key = f"resumed/{record.phase}/{record.pause.at:.3f}"
    detail = {"phase": record.phase, "by": actor, "reason": reason, "passed": record.pause.reason}
    return Transition(resumed, (Note("rollout_resumed", key, detail),))


def abort(record: RolloutRecord, reason: str, actor: str, now: float) -> Transition:
    """End the rollout; a signed channel document brings the group back to its baseline.

    Raises:
        RegistryError: The rollout has ended.
    """
    if record.state == "aborting":
        return Transition(record)
    if record.state in ENDED:
        raise RegistryError(
            f"rollout {record.rollout_id} is {record.state}; `edgeloop rollout back` undoes a completed one"
        )
    if record.state == "draft":
        return supersede(record, f"{actor}: {reason}")
    aborted = with_changes(record, state="aborting", pause=None, ended_because=reason)
    detail = {"phase": record.phase, "by": actor, "reason": reason}
    return Transition(aborted, (Withdraw(), Note("rollout_aborted", "aborted", detail)), due=now)


def back(record: RolloutRecord, reason: str, actor: str, now: float) -> Transition:
    """Take a completed rollout back: the group returns to the set that it ran before, as after an abort.

    Raises:
        RegistryError: The rollout has not completed.
    """
    if record.state not in COMPLETED:
        hint = f"; `edgeloop rollout abort {record.rollout_id}` ends it" if record.state in ACTIVE else ""
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}, not completed{hint}")
    if record.kind == PROFILE:
        raise RegistryError(
            f"{record.shown_version} runs everywhere, and numbers only rise: push what was before again, as"
            " `edgeloop profile push NAME@NUMBER`"
        )
    taken_back = with_changes(record, state="aborting", ended_because=reason)
    return Transition(
        taken_back, (Note("rollout_taken_back", "back", {"by": actor, "reason": reason}),), due=now
    )


def _until_published(record: RolloutRecord, observed: Observed, now: float) -> Transition:
    """The step of a phase without a published document: propose, wait, or ask a person about a refusal."""
    if (harm := _harm_before(record, observed, now)) is not None:
        return abort(record, harm, "guard", now)
    if record.state == "paused" or observed.pending():
        return Transition(record)
    refused = refusal(record, observed)
    return _offered(record, {}) if refused is None else _paused(record, "refused", refused, now)


def _harm_before(record: RolloutRecord, observed: Observed, now: float) -> str | None:
    """Reason to abort that the previous phase shows meanwhile; None: there is none."""
    before = record.phase - 1
    published = observed.published_at("phase", before, record.ring(before)) if before >= 0 else None
    if published is None:
        return None
    decision = judge(record, before, published, observed, now).decision
    return decision.reason if decision.answer == "abort" else None


def _judged(record: RolloutRecord, judgement: PhaseJudgement, observed: Observed, now: float) -> Transition:
    decision = judgement.decision
    if decision.answer == "abort":
        return abort(record, decision.reason, "guard", now)
    if record.state == "paused" or decision.answer == "wait":
        return _waiting(record, judgement)
    if decision.answer == "ask":
        return _paused(record, decision.kind, decision.reason, now)
    return _promoted(record, judgement, observed)


def _waiting(record: RolloutRecord, judgement: PhaseJudgement) -> Transition:
    """The same rollout; that its soak is lengthened is recorded once a phase, with the reason."""
    reason = judgement.decision.reason if judgement.decision.answer == "wait" else ""
    if not reason or record.phase in record.lengthened:
        return Transition(record, due=judgement.due)
    lengthened = with_changes(record, lengthened=(*record.lengthened, record.phase))
    detail = {"phase": record.phase, "reason": reason, "until": judgement.due}
    note = Note("soak_lengthened", f"lengthened/{record.phase}", detail)
    return Transition(lengthened, (note,), due=judgement.due)


def _is_safe(record: RolloutRecord, observed: Observed, now: float) -> bool:
    """Whether no device is amid an update and no document waits for publication."""
    if observed.pending():
        return False
    return all(
        s.kind is not ProgressKind.TRYING
        for s in progress_of_treated(record, record.phase, observed, now).values()
    )


def _paused(record: RolloutRecord, kind: PauseKind, reason: str, now: float) -> Transition:
    paused = with_changes(record, state="paused", pause=RolloutPause(kind=kind, reason=reason, at=now))
    detail = {"phase": record.phase, "kind": kind, "reason": reason}
    return Transition(
        paused, (Withdraw(), Note("rollout_paused", f"paused/{record.phase}/{now:.3f}", detail))
    )


def _offered(record: RolloutRecord, evidence: Mapping[str, Any]) -> Transition:
    """Propose the current phase's document."""
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


def _promoted(record: RolloutRecord, judgement: PhaseJudgement, observed: Observed) -> Transition:
    numbers = judgement.numbers()
    detail = {k: numbers[k] for k in ("treated", "committed", "failed", "silent", "unreached", "guard_text")}
    detail |= {"although": judgement.decision.reason} if judgement.decision.reason else {}
    passed = Note("phase_passed", f"passed/{record.phase}", {"phase": record.phase, **detail})
    if record.phase >= record.last_phase:
        return _completed(record, judgement, passed)
    following = with_changes(record, phase=record.phase + 1)
    offered = _offered(following, {"passed": numbers, "members": len(observed.members)})
    return Transition(following, (passed, *offered.actions))


def _completed(record: RolloutRecord, judgement: PhaseJudgement, passed: Note) -> Transition:
    treated, committed = len(judgement.progress), judgement.count(ProgressKind.COMMITTED)
    whole = committed == treated
    because = "" if whole else f"{committed} of {treated} devices run it"
    state: RolloutState = "completed" if whole else "completed_partial"
    ended = with_changes(record, state=state, ended_because=because)
    detail = {"version": record.version, "committed": committed, "treated": treated}
    return Transition(ended, (passed, Note(f"rollout_{state}", "ended", detail)))

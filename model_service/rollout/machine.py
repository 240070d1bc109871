"""The rollout state machine: a record, an instant and what is seen, to a new record and actions. Pure.

    draft → running(k) ⇄ paused → completed | completed_partial | superseded
                 └──────────┴───→ aborting → rolled_back | rolled_back_partial

Channels are desired state: a phase is a document, and so is the way back. A document is never said to be out
before ``Observed.sent`` says so, and a step that was interrupted is taken again from what is seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from model_service.rollout.judge import Judgement, judge, place
from model_service.rollout.observed import Observed, Purpose
from model_service.rollout.record import ENDED, Pause, Record, State
from model_service.rollout.standing import Kind
from schemas.channels import BROAD, CANARY, Release, Ring
from schemas.cohorts import EVERYBODY, NOBODY, Cohort
from schemas.errors import RegistryError


@dataclass(frozen=True)
class Propose:
    """Send out a channel document. Its seq is given when it is stored."""

    ring: Ring
    purpose: Purpose
    phase: int
    target: Mapping[str, Release]
    cohort: Cohort
    holdout: Cohort
    reason: Literal["normal", "rollback", "security"]
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Withdraw:
    """Take back the documents that are not published yet."""


@dataclass(frozen=True)
class Note:
    """Tell what happened, once per ``key``."""

    step: str
    key: str
    detail: Mapping[str, object]


Action = Propose | Withdraw | Note


@dataclass(frozen=True)
class Outcome:
    """What comes of a look.

    Attributes:
        due: When to look again though nothing new was seen, UTC seconds; None: no need.
    """

    record: Record
    actions: tuple[Action, ...] = ()
    due: float | None = None


def begin(record: Record) -> Outcome:
    """Start a draft; the caller sees to it that no other rollout of the group is active."""
    if record.state != "draft":
        raise ValueError(f"{record.rollout_id} is {record.state}, not a draft")
    detail = {
        "version": record.version,
        "group": record.group,
        "baseline": _version(record.baseline, record.family),
        "security": record.security or "",
        "imbalance": f"{record.imbalance:.2f}",
    }
    return Outcome(_moved(record, state="running"), (Note("rollout_started", "started", detail),))


def advance(record: Record, seen: Observed, now: float) -> Outcome:
    """One look at an active rollout.

    Args:
        record: Running, paused or aborting; any other is left alone.
        seen: The world.
        now: UTC seconds.
    """
    if record.state == "aborting":
        return _abort_further(record, seen, now)
    if record.state not in ("running", "paused"):
        return Outcome(record)
    if seen.successor and _is_safe(record, seen, now):
        return supersede(record, seen.successor)
    published = seen.published_at("phase", record.phase, record.ring(record.phase))
    if published is None:
        return _until_out(record, seen, now)
    return _judged(record, judge(record, record.phase, published, seen, now), seen, now)


def pause(record: Record, actor: str, reason: str, now: float) -> Outcome:
    """Hold before the next phase: devices that were offered the model may still take it.

    Raises:
        RegistryError: It does not run.
    """
    if record.state == "paused":
        return Outcome(record)
    if record.state != "running":
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: only a running one can pause")
    return _paused(record, "person", f"{actor}: {reason or 'asked'}", now)


def resume(record: Record, actor: str, reason: str, seen: Observed, *, approves: bool) -> Outcome:
    """Go on after a pause; an approver passes what evidence did not show.

    Raises:
        RegistryError: It is not paused, or the actor may not decide this.
    """
    if record.pause is None:
        if record.state == "running":
            return Outcome(record)
        raise RegistryError(f"rollout {record.rollout_id} is {record.state}: nothing to resume")
    if record.pause.needs == "approver" and not approves:
        raise RegistryError(
            f"rollout {record.rollout_id} waits for an approver ({record.pause.reason}); {actor} is none"
        )
    waives = record.pause.needs == "approver"
    waived = tuple(sorted({*record.waived, record.phase})) if waives else record.waived
    resumed = _moved(
        record,
        state="aborting" if record.state == "aborting" else "running",
        pause=None,
        waived=waived,
        handled_refusal=_newest_refusal(seen),
    )
    key = f"resumed/{record.phase}/{record.pause.at:.3f}"
    detail = {"phase": record.phase, "by": actor, "reason": reason, "passed": record.pause.reason}
    return Outcome(resumed, (Note("rollout_resumed", key, detail),))


def abort(record: Record, reason: str, actor: str, now: float) -> Outcome:
    """Turn back: the group returns to baseline by a signed channel.

    Raises:
        RegistryError: It has ended.
    """
    if record.state == "aborting":
        return Outcome(record)
    if record.state in ENDED:
        raise RegistryError(
            f"rollout {record.rollout_id} is {record.state}: roll out an earlier version instead"
        )
    if record.state == "draft":
        return supersede(record, f"{actor}: {reason}")
    aborted = _moved(record, state="aborting", pause=None, ended_because=reason)
    detail = {"phase": record.phase, "by": actor, "reason": reason}
    return Outcome(aborted, (Withdraw(), Note("rollout_aborted", "aborted", detail)), due=now)


def supersede(record: Record, by: str) -> Outcome:
    """Make way. Its documents stay in force until the successor's take their place."""
    ended = _moved(record, state="superseded", pause=None, ended_because=f"superseded by {by}")
    return Outcome(ended, (Withdraw(), Note("rollout_superseded", "superseded", {"by": by})))


def is_blocked(record: Record, floors: Mapping[str, int]) -> str:
    """Why the baseline may not be returned to; empty: it may. Factory sets are above every floor."""
    for family, release in record.baseline.items():
        floor = floors.get(family, 0)
        if release.sha256 is not None and release.major < floor:
            return f"baseline {release.version} lies below the floor {floor} of the signed policy"
    return ""


def _until_out(record: Record, seen: Observed, now: float) -> Outcome:
    """The phase's document is not out yet: make it, wait for it, or ask a person about its refusal."""
    if (harm := _harm_before(record, seen, now)) is not None:
        return abort(record, harm, "guard", now)
    if record.state == "paused" or seen.pending():
        return Outcome(record)
    refused = _refusal(record, seen)
    return _offered(record, {}) if refused is None else _paused(record, "refused", refused, now)


def _harm_before(record: Record, seen: Observed, now: float) -> str | None:
    """What the phase before shows meanwhile that must end the rollout."""
    before = record.phase - 1
    out = seen.published_at("phase", before, record.ring(before)) if before >= 0 else None
    if out is None:
        return None
    decision = judge(record, before, out, seen, now).decision
    return decision.reason if decision.answer == "abort" else None


def _judged(record: Record, judgement: Judgement, seen: Observed, now: float) -> Outcome:
    decision = judgement.decision
    if decision.answer == "abort":
        return abort(record, decision.reason, "guard", now)
    if record.state == "paused" or decision.answer == "wait":
        return Outcome(record, due=judgement.due)
    if decision.answer == "ask":
        return _paused(record, decision.kind, decision.reason, now)
    return _promoted(record, judgement, seen)


def _is_safe(record: Record, seen: Observed, now: float) -> bool:
    """Whether nobody is amid an update and no document is on its way."""
    if seen.pending():
        return False
    return all(s.kind is not Kind.TRYING for s in place(record, record.phase, seen, now).values())


def _refusal(record: Record, seen: Observed, purpose: Purpose = "phase") -> str | None:
    """The guard's refusal of the newest document that nobody has looked at."""
    fitting = [s for s in seen.sent if s.purpose == purpose and s.state != "withdrawn"]
    newest = max(fitting, key=lambda s: s.seq, default=None)
    if newest is None or newest.state != "refused" or newest.seq <= record.handled_refusal:
        return None
    return f"seq {newest.seq} was refused: {newest.detail}"


def _newest_refusal(seen: Observed) -> int:
    return max((s.seq for s in seen.sent if s.state == "refused"), default=0)


def _paused(record: Record, kind: Any, reason: str, now: float) -> Outcome:
    paused = _moved(record, state="paused", pause=Pause(kind=kind, reason=reason, at=now))
    detail = {"phase": record.phase, "kind": kind, "reason": reason}
    return Outcome(paused, (Withdraw(), Note("rollout_paused", f"paused/{record.phase}/{now:.3f}", detail)))


def _offered(record: Record, evidence: Mapping[str, Any]) -> Outcome:
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
    return Outcome(record, (document,))


def _promoted(record: Record, judgement: Judgement, seen: Observed) -> Outcome:
    numbers = judgement.numbers()
    told = {k: numbers[k] for k in ("treated", "committed", "failed", "silent", "unreached", "guard_text")}
    passed = Note("phase_passed", f"passed/{record.phase}", {"phase": record.phase, **told})
    if record.phase >= record.last_phase:
        return _completed(record, judgement, passed)
    following = _moved(record, phase=record.phase + 1)
    offered = _offered(following, {"passed": numbers, "members": len(seen.members)})
    return Outcome(following, (passed, *offered.actions))


def _completed(record: Record, judgement: Judgement, passed: Note) -> Outcome:
    treated, committed = len(judgement.standings), judgement.count(Kind.COMMITTED)
    whole = committed == treated
    because = "" if whole else f"{committed} of {treated} devices run it"
    state: State = "completed" if whole else "completed_partial"
    ended = _moved(record, state=state, ended_because=because)
    detail = {"version": record.version, "committed": committed, "treated": treated}
    return Outcome(ended, (passed, Note(f"rollout_{state}", "ended", detail)))


def _abort_further(record: Record, seen: Observed, now: float) -> Outcome:
    if blocked := is_blocked(record, seen.floors):
        if seen.successor:
            return supersede(record, seen.successor)
        return _abort_waits(record, "person", f"{blocked}: a person starts a rollout of another version", now)
    if seen.pending() or record.pause is not None:
        return Outcome(record)
    missing = [
        ring
        for ring in _rings_to_turn(record, seen)
        if (s := seen.newest("rollback", record.phase, ring)) is None or s.state == "refused"
    ]
    if missing and (refused := _refusal(record, seen, "rollback")) is not None:
        return _abort_waits(record, "refused", refused, now)
    if missing:
        return Outcome(record, tuple(_turn_back(record, ring) for ring in missing))
    return _returned(record, seen, now)


def _abort_waits(record: Record, kind: Any, reason: str, now: float) -> Outcome:
    if record.pause is not None and record.pause.reason == reason:
        return Outcome(record)
    waiting = _moved(record, pause=Pause(kind=kind, reason=reason, at=now))
    return Outcome(waiting, (Note("abort_refused", f"blocked/{now:.3f}", {"reason": reason}),))


def _rings_to_turn(record: Record, seen: Observed) -> list[Ring]:
    """The canary ring turns at once; the broad one where a document in force there is not the baseline."""
    broad_out = any(s.ring == BROAD and s.purpose == "phase" and s.state == "published" for s in seen.sent)
    return [CANARY, BROAD] if broad_out or seen.broad_elsewhere else [CANARY]


def _turn_back(record: Record, ring: Ring) -> Propose:
    return Propose(
        ring, "rollback", record.phase, record.baseline, EVERYBODY, NOBODY, "rollback",
        {"because": record.ended_because},
    )  # fmt: skip


def _returned(record: Record, seen: Observed, now: float) -> Outcome:
    """Whether the devices are back, or as many as can be reached."""
    out = [s.at for s in seen.sent if s.purpose == "rollback" and s.state == "published"]
    away = {d for d in seen.members if _is_away(record, seen, d, now)}
    waits_until = max(out, default=now) + record.settings.reach_s
    if away and now < waits_until and not seen.successor:
        return Outcome(record, due=waits_until)
    state: State = "rolled_back_partial" if away else "rolled_back"
    detail = {"baseline": _version(record.baseline, record.family), "away": len(away)}
    return Outcome(_moved(record, state=state), (Note(f"rollout_{state}", "ended", detail),))


def _is_away(record: Record, seen: Observed, device_id: str, now: float) -> bool:
    """Whether a device runs something else than the baseline, or may be about to."""
    status = seen.statuses.get(device_id)
    member = seen.members[device_id]
    if status is None:
        return bool(seen.told.get(device_id))
    if not all(_same(status.installed.get(f, r), r) for f, r in record.baseline.items()):
        return True
    last_out = max((s.seq for s in seen.sent if s.state == "published"), default=0)
    if status.channel_seq >= last_out or not record.treats(record.phase, device_id, member.pool):
        return False
    found = place(record, record.phase, _only(seen, device_id), now).get(device_id)
    return found is not None and found.kind is Kind.TRYING


def _same(runs: Release, wanted: Release) -> bool:
    """Whether a device runs what is wanted: a factory set is whichever it left the factory with."""
    return runs == wanted or (runs.sha256 is None and wanted.sha256 is None)


def _only(seen: Observed, device_id: str) -> Observed:
    return Observed(
        {device_id: seen.members[device_id]},
        {device_id: seen.told.get(device_id, ())},
        {device_id: seen.statuses[device_id]},
    )


def _moved(record: Record, **changes: Any) -> Record:
    return Record.model_validate({**record.model_dump(), **changes})


def _version(releases: Mapping[str, Release], family: str) -> str:
    found = releases.get(family)
    return found.version if found is not None else ""

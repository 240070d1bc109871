"""Brings the devices of an aborted rollout back to its baseline. Pure.

A return is desired state like a phase: one signed document a ring that names the baseline for everybody. It
ends once every device runs the baseline, or as soon as those that do not had time enough to be reached.
"""

from __future__ import annotations

from collections.abc import Mapping

from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import progress_of_treated
from model_service.rollout.rollout_record import (
    CONFIG,
    PROFILE,
    DocumentRing,
    PauseKind,
    RolloutPause,
    RolloutRecord,
    RolloutState,
)
from model_service.rollout.transitions import (
    Note,
    Propose,
    Transition,
    refusal,
    supersede,
    version_of,
    with_changes,
)
from schemas.channel_documents import BROAD, CANARY, Release
from schemas.cohorts import EVERYBODY, NOBODY


def is_blocked(record: RolloutRecord, floors: Mapping[str, int]) -> str:
    """Why the group may not return to the baseline; empty: it may. Floors do not apply to factory sets."""
    for family, release in record.baseline.items():
        floor = floors.get(family, 0)
        if release.sha256 is not None and release.major < floor:
            return f"baseline {release.version} lies below the floor {floor} of the signed policy"
    return ""


def advance_return(record: RolloutRecord, observed: Observed, now: float) -> Transition:
    """The next step of an aborting rollout.

    Args:
        record: An aborting rollout.
        observed: Devices, reports and documents.
        now: UTC seconds.
    """
    # Step 1: a baseline below the floor is no way out: wait for a successor, which a person must start.
    if blocked := is_blocked(record, observed.floors):
        if observed.successor:
            return supersede(record, observed.successor)
        return _abort_waits(record, "person", f"{blocked}: a person starts a rollout of another version", now)
    # Step 2: decide nothing while a document's fate is open, or while a person has been asked.
    if observed.pending() or record.pause is not None:
        return Transition(record)
    # Step 3: propose the return in each ring that lacks one; where the guard refused it, a person decides.
    missing = [
        ring
        for ring in _rings_to_return(record, observed)
        if (s := observed.newest("rollback", record.phase, ring)) is None or s.state == "refused"
    ]
    if missing and (refused := refusal(record, observed, "rollback")) is not None:
        return _abort_waits(record, "refused", refused, now)
    if missing:
        return Transition(record, tuple(_propose_return(record, ring) for ring in missing))
    # Step 4: all documents are published: wait for the devices.
    return _returned(record, observed, now)


def _abort_waits(record: RolloutRecord, kind: PauseKind, reason: str, now: float) -> Transition:
    """Ask a person, once for the same reason; the rollout stays aborting."""
    if record.pause is not None and record.pause.reason == reason:
        return Transition(record)
    waiting = with_changes(record, pause=RolloutPause(kind=kind, reason=reason, at=now))
    return Transition(waiting, (Note("abort_refused", f"blocked/{now:.3f}", {"reason": reason}),))


def _rings_to_return(record: RolloutRecord, observed: Observed) -> list[DocumentRing]:
    """The canary ring; also the broad one if its document in force names something else than the baseline."""
    if record.kind == PROFILE:
        return [PROFILE]
    if record.kind == CONFIG:
        return [BROAD]
    broad_published = any(
        s.ring == BROAD and s.purpose == "phase" and s.state == "published" for s in observed.sent
    )
    return [CANARY, BROAD] if broad_published or observed.broad_elsewhere else [CANARY]


def _propose_return(record: RolloutRecord, ring: DocumentRing) -> Propose:
    return Propose(
        ring=ring,
        purpose="rollback",
        phase=record.phase,
        target=record.baseline,
        cohort=EVERYBODY,
        holdout=NOBODY,
        reason="rollback",
        evidence={"because": record.ended_because},
    )


def _returned(record: RolloutRecord, observed: Observed, now: float) -> Transition:
    """End the rollout once all devices are back, or all that could be reached in time."""
    published = [s.at for s in observed.sent if s.purpose == "rollback" and s.state == "published"]
    away = {d for d in observed.members if _is_away(record, observed, d, now)}
    # The time to reach them counts from the newest document. A successor does not wait it out: its own
    # documents bring every device to what it should run.
    waits_until = max(published, default=now) + record.settings.reach_s
    if away and now < waits_until and not observed.successor:
        return Transition(record, due=waits_until)
    state: RolloutState = "rolled_back_partial" if away else "rolled_back"
    detail = {"baseline": version_of(record.baseline, record.family), "away": len(away)}
    return Transition(with_changes(record, state=state), (Note(f"rollout_{state}", "ended", detail),))


def _is_away(record: RolloutRecord, observed: Observed, device_id: str, now: float) -> bool:
    """Whether a device runs something else than the baseline, or may be about to install it."""
    status = observed.statuses.get(device_id)
    member = observed.members[device_id]
    if status is None:  # no status and no report: it never took an offer
        return bool(observed.reports.get(device_id))
    if not all(_same(status.installed.get(f, r), r) for f, r in record.baseline.items()):
        return True
    # It runs the baseline. If it has not followed the newest document yet, it may be amid the update that an
    # earlier one asked for, and could still commit it.
    newest_seq = max((s.seq for s in observed.sent if s.state == "published"), default=0)
    if status.channel_seq >= newest_seq or not record.treats(record.phase, device_id, member.pool):
        return False
    found = progress_of_treated(record, record.phase, _only(observed, device_id), now).get(device_id)
    return found is not None and found.kind is ProgressKind.TRYING


def _same(runs: Release, wanted: Release) -> bool:
    """Whether a device runs what is wanted; where a factory set is wanted, any factory set will do."""
    return runs == wanted or (runs.sha256 is None and wanted.sha256 is None)


def _only(observed: Observed, device_id: str) -> Observed:
    """What is known of one device."""
    return Observed(
        {device_id: observed.members[device_id]},
        {device_id: observed.reports.get(device_id, ())},
        {device_id: observed.statuses[device_id]},
    )

"""The way back of an aborted rollout: signed channels to the baseline, then waiting for the devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import place
from model_service.rollout.rollout_record import RolloutPause, RolloutRecord, State
from model_service.rollout.transitions import (
    Note,
    Propose,
    Transition,
    moved,
    refusal,
    supersede,
    version_of,
)
from schemas.channel_documents import BROAD, CANARY, Release, Ring
from schemas.cohorts import EVERYBODY, NOBODY


def is_blocked(record: RolloutRecord, floors: Mapping[str, int]) -> str:
    """Why the baseline may not be returned to; empty: it may. Factory sets are above every floor."""
    for family, release in record.baseline.items():
        floor = floors.get(family, 0)
        if release.sha256 is not None and release.major < floor:
            return f"baseline {release.version} lies below the floor {floor} of the signed policy"
    return ""


def turn_back_further(record: RolloutRecord, seen: Observed, now: float) -> Transition:
    """One look at an aborting rollout."""
    if blocked := is_blocked(record, seen.floors):
        if seen.successor:
            return supersede(record, seen.successor)
        return _abort_waits(record, "person", f"{blocked}: a person starts a rollout of another version", now)
    if seen.pending() or record.pause is not None:
        return Transition(record)
    missing = [
        ring
        for ring in _rings_to_turn(record, seen)
        if (s := seen.newest("rollback", record.phase, ring)) is None or s.state == "refused"
    ]
    if missing and (refused := refusal(record, seen, "rollback")) is not None:
        return _abort_waits(record, "refused", refused, now)
    if missing:
        return Transition(record, tuple(_turn_back(record, ring) for ring in missing))
    return _returned(record, seen, now)


def _abort_waits(record: RolloutRecord, kind: Any, reason: str, now: float) -> Transition:
    if record.pause is not None and record.pause.reason == reason:
        return Transition(record)
    waiting = moved(record, pause=RolloutPause(kind=kind, reason=reason, at=now))
    return Transition(waiting, (Note("abort_refused", f"blocked/{now:.3f}", {"reason": reason}),))


def _rings_to_turn(record: RolloutRecord, seen: Observed) -> list[Ring]:
    """The canary ring turns at once; the broad one where a document in force there is not the baseline."""
    broad_out = any(s.ring == BROAD and s.purpose == "phase" and s.state == "published" for s in seen.sent)
    return [CANARY, BROAD] if broad_out or seen.broad_elsewhere else [CANARY]


def _turn_back(record: RolloutRecord, ring: Ring) -> Propose:
    return Propose(
        ring, "rollback", record.phase, record.baseline, EVERYBODY, NOBODY, "rollback",
        {"because": record.ended_because},
    )  # fmt: skip


def _returned(record: RolloutRecord, seen: Observed, now: float) -> Transition:
    """Whether the devices are back, or as many as can be reached."""
    out = [s.at for s in seen.sent if s.purpose == "rollback" and s.state == "published"]
    away = {d for d in seen.members if _is_away(record, seen, d, now)}
    waits_until = max(out, default=now) + record.settings.reach_s
    if away and now < waits_until and not seen.successor:
        return Transition(record, due=waits_until)
    state: State = "rolled_back_partial" if away else "rolled_back"
    detail = {"baseline": version_of(record.baseline, record.family), "away": len(away)}
    return Transition(moved(record, state=state), (Note(f"rollout_{state}", "ended", detail),))


def _is_away(record: RolloutRecord, seen: Observed, device_id: str, now: float) -> bool:
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
    return found is not None and found.kind is ProgressKind.TRYING


def _same(runs: Release, wanted: Release) -> bool:
    """Whether a device runs what is wanted: a factory set is whichever it left the factory with."""
    return runs == wanted or (runs.sha256 is None and wanted.sha256 is None)


def _only(seen: Observed, device_id: str) -> Observed:
    return Observed(
        {device_id: seen.members[device_id]},
        {device_id: seen.told.get(device_id, ())},
        {device_id: seen.statuses[device_id]},
    )

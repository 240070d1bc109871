"""A rollout in numbers and words, for people; computed from the registry at every call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select

from model_service.fleet.known_profiles import KnownProfiles
from model_service.registry.registry_tables import rollouts
from model_service.rollout import rollout_store
from model_service.rollout.config_evidence import ConfigFinding
from model_service.rollout.config_judges import LakeJudges
from model_service.rollout.device_progress import ProgressKind
from model_service.rollout.launch import profile_of
from model_service.rollout.observed import PENDING, Observed
from model_service.rollout.observing import FamilyOf, RolloutReports, members, observe
from model_service.rollout.outcome_store import outcome_of
from model_service.rollout.phase_judge import PhaseJudgement, judge
from model_service.rollout.profile_rollouts import queued_behind
from model_service.rollout.rollout_record import ACTIVE, CONFIG, PROFILE, RolloutRecord
from schemas.channel_documents import FleetPolicy, Release
from schemas.updates import NOT_TRIED, TRIAL_SAYS

Json = dict[str, Any]


Judged = Callable[[Connection, RolloutRecord, Observed, float], Observed]
"""Adds what the judge of a configuration finds now."""


def judged_by_lake(lake_root: Path, profiles: KnownProfiles) -> Judged:
    """Asks the judges that the profiles name, as engine and guard do."""
    judges = LakeJudges(lake_root)

    def judged(connection: Connection, record: RolloutRecord, observed: Observed, now: float) -> Observed:
        profile = profile_of(connection, record.group, record.family, profiles)
        return judges.with_finding(record, observed, profile, now)

    return judged


def summary(
    connection: Connection,
    record: RolloutRecord,
    policy: FleetPolicy,
    family_of: FamilyOf,
    now: float,
    judged: Judged | None = None,
) -> Json:
    """State of a rollout, why it is in that state, and what comes next.

    Args:
        connection: Reads the registry.
        record: The rollout.
        policy: The signed policy.
        family_of: From a profile's name to the family that its devices run.
        now: UTC seconds.
        judged: Of a configuration; None: its judge is not asked.
    """
    if record.state == "draft":
        behind = queued_behind(connection, record.group)
        waits = f"queued: starts by itself once {behind} has ended" if behind else "starts at once"
        unborn: Json = {"numbers": None, "channels": [], "outcome": None}
        return {**_head(record), **unborn, "next": waits, "queued_behind": behind}
    observed = observe(connection, record, RolloutReports.of(record), policy, family_of)
    if record.kind == CONFIG and judged is not None:
        observed = judged(connection, record, observed, now)
    published = observed.published_at("phase", record.phase, record.ring(record.phase))
    # Before a phase is published, only its number of devices means anything.
    judgement = judge(record, record.phase, now if published is None else published, observed, now)
    return {
        **_head(record),
        "phase_name": phase_name(record),
        "phase_out_at": published,
        "members": len(observed.members),
        "unfit": dict(observed.unfit),
        "trials": _trials(observed, record.version),
        "numbers": judgement.numbers(),
        "judge": None if observed.judged is None else _finding(observed.judged),
        "channels": _channels(connection, record),
        "outcome": outcome_of(connection, record.rollout_id),
        "next": _next(record, observed, judgement, published, now),
    }


def _finding(found: ConfigFinding) -> Json:
    answer = "harmful" if found.harm else "open" if found.open else "shown"
    text = found.harm or found.open or found.text
    return {"answer": answer, "text": text, "units": found.units, "numbers": dict(found.numbers)}


def phase_name(record: RolloutRecord) -> str:
    """Which devices the current phase treats, in words."""
    if record.kind == PROFILE:
        some = f"canaries: {record.canary.share:.0%} of the group"
        return some if record.phase == 0 else "everybody"
    if record.kind == CONFIG:
        return _config_phase(record)
    if record.phase == 0:
        return f"canary ring: {record.settings.canary_share:.0%} of the group, within the signed pool"
    if record.releases:
        return "release of the holdout"
    share = record.shares[record.phase - 1]
    held = f" but the holdout of {record.holdout.share:.0%}" if record.holdout.share else ""
    return f"everybody{held}" if share >= 1 else f"{share:.0%} of the group{held}"


def _config_phase(record: RolloutRecord) -> str:
    if record.releases:
        return "release of the holdout"
    cohort = record.cohort(record.phase)
    held = " but the holdout" if record.holds_out else ""
    if not record.units:
        return f"everybody{held}" if cohort.share >= 1 else f"{cohort.share:.0%} of the devices"
    if cohort.share >= 1:
        return f"all {len(record.units)} sites{held}"
    return f"sites {', '.join(record.units_of(cohort))}"


def history(connection: Connection, group: str, limit: int) -> list[Json]:
    """Rollouts, newest first; ``group`` empty: of all groups."""
    query = select(rollouts).order_by(rollouts.c.created_at.desc(), rollouts.c.rollout_id.desc())
    if group:
        query = query.where(rollouts.c.grp == group)
    return [
        {
            **_head(RolloutRecord.model_validate(row["record"])),
            "queued_behind": queued_behind(connection, row["grp"]) if row["state"] == "draft" else "",
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        for row in connection.execute(query.limit(limit)).mappings()
    ]


def unended(connection: Connection) -> list[Json]:
    """Rollouts that have not ended, oldest first, and which rollout a queued one waits for."""
    return [
        {**_head(record), "queued_behind": queued_behind(connection, record.group) if is_draft else ""}
        for record in rollout_store.in_states(connection, ("draft", *ACTIVE))
        for is_draft in [record.state == "draft"]
    ]


def newest(connection: Connection, group: str = "", last: str = "") -> str | None:
    """Id of the newest rollout, which commands without an id mean; None: there is none.

    Args:
        connection: Reads the registry.
        group: Only of this group; empty: of all.
        last: Group whose rollouts are meant only where no other group has any, such as the probes'.
    """
    query = select(rollouts.c.rollout_id).order_by(
        (rollouts.c.grp == last).asc(), rollouts.c.created_at.desc(), rollouts.c.updated_at.desc()
    )
    if group:
        query = query.where(rollouts.c.grp == group)
    return connection.execute(query.limit(1)).scalar_one_or_none()


def lacking_pool(
    connection: Connection, group: str, family: str, policy: FleetPolicy, family_of: FamilyOf
) -> str:
    """Why no device of the group can try a model before the others; empty: some can, or it has no devices.

    Args:
        connection: Reads the registry.
        group: The rollout group.
        family: Family of the model.
        policy: The signed policy.
        family_of: From a profile's name to the family that its devices run.
    """
    advice = f"`edgeloop trust policy --canary {group}=0.1` names one"
    if group not in policy.canary:
        return f"group {group} has no canary pool in the signed policy: no device tries it first; {advice}"
    among = members(connection, group, family, policy, family_of).values()
    if not among or any(m.pool for m in among):
        return ""
    return f"none of the {len(among)} devices of group {group} is in its canary pool; {advice} that is larger"


def _head(record: RolloutRecord) -> Json:
    pause = record.pause
    return {
        "rollout_id": record.rollout_id,
        "group": record.group,
        "family": record.family,
        "version": record.shown_version,
        "baseline": _baseline(record),
        "kind": record.kind,
        "state": record.state,
        "phase": record.phase,
        "last_phase": record.last_phase,
        "security": record.security,
        "imbalance": record.imbalance,
        "created_by": record.created_by,
        "paused": None
        if pause is None
        else {"kind": pause.kind, "reason": pause.reason, "needs": pause.needs, "at": pause.at},
        "ended_because": record.ended_because,
        "waived": list(record.waived),
    }


def _trials(observed: Observed, version: str) -> Json:
    """On how many devices the trial put faults on own windows, and by device why it could not."""
    says = {}
    for device, found in observed.reports.items():
        about = [r for r in found if r.attempted == version and r.detail.startswith(TRIAL_SAYS)]
        if about:
            newest = max(about, key=lambda r: r.report_no)
            says[device] = newest.detail.removeprefix(TRIAL_SAYS)
    without = {d: why.removeprefix(NOT_TRIED) for d, why in says.items() if why.startswith(NOT_TRIED)}
    return {"on_faults": len(says) - len(without), "not_on_faults": without}


def _channels(connection: Connection, record: RolloutRecord) -> list[Json]:
    return [
        {
            "seq": r.document.seq,
            "ring": r.ring,
            "purpose": r.sent.purpose,
            "phase": r.sent.phase,
            "share": r.share,
            "state": r.state,
            "at": r.updated_at,
            "detail": r.detail,
        }
        for r in rollout_store.requests(connection, record.rollout_id)
    ]


def _next(
    record: RolloutRecord, observed: Observed, judgement: PhaseJudgement, published: float | None, now: float
) -> str:
    if record.pause is not None:
        role = "an approver" if record.pause.needs == "approver" else "an operator"
        return (
            f"{role} decides: `edgeloop rollout resume {record.rollout_id}` goes on,"
            f" `edgeloop rollout abort {record.rollout_id} --reason …` returns to the baseline"
        )
    waiting = [s for s in observed.sent if s.state in PENDING]
    if waiting:
        who = "the guard countersigns" if waiting[0].state == "proposed" else "the engine publishes"
        return f"{who} seq {waiting[0].seq}"
    if record.state == "aborting":
        return "devices return to the baseline"
    if record.state != "running":
        return ""
    return _while_running(record, judgement, published, now)


def _while_running(
    record: RolloutRecord, judgement: PhaseJudgement, published: float | None, now: float
) -> str:
    if published is None:
        return "the engine proposes the phase's channel document"
    if trying := judgement.count(ProgressKind.TRYING):
        return (
            f"{trying} devices are trying it; one without a report for {record.settings.silent_s:g} s"
            " counts as failed"
        )
    left = max(0.0, (judgement.due or now) - now)
    if reason := judgement.decision.reason:
        return f"waits at most {left:.0f} s more: {reason}"
    missing = judgement.count(ProgressKind.UNREACHED, ProgressKind.DEFERRED)
    if missing and now < published + record.settings.reach_s:
        return f"waits at most {left:.0f} s for {missing} devices that have not taken the offer"
    return what_follows(record.phase, record.last_phase, left)


def what_follows(phase: int, last_phase: int, left_s: float) -> str:
    """What comes after a phase for which nothing more has to be seen.

    >>> what_follows(0, 2, 12.0)
    'soaks for 12 s, then phase 1'
    >>> what_follows(0, 2, 0.0)
    'phase 1 follows at once'
    >>> what_follows(2, 2, 0.0)
    'it completes at once'
    """
    is_last = phase == last_phase
    following = "it completes" if is_last else f"phase {phase + 1}"
    if left_s > 0:
        return f"soaks for {left_s:.0f} s, then {following}"
    return f"{following} at once" if is_last else f"{following} follows at once"


def _baseline(record: RolloutRecord) -> str:
    if record.kind == PROFILE:
        return "" if record.followed is None else str(record.followed.version)
    return _version(record.baseline, record.family)


def _version(releases: Mapping[str, Release], family: str) -> str:
    found = releases.get(family)
    return "" if found is None else found.version

"""Rollouts of versions of profiles: drafted by a push, begun with a fixed baseline and a short plan."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from model_service.fleet.known_profiles import KnownProfiles
from model_service.rollout import rollout_states, rollout_store
from model_service.rollout.cohort_draw import draw
from model_service.rollout.observing import profile_members
from model_service.rollout.rollout_record import ACTIVE, COMPLETED, PROFILE, RolloutRecord
from model_service.rollout.transitions import Transition
from schemas.channel_documents import Release
from schemas.errors import RegistryError
from schemas.learning_policy import RolloutPolicy
from schemas.profile_statement import VersionStatement

SOAK_S, REACH_S = 60.0, 600.0
"""Longest soak, and longest wait for devices, of a profile's rollout: device checks take no time."""


def draft_profiles(
    connection: Connection,
    statement: VersionStatement,
    followed: VersionStatement | None,
    actor: str,
    now: float,
) -> list[RolloutRecord]:
    """Draft the rollout of a version in each group that it is for, unless there is one, or it runs there.

    Args:
        connection: A transaction.
        statement: What was signed.
        followed: The same of the version before it; None: it is the first, or the other is for other groups.
        actor: Who pushes.
        now: UTC seconds.
    """
    return [
        rollout_store.create(connection, _draft(group, statement, followed, actor), now)
        for group in statement.groups
        if not _has_one(connection, group, statement)
    ]


def queued_behind(connection: Connection, group: str) -> str:
    """Id of the active rollout that the group's drafts wait for; empty: there is none."""
    found = rollout_store.active(connection, group)
    return "" if found is None else found.rollout_id


def begin_profile(connection: Connection, record: RolloutRecord, profiles: KnownProfiles) -> Transition:
    """Fix the plan of a profile's draft and start it: canary, then all; the baseline is what completed last.

    Raises:
        RegistryError: The draft names no version.
    """
    if record.statement is None:
        raise RegistryError(f"{record.rollout_id} names no version of a profile")
    newest = rollout_store.newest_completed(connection, record.group, profile=record.family)
    followed = record.followed if newest is None else newest.statement
    among = list(profile_members(connection, record.group, record.family).values())
    known = profiles.named(record.family)
    settings = short(RolloutPolicy() if known is None else known.rollout)
    drawn = draw(record.rollout_id, among, settings)
    planned = record.model_copy(
        update={
            "target": _releases([record.statement]),
            "baseline": _releases([] if followed is None else [followed]),
            "followed": followed,
            "settings": settings,
            "salt": drawn.salt,
            "canary": drawn.canary,
            "imbalance": drawn.imbalance,
        }
    )
    return rollout_states.begin(planned)


def short(settings: RolloutPolicy) -> RolloutPolicy:
    """The plan of a profile's rollout: of the profile's own, in two phases and without a holdout."""
    changes = {
        "phases": (1.0,),
        "holdout_share": 0.0,
        "no_holdout": True,
        "soak_s": min(settings.soak_s, SOAK_S),
        "reach_s": min(settings.reach_s, REACH_S),
    }
    return RolloutPolicy.model_validate({**settings.model_dump(), **changes})


def _draft(
    group: str, statement: VersionStatement, followed: VersionStatement | None, actor: str
) -> RolloutRecord:
    return RolloutRecord(
        rollout_id="",
        group=group,
        family=statement.name,
        version=statement.release,
        created_by=actor,
        kind=PROFILE,
        statement=statement,
        followed=followed if followed is not None and group in followed.groups else None,
    )


def _has_one(connection: Connection, group: str, statement: VersionStatement) -> bool:
    known = rollout_store.in_states(connection, ("draft", *ACTIVE, *COMPLETED), group)
    return any(r.kind == PROFILE and r.statement == statement and r.state != "aborting" for r in known)


def _releases(statements: Iterable[VersionStatement]) -> dict[str, Release]:
    return {s.name: Release(version=s.release, sha256=s.sha256) for s in statements}

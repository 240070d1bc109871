"""Stores what people ask for, as rows on which other processes of the model service act."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from model_service.registry.bundle_store import learnable_families
from model_service.registry.database import note
from model_service.registry.registry_tables import commands, devices
from model_service.service.refusals import UnknownNameError
from model_service.training import config_scheduler, run_store
from model_service.training.run_states import FOLLOWS, RunState
from model_service.training.training_run import RunReason, TrainingRun
from model_service.training.trigger import nothing_to_learn, shared_family
from schemas.errors import RegistryError
from schemas.profile import Profile

WAITING, REFUSED = "waiting", "refused"
WITHDRAWN = "withdrawn: the caller no longer waited for the answer"


@dataclass(frozen=True)
class RunRequest:
    """A training run that a person requests.

    Attributes:
        verdicts: Ids of the drift events that are its reason.
        kind: ``anomaly``, ``classifier``, or empty: what the data allow.
        detail: The reason in the person's words.
    """

    family: str
    profile: str
    actor: str
    verdicts: tuple[str, ...] = ()
    kind: str = ""
    seed: int = 0
    detail: str = ""


def request_run(connection: Connection, wanted: RunRequest, now: float) -> str:
    """Store a run for the trainer.

    Returns:
        Its id.
    """
    run_id = uuid.uuid4().hex[:12]
    at = datetime.fromtimestamp(now, UTC)
    run = TrainingRun(
        run_id=run_id,
        family=wanted.family,
        profile=wanted.profile,
        state=RunState.REQUESTED,
        reason=RunReason.PERSON,
        requested_by=wanted.actor,
        created_at=at,
        updated_at=at,
        kind=wanted.kind,
        verdicts=wanted.verdicts,
        seed=wanted.seed,
        detail=wanted.detail,
    )
    run_store.insert(connection, run)
    detail = {"by": wanted.actor, "family": wanted.family, "why": wanted.detail}
    note(connection, f"run/{run_id}/requested", run_id, "run_requested", detail, now)
    return run_id


def request_config(
    connection: Connection, family: str, profiles: Collection[str], actor: str, now: float
) -> list[str]:
    """Have a configuration computed for each group that has active devices of these profiles.

    Returns:
        The groups.

    Raises:
        RegistryError: There is no such device.
    """
    own = devices.c.active & devices.c.profile.in_(profiles)
    groups = sorted(connection.execute(select(devices.c.grp).where(own).distinct()).scalars())
    if not groups:
        raise RegistryError(f"no active device runs {', '.join(sorted(profiles))}")
    for group in groups:
        config_scheduler.request(connection, family, group)
        key, subject = f"config/{family}/{group}/requested/{now:.3f}", f"config/{family}/{group}"
        note(connection, key, subject, "config_requested", {"by": actor}, now)
    return groups


def waiting_run(connection: Connection, name: str) -> TrainingRun | None:
    """The waiting run that has this id, or that waits because of this drift event; None: no such run.

    Raises:
        RegistryError: The run exists, but does not wait for a decision.
    """
    run = run_store.get(connection, name)
    if run is None:
        waiting = run_store.in_states(connection, (RunState.WAITING,))
        return next((r for r in waiting if name in r.verdicts), None)
    if run.state is not RunState.WAITING:
        raise RegistryError(f"run {name} is {run.state}: only a waiting run takes a decision")
    return run


def decide_run(
    connection: Connection,
    run: TrainingRun,
    actor: str,
    reason: str,
    now: float,
    *,
    retrain: bool,
    fitted: frozenset[str] = frozenset(),
) -> RunState:
    """Request a waiting run again, or dismiss it, in the transaction that read it.

    Args:
        connection: The transaction.
        run: As it was read.
        actor: Who decides.
        reason: In the person's words.
        now: UTC seconds.
        retrain: Whether to train.
        fitted: Families of one's own that can be trained.

    Returns:
        Its new state.

    Raises:
        RegistryError: It is to be trained, and there is nothing to train in its family.
    """
    if retrain and (why := nothing_to_learn(run.family, learnable_families() | fitted)):
        raise RegistryError(f"{why}: --dismiss ends the run")
    state = RunState.REQUESTED if retrain else RunState.DISMISSED
    decided = run.to(state, requested_by=actor, detail=reason)
    run_store.save(connection, run, decided, datetime.fromtimestamp(now, UTC))
    detail = {"by": actor, "retrain": retrain, "why": reason}
    key = f"run/{run.run_id}/acknowledged/{now:.3f}"
    note(connection, key, run.run_id, "drift_acknowledged", detail, now)
    return state


def insert_command(connection: Connection, kind: str, body: dict[str, Any], actor: str, now: float) -> int:
    """Store a command for the engine.

    Returns:
        Its id.
    """
    values = {"kind": kind, "body": body, "actor": actor, "state": WAITING, "created_at": now}
    made = connection.execute(insert(commands).values(**values)).inserted_primary_key
    assert made is not None  # noqa: S101  (SQLAlchemy types it for statements without a key, too)
    return int(made[0])


def withdraw_command(connection: Connection, command_id: int) -> bool:
    """Withdraw a command whose caller gets an error, so that it cannot happen after all.

    Returns:
        False: the engine had answered it already.
    """
    own = (commands.c.id == command_id) & (commands.c.state == WAITING)
    values = {"state": REFUSED, "outcome": {"reason": WITHDRAWN}}
    return connection.execute(update(commands).where(own).values(**values)).rowcount == 1


def answered_commands(connection: Connection, ids: Collection[int]) -> list[RowMapping]:
    """Those of the commands that the engine has answered."""
    query = select(commands.c.id, commands.c.state, commands.c.outcome)
    found = connection.execute(query.where(commands.c.id.in_(ids), commands.c.state != WAITING))
    return list(found.mappings())


def cancel_run(connection: Connection, run_id: str, actor: str, reason: str, now: float) -> RunState:
    """Cancel a run in whatever state it is, in the transaction that reads it.

    Returns:
        The state that it was in.

    Raises:
        UnknownNameError: There is no such run.
        RegistryError: It has ended.
    """
    run = run_store.get(connection, run_id)
    if run is None:
        raise UnknownNameError(f"no training run {run_id}: `edgeloop drift list`")
    if RunState.CANCELLED not in FOLLOWS[run.state]:
        raise RegistryError(f"run {run_id} is {run.state}: it has ended, and cannot be cancelled")
    cancelled = run.to(RunState.CANCELLED, requested_by=actor, detail=reason or f"cancelled by {actor}")
    if not run_store.save(connection, run, cancelled, datetime.fromtimestamp(now, UTC)):
        raise RegistryError(f"run {run_id} went on meanwhile: cancel it again")
    detail = {"by": actor, "was": run.state, "why": reason}
    note(connection, f"run/{run_id}/cancelled", run_id, "run_cancelled", detail, now)
    return run.state


def profile_to_train(
    profiles: Mapping[str, Profile],
    used: Collection[str],
    family: str,
    profile: str = "",
    fitted: frozenset[str] = frozenset(),
) -> Profile:
    """The profile whose data a run of the family is to learn.

    Args:
        profiles: Registered profiles by name.
        used: Names of those that devices run.
        family: Model family; empty: the profile's.
        profile: Name; empty: the one of the family that devices run, else the one of its name, or its only
            one.
        fitted: Families of one's own that can be trained.

    Raises:
        UnknownNameError: There is no such profile, or none runs the family.
        RegistryError: The profile runs another family, several profiles share it, or there is nothing to
            train in it.
    """
    if profile:
        _check_profile(profiles, family, profile)
        family = profiles[profile].model.family
    own = [p for p in profiles.values() if p.model.family == family]
    if not own:
        known = ", ".join(sorted({p.model.family for p in profiles.values()})) or "none yet"
        raise UnknownNameError(f"no profile of this lake runs model family {family!r}; there are: {known}")
    if why := nothing_to_learn(family, learnable_families() | fitted):
        raise RegistryError(why)
    if why := shared_family(profiles, {*used, profile}, family):
        raise RegistryError(why)
    named = [p for p in own if p.name == profile]
    chosen = named or [p for p in own if p.name in used] or [p for p in own if p.name == family] or own
    if len(chosen) > 1:
        names = ", ".join(sorted(p.name for p in chosen))
        raise RegistryError(f"several profiles run model family {family!r}: {names}; name one (--profile)")
    return chosen[0]


def _check_profile(profiles: Mapping[str, Profile], family: str, profile: str) -> None:
    if profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none yet"
        raise UnknownNameError(f"no profile {profile!r} in this lake; there are: {known}")
    own = profiles[profile].model.family
    if family not in ("", own):
        raise RegistryError(f"profile {profile!r} runs model family {own!r}, not {family!r}")

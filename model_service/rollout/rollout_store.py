"""Stores rollouts, their events and their channel documents in the registry, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from model_service.registry.database import note
from model_service.registry.registry_tables import channel_requests, rollout_events, rollouts
from model_service.rollout.observed import PENDING, SentDocument
from model_service.rollout.rollout_record import (
    ACTIVE,
    COMPLETED,
    PROFILE,
    DocumentRing,
    RolloutRecord,
)
from model_service.rollout.seq_floor import seq_floor
from model_service.rollout.transitions import Action, Note, Propose, Withdraw
from model_service.rollout.wanted_versions import Life, profile_document
from schemas.channel_documents import BROAD, ChannelDocument, Release
from schemas.errors import RegistryError
from schemas.profile_channel import ProfileChannel

_requests = channel_requests.c
_OF_PROFILE = "profile:"
"""Before a profile's name in the column ``family``: a profile and a model family may share a name."""


@dataclass(frozen=True)
class ChannelRequest:
    """A row of ``channel_requests``."""

    id: int
    rollout_id: str
    ring: DocumentRing
    state: str
    document: ChannelDocument | ProfileChannel
    evidence: dict[str, Any]
    detail: str
    updated_at: float

    @property
    def models(self) -> ChannelDocument:
        """The document, which is one on models.

        Raises:
            RegistryError: It is one on profiles.
        """
        if isinstance(self.document, ProfileChannel):
            raise RegistryError(f"document {self.document.seq} is about profiles")
        return self.document

    @property
    def profiles(self) -> ProfileChannel | None:
        """The document, if it is one on profiles."""
        return self.document if isinstance(self.document, ProfileChannel) else None

    @property
    def share(self) -> float:
        """Share of the group, or of the canary pool, that gets the target."""
        if isinstance(self.document, ChannelDocument):
            return self.document.cohort.share
        return float(self.evidence.get("share", 0.0))

    @property
    def sent(self) -> SentDocument:
        """The document as the state machine takes it."""
        return SentDocument(
            self.document.seq,
            self.ring,
            self.evidence["purpose"],
            self.evidence["phase"],
            self.state,
            self.updated_at,
            self.detail,
        )


def create(connection: Connection, record: RolloutRecord, now: float) -> RolloutRecord:
    """Store a draft under the next id of its group."""
    number = _highest_number(connection, record.group) + 1
    named = record.model_copy(update={"rollout_id": f"{record.group}-{number}"})
    connection.execute(insert(rollouts).values(**_row(named, now), created_at=now))
    event(connection, named.rollout_id, now, named.created_by, "drafted", {"version": named.version})
    return named


def _highest_number(connection: Connection, group: str) -> int:
    """Highest number that a rollout of the group may have, those before a restore included.

    Devices still report about rollouts that a restored registry never knew. Each of those used up a seq at
    least, so its number is not above the seq floor.
    """
    ids = connection.execute(select(rollouts.c.rollout_id).where(rollouts.c.grp == group)).scalars()
    numbers = (int(rollout_id.rpartition("-")[2]) for rollout_id in ids)
    return max(seq_floor(connection, group), *numbers, 0)


def save(connection: Connection, record: RolloutRecord, now: float) -> None:
    """Store a changed record."""
    connection.execute(
        update(rollouts).where(rollouts.c.rollout_id == record.rollout_id).values(**_row(record, now))
    )


def load(connection: Connection, rollout_id: str) -> RolloutRecord:
    """The record of a rollout.

    Raises:
        RegistryError: No rollout has this id.
    """
    found = connection.execute(
        select(rollouts.c.record).where(rollouts.c.rollout_id == rollout_id)
    ).scalar_one_or_none()
    if found is None:
        raise RegistryError(f"no rollout '{rollout_id}': `edgeloop rollout history` lists them")
    return RolloutRecord.model_validate(found)


def in_states(connection: Connection, states: Sequence[str], group: str = "") -> list[RolloutRecord]:
    """Rollouts in these states, oldest first; ``group`` empty: of all groups."""
    query = select(rollouts.c.record).where(rollouts.c.state.in_(states))
    if group:
        query = query.where(rollouts.c.grp == group)
    order = (rollouts.c.created_at, rollouts.c.rollout_id)
    return [RolloutRecord.model_validate(r) for r in connection.execute(query.order_by(*order)).scalars()]


def active(connection: Connection, group: str) -> RolloutRecord | None:
    """The group's active rollout; None: it has none."""
    return next(iter(in_states(connection, ACTIVE, group)), None)


def last_completed(connection: Connection, group: str, before: str = "") -> dict[str, Release]:
    """By family, the target of the group's last completed rollout of a model; empty: none ever completed.

    Args:
        connection: A transaction.
        group: The group.
        before: Id of a rollout: only those that had completed when it started; empty: all.
    """
    found = newest_completed(connection, group, before)
    return {} if found is None else dict(found.target)


def newest_completed(
    connection: Connection, group: str, before: str = "", profile: str = ""
) -> RolloutRecord | None:
    """The group's last completed rollout, as ``last_completed`` finds it; None: none ever completed.

    Args:
        connection: A transaction.
        group: The group.
        before: As of ``last_completed``.
        profile: Of versions of this profile; empty: of models.
    """
    family = rollouts.c.family
    kind = family == f"{_OF_PROFILE}{profile}" if profile else family.not_like(f"{_OF_PROFILE}%")
    query = select(rollouts.c.record).where(rollouts.c.grp == group, rollouts.c.state.in_(COMPLETED), kind)
    if before:
        born = select(rollouts.c.created_at).where(rollouts.c.rollout_id == before).scalar_subquery()
        query = query.where(rollouts.c.updated_at <= _began(connection, before, born))
    newest = query.order_by(rollouts.c.updated_at.desc()).limit(1)
    found = connection.execute(newest).scalar_one_or_none()
    return None if found is None else RolloutRecord.model_validate(found)


def _began(connection: Connection, rollout_id: str, fallback: Any) -> Any:
    """When a rollout started, as its baseline is of that instant; the fallback where it has not."""
    started = select(func.min(rollout_events.c.at)).where(
        rollout_events.c.rollout_id == rollout_id, rollout_events.c.step == "rollout_started"
    )
    found = connection.execute(started).scalar_one_or_none()
    return fallback if found is None else found


def apply(
    connection: Connection,
    record: RolloutRecord,
    actions: Sequence[Action],
    now: float,
    lifetime_s: float,
    highest_seq: int,
    actor: str = "engine",
) -> None:
    """Store a record, and the state machine's actions as far as they concern the registry.

    Args:
        connection: A transaction.
        record: The new record.
        actions: Actions of the state machine.
        now: UTC seconds.
        lifetime_s: Lifetime of a channel document.
        highest_seq: Highest seq that the group's published documents have: the registry may have lost some.
        actor: Who caused the change.
    """
    save(connection, record, now)
    for action in actions:
        if isinstance(action, Note):
            event(connection, record.rollout_id, now, actor, action.step, action.detail, action.key)
        elif isinstance(action, Withdraw):
            _withdraw(connection, record.rollout_id, now)
        else:
            propose(connection, record.baseline, record, action, now, lifetime_s, highest_seq)


def event(
    connection: Connection,
    rollout_id: str,
    now: float,
    actor: str,
    step: str,
    detail: Any,
    key: str = "",
) -> None:
    """Record a step of a rollout, in its events and in the outbox for the lake; once per ``key`` there."""
    values = {"rollout_id": rollout_id, "at": now, "actor": actor, "step": step, "detail": dict(detail)}
    connection.execute(insert(rollout_events).values(**values))
    note(connection, f"rollout/{rollout_id}/{key or step}", rollout_id, step, detail, now)


def requests(connection: Connection, rollout_id: str) -> list[ChannelRequest]:
    """All documents of a rollout, in the order of their seq."""
    query = select(channel_requests).where(_requests.rollout_id == rollout_id).order_by(_requests.seq)
    return [_read(row) for row in connection.execute(query)]


def pending(connection: Connection) -> list[ChannelRequest]:
    """Documents of all groups that wait for publication, oldest first."""
    query = select(channel_requests).where(_requests.state.in_(PENDING)).order_by(_requests.id)
    return [_read(row) for row in connection.execute(query)]


def newest_published(connection: Connection, group: str, ring: DocumentRing = BROAD) -> ChannelRequest | None:
    """The newest published document of a ring; None: there is none."""
    query = (
        select(channel_requests)
        .where(_requests.grp == group, _requests.ring == ring, _requests.state == "published")
        .order_by(_requests.seq.desc())
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else _read(row)


def set_request_state(
    connection: Connection, request: ChannelRequest, state: str, now: float, detail: str = ""
) -> bool:
    """Give a document its next state; returns False where another process changed its state meanwhile."""
    changed = connection.execute(
        update(channel_requests)
        .where(_requests.id == request.id, _requests.state == request.state)
        .values(state=state, detail=detail, updated_at=now)
    )
    return changed.rowcount == 1


def propose(
    connection: Connection,
    baseline: Mapping[str, Release],
    record: RolloutRecord,
    wanted: Propose,
    now: float,
    lifetime_s: float,
    highest_seq: int,
) -> None:
    """Store a document under the group's next seq. A seq is used up even if its document is never published.

    Args:
        connection: A transaction.
        baseline: By family, what devices outside the cohort run.
        record: The rollout that the document belongs to.
        wanted: Content of the document.
        now: UTC seconds.
        lifetime_s: Lifetime of the document.
        highest_seq: Highest seq that the group's published documents have: the registry may have lost some.
    """
    spent = select(func.max(_requests.seq)).where(_requests.grp == record.group)
    seq = max(int(connection.execute(spent).scalar() or 0), highest_seq) + 1
    issued = datetime.fromtimestamp(now, UTC)
    life = Life(seq, issued, issued + timedelta(seconds=lifetime_s))
    document: ChannelDocument | ProfileChannel
    if wanted.ring == PROFILE:
        known = newest_published(connection, record.group, PROFILE)
        document = profile_document(record, wanted, None if known is None else known.profiles, life)
    else:
        document = _model_document(baseline, record, wanted, life)
    values = {
        "rollout_id": record.rollout_id,
        "grp": record.group,
        "ring": wanted.ring,
        "seq": seq,
        "document": document.model_dump(mode="json"),
        "evidence": {
            "purpose": wanted.purpose,
            "phase": wanted.phase,
            **({"share": wanted.cohort.share} if wanted.ring == PROFILE else {}),
            **wanted.evidence,
        },
        "state": "proposed",
        "detail": "",
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(insert(channel_requests).values(**values))


def _model_document(
    baseline: Mapping[str, Release], record: RolloutRecord, wanted: Propose, life: Life
) -> ChannelDocument:
    if wanted.ring == PROFILE:
        raise ValueError("a document on profiles names no models")
    return ChannelDocument(
        group=record.group,
        ring=wanted.ring,
        seq=life.seq,
        rollout_id=record.rollout_id,
        target=dict(wanted.target),
        baseline=dict(baseline),
        cohort=wanted.cohort,
        holdout=wanted.holdout,
        reason=wanted.reason,
        issued=life.issued,
        expires=life.expires,
    )


def _withdraw(connection: Connection, rollout_id: str, now: float) -> None:
    connection.execute(
        update(channel_requests)
        .where(_requests.rollout_id == rollout_id, _requests.state.in_(PENDING))
        .values(state="withdrawn", updated_at=now)
    )


def _read(row: Row[Any]) -> ChannelRequest:
    return ChannelRequest(
        row.id,
        row.rollout_id,
        row.ring,
        row.state,
        (ProfileChannel if row.ring == PROFILE else ChannelDocument).model_validate(row.document),
        row.evidence,
        row.detail,
        row.updated_at,
    )


def _row(record: RolloutRecord, now: float) -> dict[str, Any]:
    return {
        "rollout_id": record.rollout_id,
        "grp": record.group,
        "family": f"{_OF_PROFILE}{record.family}" if record.kind == PROFILE else record.family,
        "version": record.version,
        "state": record.state,
        "phase": record.phase,
        "security": record.security,
        "record": record.model_dump(mode="json"),
        "created_by": record.created_by,
        "updated_at": now,
    }

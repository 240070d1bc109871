"""Reads what a rollout may rest on: devices, raw reports, statuses, documents; engine and guard each anew."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Select, func, select

from model_service.fleet.device_reports import reports_of, statuses
from model_service.registry import candidates
from model_service.registry.candidates import CandidateState
from model_service.registry.registry_tables import channel_requests, commands, devices, reports, rollouts
from model_service.rollout import rollout_store
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.observed import DeviceReport, DeviceStatus, GroupMember, Observed, PairedShadow
from model_service.rollout.rollout_record import RolloutRecord
from schemas.channel_documents import CANARY, ChannelDocument, FleetPolicy, Release
from schemas.profile import Profile
from schemas.proto.delivery_pb2 import ReportRequest

FamilyOf = Callable[[str], str]
"""From a profile's name to the model family that its devices run."""


def with_rates(
    connection: Connection, record: RolloutRecord, seen: Observed, rates: LakeRates, profile: Profile | None
) -> Observed:
    """The same with what the lake knows of treated and held-out devices."""
    since = seen.published_at("phase", 0, CANARY)
    return replace(seen, rates=rates.of(connection, record, since, profile))


@dataclass
class RolloutReports:
    """Reports of one rollout, read on from where the last look ended."""

    rollout_id: str
    versions: frozenset[str]
    told: dict[str, list[DeviceReport]] = field(default_factory=lambda: defaultdict(list))
    _after: int = 0

    @classmethod
    def of(cls, record: RolloutRecord) -> RolloutReports:
        """Nothing read yet."""
        return cls(record.rollout_id, frozenset({record.version}))

    def read(self, connection: Connection) -> Mapping[str, list[DeviceReport]]:
        """All reports by device."""
        while rows := reports_of(connection, self.rollout_id, self._after):
            for row in rows:
                request = ReportRequest.FromString(row["body"])
                self.told[row["device_id"]].append(told(request, row["received_at"], self.versions))
            self._after = rows[-1]["id"]
        return self.told


def told(request: ReportRequest, at: float, versions: frozenset[str]) -> DeviceReport:
    """A report as the state machine sees it.

    Args:
        request: The report.
        at: When it came.
        versions: The new model's.
    """
    return DeviceReport(
        report_no=request.report_no,
        at=at,
        state=request.state,
        result=request.result,
        attempted=request.attempted.version,
        attack=request.attack,
        detail=request.detail,
        crashes=request.crashes,
        paired=paired(request, versions),
    )


def paired(request: ReportRequest, versions: frozenset[str]) -> PairedShadow | None:
    """The report's comparison, turned so that the new model is the one with the gain.

    Until the swap the new model runs in the shadow, afterwards the old one does.
    """
    shadow = request.shadow
    if shadow.windows < 1:
        return None
    risen = shadow.shadow_alarms - shadow.active_alarms
    if shadow.active_version in versions:
        return PairedShadow(shadow.windows, _share(-risen, shadow.windows), shadow.deadline_misses)
    if shadow.shadow_version in versions:
        return PairedShadow(shadow.windows, _share(risen, shadow.windows), shadow.deadline_misses)
    return None


def _share(risen: int, windows: int) -> float:
    return max(-1.0, min(1.0, risen / windows))


def observe(
    connection: Connection,
    record: RolloutRecord,
    read: RolloutReports,
    policy: FleetPolicy,
    family_of: FamilyOf,
) -> Observed:
    """Everything about a rollout as of one transaction.

    Args:
        connection: A transaction.
        record: The rollout.
        read: Its reports, as far as they were read.
        policy: The signed policy.
        family_of: Which family a profile's devices run.
    """
    drafts = rollout_store.in_states(connection, ("draft",), record.group)
    newest = rollout_store.newest_published(connection, record.group)
    elsewhere = newest is not None and newest.rollout_id != record.rollout_id
    return Observed(
        members=members(connection, record.group, record.family, policy, family_of),
        told=read.read(connection),
        statuses=device_statuses(connection, record.group),
        sent=[request.sent for request in rollout_store.requests(connection, record.rollout_id)],
        floors=policy.floors,
        broad_elsewhere=newest is not None and elsewhere and not _is_baseline(newest.document, record),
        successor=drafts[-1].rollout_id if drafts else "",
    )


def _is_baseline(document: ChannelDocument, record: RolloutRecord) -> bool:
    """Whether everybody who obeys the document runs the record's baseline."""
    return {**record.baseline, **document.target} == record.baseline


def members(
    connection: Connection, group: str, family: str, policy: FleetPolicy, family_of: FamilyOf
) -> dict[str, GroupMember]:
    """Active devices of the group that run the family."""
    pool = policy.canary.get(group)
    columns = devices.c
    rows = connection.execute(
        select(columns.device_id, columns.site, columns.hardware, columns.profile)
        .where(columns.grp == group, columns.active)
        .order_by(columns.device_id)
    ).all()
    return {
        r.device_id: GroupMember(
            r.device_id, r.site, r.hardware, pool is not None and pool.includes(r.device_id)
        )
        for r in rows
        if family_of(r.profile) == family
    }


def device_statuses(connection: Connection, group: str) -> dict[str, DeviceStatus]:
    """What each device of the group said last."""
    return {
        row["device_id"]: DeviceStatus(
            row["last_seen"], row["channel_seq"], row["state"], _installed(row["installed"])
        )
        for row in statuses(connection, group)
    }


def _installed(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, Release]:
    """What a device says it runs. What is no release counts as not said: it speaks for that device alone."""
    found = {}
    for family, told in raw.items():
        with contextlib.suppress(ValidationError, KeyError, TypeError):
            found[family] = Release(version=told["version"], sha256=told["sha256"] or None)
    return found


def marker(connection: Connection) -> tuple[Any, ...]:
    """Changes when anything did that a rollout may rest on; cheap. Holds no times: clocks step back."""
    requested = channel_requests.c.state
    looks = (
        select(func.max(reports.c.id)),
        select(func.max(commands.c.id)),
        select(func.max(channel_requests.c.id)),
        *(_count(requested == state) for state in ("proposed", "countersigned", "refused", "published")),
        candidates.count_in(CandidateState.SIGNED),
        _count(rollouts.c.state == "draft"),
        _count(devices.c.active),
    )
    return tuple(connection.execute(select(*(look.scalar_subquery() for look in looks))).one())


def _count(which: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).where(which)

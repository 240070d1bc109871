"""Reads what a rollout's decisions use: devices, raw reports, statuses and channel documents."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from sqlalchemy import ColumnElement, Connection, Select, func, select

from model_service.fleet.device_reports import KEPT, profile_states, reports_of, statuses
from model_service.registry import candidates
from model_service.registry.candidates import CandidateState
from model_service.registry.registry_tables import channel_requests, commands, devices, reports, rollouts
from model_service.rollout import rollout_store
from model_service.rollout.alarm_rates import LakeRates
from model_service.rollout.device_fit import unfit
from model_service.rollout.device_progress import condensed
from model_service.rollout.observed import DeviceReport, DeviceStatus, GroupMember, Observed, PairedShadow
from model_service.rollout.paired_reading import paired_shadow
from model_service.rollout.predicted_alarms import predicted_alarms
from model_service.rollout.rollout_record import CONFIG, PROFILE, RolloutRecord
from schemas.channel_documents import CANARY, ChannelDocument, FleetPolicy, Release
from schemas.profile import Profile
from schemas.proto.delivery_pb2 import ProfileState, ReportRequest
from schemas.updates import UpdateState

FamilyOf = Callable[[str], str]
"""From a profile's name to the model family that its devices run; empty: the profile is not known."""


def with_rates(
    connection: Connection,
    record: RolloutRecord,
    observed: Observed,
    rates: LakeRates,
    profile: Profile | None,
) -> Observed:
    """The same with the alarm rates of treated and held-out devices from the lake."""
    since = observed.published_at("phase", 0, CANARY)
    return replace(observed, rates=rates.of(connection, record, since, profile))


@dataclass
class RolloutReports:
    """Reports of one rollout; each ``read`` continues where the last one ended.

    Attributes:
        versions: Versions of the new model.
        by_device: Reports read so far, by device id.
    """

    rollout_id: str
    versions: frozenset[str]
    by_device: dict[str, list[DeviceReport]] = field(default_factory=lambda: defaultdict(list))
    _after: int = 0

    @classmethod
    def of(cls, record: RolloutRecord) -> RolloutReports:
        """The rollout's reports, of which none is read yet."""
        return cls(record.rollout_id, frozenset({record.version}))

    def read(self, connection: Connection) -> Mapping[str, list[DeviceReport]]:
        """Read on, and return all reports by device id."""
        while rows := reports_of(connection, self.rollout_id, self._after):
            for row in rows:
                request = ReportRequest.FromString(row["body"])
                report = read_report(request, row["received_at"], self.versions)
                self.by_device[row["device_id"]].append(report)
            self._after = rows[-1]["id"]
            self._condense()
        return self.by_device

    def _condense(self) -> None:
        """Keep of a device that reports without end what its progress needs."""
        for device_id, found in self.by_device.items():
            if len(found) > 2 * KEPT:
                [version] = self.versions
                self.by_device[device_id] = condensed(found, version, KEPT)


def read_report(request: ReportRequest, at: float, versions: frozenset[str]) -> DeviceReport:
    """A report in the form that the state machine takes.

    Args:
        request: The report as the device sent it.
        at: When it arrived, UTC seconds.
        versions: Versions of the new model.
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
        restarts=request.restarts,
        unclean_ends=request.unclean_ends,
        out_of_memory=request.out_of_memory,
        runtime=request.runtime,
    )


def paired(request: ReportRequest, versions: frozenset[str]) -> PairedShadow | None:
    """The report's comparison with the gain of the new model; None: it compares other models, or nothing.

    Until the swap the new model runs in the shadow, afterwards the old one does: then the sign turns.
    """
    return paired_shadow(request.shadow, versions)


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
        read: Its reports, as far as they are read; is brought up to date.
        policy: The signed policy.
        family_of: From a profile's name to the family that its devices run.
    """
    drafts = [d for d in rollout_store.in_states(connection, ("draft",), record.group) if d.succeeds(record)]
    if record.kind == PROFILE:
        return Observed(
            members=profile_members(connection, record.group, record.family),
            reports=read.read(connection),
            statuses=profile_statuses(connection, record.group, record.family),
            sent=[request.sent for request in rollout_store.requests(connection, record.rollout_id)],
            successor=drafts[-1].rollout_id if drafts else "",
        )
    if record.kind == CONFIG:
        return Observed(
            members=profile_members(connection, record.group, record.profile),
            reports=read.read(connection),
            statuses=device_statuses(connection, record.group),
            sent=[request.sent for request in rollout_store.requests(connection, record.rollout_id)],
            floors=policy.floors,
            successor=drafts[-1].rollout_id if drafts else "",
        )
    newest = rollout_store.newest_published(connection, record.group)
    elsewhere = newest is not None and newest.rollout_id != record.rollout_id
    among = members(connection, record.group, record.family, policy, family_of)
    cannot = unfit(connection, among, record.version)
    return Observed(
        members={name: member for name, member in among.items() if name not in cannot},
        unfit=cannot,
        reports=read.read(connection),
        statuses=device_statuses(connection, record.group),
        sent=[request.sent for request in rollout_store.requests(connection, record.rollout_id)],
        floors=policy.floors,
        broad_elsewhere=newest is not None and elsewhere and not _is_baseline(newest.models, record),
        successor=drafts[-1].rollout_id if drafts else "",
        predicted=predicted_alarms(connection, record.version),
    )


def _is_baseline(document: ChannelDocument, record: RolloutRecord) -> bool:
    """Whether every device that obeys the document runs the record's baseline."""
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


def profile_members(connection: Connection, group: str, profile: str) -> dict[str, GroupMember]:
    """Active devices of the group that run the profile: each may be a canary of a version of it."""
    columns = devices.c
    rows = connection.execute(
        select(columns.device_id, columns.site, columns.hardware)
        .where(columns.grp == group, columns.active, columns.profile == profile)
        .order_by(columns.device_id)
    )
    return {r.device_id: GroupMember(r.device_id, r.site, r.hardware, pool=True) for r in rows}


def profile_statuses(connection: Connection, group: str, profile: str) -> dict[str, DeviceStatus]:
    """As ``device_statuses``, of the version of the profile that each device runs."""
    return {
        row["device_id"]: DeviceStatus(
            row["last_seen"], state.seq, UpdateState.IDLE.value, _version_run(profile, state)
        )
        for row, state in profile_states(connection, group)
    }


def _version_run(profile: str, state: ProfileState) -> dict[str, Release]:
    """The version that a device reports that it runs; empty: it runs a file."""
    with contextlib.suppress(ValidationError):
        if state.number:
            version = f"{profile}-{state.number}.{state.digest[:8]}"
            return {profile: Release(version=version, sha256=state.digest)}
    return {}


def device_statuses(connection: Connection, group: str) -> dict[str, DeviceStatus]:
    """Newest status of each device of the group, by device id."""
    return {
        row["device_id"]: DeviceStatus(
            row["last_seen"], row["channel_seq"], row["state"], _installed(row["installed"])
        )
        for row in statuses(connection, group)
    }


def _installed(raw: Mapping[str, Mapping[str, Any]]) -> dict[str, Release]:
    """What a device reports that it runs; an entry that is no release is left out, and stops no rollout."""
    found = {}
    for family, reported in raw.items():
        with contextlib.suppress(ValidationError, KeyError, TypeError):
            found[family] = Release(version=reported["version"], sha256=reported["sha256"] or None)
    return found


def marker(connection: Connection) -> tuple[Any, ...]:
    """A cheap value that changes whenever what a rollout may use does. Without times: clocks step back."""
    requested = channel_requests.c.state
    # Commands and documents are never deleted, nor is the newest report: each new one raises a greatest id or
    # shifts a count.
    queries = (
        select(func.max(reports.c.id)),
        select(func.max(commands.c.id)),
        select(func.max(channel_requests.c.id)),
        *(_count(requested == state) for state in ("proposed", "countersigned", "refused", "published")),
        candidates.count_in(CandidateState.SIGNED),
        _count(rollouts.c.state == "draft"),
        _count(devices.c.active),
    )
    return tuple(connection.execute(select(*(query.scalar_subquery() for query in queries))).one())


def _count(which: ColumnElement[bool]) -> Select[Any]:
    return select(func.count()).where(which)

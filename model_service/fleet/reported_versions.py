"""The highest versions and channel seqs that devices report: what a repository must never be below."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from model_service.registry.registry_tables import device_status, devices, reports
from schemas.proto.delivery_pb2 import ReportRequest


@dataclass(frozen=True)
class ReportedVersions:
    """Maxima over the newest report of each device.

    Attributes:
        versions: Trusted metadata version by role.
        seqs: Accepted channel seq by group.
    """

    versions: Mapping[str, int]
    seqs: Mapping[str, int]

    def merged(self, other: ReportedVersions) -> ReportedVersions:
        """The higher of both."""
        return ReportedVersions(_higher(self.versions, other.versions), _higher(self.seqs, other.seqs))


def reported_versions(connection: Connection) -> ReportedVersions:
    """What the newest report of each device that was not revoked says."""
    query = (
        select(devices.c.grp, device_status.c.channel_seq, reports.c.body)
        .join(device_status, device_status.c.device_id == devices.c.device_id)
        .join(reports, reports.c.id == device_status.c.report_id, isouter=True)
        .where(devices.c.active)
    )
    versions: dict[str, int] = {}
    seqs: dict[str, int] = {}
    for group, seq, body in connection.execute(query):
        report = ReportRequest.FromString(body or b"")
        seqs[group] = max(seqs.get(group, 0), int(seq or 0), report.profile_state.seq)
        versions = _higher(versions, report.versions)
    return ReportedVersions(versions, {g: n for g, n in seqs.items() if n > 0})


def _higher(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in sorted({*one, *other})}

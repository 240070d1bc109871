"""Which stored reports of a device may be forgotten: storage stays bounded, and no judgement changes."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, delete, select

from model_service.fleet.device_reports import KEPT
from model_service.registry.registry_tables import reports, rollouts
from model_service.rollout.device_progress import telling
from model_service.rollout.observed import DeviceReport
from model_service.rollout.observing import read_report
from model_service.rollout.rollout_record import ENDED
from schemas.proto.delivery_pb2 import ReportRequest

SLACK = 128
"""Reports above ``KEPT`` that may pile up before some are forgotten."""


def forget_reports(connection: Connection, device_id: str) -> int:
    """Delete a device's reports that nothing needs.

    Kept are its newest, the one that arrived last, and those that tell its progress in a rollout that has not
    ended.

    Returns:
        How many were deleted.
    """
    own = reports.c.device_id == device_id
    columns = (reports.c.id, reports.c.report_no, reports.c.rollout_id, reports.c.received_at)
    rows = connection.execute(select(*columns).where(own).order_by(reports.c.report_no)).all()
    if len(rows) <= KEPT + SLACK:
        return 0
    older = rows[:-KEPT]
    versions = _open_rollouts(connection)
    by_rollout: dict[str, list[DeviceReport]] = defaultdict(list)
    for row in older:
        if (version := versions.get(row.rollout_id)) is not None:
            body = connection.execute(select(reports.c.body).where(reports.c.id == row.id)).scalar_one()
            report = read_report(ReportRequest.FromString(body), row.received_at, frozenset({version}))
            by_rollout[row.rollout_id].append(report)
    kept = {n for rollout, found in by_rollout.items() for n in telling(found, versions[rollout])}
    newest_id = max(
        row.id for row in rows
    )  # SQLite would give it to the next report, which readers then miss
    gone = [row.id for row in older if row.report_no not in kept and row.id != newest_id]
    for start in range(0, len(gone), _AT_ONCE):
        connection.execute(delete(reports).where(reports.c.id.in_(gone[start : start + _AT_ONCE])))
    return len(gone)


_AT_ONCE = 500
"""Ids in one statement: databases bound how many there may be."""


def _open_rollouts(connection: Connection) -> dict[str, str]:
    """Version of each rollout that has not ended, by its id."""
    query = select(rollouts.c.rollout_id, rollouts.c.version).where(rollouts.c.state.not_in(ENDED))
    return {row.rollout_id: row.version for row in connection.execute(query)}

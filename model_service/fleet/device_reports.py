"""Stores the reports of devices, each once, however often it arrives. Only they show what is installed."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from sqlalchemy import Connection, RowMapping, delete, insert, select

from model_service.registry.database import note
from model_service.registry.registry_tables import device_status, devices, outbox, reports
from schemas.errors import ClonedIdentityError
from schemas.proto.delivery_pb2 import ProfileState, ReportRequest

KEPT: Final = 256
"""Newest reports of a device that are never deleted; a device queues fewer than that."""


def record_report(connection: Connection, request: ReportRequest, received_at: float) -> bool:
    """Store the report and update the device's status, once per (device, report_no).

    Args:
        connection: A transaction that keeps other writers out.
        request: The report; its fields are checked already.
        received_at: UTC seconds.

    Returns:
        False: it was stored before, and nothing changed.

    Raises:
        ClonedIdentityError: Another report has that number, or it is older than all that are kept: two
            devices share an identity, or one was reset to an older state.
    """
    rows = reports.c
    same = (rows.device_id == request.device_id) & (rows.report_no == request.report_no)
    # A device draws a nonce for each report: an equal nonce is a repeat, another one is a clone.
    known = connection.execute(select(rows.nonce).where(same)).scalar()
    if known == request.nonce:
        return False
    if known is not None:
        raise ClonedIdentityError(
            f"{request.device_id} reported number {request.report_no} before, with other content:"
            " two devices share this identity, or its state was set back"
        )
    oldest = select(rows.report_no).where(rows.device_id == request.device_id).order_by(rows.report_no.desc())
    oldest_kept = connection.execute(oldest.offset(KEPT - 1).limit(1)).scalar()
    if oldest_kept is not None and request.report_no < oldest_kept:
        raise ClonedIdentityError(
            f"{request.device_id} reports number {request.report_no} after {KEPT} higher ones:"
            " two devices share this identity, or its state was set back"
        )
    made = connection.execute(insert(reports).values(**_row(request, received_at))).inserted_primary_key
    assert made is not None  # noqa: S101  (SQLAlchemy types it for statements without a key, too)
    _update_status(connection, request, int(made[0]), received_at)
    return True


def note_twin(connection: Connection, device_id: str, refused: int, at: float) -> None:
    """Record, for people, that so many reports were refused because their numbers belong to other reports."""
    event_id = f"cloned/{device_id}/{at:.3f}"
    note(connection, event_id, device_id, "identity_cloned", {"reports": refused}, at)


def twin_reports(connection: Connection) -> dict[str, int]:
    """Recorded reports of a twin, by device. Until 0.2.0 each had an event of its own."""
    rows = connection.execute(
        select(outbox.c.subject, outbox.c.detail).where(outbox.c.step == "identity_cloned")
    )
    found: Counter[str] = Counter()
    for device_id, detail in rows:
        found[device_id] += int(detail.get("reports", 1))
    return dict(found)


def statuses(connection: Connection, group: str = "") -> list[RowMapping]:
    """Newest status of each device that ever reported, by device id.

    Args:
        connection: A transaction.
        group: Empty: of all groups.
    """
    query = select(device_status).order_by(device_status.c.device_id)
    if group:
        members = select(devices.c.device_id).where(devices.c.grp == group)
        query = query.where(device_status.c.device_id.in_(members))
    return list(connection.execute(query).mappings())


def profile_states(connection: Connection, group: str = "") -> list[tuple[RowMapping, ProfileState]]:
    """Newest status of each device with what its newest report says of its profile, by device id."""
    query = (
        select(device_status, reports.c.body)
        .join(reports, reports.c.id == device_status.c.report_id)
        .order_by(device_status.c.device_id)
    )
    if group:
        members = select(devices.c.device_id).where(devices.c.grp == group)
        query = query.where(device_status.c.device_id.in_(members))
    found = connection.execute(query).mappings()
    return [(row, ReportRequest.FromString(row["body"]).profile_state) for row in found]


def reports_of(
    connection: Connection, rollout_id: str, after_id: int = 0, limit: int = 10000
) -> list[RowMapping]:
    """Reports on a rollout in the order of their arrival; ``body`` is a serialized ``ReportRequest``.

    Args:
        connection: A transaction.
        rollout_id: The rollout.
        after_id: Only those with a greater ``id``.
        limit: Largest number of reports.
    """
    query = select(reports).where(reports.c.rollout_id == rollout_id, reports.c.id > after_id)
    return list(connection.execute(query.order_by(reports.c.id).limit(limit)).mappings())


def _update_status(
    connection: Connection, request: ReportRequest, report_id: int, received_at: float
) -> None:
    """Update the status. Of a late report with a lower number, only its arrival and its attack count."""
    own = device_status.c.device_id == request.device_id
    known = (
        select(device_status, reports.c.report_no)
        .join(reports, reports.c.id == device_status.c.report_id, isouter=True)
        .where(own)
    )
    old = connection.execute(known).mappings().first()
    newer = old is None or (old["report_no"] or 0) < request.report_no
    attack = request.attack or ("" if old is None else old["attack"])
    values = _status(request, report_id, received_at) if newer or old is None else _kept(old)
    connection.execute(delete(device_status).where(own))
    connection.execute(insert(device_status).values(**{**values, "attack": attack, "last_seen": received_at}))


def _kept(old: RowMapping) -> dict[str, Any]:
    return {name: old[name] for name in device_status.c.keys()}  # noqa: SIM118  (a collection, not a mapping)


def _status(request: ReportRequest, report_id: int, received_at: float) -> dict[str, Any]:
    return {
        "device_id": request.device_id,
        "last_seen": received_at,
        "report_id": report_id,
        "state": request.state,
        "result": request.result,
        "channel_seq": request.channel_seq,
        "rollout_id": request.rollout_id,
        "installed": {i.family: {"version": i.version, "sha256": i.sha256} for i in request.installed},
    }


def _row(request: ReportRequest, received_at: float) -> dict[str, Any]:
    return {
        "device_id": request.device_id,
        "report_no": request.report_no,
        "nonce": request.nonce,
        "received_at": received_at,
        "rollout_id": request.rollout_id,
        "state": request.state,
        "result": request.result,
        "channel_seq": request.channel_seq,
        "attempted": request.attempted.version,
        "attack": request.attack,
        "detail": request.detail,
        "body": request.SerializeToString(),
    }

"""Permits for excerpts in the registry: stored, handed out, claimed once, revocable until then.

The service cannot make a permit, and devices do not believe it about one. What it decides alone is whether a
claim is granted, so that a permit that was revoked in time is never followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cryptography import x509
from sqlalchemy import Connection, RowMapping, insert, select, update

from model_service.fleet.certificate_ledger import revoked_serials
from model_service.fleet.devices import device
from model_service.registry.database import note
from model_service.registry.registry_tables import device_consents, excerpt_permits
from schemas.errors import RegistryError
from schemas.excerpt_permit import SignedPermit
from schemas.excerpt_words import LIVE, OUTCOMES, PermitRefusal, PermitState
from schemas.proto.delivery_pb2 import PermitOutcome

MOST_HANDED = 32
"""Permits of one answer to a device."""
MOST_OPEN = 256
"""Permits of one device that may be unsettled."""
MAX_DETAIL = 1024
_UNSETTLED = (*LIVE, PermitState.CLAIMED)
_REFUSALS = frozenset(r.value for r in PermitRefusal) | {""}
_STATES = frozenset(s.value for s in OUTCOMES)


def grant(connection: Connection, signed: SignedPermit, approver: str, reason: str, now: float) -> RowMapping:
    """Store a permit that was verified.

    Raises:
        RegistryError: The device has not joined, was revoked or runs another profile; the id is used; too
            many permits of it are unsettled; or the permit has expired.
    """
    permit = signed.permit
    found = device(connection, permit.device_id)
    if not found["active"]:
        raise RegistryError(f"{permit.device_id} was revoked")
    if found["profile"] != permit.profile:
        raise RegistryError(f"{permit.device_id} runs profile {found['profile']}, not {permit.profile}")
    if get(connection, permit.permit_id) is not None:
        raise RegistryError(f"permit {permit.permit_id} is known already: each is stored once")
    if permit.expires_at.timestamp() <= now:
        raise RegistryError(f"permit {permit.permit_id} has expired")
    own = (excerpt_permits.c.device_id == permit.device_id) & excerpt_permits.c.state.in_(_UNSETTLED)
    if len(connection.execute(select(excerpt_permits.c.permit_id).where(own)).all()) >= MOST_OPEN:
        raise RegistryError(f"{MOST_OPEN} permits of {permit.device_id} are unsettled: revoke some")
    serial = x509.load_pem_x509_certificate(signed.certificate_pem).serial_number
    connection.execute(
        insert(excerpt_permits).values(
            permit_id=permit.permit_id,
            device_id=permit.device_id,
            approver=approver,
            serial=f"{serial:x}",
            permit=json.loads(permit.canonical_form()),
            signed=signed.to_bytes(),
            state=PermitState.OPEN,
            refusal="",
            detail="",
            reason=reason[:MAX_DETAIL],
            samples=0,
            created_at=now,
            expires_at=permit.expires_at.timestamp(),
            updated_at=now,
        )
    )
    detail = {
        "by": approver,
        "device": permit.device_id,
        "purpose": permit.purpose,
        "from": permit.start.isoformat(),
        "until": permit.end.isoformat(),
        "channels": ", ".join(permit.channels),
        "why": reason,
    }
    _note(connection, permit.permit_id, "excerpt_permitted", detail, now)
    return _row(connection, permit.permit_id)


def handed_to(connection: Connection, device_id: str, now: float) -> list[tuple[str, bytes]]:
    """Permits that the device is to settle, the oldest first: id and signed bytes.

    Those that have expired, or whose approver's certificate was revoked, end here.
    """
    revoked = revoked_serials(connection, now)
    own = (excerpt_permits.c.device_id == device_id) & excerpt_permits.c.state.in_(_UNSETTLED)
    rows = connection.execute(select(excerpt_permits).where(own).order_by(excerpt_permits.c.created_at))
    found: list[tuple[str, bytes]] = []
    for row in rows.mappings().all():
        state, permit_id = PermitState(row["state"]), row["permit_id"]
        if state in LIVE and row["serial"] in revoked:
            _end(connection, permit_id, PermitState.REVOKED, "the approver's certificate was revoked", now)
        elif state in LIVE and row["expires_at"] <= now:
            _end(connection, permit_id, PermitState.EXPIRED, "it expired before the device took it", now)
        elif len(found) < MOST_HANDED:
            found.append((permit_id, bytes(row["signed"])))
            if state is PermitState.OPEN:
                _set(connection, permit_id, now, state=PermitState.FETCHED)
                _note(connection, permit_id, "excerpt_permit_fetched", {"device": device_id}, now)
    return found


def claim(connection: Connection, device_id: str, permit_id: str, now: float) -> str:
    """Grant a device's claim: from here on the permit cannot be revoked. A repeat is granted again.

    Returns:
        Why it is not granted; empty: it is.
    """
    row = get(connection, permit_id)
    if row is None or row["device_id"] != device_id:
        return "no such permit for this device"
    state = PermitState(row["state"])
    if state is PermitState.CLAIMED:
        return ""
    if state not in LIVE:
        return f"it is {state.value}"
    if row["expires_at"] <= now:
        _end(connection, permit_id, PermitState.EXPIRED, "it expired before the device took it", now)
        return "it has expired"
    if row["serial"] in revoked_serials(connection, now):
        _end(connection, permit_id, PermitState.REVOKED, "the approver's certificate was revoked", now)
        return "the approver's certificate was revoked"
    _set(connection, permit_id, now, state=PermitState.CLAIMED)
    _note(connection, permit_id, "excerpt_claimed", {"device": device_id}, now)
    return ""


def check_outcome(outcome: PermitOutcome) -> str:
    """What is wrong with an outcome that a device reports; empty: nothing."""
    if outcome.state not in _STATES:
        return f"state {outcome.state[:32]!r} is none of {', '.join(sorted(_STATES))}"
    if outcome.refusal not in _REFUSALS:
        return f"refusal {outcome.refusal[:32]!r} is unknown"
    if len(outcome.detail) > MAX_DETAIL or outcome.samples >= 2**31:
        return "detail or samples are too large"
    return ""


def take_outcomes(
    connection: Connection, device_id: str, outcomes: Iterable[PermitOutcome], now: float
) -> None:
    """Note what a device says became of its permits; of permits that it does not have, nothing."""
    for outcome in outcomes:
        row = get(connection, outcome.permit_id)
        if row is None or row["device_id"] != device_id or row["state"] == outcome.state:
            continue
        if outcome.state == PermitState.REFUSED and PermitState(row["state"]) not in _UNSETTLED:
            continue  # as a repeat of one that was taken: what it was stays
        _set(
            connection,
            outcome.permit_id,
            now,
            state=outcome.state,
            refusal=outcome.refusal,
            detail=outcome.detail,
            samples=outcome.samples or row["samples"],
        )
        told = {"device": device_id, "refusal": outcome.refusal, "detail": outcome.detail}
        told |= {"samples": str(outcome.samples)} if outcome.samples else {}
        _note(connection, outcome.permit_id, f"excerpt_{outcome.state}", told, now)


def note_consent(connection: Connection, device_id: str, changes: int, now: float, *, given: bool) -> None:
    """Note what a device says of its switch; a change is a lifecycle event."""
    own = device_consents.c.device_id == device_id
    before = connection.execute(select(device_consents).where(own)).mappings().first()
    if before is not None and (before["given"], before["changes"]) == (given, changes):
        return
    values = {"given": given, "changes": changes, "seen_at": now}
    if before is None:
        connection.execute(insert(device_consents).values(device_id=device_id, **values))
    else:
        connection.execute(update(device_consents).where(own).values(**values))
    if changes:
        step = "excerpt_consent_given" if given else "excerpt_consent_withdrawn"
        note(
            connection, f"consent/{device_id}/{changes}/{now:.3f}", device_id, step, {"changes": changes}, now
        )


def revoke(connection: Connection, permit_id: str, actor: str, reason: str, now: float) -> RowMapping:
    """Revoke a permit that no device has claimed.

    Raises:
        RegistryError: There is none, or it is too late.
    """
    row = _row(connection, permit_id)
    state = PermitState(row["state"])
    if state not in LIVE:
        raise RegistryError(f"permit {permit_id} is {state.value}: only one that is open can be revoked")
    _end(connection, permit_id, PermitState.REVOKED, reason, now, by=actor)
    return _row(connection, permit_id)


def get(connection: Connection, permit_id: str) -> RowMapping | None:
    """A permit's row; None: there is none."""
    query = select(excerpt_permits).where(excerpt_permits.c.permit_id == permit_id)
    return connection.execute(query).mappings().first()


def newest(connection: Connection, device_id: str, limit: int) -> list[RowMapping]:
    """Permits, newest first; of all devices where ``device_id`` is empty."""
    query = select(excerpt_permits).order_by(excerpt_permits.c.created_at.desc()).limit(limit)
    if device_id:
        query = query.where(excerpt_permits.c.device_id == device_id)
    return list(connection.execute(query).mappings())


def consents(connection: Connection) -> dict[str, RowMapping]:
    """What each device last said of its switch."""
    return {row["device_id"]: row for row in connection.execute(select(device_consents)).mappings()}


def _row(connection: Connection, permit_id: str) -> RowMapping:
    row = get(connection, permit_id)
    if row is None:
        raise RegistryError(f"no permit {permit_id[:32]}: `edgeloop excerpt list`")
    return row


def _set(connection: Connection, permit_id: str, now: float, **values: Any) -> None:
    own = excerpt_permits.c.permit_id == permit_id
    connection.execute(update(excerpt_permits).where(own).values(updated_at=now, **values))


def _end(
    connection: Connection, permit_id: str, state: PermitState, why: str, now: float, by: str = "service"
) -> None:
    _set(connection, permit_id, now, state=state, detail=why[:MAX_DETAIL])
    _note(connection, permit_id, f"excerpt_{state.value}", {"by": by, "why": why}, now)


def _note(connection: Connection, permit_id: str, step: str, detail: dict[str, str], now: float) -> None:
    note(connection, f"{step}/{permit_id}", f"permit/{permit_id}", step, detail, now)

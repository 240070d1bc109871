"""Requests for certificates, as the public process takes them and the issuer answers them.

A join token is spent in the same transaction that leaves the request, so a kill -9 between the two does not
exist: afterwards the token is unused, or the request waits. The same token with the same keys finds that
request again for as long as the token lives, and gets the same answer; with another key it was used.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from model_service.identity import certificates as certs
from model_service.identity.tokens import find_token, spend_token
from model_service.registry.registry_tables import certificate_requests, certificates, devices
from schemas.envelope import key_id
from schemas.errors import AccessError
from schemas.updates import Role

ENROLL, RENEW = "enroll", "renew"
WAITING, ISSUED, REFUSED = "waiting", "issued", "refused"


@dataclass(frozen=True)
class EnrolmentRequest:
    """What a device brings to join.

    Attributes:
        csr_pem: Request for a client certificate; its common name is the device id.
        signing_key_pem: Public key that seals its telemetry.
    """

    device_id: str
    token: str
    csr_pem: bytes
    signing_key_pem: str


def request_enrolment(connection: Connection, asked: EnrolmentRequest, now: float) -> int:
    """Spend the token on a request for a certificate, or find the request that it was spent on.

    Returns:
        Id of the request.

    Raises:
        AccessError: Token, request or key do not hold.
    """
    key = certs.public_der(certs.read_request(asked.csr_pem, asked.device_id))
    signing = certs.read_public_key(asked.signing_key_pem)
    token = find_token(connection, asked.token, asked.device_id)
    _refuse_revoked(connection, asked.device_id)
    columns = {
        "device_id": asked.device_id,
        "profile": token["profile"],
        "site": token["site"],
        "grp": token["grp"],
        "hardware": token["hardware"],
        "key_id": key_id(signing),
        "public_key": asked.signing_key_pem,
        "gateway": None,
    }
    if token["used_at"] is not None:
        return _spent_on(connection, token, key, columns, now)
    spend_token(connection, token, now)
    return _leave(connection, ENROLL, asked.device_id, asked.csr_pem, columns, now)


def request_renewal(
    connection: Connection, certificate_pem: bytes, csr_pem: bytes, now: float, fresh_s: float
) -> int:
    """Leave a request for a certificate after an old one, whose signature and proof the caller has checked.

    Args:
        connection: A transaction.
        certificate_pem: The old certificate.
        csr_pem: Request for the new one.
        now: UTC seconds.
        fresh_s: The same bytes again within that time, a retry or a replay, find the request that was made.

    Returns:
        Id of the request.

    Raises:
        AccessError: Revoked, no device's, or the new request is for another name or key.
    """
    holder = certs.read_holder(certificate_pem)
    if Role.DEVICE not in holder.roles:
        raise AccessError(
            f"{holder.name} is not a device: people's certificates are renewed by `edgeloop up`"
        )
    if certs.public_der(certs.read_request(csr_pem, holder.name)) != holder.key:
        raise AccessError(f"{holder.name} asks to renew its certificate with another key: join again")
    _refuse_revoked(connection, holder.name, holder.serial)
    rows = certificate_requests.c
    same = (rows.kind == RENEW) & (rows.subject == holder.name) & (rows.csr_pem == csr_pem)
    same &= rows.created_at > now - fresh_s
    known = connection.execute(select(rows.id).where(same).order_by(rows.id.desc())).scalar()
    return known or _leave(connection, RENEW, holder.name, csr_pem, None, now)


def answered(connection: Connection, ids: Collection[int]) -> list[RowMapping]:
    """Those of the requests that the issuer has answered."""
    rows = certificate_requests.c
    query = select(rows.id, rows.state, rows.certificate_pem, rows.reason)
    found = connection.execute(query.where(rows.id.in_(ids), rows.state != WAITING))
    return list(found.mappings())


def enrolled_key(connection: Connection, device_id: str) -> bytes | None:
    """Public key (DER) that the device last joined with; None: it never did."""
    rows = certificate_requests.c
    newest = select(rows.csr_pem).where(
        rows.kind == ENROLL, rows.subject == device_id, rows.state == ISSUED
    ).order_by(rows.id.desc())  # fmt: skip
    csr_pem = connection.execute(newest).scalar()
    return None if csr_pem is None else certs.public_der(certs.read_request(csr_pem, device_id))


def _spent_on(
    connection: Connection, token: RowMapping, key: bytes, columns: dict[str, Any], now: float
) -> int:
    """The request that this used token was spent on, if the same device with the same keys asks again."""
    rows = certificate_requests.c
    query = select(rows.id, rows.csr_pem, rows.device).where(
        rows.kind == ENROLL, rows.subject == token["device_id"], rows.created_at == token["used_at"]
    )
    found = connection.execute(query).mappings().first()
    same = found is not None and found["device"]["key_id"] == columns["key_id"]
    if found is None or not same or key != certs.public_der(
        certs.read_request(found["csr_pem"], token["device_id"])
    ):  # fmt: skip
        raise AccessError(f"the join token for {token['device_id']} was used already, with another key")
    if now >= token["expires_at"]:
        raise AccessError(f"the join token for {token['device_id']} was used already, and has expired since")
    return int(found["id"])


def _leave(
    connection: Connection, kind: str, name: str, csr_pem: bytes, device: dict[str, Any] | None, now: float
) -> int:
    values = {
        "kind": kind,
        "subject": name,
        "role": Role.DEVICE.value,
        "csr_pem": csr_pem,
        "device": device,
        "state": WAITING,
        "created_at": now,
    }
    made = connection.execute(insert(certificate_requests).values(**values)).inserted_primary_key
    assert made is not None  # noqa: S101  (SQLAlchemy types it for statements without a key, too)
    return int(made[0])


def _refuse_revoked(connection: Connection, device_id: str, serial: str = "") -> None:
    active = select(devices.c.active).where(devices.c.device_id == device_id)
    if connection.execute(active).scalar() is False:
        raise AccessError(f"{device_id} was revoked")
    revoked = select(certificates.c.revoked_at).where(certificates.c.serial == serial)
    if connection.execute(revoked).scalar() is not None:
        raise AccessError(f"the certificate {serial} of {device_id} was revoked")

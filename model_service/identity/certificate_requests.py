"""Requests for certificates: the public process stores them, the issuer answers them.

A join token is spent in the transaction that stores the request, so after a kill the token is unused or the
request waits; nothing lies between. Until the token expires, the same token with the same keys finds that
request again and gets the same answer; with another key it counts as used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from model_service.fleet.device_assignments import gateway_of
from model_service.identity import certificates as certs
from model_service.identity.tokens import find_token, hash_of, spend_token
from model_service.registry.registry_tables import certificate_requests, certificates, devices
from schemas.envelope import key_id
from schemas.errors import AccessError
from schemas.possession import enrolment_text
from schemas.updates import Role

ENROLL, RENEW = "enroll", "renew"
PROOF = "proof"
"""Key beside the columns of ``devices`` in an enrolment: what the issuer needs to check it again."""
WAITING, ISSUED, REFUSED = "waiting", "issued", "refused"


@dataclass(frozen=True)
class EnrolmentRequest:
    """What a device sends to join.

    Attributes:
        csr_pem: Request for a client certificate; its common name is the device id.
        signing_key_pem: Public key that seals its telemetry.
        signing_proof: Signature by that key; empty: the request for the certificate is signed by it.
    """

    device_id: str
    token: str
    csr_pem: bytes
    signing_key_pem: str
    signing_proof: bytes = b""


def request_enrolment(connection: Connection, request: EnrolmentRequest, now: float) -> int:
    """Spend the token on a request for a certificate, or find the request that it was spent on.

    Returns:
        Id of the request.

    Raises:
        AccessError: Token, request or key are not valid.
    """
    # Obligation 1: the request is signed by the key that it asks a certificate for.
    key = certs.public_der(certs.read_request(request.csr_pem, request.device_id))
    signing = certs.read_public_key(request.signing_key_pem)
    # Obligation 2: whoever asks holds the telemetry key: else one could take the key of another device.
    token_sha256 = hash_of(request.token)
    text = enrolment_text(request.device_id, request.csr_pem, token_sha256)
    certs.check_signing_proof(signing, text, request.signing_proof, request.csr_pem)
    # Obligation 3: the token was issued to this device, which has not been revoked.
    token = find_token(connection, request.token, request.device_id)
    _refuse_revoked(connection, request.device_id)
    columns = {
        "device_id": request.device_id,
        "profile": token["profile"],
        "site": token["site"],
        "grp": token["grp"],
        "hardware": token["hardware"],
        "key_id": key_id(signing),
        "public_key": request.signing_key_pem,
        "gateway": token["gateway"] or gateway_of(connection, request.device_id),
        PROOF: {"token_sha256": token_sha256, "signature": request.signing_proof.hex()},
    }
    # Obligation 4: the token is unused, or was spent on exactly this request.
    if token["used_at"] is not None:
        return _spent_on(connection, token, key, columns, now)
    spend_token(connection, token, now)
    return _insert_request(connection, ENROLL, request.device_id, request.csr_pem, columns, now)


def request_renewal(
    connection: Connection,
    certificate_pem: bytes,
    csr_pem: bytes,
    now: float,
    fresh_s: float,
    permit: Callable[[], None] = lambda: None,
) -> int:
    """Store a request for a new certificate; the caller has checked the old one's signature and the proof.

    Args:
        connection: A transaction.
        certificate_pem: The old certificate.
        csr_pem: Request for the new one.
        now: UTC seconds.
        fresh_s: Within this time the same bytes, a retry or a replay, find the request that was stored.
        permit: Called before a new one is stored; what it raises refuses it.

    Returns:
        Id of the request.

    Raises:
        AccessError: It was revoked, is not a device's, or the new request is for another name or key.
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
    if known:
        return int(known)
    permit()
    return _insert_request(connection, RENEW, holder.name, csr_pem, None, now)


def answered_requests(connection: Connection, ids: Collection[int]) -> list[RowMapping]:
    """Those of the requests that the issuer has answered."""
    rows = certificate_requests.c
    query = select(rows.id, rows.state, rows.certificate_pem, rows.reason)
    found = connection.execute(query.where(rows.id.in_(ids), rows.state != WAITING))
    return list(found.mappings())


def enrolled_key(connection: Connection, device_id: str) -> bytes | None:
    """Public key (DER) that the device last joined with; None: it never did."""
    rows = certificate_requests.c
    joined = select(rows.csr_pem).where(rows.kind == ENROLL, rows.subject == device_id, rows.state == ISSUED)
    csr_pem = connection.execute(joined.order_by(rows.id.desc())).scalar()
    return None if csr_pem is None else certs.public_der(certs.read_request(csr_pem, device_id))


def _spent_on(
    connection: Connection, token: RowMapping, key: bytes, columns: dict[str, Any], now: float
) -> int:
    """Id of the request that a used token was spent on, if the same device asks again with the same keys."""
    rows = certificate_requests.c
    query = select(rows.id, rows.csr_pem, rows.device).where(
        rows.kind == ENROLL, rows.subject == token["device_id"], rows.created_at == token["used_at"]
    )
    found = connection.execute(query).mappings().first()
    if (
        found is None
        or found["device"]["key_id"] != columns["key_id"]
        or certs.public_der(certs.read_request(found["csr_pem"], token["device_id"])) != key
    ):
        raise AccessError(f"the join token for {token['device_id']} was used already, with another key")
    if now >= token["expires_at"]:
        raise AccessError(f"the join token for {token['device_id']} was used already, and has expired since")
    return int(found["id"])


def _insert_request(
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

"""Answers requests for certificates; only this module uses the authority's key at run time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import Connection, RowMapping, delete, select, update

from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from model_service.fleet import certificate_ledger as ledger
from model_service.fleet import devices as fleet
from model_service.fleet.device_assignments import assigned, check_gateways
from model_service.holder import DEVICE_ID
from model_service.identity import certificates as certs
from model_service.identity.authority import Authority, init_pki
from model_service.identity.certificate_requests import (
    ENROLL,
    ISSUED,
    PROOF,
    REFUSED,
    RENEW,
    WAITING,
    enrolled_key,
)
from model_service.registry.database import Registry, note
from model_service.registry.registry_tables import certificate_requests
from model_service.settings import ModelSettings
from schemas.boot_ids import GATEWAY
from schemas.envelope import key_id
from schemas.errors import AccessError, DamagedFileError, RegistryError
from schemas.possession import enrolment_text
from schemas.updates import Role

log = logging.getLogger(__name__)

BATCH = 256
_TEXTS = ("profile", "site", "grp", "hardware")
PKI_S = 15.0
"""Pause between two checks of the server's and people's certificates, in seconds."""


@dataclass(frozen=True)
class _Answer:
    """Answer to a request: a certificate for a key, with the device's record; or the reason of a refusal."""

    row: RowMapping
    key: ec.EllipticCurvePublicKey | None = None
    record: DeviceRecord | None = None
    reason: str = ""


class Issuer:
    """Issues certificates for devices. It repeats all checks of the public process, which it does not trust.

    Args:
        settings: Folder of the authority's key; lifetime of certificates.
        registry: Holds the requests.
        device_registry: The lake's table of devices; telemetry of a device that is not in it is refused.
        clock: UTC seconds.
    """

    def __init__(
        self,
        settings: ModelSettings,
        registry: Registry,
        device_registry: DeviceRegistry,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._authority = settings, _authority_of(settings)
        self._life = timedelta(seconds=settings.certificate_s)
        self._registry = registry
        self._lake = device_registry
        self._clock = clock
        self._pki_due = clock()
        records = device_registry.keys().values()
        self._known_revoked = {r.device_id for r in records if not r.active}
        self._in_lake: dict[str, str | None] = {r.device_id: r.gateway for r in records if r.gateway}

    def step(self) -> int:
        """Answer requests, revoke and assign devices in the lake, renew server's and people's certificates.

        Returns:
            How many requests were answered.

        Raises:
            RetryableError: Registry or lake are busy; the next step continues.
            DamagedFileError: The authority's key or certificate is damaged; requests wait.
        """
        with self._registry.reading() as connection:
            answers = _one_owner([self._examine(connection, row) for row in _waiting(connection)])
            revoked = fleet.revoked_devices(connection) - self._known_revoked
            wanted = assigned(connection)
        if any(a.key is not None for a in answers) and self._authority is None:
            self._update_lake([], revoked)
            self._authority = Authority.load(self._settings)  # raises: the requests wait until it is restored
        # Step 1: register the key in the lake before the device gets a certificate, or the lake would refuse
        # its first rows. After a crash, the same records are registered again.
        self._update_lake([a.record for a in answers if a.record is not None], revoked)
        self._assign_in_lake(wanted, {a.row["subject"] for a in answers})
        # Step 2: certificate, device and answer in one transaction. Before it, a crash leaves the request.
        if answers:
            with self._registry.transaction() as connection:
                for answer in answers:
                    self._answer(connection, answer)
        if (now := self._clock()) >= self._pki_due:
            init_pki(self._settings, datetime.fromtimestamp(now, UTC))
            self._pki_due = now + PKI_S
        return len(answers)

    def _examine(self, connection: Connection, row: RowMapping) -> _Answer:
        try:
            return self._checked(connection, row)
        except AccessError as exc:
            return _Answer(row, reason=str(exc))
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as exc:  # the public process never stores such a row
            return _Answer(row, reason=f"the request cannot be read: {type(exc).__name__}")

    def _checked(self, connection: Connection, row: RowMapping) -> _Answer:
        name = row["subject"]
        if not DEVICE_ID.fullmatch(name):
            raise AccessError(f"{name[:64]!r} cannot be a device id")
        key = certs.read_request(row["csr_pem"], name)
        if row["role"] != Role.DEVICE.value:
            raise AccessError(f"certificates of role {row['role']} are not issued over the network")
        if fleet.is_revoked(connection, name):
            raise AccessError(f"{name} was revoked")
        if row["kind"] == ENROLL:
            return _Answer(row, key, _record(connection, row))
        if certs.public_der(key) != enrolled_key(connection, name):
            raise AccessError(f"{name} did not join with this key: join again")
        return _Answer(row, key)

    def _update_lake(self, records: Sequence[DeviceRecord], revoked: set[str]) -> None:
        if records:
            self._lake.register(records)
            self._in_lake.update({r.device_id: r.gateway for r in records})
        if revoked:
            present = {r.device_id for r in self._lake.keys().values()}
            self._lake.revoke(revoked & present)
            self._known_revoked |= revoked

    def _assign_in_lake(self, wanted: Mapping[str, str], joining: Set[str]) -> None:
        """Pass on which gateway sends for which device, where that has changed.

        Args:
            wanted: Gateway by device, as the registry has it.
            joining: Devices that join in this step: their records have it, the registry does not yet.
        """
        changed = [
            d for d in sorted({*wanted, *self._in_lake} - joining) if wanted.get(d) != self._in_lake.get(d)
        ]
        if not changed:
            return
        lake = {r.device_id: r for r in self._lake.keys().values()}
        for gateway in {wanted.get(d) for d in changed}:
            if gateway is not None and (gateway not in lake or lake[gateway].hardware != GATEWAY):
                continue  # a lake that was set back: it comes when the gateway joins again
            devices = [d for d in changed if wanted.get(d) == gateway and d in lake]
            self._lake.assign(devices, gateway)
            self._in_lake.update(dict.fromkeys(devices, gateway))

    def _answer(self, connection: Connection, answer: _Answer) -> None:
        row, name = answer.row, answer.row["subject"]
        reason = answer.reason
        if not reason and fleet.is_revoked(connection, name):
            reason = f"{name} was revoked"  # since it was examined
        if answer.key is None or self._authority is None or reason:
            log.warning("refused a certificate: %s", reason, extra={"device_id": name})
            _settle(connection, row, state=REFUSED, reason=reason)
            return
        now = self._clock()
        if row["kind"] == ENROLL:
            ledger.revoke_all(connection, name, now)  # a device that joins again gives up its earlier keys
            fleet.put_device(connection, {k: v for k, v in row["device"].items() if k != PROOF}, now)
        certificate = self._authority.certify_client(
            name, [Role.DEVICE], answer.key, datetime.fromtimestamp(now, UTC), self._life
        )
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        holder = certs.read_holder(pem)
        ledger.record(connection, holder, certificate.not_valid_before_utc.timestamp())
        _settle(connection, row, state=ISSUED, certificate_pem=pem)
        _forget_renewals(connection, row, now - self._life.total_seconds())
        if row["kind"] == ENROLL:
            detail = {
                "serial": holder.serial,
                "group": row["device"]["grp"],
                "key_id": row["device"]["key_id"],
            }
            note(connection, f"enrolled/{holder.serial}", name, "device_enrolled", detail, now)


def _authority_of(settings: ModelSettings) -> Authority | None:
    """The authority; None, and one line, where its files are damaged: everything else goes on."""
    try:
        return Authority.load(settings)
    except DamagedFileError as exc:
        log.error("%s", exc)  # noqa: TRY400  (the message says what to do)
        return None


def _one_owner(answers: list[_Answer]) -> list[_Answer]:
    """Refuse all but the first of several devices that ask at the same time with one signing key."""
    owners: dict[str, str] = {}
    checked = []
    for answer in answers:
        if answer.record is not None:
            owner = owners.setdefault(answer.record.key_id, answer.record.device_id)
            if owner != answer.record.device_id:
                reason = f"the signing key of {answer.record.device_id} is already that of {owner}"
                answer = _Answer(answer.row, reason=reason)  # noqa: PLW2901
        checked.append(answer)
    return checked


def _waiting(connection: Connection) -> list[RowMapping]:
    rows = certificate_requests
    query = select(rows).where(rows.c.state == WAITING).order_by(rows.c.id).limit(BATCH)
    return list(connection.execute(query).mappings())


def _settle(connection: Connection, row: RowMapping, **values: object) -> None:
    own = certificate_requests.c.id == row["id"]
    connection.execute(update(certificate_requests).where(own).values(**values))


def _forget_renewals(connection: Connection, row: RowMapping, before: float) -> None:
    """Delete renewals before this one whose certificates have expired. Enrolments stay: they have the key."""
    rows = certificate_requests.c
    old = (rows.kind == RENEW) & (rows.subject == row["subject"]) & (rows.created_at < before)
    old &= (rows.state != WAITING) & (rows.id != row["id"])
    connection.execute(delete(certificate_requests).where(old))


def _record(connection: Connection, row: RowMapping) -> DeviceRecord:
    """The device's record for the lake.

    Raises:
        AccessError: Another device uses that signing key, nothing shows that this one holds it, the key has
            another id, or a field is missing.
    """
    device = row["device"]
    signing = certs.read_public_key(device["public_key"])
    if key_id(signing) != device["key_id"]:
        raise AccessError(f"the signing key of {row['subject']} has another id")
    proof = device.get(PROOF, {"token_sha256": "", "signature": ""})  # a request that 0.2.0 stored has none
    text = enrolment_text(row["subject"], row["csr_pem"], proof["token_sha256"])
    certs.check_signing_proof(signing, text, bytes.fromhex(proof["signature"]), row["csr_pem"])
    if device["device_id"] != row["subject"] or not isinstance(device["gateway"], str | None):
        raise AccessError(f"the record of {row['subject']} is of another device")
    if not all(isinstance(device[name], str) and device[name] for name in _TEXTS):
        raise AccessError(f"the record of {row['subject']} is incomplete")
    try:
        check_gateways(connection, row["subject"], device["hardware"], device["gateway"] or "")
    except RegistryError as exc:
        raise AccessError(str(exc)) from exc
    other = fleet.owner_of_key(connection, device["key_id"])
    if other not in (None, row["subject"]):
        raise AccessError(f"the signing key of {row['subject']} is already that of {other}")
    return DeviceRecord(
        device_id=row["subject"],
        profile=device["profile"],
        site=device["site"],
        group=device["grp"],
        hardware=device["hardware"],
        key_id=device["key_id"],
        public_key=device["public_key"],
        gateway=device["gateway"],
    )

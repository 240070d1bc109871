"""How a device enrols and keeps its certificate: a join bundle once, then renewals with its own key."""

from __future__ import annotations

import hashlib
import logging
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from edge_producer.certificate_files import CERTIFICATE_FILES
from edge_producer.device_identity import DeviceIdentity
from edge_producer.file_stamps import Stamps, stamps_of
from edge_producer.trust import SERVER, TrustedTime
from edge_producer.updates.service_client import Credentials, EnrolmentClient
from schemas.durable import Disk
from schemas.errors import AccessError, DamagedLakeError, ServiceUnavailableError
from schemas.join import JoinBundle
from schemas.possession import enrolment_text
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

JOINED_FILE = "joined.json"
RENEW_SHARE = 1 / 3
"""A certificate is renewed once less than this share of its lifetime is left."""


class Membership:
    """One device's certificate.

    Args:
        folder: The device's own folder.
        join: Addresses, authority and token.
        device: Its signing key, which also seals its telemetry, becomes the key of the certificate.
        time: Decides when the certificate is due, and learns from the service's answers.
        disk: Reads and writes the certificate.

    Raises:
        AccessError: The key or the authority cannot be used.
    """

    def __init__(
        self, folder: Path, join: JoinBundle, device: DeviceIdentity, time: TrustedTime, disk: Disk
    ) -> None:
        self._folder = folder
        self._join = join
        self._device = device
        self._time = time
        self._disk = disk
        pem = device.signer.private_pem()
        key = serialization.load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AccessError("the device key must be a P-256 key")
        self._key, self._key_pem = key, pem
        self._log_extra = {"device_id": device.device_id}
        self._files = [folder / name for name in (*CERTIFICATE_FILES, JOINED_FILE)]
        self._known: tuple[Stamps, bytes, datetime] | None = None
        try:
            self._authorities = x509.load_pem_x509_certificates(join.ca_pem.encode())
        except ValueError as exc:
            raise AccessError("the join bundle holds no certificate of the authority") from exc

    def credentials(self, *, renew: bool = False) -> Credentials:
        """A certificate that should be valid, after enrolling or renewing where that is due.

        Args:
            renew: Renew even if the certificate seems valid, because the service does not accept it.

        Raises:
            AccessError: The token is used up, or the certificate was revoked.
            ServiceUnavailableError: No answer in time.
        """
        if self._known is None or self._known[0] != stamps_of(self._files):
            stamps, held = stamps_of(self._files), self._held()  # stamps first: what comes later is looked at
            if held is None:
                return self._enrol()
            self._known = stamps, held, self._due_at(held)
        _, held, due_at = self._known
        if renew or self._time.now() >= due_at:
            return self._renew(held)
        return Credentials(held, self._key_pem)

    def _held(self) -> bytes | None:
        """The certificate; None where it is damaged, not this device's, or older than a new token."""
        if self._spent() not in (None, _digest(self._join.token)):
            return None
        whole = []
        for name in CERTIFICATE_FILES:
            try:
                if (held := self._disk.read(self._folder / name)) is not None:
                    whole.append(self._checked(held))
            except ValueError as exc:
                log.warning("%s is not used: %s", self._folder / name, exc, extra=self._log_extra)
        return max(whole, key=_end, default=None)

    def _checked(self, pem: bytes) -> bytes:
        """The first certificate in ``pem``, as PEM: gRPC's C core aborts the process on what it cannot read.

        Raises:
            ValueError: It is unreadable, or names another device, key or authority.
        """
        certificate = x509.load_pem_x509_certificate(pem)
        names = [a.value for a in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        if names != [self._device.device_id]:
            raise ValueError(f"it names {names}")
        try:
            if certificate.public_key() != self._key.public_key():
                raise ValueError("it is another key's")
        except UnsupportedAlgorithm as exc:
            raise ValueError("it is another key's") from exc
        if not any(_signed(certificate, authority) for authority in self._authorities):
            raise ValueError("another authority signed it")
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _spent(self) -> str | None:
        """Digest of the token that was redeemed; None where none was, or it is the present one."""
        raw = self._disk.read(self._folder / JOINED_FILE)
        if raw is None:
            return None
        try:
            spent = JoinBundle.model_validate(checked(raw, JOINED_FILE)).token
        except (ValidationError, DamagedLakeError):
            return None
        return None if spent == self._join.token else spent

    def _due_at(self, held: bytes) -> datetime:
        certificate = x509.load_pem_x509_certificate(held)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return end - RENEW_SHARE * (end - begin)

    def _enrol(self) -> Credentials:
        csr = self._csr()
        claim = enrolment_text(self._device.device_id, csr, _digest(self._join.token))
        proof = self._key.sign(claim, ec.ECDSA(hashes.SHA256()))
        issued = EnrolmentClient(self._join).enrol(csr, self._device.public_pem, proof)
        credentials = self._keep(issued.certificate_pem, issued.server_time)
        # The certificate is on disk first: if the power fails in between, the same token is redeemed again.
        spent = self._join.model_copy(update={"token": _digest(self._join.token)})
        content = with_digest(spent.model_dump_json().encode())
        self._disk.write(self._folder / JOINED_FILE, content, private=True)
        log.info("joined", extra=self._log_extra)
        return credentials

    def _renew(self, held: bytes) -> Credentials:
        csr, at_ms = self._csr(), int(self._time.now().timestamp() * 1000)
        claim = b"edgeloop.v1.renew\n%d\n" % at_ms + csr
        proof = self._key.sign(claim, ec.ECDSA(hashes.SHA256()))
        issued = EnrolmentClient(self._join).renew(held, csr, at_ms, proof)
        credentials = self._keep(issued.certificate_pem, issued.server_time)
        log.info("certificate renewed", extra=self._log_extra)
        return credentials

    def _keep(self, certificate_pem: bytes, server_time: datetime) -> Credentials:
        """Keep an issued certificate if it is the one that was asked for; else the old one stays.

        Raises:
            ServiceUnavailableError: It is another one.
        """
        try:
            pem = self._checked(certificate_pem)
        except ValueError as exc:
            raise ServiceUnavailableError(
                f"what the service issued is no certificate of ours: {exc}"
            ) from exc
        self._time.learn(server_time, SERVER)
        for name in reversed(CERTIFICATE_FILES):
            self._disk.write(self._folder / name, pem, private=True)
        return Credentials(pem, self._key_pem)

    def _csr(self) -> bytes:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._device.device_id)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject)
        return request.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (InvalidSignature, UnsupportedAlgorithm, ValueError, TypeError):
        return False
    return True


def _end(pem: bytes) -> datetime:
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

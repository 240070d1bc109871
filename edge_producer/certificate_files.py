"""The certificate of a device or gateway on its disk, and what the broker is shown of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from edge_producer.join_files import load_join
from edge_producer.settings import EdgeSettings
from schemas.durable import DISK, Disk
from schemas.envelope import MessageSigner
from schemas.errors import AccessError

log = logging.getLogger(__name__)

CERTIFICATE_FILES = ("certificate.pem", "certificate.copy.pem")
"""The certificate and its copy: without one a device cannot renew it, and must be invited again."""
LOOK_S = 1.0
"""Time between two looks at the files."""


@dataclass(frozen=True)
class BrokerCertificate:
    """What opens a connection to the broker with mutual TLS.

    Attributes:
        holder: Device or gateway whose certificate it is.
        until: Its end, UTC.
    """

    holder: str
    until: datetime
    ca_pem: str
    certificate_pem: str
    key_pem: str

    def client_settings(self) -> dict[str, str]:
        """Settings of a Kafka client; nothing is written to disk."""
        return {
            "security.protocol": "ssl",
            "ssl.ca.pem": self.ca_pem,
            "ssl.certificate.pem": self.certificate_pem,
            "ssl.key.pem": self.key_pem,
            "ssl.endpoint.identification.algorithm": "https",
        }


class CertificateWatch:
    """Gives the certificate that is valid longest, of the gateway or else of any of the process's devices.

    Args:
        settings: Devices and folders.
        signers: Keys that are on disk, by device id.
        clock: Steady seconds.
        disk: Reads the files.

    Attributes:
        problem: Why there is none; empty: there is one.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        signers: Mapping[str, MessageSigner],
        clock: Callable[[], float],
        disk: Disk = DISK,
    ) -> None:
        self._settings, self._signers, self._clock, self._disk = settings, signers, clock, disk
        self._holders = (settings.gateway,) if settings.gateway else settings.devices
        self._looked_s = float("-inf")
        self._seen: tuple[object, ...] = ()
        self._current: BrokerCertificate | None = None
        self.problem = ""

    def current(self) -> BrokerCertificate | None:
        """The certificate; None where no device has one yet."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            seen = tuple(_mark(path) for holder in self._holders for path in self._paths(holder))
            if seen != self._seen or self._current is None:
                self._seen = seen
                self._current = self._newest()
        return self._current

    def _paths(self, holder: str) -> list[Path]:
        return [self._settings.updates_dir / holder / name for name in CERTIFICATE_FILES]

    def _newest(self) -> BrokerCertificate | None:
        self.problem = f"{self._holders[0]} has no certificate yet: it has not joined"
        found: list[BrokerCertificate] = []
        for holder in self._holders:
            try:
                found += self._of(holder)
            except (AccessError, OSError, ValueError) as exc:
                self.problem = str(exc)
        if found:
            self.problem = ""
        return max(found, key=lambda c: c.until, default=None)

    def _of(self, holder: str) -> list[BrokerCertificate]:
        signer, folder = self._signers.get(holder), self._settings.updates_dir / holder
        texts = [text for path in self._paths(holder) if (text := self._disk.read(path)) is not None]
        if signer is None or not texts:
            return []
        join = load_join(self._settings.join_dir or folder, folder, holder, self._disk)
        if join is None:
            raise AccessError(f"{holder} has no join bundle, so nothing says whom the broker must be")
        return [
            BrokerCertificate(holder, found[0], join.ca_pem, found[1], signer.private_pem().decode())
            for text in texts
            if (found := _readable(text, signer)) is not None
        ]


def _readable(pem: bytes, signer: MessageSigner) -> tuple[datetime, str] | None:
    """End and PEM of a certificate of this key; None: Kafka's client would fail on it."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        own = certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm):
        return None
    if own != signer.public_pem():
        return None
    return certificate.not_valid_after_utc, certificate.public_bytes(serialization.Encoding.PEM).decode()


def _mark(path: Path) -> tuple[int, int, int] | None:
    """Changes when the file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino

"""A device's identity: its signing key, and the secret behind its sampling."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from schemas.durable import DISK
from schemas.envelope import MessageSigner
from schemas.errors import SignatureError, SpoolError

SECRET_BYTES = 32


@dataclass(frozen=True)
class DeviceIdentity:
    """One device's key pair and secret; made at its first start. Key and secret never leave the device.

    Attributes:
        secret: Key of the hash that gives each row its permanent u, so that nobody else can predict which
            rows are sampled.
    """

    device_id: str
    signer: MessageSigner
    secret: bytes

    @property
    def public_pem(self) -> str:
        """Public key in PEM, to register."""
        return self.signer.public_pem().decode("ascii")

    @property
    def key_id(self) -> str:
        """Id of the signing key."""
        return self.signer.key_id


def load_or_create(folder: Path, device_id: str) -> DeviceIdentity:
    """The device's identity from ``<device>.pem`` and ``<device>.secret``; created where absent.

    Raises:
        SpoolError: A file exists but cannot be read. It is not replaced, because the cloud would refuse every
            message under a key that it does not know.
    """
    DISK.make_folder(folder, private=True)
    try:
        pem = _load_or_write(folder / f"{device_id}.pem", MessageSigner.generate().private_pem)
        secret = _load_or_write(folder / f"{device_id}.secret", lambda: secrets.token_bytes(SECRET_BYTES))
        signer = MessageSigner.from_pem(pem)
    except (OSError, SignatureError) as exc:
        raise SpoolError(f"key of {device_id} in {folder} cannot be used: {exc}") from exc
    if len(secret) != SECRET_BYTES:
        raise SpoolError(f"{folder / device_id}.secret is damaged: {len(secret)} bytes")
    return DeviceIdentity(device_id, signer, secret)


def _load_or_write(path: Path, make: Callable[[], bytes]) -> bytes:
    if not path.exists():
        DISK.put_if_absent(path, make(), private=True)  # of two processes that start at once, one wins
    return path.read_bytes()

"""Private keys as PEM files that only their owner may read, from the first byte on."""

from __future__ import annotations

import logging
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.durable import DISK
from schemas.errors import DamagedFileError

log = logging.getLogger(__name__)


def load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the file, which is made where it does not exist.

    Raises:
        DamagedFileError: The file holds something else.
        OSError: The disk does not give or take it.
    """
    if not path.exists():
        write_key(path, ec.generate_private_key(ec.SECP256R1()))
    return load_key(path)


def load_or_replace_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The same for a key that nobody else has to know: a damaged file is put aside, and a new key made."""
    try:
        return load_or_create_key(path)
    except DamagedFileError as exc:
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("%s; it is put aside as %s, and a new key and certificate are made", exc, aside.name)
        DISK.rename(path, aside)
        return load_or_create_key(path)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the file.

    Raises:
        DamagedFileError: The file is missing, cannot be read, or holds something else.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as exc:
        raise DamagedFileError(f"the private key {path} cannot be read: {exc.strerror}") from exc
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise DamagedFileError(f"the private key {path} is damaged: it holds no key") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise DamagedFileError(f"the private key {path} is not a P-256 key")
    return key


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the key to disk; it replaces an earlier one."""
    DISK.write(path, private_pem(key), private=True)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

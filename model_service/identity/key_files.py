"""Private keys as PEM files that only their owner may read, from the first byte on."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.durable import DISK
from schemas.errors import OperatorError


def load_or_create_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the file, which is made where it does not exist.

    Raises:
        OperatorError: The file holds something else.
    """
    if not path.exists():
        write_key(path, ec.generate_private_key(ec.SECP256R1()))
    return load_key(path)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in the file.

    Raises:
        OperatorError: The file is missing, cannot be read, or holds something else.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as exc:
        raise OperatorError(f"the private key {path} cannot be read: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise OperatorError(f"the private key {path} is not a P-256 key")
    return key


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the key to disk; it replaces an earlier one."""
    DISK.write(path, private_pem(key), private=True)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS#8 PEM, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

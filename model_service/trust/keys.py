"""Signing keys on disk: online keys in one folder a process, offline keys encrypted."""

from __future__ import annotations

import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from model_service.trust.metadata import CryptoSigner
from schemas.durable import DISK
from schemas.errors import DamagedFileError, OperatorError

PASSPHRASE_FILE = "PASSPHRASE"  # noqa: S105  (a file name)
HOLDER_FIELD = "x-edgeloop-holder"
"""Field of each public key in signed metadata that names the holder of its private half."""
_UNSIGNED = (
    "nothing can be signed with it, and devices keep what they run; restore it, or replace it with `edgeloop "
    "trust rotate ROLE HOLDER` (docs/runbook.md#damaged-model-service)"
)
_OTHERS = 0o007
_ADVICE = "# Opens the offline keys in this folder. Move it to a safe place, apart from them."


def load_online_key(folder: Path, name: str) -> CryptoSigner:
    """A process's key for one role.

    Args:
        folder: The process's own folder, ``<keys>/<process>``.
        name: The role that it signs for, such as ``timestamp`` or ``models-machine``.

    Raises:
        OperatorError: Everybody on the machine may read the key.
        DamagedFileError: It does not exist, or is damaged.
    """
    path = folder / f"{name}.pem"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as exc:
        raise DamagedFileError(
            f"no signing key {path}: {_UNSIGNED}; `edgeloop trust status` lists who holds which"
        ) from exc
    if mode & _OTHERS:
        raise OperatorError(f"signing key {path} is open to everybody: chmod 600 it, then rotate it")
    return read_key(path, None)


def read_key(path: Path, passphrase: str | None) -> CryptoSigner:
    """The key in a PEM file.

    Raises:
        DamagedFileError: It cannot be read, the passphrase is wrong, or it is no Ed25519 key.
    """
    password = None if passphrase is None else passphrase.encode()
    try:
        key = load_pem_private_key(path.read_bytes(), password)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise DamagedFileError(f"signing key {path} cannot be read: {exc}; {_UNSIGNED}") from exc
    if not isinstance(key, Ed25519PrivateKey):
        raise DamagedFileError(f"signing key {path} cannot be read: it is not an Ed25519 key; {_UNSIGNED}")
    return CryptoSigner(key)


def make_key(path: Path, passphrase: str | None) -> CryptoSigner:
    """A new key, written to disk before anything uses it; encrypted if there is a passphrase."""
    key = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase is not None:
        encryption = BestAvailableEncryption(passphrase.encode())
    write_secret(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return CryptoSigner(key)


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, in a folder that only its owner may enter."""
    DISK.make_folder(path.parent, private=True)
    DISK.write(path, data, private=True)


def new_passphrase(folder: Path) -> str:
    """A passphrase for offline keys, written beside them with the advice to move it."""
    passphrase = secrets.token_urlsafe(24)
    write_secret(folder / PASSPHRASE_FILE, f"{passphrase}\n{_ADVICE}\n".encode())
    return passphrase


def read_passphrase(path: Path) -> str:
    """The passphrase in a file: its first line.

    Raises:
        OperatorError: There is no such file.
    """
    try:
        return path.read_text("utf-8").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise OperatorError(
            f"no passphrase in {path}: put the file back, or name the one where you keep it"
        ) from exc

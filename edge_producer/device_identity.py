"""A device's identity: its signing key, and the secret behind its sampling."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from schemas.durable import DISK
from schemas.envelope import MessageSigner, MessageVerifier
from schemas.errors import SignatureError, SpoolError

log = logging.getLogger(__name__)

SECRET_BYTES = 32
RETRY_S = 10.0
"""Time between two looks for keys that are missing."""


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
    return DeviceIdentity(
        device_id, load_signer(folder, device_id, may_create=True), load_secret(folder, device_id)
    )


def load_signer(folder: Path, device_id: str, *, may_create: bool) -> MessageSigner:
    """The key in ``<device>.pem``.

    Args:
        folder: Folder of keys.
        device_id: Whose key.
        may_create: Make it where there is none.

    Raises:
        SpoolError: It cannot be read, or is not there.
    """
    path = folder / f"{device_id}.pem"
    try:
        if may_create:
            _write_if_absent(path, lambda: MessageSigner.generate().private_pem())
        return MessageSigner.from_pem(path.read_bytes())
    except FileNotFoundError as exc:
        raise SpoolError(f"key of {device_id} in {folder} is gone: restore it from a backup") from exc
    except (OSError, SignatureError) as exc:
        raise SpoolError(f"key of {device_id} in {folder} cannot be used: {exc}") from exc


def load_secret(folder: Path, device_id: str) -> bytes:
    """The secret in ``<device>.secret``, made where there is none.

    Raises:
        SpoolError: It cannot be read or written, or has not its length.
    """
    path = folder / f"{device_id}.secret"
    try:
        _write_if_absent(path, lambda: secrets.token_bytes(SECRET_BYTES))
        secret = path.read_bytes()
    except OSError as exc:
        raise SpoolError(f"sampling secret of {device_id} in {folder} cannot be used: {exc}") from exc
    if len(secret) != SECRET_BYTES:
        raise SpoolError(f"{path} is damaged: {len(secret)} bytes")
    return secret


class DeviceKeys:
    """The identities of a process's devices, as far as the disk gives them. No device waits for its files.

    Without its key a device senses, decides and spools, and seals nothing until the key is back. Without its
    secret the sampling of this start has a secret of its own.

    Args:
        folder: Folder of keys.
        device_ids: The devices.
        may_create: Devices whose key is made where there is none. Not those that have sealed something
            already: the cloud would refuse what a key that it does not know has signed.
        monotonic: Steady seconds.

    Attributes:
        identities: All devices; where there is no key on disk, with one that nothing is sealed with.
        signers: Keys that are on disk, by device id; grows when one comes back.
        problems: What is wrong, by device id.
    """

    def __init__(
        self,
        folder: Path,
        device_ids: Sequence[str],
        may_create: Iterable[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._may_create = set(may_create)
        self._monotonic = monotonic
        self._retried_s = monotonic()
        self._asked: set[str] = set()
        self.signers: dict[str, MessageSigner] = {}
        self.problems: dict[str, str] = {}
        with suppress(OSError):
            DISK.make_folder(folder, private=True)
        self.identities = {device_id: self._load(device_id) for device_id in device_ids}

    def has_key(self, device_id: str) -> bool:
        """Whether the device's key is there; looks for missing ones now and then.

        Also of a device that this process runs no more, and of which its spool still holds something.
        """
        self._asked.add(device_id)
        if device_id not in self.signers and self._monotonic() - self._retried_s >= RETRY_S:
            self.retry()
        return device_id in self.signers

    def retry(self, may_create: Iterable[str] = ()) -> None:
        """Look for keys that are missing or unreadable; more of them may be made."""
        self._retried_s = self._monotonic()
        self._may_create.update(may_create)
        for device_id in sorted({*self.identities, *self._asked} - self.signers.keys()):
            self._load_signer(device_id)
            if device_id in self.signers:
                log.warning("the key is there: what waits is sealed", extra={"device_id": device_id})
                self.problems.pop(device_id, None)

    def verifiers(self) -> dict[str, MessageVerifier]:
        """Public keys of those that are on disk, by device id."""
        return {d: MessageVerifier(signer.public_pem()) for d, signer in list(self.signers.items())}

    def _load(self, device_id: str) -> DeviceIdentity:
        self._load_signer(device_id)
        try:
            secret = load_secret(self._folder, device_id)
        except SpoolError as exc:
            self._note(device_id, exc)
            secret = secrets.token_bytes(SECRET_BYTES)
        signer = self.signers.get(device_id) or MessageSigner.generate()
        return DeviceIdentity(device_id, signer, secret)

    def _load_signer(self, device_id: str) -> None:
        try:
            self.signers[device_id] = load_signer(
                self._folder, device_id, may_create=device_id in self._may_create
            )
        except SpoolError as exc:
            self._note(device_id, exc)

    def _note(self, device_id: str, error: SpoolError) -> None:
        if self.problems.get(device_id) != str(error):
            self.problems[device_id] = str(error)
            log.error("%s", error, extra={"device_id": device_id})


def _write_if_absent(path: Path, make: Callable[[], bytes]) -> None:
    if not path.exists():
        DISK.put_if_absent(path, make(), private=True)  # of two processes that start at once, one wins

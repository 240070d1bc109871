"""The private keys that are available to a ceremony, by the key ids that roles list."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from model_service.settings import ModelSettings
from model_service.trust.keys import HOLDER_FIELD, PASSPHRASE_FILE, make_key, read_key, read_passphrase
from model_service.trust.metadata import CryptoSigner, Delegator, SSlibKey
from model_service.trust.roles import KeyLocation
from schemas.errors import DamagedFileError, OperatorError

log = logging.getLogger(__name__)

NEXT = ".next"
"""Suffix of a key file that a rotation made and has not yet renamed to its final name."""


class Keyring:
    """Keys of all processes of this machine, and the offline keys that somebody has brought.

    Args:
        settings: Names the folders of the online keys.
        offline: Folder of the encrypted keys; None: the one where ``init`` put them.
        passphrase: Decrypts the offline keys; None: read from the file beside them.
    """

    def __init__(
        self, settings: ModelSettings, offline: Path | None = None, passphrase: str | None = None
    ) -> None:
        self._online, self._offline = settings.keys, offline or settings.offline_keys
        self._passphrase = passphrase
        self._damaged: set[str] = set()

    def path(self, location: KeyLocation) -> Path:
        """File of a key, whether it exists or not."""
        folder = self._offline if location.offline else self._online / location.process
        return folder / f"{location.name}.pem"

    def passphrase(self, location: KeyLocation) -> str | None:
        """Passphrase of the key; None: it is not encrypted.

        Raises:
            OperatorError: The file of the passphrase does not exist.
        """
        if location.offline and self._passphrase is None:
            self._passphrase = read_passphrase(self._offline / PASSPHRASE_FILE)
        return self._passphrase if location.offline else None

    def get_or_make(self, location: KeyLocation, suffix: str = "") -> CryptoSigner:
        """The key, which is made where it does not exist yet."""
        path = self.path(location)
        path = path.with_name(path.name + suffix)
        passphrase = self.passphrase(location)
        if path.exists():
            return read_key(path, passphrase)
        if location.offline:  # try the passphrase on another key: one encrypted under a typo would be lost
            for other in sorted(self._offline.glob("*.pem"))[:1]:
                read_key(other, passphrase)
        return make_key(path, passphrase)

    def signers(self, locations: Iterable[KeyLocation], key_ids: Iterable[str]) -> list[CryptoSigner]:
        """Those of the keys that are available and that a role lists."""
        wanted = set(key_ids)
        found = []
        for location in locations:
            signer = self._available(location)
            if signer is not None and signer.public_key.keyid in wanted:
                found.append(signer)
        return found

    def holds(self, location: KeyLocation, key_ids: Iterable[str]) -> bool:
        """Whether the key is there, whole, and one that a role lists."""
        return bool(self.signers([location], key_ids))

    def _unreadable(self) -> str:
        """Files of keys that were there and could not be read, and what may be wrong with all of them."""
        if not self._damaged:
            return ""
        names = ", ".join(sorted(self._damaged))
        return (
            f"; {names} cannot be read: they are damaged, or {self._offline / PASSPHRASE_FILE} is not their "
            "passphrase: restore what is damaged"
        )

    def _available(self, location: KeyLocation) -> CryptoSigner | None:
        """The key; None where there is none, or where it is damaged: others may be enough."""
        path = self.path(location)
        if not path.exists():
            return None
        passphrase = self.passphrase(location)
        try:
            return read_key(path, passphrase)
        except DamagedFileError as exc:
            log.warning("%s", exc)
            self._damaged.add(path.name)
            return None

    def quorum(
        self,
        delegator: Delegator,
        role: str,
        locations: Iterable[KeyLocation],
        extra: Iterable[CryptoSigner] = (),
    ) -> list[CryptoSigner]:
        """At least as many keys of a role as its threshold asks for.

        Args:
            delegator: Root or targets that list the role's keys.
            role: Name of the role.
            locations: Where the keys may be.
            extra: Keys that are not at their locations yet.

        Raises:
            OperatorError: Too few keys are available; the message names the holders of the others.
        """
        known = delegator.get_delegated_role(role)
        found = [*self.signers(locations, known.keyids), *extra]
        present = {signer.public_key.keyid for signer in found}
        if len(present) < known.threshold:
            missing = [holder(delegator.get_key(i)) for i in known.keyids if i not in present]
            raise OperatorError(
                f"role {role} needs {known.threshold} keys, {len(present)} are available; bring those of "
                f"{', '.join(missing)} (--offline-keys FOLDER names the folder of the offline keys)"
                f"{self._unreadable()}"
            )
        return found


def public_key(signer: CryptoSigner, location: KeyLocation) -> SSlibKey:
    """The public half, labelled with its holder."""
    key = signer.public_key
    key.unrecognized_fields[HOLDER_FIELD] = location.holder
    return key


def holder(key: object) -> str:
    """Who holds the private half; ``unknown`` where another tool made the key."""
    fields = getattr(key, "unrecognized_fields", {})
    return str(fields.get(HOLDER_FIELD, "unknown"))

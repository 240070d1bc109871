"""The private keys in reach of a ceremony, by the ids that roles know them by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from model_service.settings import ModelSettings
from model_service.trust.keys import HOLDER_FIELD, PASSPHRASE_FILE, make_key, read_key, read_passphrase
from model_service.trust.metadata import CryptoSigner, Delegator, SSlibKey
from model_service.trust.roles import KeyPlace
from schemas.errors import OperatorError

NEXT = ".next"
"""Suffix of a key that a rotation made and has not yet put into place."""


class Keyring:
    """Keys of all processes that lie on this machine, and offline keys where they were brought.

    Args:
        settings: Names the folders of the online keys.
        offline: Folder of the encrypted keys; None: where ``init`` put them.
        passphrase: Opens them; None: the file beside them.
    """

    def __init__(
        self, settings: ModelSettings, offline: Path | None = None, passphrase: str | None = None
    ) -> None:
        self._online, self._offline = settings.keys, offline or settings.offline_keys
        self._passphrase = passphrase

    def path(self, place: KeyPlace) -> Path:
        """Where a key lies, or would."""
        folder = self._offline if place.offline else self._online / place.process
        return folder / f"{place.name}.pem"

    def passphrase(self, place: KeyPlace) -> str | None:
        """What opens the key; None: it is not encrypted.

        Raises:
            OperatorError: Its file is not there.
        """
        if place.offline and self._passphrase is None:
            self._passphrase = read_passphrase(self._offline / PASSPHRASE_FILE)
        return self._passphrase if place.offline else None

    def get_or_make(self, place: KeyPlace, suffix: str = "") -> CryptoSigner:
        """The key, made where it is not there yet."""
        path = self.path(place)
        path = path.with_name(path.name + suffix)
        opened = self.passphrase(place)
        if path.exists():
            return read_key(path, opened)
        if place.offline:  # a key under a mistyped passphrase would be lost
            for other in sorted(self._offline.glob("*.pem"))[:1]:
                read_key(other, opened)
        return make_key(path, opened)

    def signers(self, places: Iterable[KeyPlace], key_ids: Iterable[str]) -> list[CryptoSigner]:
        """Keys in reach that a role knows."""
        wanted = set(key_ids)
        found = []
        for place in places:
            path = self.path(place)
            if path.exists():
                signer = read_key(path, self.passphrase(place))
                if signer.public_key.keyid in wanted:
                    found.append(signer)
        return found

    def quorum(
        self,
        delegator: Delegator,
        role: str,
        places: Iterable[KeyPlace],
        at_hand: Iterable[CryptoSigner] = (),
    ) -> list[CryptoSigner]:
        """Enough keys of a role.

        Args:
            delegator: Root or targets that name the role's keys.
            role: Whose.
            places: Where they may lie.
            at_hand: Keys that are not in their places yet.

        Raises:
            OperatorError: Too few are in reach; names whose.
        """
        known = delegator.get_delegated_role(role)
        found = [*self.signers(places, known.keyids), *at_hand]
        present = {signer.public_key.keyid for signer in found}
        if len(present) < known.threshold:
            missing = [holder(delegator.get_key(i)) for i in known.keyids if i not in present]
            raise OperatorError(
                f"role {role} needs {known.threshold} keys, {len(present)} are in reach; bring those of "
                f"{', '.join(missing)} (--offline-keys FOLDER names where offline keys lie)"
            )
        return found


def public_key(signer: CryptoSigner, place: KeyPlace) -> SSlibKey:
    """The public half, labelled with its holder."""
    key = signer.public_key
    key.unrecognized_fields[HOLDER_FIELD] = place.holder
    return key


def holder(key: object) -> str:
    """Who holds the private half; ``unknown`` where the key was not made by us."""
    fields = getattr(key, "unrecognized_fields", {})
    return str(fields.get(HOLDER_FIELD, "unknown"))

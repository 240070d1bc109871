"""Keys of an operator and of the policy role, which sign versions of profiles as a push does."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from feature_store.version_store import VersionStore
from schemas.profile import Profile
from schemas.profile_statement import SignedVersion, VersionKey, VersionSignature, VersionStatement

ISSUED = datetime(2026, 1, 1, tzinfo=UTC)


class ProfileSigners:
    """One key of each role; ``stranger`` is of none."""

    def __init__(self) -> None:
        self._keys = {role: Ed25519PrivateKey.generate() for role in ("profiles", "policy", "stranger")}

    @property
    def keys(self) -> dict[str, VersionKey]:
        """The keys that may sign, by id."""
        return {self._id(role): VersionKey(role, self._public(role).hex()) for role in ("profiles", "policy")}

    def register(self, store: VersionStore) -> None:
        """Let both sign in a lake."""
        for key_id, key in self.keys.items():
            store.add_key(key_id, key)

    def sign(self, profile: Profile, number: int, *, by: str = "policy", **changes) -> SignedVersion:
        """A version that follows the one before; a keyword replaces a part of the statement."""
        content = profile.canonical_form()
        statement = VersionStatement(
            **{
                "name": profile.name, "number": number, "sha256": hashlib.sha256(content).hexdigest(),
                "groups": ("default",), "follows": number - 1, "bounds": 1, "issued": ISSUED, **changes,
            }
        )  # fmt: skip
        signature = self._keys[by].sign(statement.signed_bytes()).hex()
        return SignedVersion(statement, content, (VersionSignature(self._id(by), signature),))

    def _public(self, role: str) -> bytes:
        return self._keys[role].public_key().public_bytes_raw()

    def _id(self, role: str) -> str:
        return hashlib.sha256(self._public(role)).hexdigest()

"""What is signed about a version of a profile: content, groups, the version that it follows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AwareDatetime, Field, NonNegativeInt, PositiveInt, ValidationError

from schemas.channel_documents import POLICY_ROLE, GroupName, SignedDocument
from schemas.errors import ProfileVersionError
from schemas.manifest import Digest
from schemas.profile_bounds import ProfileBounds
from schemas.profile_changes import Authority, judge
from schemas.profile_versions import ProfileVersion, parse_canonical
from schemas.section import Name
from schemas.version_names import VersionName

PROFILES_ROLE = "profiles"
"""Role of operators: it signs everyday changes within the bounds."""
ROLES: Mapping[str, Authority] = {PROFILES_ROLE: "operator", POLICY_ROLE: "policy"}
MAX_CONTENT_BYTES = 256 * 1024
_PREFIX = b"edgeloop profile version\n"
"""Before what is signed: the same keys sign other things, and none must pass for another."""


class VersionStatement(SignedDocument):
    """A version of a profile, for these groups.

    Attributes:
        sha256: Of the content.
        groups: Rollout groups that it may be delivered to.
        follows: Number of the version that it changes; 0: it is the first.
        bounds: Number of the bounds that an operator signed it within.
    """

    format: Literal[1] = 1
    name: Name
    number: PositiveInt
    sha256: Digest
    groups: tuple[GroupName, ...] = Field(min_length=1)
    follows: NonNegativeInt
    bounds: PositiveInt
    issued: AwareDatetime

    @property
    def version(self) -> VersionName:
        """How people name it."""
        return VersionName(self.name, self.number)

    @property
    def release(self) -> str:
        """How rollouts and reports name it, in the grammar of models: ``<profile>-<number>.<8 digits>``."""
        return f"{self.name}-{self.number}.{self.sha256[:8]}"

    def signed_bytes(self) -> bytes:
        """What a signature covers."""
        return _PREFIX + self.model_dump_json().encode()


class VersionSignature(NamedTuple):
    """One signature: who signed, and 64 bytes in hexadecimal digits."""

    key_id: str
    signature: str


class VersionKey(NamedTuple):
    """A key that may sign versions.

    Attributes:
        role: ``profiles`` or ``policy``.
        public_key: Ed25519, 32 bytes in hexadecimal digits.
    """

    role: str
    public_key: str


@dataclass(frozen=True)
class SignedVersion:
    """A version as it is stored and sent: nothing of it is believed before ``verified``.

    Attributes:
        content: Canonical form of the profile.
    """

    statement: VersionStatement
    content: bytes
    signatures: tuple[VersionSignature, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "statement": self.statement.model_dump(mode="json"),
            "content": self.content.decode(),
            "signatures": [list(s) for s in self.signatures],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """Back from JSON values.

        Raises:
            ProfileVersionError: They are of another kind.
        """
        try:
            statement = VersionStatement.model_validate(raw["statement"])
            signatures = tuple(VersionSignature(str(k), str(s)) for k, s in raw["signatures"])
            return cls(statement, raw["content"].encode(), signatures)
        except (ValidationError, KeyError, TypeError, ValueError, AttributeError) as exc:
            raise ProfileVersionError(f"a version of a profile cannot be read: {type(exc).__name__}") from exc

    def signed_by(self, keys: Mapping[str, VersionKey]) -> frozenset[Authority]:
        """Authorities of the keys whose signatures hold."""
        signed = self.statement.signed_bytes()
        held = (keys[s.key_id].role for s in self.signatures if s.key_id in keys and _holds(s, keys, signed))
        return frozenset(ROLES[role] for role in held if role in ROLES)

    def profile_version(self) -> ProfileVersion:
        """The content, if it is what the statement names; nothing is said of who signed it.

        Raises:
            ProfileVersionError: It is something else.
            ProfileError: It is no profile.
        """
        named = self.statement.version
        if len(self.content) > MAX_CONTENT_BYTES:
            raise ProfileVersionError(f"{named} has {len(self.content)} bytes, at most {MAX_CONTENT_BYTES}")
        if hashlib.sha256(self.content).hexdigest() != self.statement.sha256:
            raise ProfileVersionError(f"the content of {named} is not what was signed")
        profile = parse_canonical(self.content)
        if profile.name != named.name:
            raise ProfileVersionError(f"the content of {named} is of profile {profile.name}")
        return ProfileVersion(named.number, profile)


def verified(
    signed: SignedVersion,
    keys: Mapping[str, VersionKey],
    before: ProfileVersion | None,
    bounds: Iterable[ProfileBounds],
) -> ProfileVersion:
    """The version, if whoever must sign it has signed it.

    Whether ranges keep scores the same is the pusher's and the device's to find out: it changes nothing about
    who signs.

    Args:
        signed: As it came.
        keys: Keys that may sign, by id.
        before: The version that it follows, itself verified; None: it is at hand of nobody.
        bounds: All that the policy role ever set.

    Raises:
        ProfileVersionError: It is not signed so, or is not what was signed.
        ProfileError: Its content is no profile.
    """
    statement, found = signed.statement, signed.profile_version()
    authorities = signed.signed_by(keys)
    if "policy" in authorities:
        return found
    if "operator" not in authorities:
        raise ProfileVersionError(f"nobody who may has signed {statement.version}")
    if not statement.follows:
        raise ProfileVersionError(f"{statement.version} follows no version: the policy role must sign it")
    if before is None or before.name != VersionName(statement.name, statement.follows):
        raise ProfileVersionError(f"{statement.version} follows {statement.follows}, which is not known")
    if statement.follows >= statement.number:
        raise ProfileVersionError(f"{statement.version} follows {statement.follows}: numbers only rise")
    limits = next((b for b in bounds if b.seq == statement.bounds), None)
    if limits is None:
        raise ProfileVersionError(f"{statement.version} names bounds {statement.bounds}, which are not known")
    verdict = judge(before.profile, found.profile, limits)
    if verdict.authority == "policy":
        reasons = "; ".join(verdict.reasons)
        raise ProfileVersionError(
            f"an operator signed {statement.version}, but the policy role must: {reasons}"
        )
    return found


def _holds(signature: VersionSignature, keys: Mapping[str, VersionKey], signed: bytes) -> bool:
    try:
        public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(keys[signature.key_id].public_key))
        public_key.verify(bytes.fromhex(signature.signature), signed)
    except (InvalidSignature, ValueError):
        return False
    return True

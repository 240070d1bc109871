"""The door to tuf's metadata API: build, stamp, sign, parse and check signed metadata."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from securesystemslib.signer import (  # type: ignore[attr-defined]  # as below
    CryptoSigner,
    Key,
    SSlibKey,
)
from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # its public names, not listed as exported
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from schemas.channel_documents import ISSUED_FIELD
from schemas.errors import TrustError
from schemas.updates import Attack

__all__ = [
    "CryptoSigner",
    "DelegatedRole",
    "Delegations",
    "Key",
    "MetaFile",
    "Metadata",
    "Root",
    "SSlibKey",
    "Signed",
    "Snapshot",
    "TargetFile",
    "Targets",
    "Timestamp",
]

Delegator = Root | Targets
_Part = TypeVar("_Part", Root, Timestamp, Snapshot, Targets)


def newer(signed: _Part, now: datetime, lifetime: timedelta) -> _Part:
    """The next version of a signed part: a copy, issued now."""
    following = copy.deepcopy(signed)
    following.version += 1
    stamp(following, now, lifetime)
    return following


def stamp(signed: Signed, now: datetime, lifetime: timedelta) -> None:
    """Set when the part was issued and when it expires; TUF dates have whole seconds only."""
    signed.expires = (now + lifetime).astimezone(UTC).replace(microsecond=0)
    signed.unrecognized_fields[ISSUED_FIELD] = now.astimezone(UTC).isoformat(timespec="milliseconds")


def issued(signed: Signed) -> datetime | None:
    """When the part was issued; None: the field is missing, or not in the form that ``stamp`` writes."""
    try:
        at = datetime.fromisoformat(signed.unrecognized_fields[ISSUED_FIELD])
    except (KeyError, TypeError, ValueError):
        return None
    return at if at.tzinfo is not None else None


def sign(signed: _Part, signers: Iterable[CryptoSigner]) -> bytes:
    """Metadata file of the part, signed by all signers."""
    metadata = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def cosign(data: bytes, signer: CryptoSigner) -> bytes:
    """The same metadata file with one more signature."""
    metadata = Metadata[Targets].from_bytes(data)
    metadata.sign(signer, append=True)
    return metadata.to_bytes()


def parse(kind: type[_Part], data: bytes, origin: str) -> _Part:
    """Signed part of a metadata file; signatures are not checked.

    Raises:
        TrustError: The file holds no metadata of that kind.
    """
    with translated(origin):
        signed = Metadata[kind].from_bytes(data).signed  # type: ignore[valid-type]
    if not isinstance(signed, kind):
        raise TrustError(f"{origin} holds metadata of another role", Attack.TAMPERED_METADATA)
    return signed


def signers_of(delegator: Delegator, role: str, data: bytes, origin: str) -> set[str]:
    """Ids of the role's keys that have a valid signature over the file."""
    with translated(origin):
        metadata = Metadata[Targets].from_bytes(data)
        result = delegator.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    return set(result.signed)


def is_signed(delegator: Delegator, role: str, data: bytes, origin: str) -> bool:
    """Whether as many of the role's keys signed the file as its threshold asks for."""
    with translated(origin):
        metadata = Metadata[Targets].from_bytes(data)
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True


def has_signatures_as_written(data: bytes, origin: str, signers: set[str] | None = None) -> bool:
    """Whether no signature was changed: hex in lower case and, where given, by exactly these signers.

    A turned bit can leave a file verifiable: digits in upper case are the same number, and a quorum may
    hold without one of the signatures.
    """
    with translated(origin):
        signatures = Metadata[Targets].from_bytes(data).signatures
    lower = all(s.signature == s.signature.lower() for s in signatures.values())
    return lower and (signers is None or signatures.keys() == signers)


def meta_file(version: int, data: bytes) -> MetaFile:
    """Entry of a metadata file in the role that lists it; its length limits what readers fetch."""
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def target_file(path: str, data: bytes, custom: Mapping[str, Any] | None = None) -> TargetFile:
    """Entry of a target in the role that lists it."""
    extra = {} if custom is None else {"custom": dict(custom)}
    return TargetFile(len(data), {"sha256": hashlib.sha256(data).hexdigest()}, path, extra)


@contextmanager
def translated(origin: str) -> Iterator[None]:
    """Turns tuf's errors into ``TrustError``."""
    try:
        yield
    except RepositoryError as exc:
        raise TrustError(f"{origin}: {exc}", Attack.TAMPERED_METADATA) from exc

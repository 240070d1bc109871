"""The door to tuf: the client workflow of the TUF specification (section 5), over any way to fetch.

python-tuf's ``TrustedMetadataSet`` makes every decision; it takes bytes and a reference time, and touches
neither disk nor network. Fetching and persisting have an order of our own, because tuf's ``Updater`` reads
the raw clock, does not sync what it writes, and swaps ``root.json`` in two steps (ADR 0009).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from tuf.api.exceptions import (
    BadVersionNumberError,
    EqualVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # its public names, not listed as exported
    Metadata,
    MetaFile,
    Root,
    Signed,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from edge_producer.trust.metadata_store import MetadataStore
from schemas.errors import TrustError
from schemas.updates import Attack

__all__ = ["Fetch", "Limits", "MissingError", "Signed", "TargetFile", "Workflow", "fits", "fits_file"]


class MissingError(Exception):
    """The source has no such file."""


class Fetch(Protocol):
    """A source of metadata: a reply that arrived over gRPC, or an HTTP server."""

    def __call__(self, name: str, max_length: int) -> bytes:
        """Bytes of ``<version>.<role>.json`` or ``timestamp.json``.

        Raises:
            MissingError: No such file.
            TrustError: More than ``max_length`` bytes, or too slow.
        """


@dataclass(frozen=True)
class Limits:
    """Bounds on what is fetched before it is verified: bytes of a file, and counts."""

    root: int = 512_000
    timestamp: int = 16_384
    snapshot: int = 2_000_000
    targets: int = 5_000_000
    root_rotations: int = 256
    delegations: int = 32


class Workflow:
    """One refresh: root → timestamp → snapshot → targets, then delegated roles on demand.

    Args:
        store: Trusted metadata; each file is written as soon as it is verified.
        root: Root metadata to start from.
        fetch: Fetches new metadata.
        now: Decides what has expired; read before each step, because verified metadata may advance it.
        verified: Called with each role and its signed part once it is verified.
        limits: Bounds on fetching.

    Raises:
        TrustError: ``root`` is not valid root metadata.
    """

    def __init__(
        self,
        store: MetadataStore,
        root: bytes,
        fetch: Fetch,
        now: Callable[[], datetime],
        verified: Callable[[str, Signed], None] = lambda _role, _signed: None,
        limits: Limits | None = None,
    ) -> None:
        self._store, self._fetch, self._now, self._verified = store, fetch, now, verified
        self._limits = limits or Limits()
        with _translated("root"):
            self._trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)
        self._update_time()
        self.root_bytes = root
        if store.root(self.root.version) != root or store.role("root") is None:
            store.put_root(self.root.version, root)
        verified("root", self.root)

    @property
    def root(self) -> Root:
        """Newest verified root."""
        return self._trusted.root

    def refresh(self) -> None:
        """Bring the top-level roles up to date.

        Raises:
            TrustError: Something does not verify; whatever verified before it is kept.
        """
        self._load_root()
        self._load_timestamp()
        self._load_snapshot()
        self.load("targets", "root")

    def load(self, role: str, parent: str) -> Targets:
        """Targets metadata of a role that ``parent`` delegates to.

        Raises:
            TrustError: They do not verify, have expired or are missing.
        """
        if self._trusted.contains(role, parent):
            return self._targets(role)
        local, failed = self._store.role(role), None
        if local is not None:
            self._update_time()
            try:
                loaded = self._trusted.update_delegated_targets(local, role, parent)
            except RepositoryError as exc:
                failed = exc  # outdated: a newer one is fetched
            else:
                self._verified(role, loaded)
                return loaded
        meta = self._trusted.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise TrustError(f"the snapshot does not list role {role}", Attack.MIX_AND_MATCH)
        data = self._get_newer(role, meta, self._limits.targets, failed)
        with self._verifying(role, parent, data):
            loaded = self._trusted.update_delegated_targets(data, role, parent)
        self._store.put_role(role, data)
        self._verified(role, loaded)
        return loaded

    def find(self, path: str) -> TargetFile | None:
        """Entry of a target, by the first role in order of trust that lists it.

        Raises:
            TrustError: A role before it in that order does not verify.
        """
        # Pre-order, depth first (TUF specification, section 5.6.7); a terminating role ends the search.
        waiting, visited = [("targets", "root")], set[str]()
        while waiting and len(visited) <= self._limits.delegations:
            role, parent = waiting.pop()
            if role in visited:
                continue
            targets = self.load(role, parent)
            if path in targets.targets:
                return targets.targets[path]
            visited.add(role)
            if targets.delegations is None:
                continue
            children: list[tuple[str, str]] = []
            for child, terminating in targets.delegations.get_roles_for_target(path):
                children.append((child, role))
                if terminating:
                    waiting.clear()
                    break
            waiting.extend(reversed(children))
        return None

    def delegated(self) -> tuple[str, ...]:
        """Names of the roles that the top-level targets delegate to."""
        delegations = self._trusted.targets.delegations
        return () if delegations is None else tuple(delegations.roles or ())

    def keys_of(self, role: str) -> dict[str, str]:
        """Public keys of a role that the top-level targets delegate to, by id; empty: there is none."""
        delegations = self._trusted.targets.delegations
        found = None if delegations is None else (delegations.roles or {}).get(role)
        if found is None or delegations is None:
            return {}
        return {i: str(delegations.keys[i].keyval["public"]) for i in found.keyids if i in delegations.keys}

    @property
    def expires(self) -> datetime:
        """When the first of the verified roles expires, UTC."""
        return min(signed.expires for signed in self._trusted)  # it iterates over what it holds

    def _load_root(self) -> None:
        first = self.root.version + 1
        for version in range(first, first + self._limits.root_rotations):
            if self._from_history(version):
                continue
            try:
                data = self._fetch(f"{version}.root.json", self._limits.root)
            except MissingError:
                return
            with _translated("root", bad_version=Attack.METADATA_ROLLBACK):
                self._trusted.update_root(data)
            self._store.put_root(version, data)
            self.root_bytes = data
            self._verified("root", self.root)

    def _from_history(self, version: int) -> bool:
        data = self._store.root(version)
        if data is None:
            return False
        try:
            self._trusted.update_root(data)
        except RepositoryError:
            return False  # damaged on disk: it is fetched again
        self.root_bytes = data
        if self._store.role("root") != data and self._store.root(version + 1) is None:
            self._store.put_root(version, data)
        self._verified("root", self.root)
        return True

    def _load_timestamp(self) -> None:
        local = self._store.role("timestamp")
        if local is not None:
            self._update_time()
            with suppress(RepositoryError):  # an expired one still guards against rollback
                self._trusted.update_timestamp(local)
            if Timestamp.type in self._trusted:
                self._verified("timestamp", self._trusted.timestamp)
        data = self._get("timestamp.json", self._limits.timestamp)
        self._update_time()
        try:
            with _translated("timestamp", bad_version=Attack.METADATA_ROLLBACK):
                self._trusted.update_timestamp(data)
        except _SameVersionError:
            return
        self._store.put_role("timestamp", data)
        self._verified("timestamp", self._trusted.timestamp)

    def _load_snapshot(self) -> None:
        self._update_time()  # verifying the timestamp may have advanced the time
        local, failed = self._store.role("snapshot"), None
        if local is not None:
            try:
                self._trusted.update_snapshot(local, trusted=True)
            except RepositoryError as exc:
                failed = (
                    exc  # outdated: a newer one is fetched; this one guards against rollback if it verified
                )
            else:
                self._verified("snapshot", self._trusted.snapshot)
                return
        meta = self._trusted.timestamp.snapshot_meta
        data = self._get_newer("snapshot", meta, self._limits.snapshot, failed)
        with self._verifying("snapshot", "root", data):
            self._trusted.update_snapshot(data)
        self._store.put_role("snapshot", data)
        self._verified("snapshot", self._trusted.snapshot)

    def _get(self, name: str, max_length: int) -> bytes:
        try:
            return self._fetch(name, max_length)
        except MissingError as exc:
            raise TrustError(f"{name} was not sent", Attack.MIX_AND_MATCH) from exc

    def _get_newer(self, role: str, meta: MetaFile, limit: int, failed: RepositoryError | None) -> bytes:
        """Fetch the metadata that are named in place of local ones that failed to load."""
        name = f"{meta.version}.{role}.json" if self.root.consistent_snapshot else f"{role}.json"
        try:
            return self._fetch(name, meta.length or limit)
        except MissingError as exc:
            if isinstance(failed, ExpiredMetadataError):
                raise TrustError(f"metadata of role {role} have expired: {failed}", Attack.FREEZE) from exc
            if failed is not None and self._store.versions().get(role) == meta.version:
                self._store.forget_role(role)  # damaged on disk: the next request asks for it again
            raise TrustError(f"{name} is named, but was not sent", Attack.MIX_AND_MATCH) from exc

    def _update_time(self) -> None:
        self._trusted.reference_time = self._now().astimezone(UTC)

    def _targets(self, role: str) -> Targets:
        loaded = self._trusted[role]
        if not isinstance(loaded, Targets):
            raise TypeError(f"{role} is not a targets role")
        return loaded

    @contextmanager
    def _verifying(self, role: str, parent: str, data: bytes) -> Iterator[None]:
        """Name the attack if a file does not fit: it is genuine but from another time, or not genuine."""
        self._update_time()
        genuine = _genuine(self.root if parent == Root.type else self._targets(parent), role, data)
        bad_version = Attack.METADATA_ROLLBACK if role == "snapshot" else Attack.MIX_AND_MATCH
        with _translated(role, bad_version, Attack.MIX_AND_MATCH if genuine else Attack.TAMPERED_METADATA):
            yield


def fits(entry: TargetFile, data: bytes) -> bool:
    """Whether the bytes have the length and hashes that a role signed."""
    try:
        entry.verify_length_and_hashes(data)
    except LengthOrHashMismatchError:
        return False
    return True


def fits_file(entry: TargetFile, path: Path) -> bool:
    """Whether the file has the length and hashes that a role signed; it is read in pieces."""
    try:
        with path.open("rb") as file:
            entry.verify_length_and_hashes(file)
    except LengthOrHashMismatchError:
        return False
    return True


class _SameVersionError(Exception):
    """The timestamp is the one that is trusted already."""


@contextmanager
def _translated(
    role: str,
    bad_version: Attack = Attack.METADATA_ROLLBACK,
    bad_digest: Attack = Attack.TAMPERED_METADATA,
) -> Iterator[None]:
    try:
        yield
    except EqualVersionNumberError as exc:
        raise _SameVersionError from exc
    except ExpiredMetadataError as exc:
        raise TrustError(f"metadata of role {role} have expired: {exc}", Attack.FREEZE) from exc
    except BadVersionNumberError as exc:
        raise TrustError(f"metadata of role {role} have a wrong version: {exc}", bad_version) from exc
    except LengthOrHashMismatchError as exc:
        raise TrustError(f"metadata of role {role} do not match what names them: {exc}", bad_digest) from exc
    except UnsignedMetadataError as exc:
        raise TrustError(f"metadata of role {role}: {exc}", Attack.TAMPERED_METADATA) from exc
    except RepositoryError as exc:
        raise TrustError(f"metadata of role {role} do not verify: {exc}", Attack.TAMPERED_METADATA) from exc


def _genuine(delegator: Root | Targets, role: str, data: bytes) -> bool:
    """Whether the role's keys signed these bytes, at any time."""
    try:
        signed = Metadata[Targets].from_bytes(data)
        delegator.verify_delegate(role, signed.signed_bytes, signed.signatures)
    except RepositoryError:
        return False
    return True

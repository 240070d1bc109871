"""The TUF repository as every process reads it; it needs no key.

``metadata/<n>.<role>.json`` and ``targets/<folder>/<sha256>.<name>`` never change once something refers to
them, and ``metadata/timestamp.json`` is replaced in one step: a reader that starts from it gets one
consistent state.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from feature_store.process_lock import exclusive
from model_service.stored_artifacts import lost_artifact, whole_artifact
from model_service.trust.published import PublishedState, TargetRecord
from model_service.trust.published_files import PublishedFiles
from schemas.channel_documents import (
    POLICY_PATH,
    POLICY_ROLE,
    RINGS,
    ROOT,
    ChannelDocument,
    FleetPolicy,
    Ring,
    artifact_path,
    channel_path,
)
from schemas.durable import DISK
from schemas.errors import OperatorError, ProfileVersionError
from schemas.instants import utc_now
from schemas.profile_channel import ProfileChannel, profile_channel_path
from schemas.profile_statement import SignedVersion
from schemas.version_chain import needed, version_path
from schemas.version_names import VersionName

log = logging.getLogger(__name__)

Files = list[tuple[str, bytes]]
_Kind = TypeVar("_Kind", ChannelDocument, FleetPolicy)
LOCK = ".lock"
_MODELS = artifact_path("", "").partition("/")[0] + "/"


class MetadataReply(NamedTuple):
    """Files that a device lacks, all of one moment."""

    metadata: Files
    documents: Files


class TrustRepository:
    """Published metadata and targets, and the folder of proposals beside them.

    Args:
        repository: Folder of ``metadata`` and ``targets``.
        proposals: Folder of the proposals, which do not have enough signatures yet.
        artifacts: Folder of bundles by SHA-256; None: ``artifacts`` beside the proposals.
        now: Clock of what is issued with this repository.
    """

    def __init__(
        self,
        repository: Path,
        proposals: Path,
        artifacts: Path | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.files = PublishedFiles(repository)
        self.metadata, self.targets = self.files.metadata, self.files.targets
        self.proposals = proposals
        self.artifacts = proposals.parent / "artifacts" if artifacts is None else artifacts
        self.now = now
        self._newest: PublishedState | None = None
        self._needed: tuple[PublishedState | None, dict[str, frozenset[str]]] = (None, {})

    def published(self) -> PublishedState:
        """The state of this moment.

        Raises:
            OperatorError: There is no repository yet.
            DamagedFileError: A file of it is missing or damaged, and so is its copy.
        """
        while True:
            timestamp = self.files.timestamp()
            if timestamp is None:
                raise OperatorError(
                    f"no trust repository in {self.metadata}; `edgeloop trust init` makes one"
                )
            newest = self._of(timestamp)
            if self.files.timestamp() == timestamp:  # else the root may be newer than what it has to verify
                self._newest = newest
                return newest

    def _of(self, timestamp: bytes) -> PublishedState:
        newest = self._newest
        if newest is None or newest.timestamp_bytes != timestamp:
            newest = PublishedState.read(self.files, timestamp)
        return newest.with_newest_root()

    @contextmanager
    def locked(self) -> Iterator[PublishedState]:
        """Keep other writers out, and get the published state. Readers need no lock."""
        with exclusive(self.proposals / LOCK):
            yield self.published()

    def versions(self) -> dict[str, int]:
        """Version of each role."""
        return self.published().versions()

    def reply(
        self, versions: Mapping[str, int], known: Mapping[str, str], group: str | None = None
    ) -> MetadataReply:
        """Metadata and documents that a device lacks; names as in ``delivery.proto``.

        Both come from one call, since a publication could fall between two.

        Args:
            versions: Versions of the metadata that the device has, by role.
            known: SHA-256 of the documents that the device has, by path.
            group: Only this group's channel documents; None: those of all groups.
        """
        published = self.published()
        return MetadataReply(published.metadata_since(versions), self._documents(published, known, group))

    def target(self, path: str) -> TargetRecord | None:
        """Length, SHA-256 and ``custom`` of a published target; None: no role lists it."""
        return self.published().target(path)

    def artifact(self, sha256: str) -> Path | None:
        """File of a published model bundle; None: no model role lists that digest."""
        path = self.published().artifact_path(sha256)
        return None if path is None else self.target_file(path, sha256)

    def target_file(self, path: str, sha256: str) -> Path:
        """File of a target; its name has the digest (TUF's consistent snapshots)."""
        folder, _, name = path.rpartition("/")
        return self.targets / folder / f"{sha256}.{name}"

    def channels(self, group: str) -> dict[Ring, ChannelDocument]:
        """The group's published channel documents, by ring."""
        published = self.published()
        found: dict[Ring, ChannelDocument] = {}
        for ring in RINGS:
            data = self._document(published, channel_path(group, ring))
            if data is not None:
                found[ring] = _read(ChannelDocument, data)
        return found

    def policy(self) -> FleetPolicy:
        """Published policy.

        Raises:
            OperatorError: There is none.
        """
        data = self._document(self.published(), POLICY_PATH)
        if data is None:
            raise OperatorError(f"no policy is published in {self.metadata}; `edgeloop trust init` makes one")
        return _read(FleetPolicy, data)

    def document(self, path: str) -> bytes | None:
        """A published document; None: no role lists it.

        Raises:
            DamagedFileError: It is missing or damaged, and so is its copy.
        """
        return self._document(self.published(), path)

    def root(self) -> bytes:
        """Newest root metadata, which join bundles carry."""
        return self.published().root_bytes

    def check_files(self) -> None:
        """Read every file that is published now, restore what is damaged, and see that each has a copy.

        Raises:
            DamagedFileError: A file is missing or damaged, and so is its copy.
        """
        with exclusive(self.proposals / LOCK), self.files.restoring():
            self._newest = None
            self._check(self.published())

    def check_bundles(self) -> None:
        """Read every bundle that is published, and restore a damaged or missing one from its artifact.

        Raises:
            DamagedFileError: Neither is whole: no device can fetch that model.
        """
        for role in self.published().roles.values():
            for path, entry in role.targets.items():
                if path.startswith(_MODELS):
                    self._check_bundle(path, entry.hashes["sha256"])

    def _check_bundle(self, path: str, sha256: str) -> None:
        files = self.target_file(path, sha256), self.artifacts / sha256
        whole = whole_artifact(files, sha256)
        if whole is None:
            raise lost_artifact(files[0], "is missing")
        if all(f.exists() for f in files) and files[0].samefile(files[1]):
            DISK.write(files[0], whole.read_bytes())  # release 0.2.0 linked them: no copy of each other
        for file in files:
            if not file.exists():
                DISK.write(file, whole.read_bytes())
                log.warning("%s was missing: restored from %s, nothing is lost", file, whole)

    def _check(self, published: PublishedState) -> None:
        files = self.files
        named = {f"{n}.root.json": data for n, data in enumerate(files.roots(), 1)}
        named |= dict(published.metadata_since({ROOT: published.root_version}))
        for name, data in named.items():
            files.keep(files.metadata / name, data)
        files.keep(self.metadata / f"{ROOT}.json", published.root_bytes)
        for path, sha256 in published.documents(None):
            files.keep(self.target_file(path, sha256), self._content(path, sha256))

    def _documents(self, published: PublishedState, known: Mapping[str, str], group: str | None) -> Files:
        files: Files = []
        versions = () if group is None else self._versions(published, group)
        for path, sha256 in published.documents(group, versions):
            if known.get(path) != sha256:
                files.append((path, self._content(path, sha256)))
        return files

    def _versions(self, published: PublishedState, group: str) -> frozenset[str]:
        """Target paths of the versions that the group's document on profiles needs."""
        state, known = self._needed
        if state is not published:
            self._needed = state, known = published, {}
        if group not in known:
            known[group] = self._find_versions(published, group)
        return known[group]

    def _find_versions(self, published: PublishedState, group: str) -> frozenset[str]:
        data = self._document(published, profile_channel_path(group))
        if data is None:
            return frozenset()

        def find(name: VersionName) -> SignedVersion | None:
            found = self._document(published, version_path(name))
            return None if found is None else SignedVersion.from_json(json.loads(found))

        try:
            policy = published.targets.get_delegated_role(POLICY_ROLE).keyids
            channel = ProfileChannel.model_validate_json(data)
            return frozenset(map(version_path, needed(channel, find, policy)))
        except (ValueError, ProfileVersionError) as exc:
            log.warning("the versions that the profiles of %s need cannot be read: %s", group, exc)
            return frozenset()

    def _document(self, published: PublishedState, path: str) -> bytes | None:
        record = published.target(path)
        if record is None:
            return None
        return self._content(path, record.sha256)

    def _content(self, path: str, sha256: str) -> bytes:
        file = self.target_file(path, sha256)
        return self.files.read(file, lambda data: hashlib.sha256(data).hexdigest() == sha256)


def _read(kind: type[_Kind], data: bytes) -> _Kind:
    try:
        return kind.model_validate_json(data)
    except ValidationError as exc:
        raise OperatorError(f"a published {kind.__name__.lower()} cannot be read: {exc}") from exc

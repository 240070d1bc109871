"""One consistent state of the repository: the metadata that one timestamp refers to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from tuf.api.exceptions import LengthOrHashMismatchError

from model_service.trust.metadata import MetaFile, Root, Snapshot, Targets, Timestamp, parse
from model_service.trust.published_files import Check, PublishedFiles
from schemas.channel_documents import (
    POLICY_PATH,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    channel_path,
    model_role,
)
from schemas.errors import DamagedFileError
from schemas.profile_bounds import BOUNDS_PATH
from schemas.version_chain import FOLDER as VERSIONS

_CHANNELS = channel_path("", "canary").partition("/")[0] + "/"


class TargetRecord(NamedTuple):
    """What the metadata of a role contain about a target."""

    length: int
    sha256: str
    custom: Mapping[str, Any] | None


@dataclass(frozen=True)
class PublishedState:
    """Metadata of one moment. Signatures are not checked here: publishers and devices do that.

    Attributes:
        files: Reads the metadata files.
        timestamp_bytes: The timestamp, from which all else follows.
        snapshot_bytes: The snapshot that the timestamp refers to.
        role_bytes: Targets and delegated roles that the snapshot refers to, by role.
        root_version: Version of the newest root.
    """

    files: PublishedFiles
    timestamp_bytes: bytes
    snapshot_bytes: bytes
    role_bytes: Mapping[str, bytes]
    root_version: int

    @classmethod
    def read(cls, files: PublishedFiles, timestamp: bytes) -> PublishedState:
        """The state that this timestamp refers to, each file with the digest by which it is named.

        Raises:
            DamagedFileError: A file that it refers to is missing or damaged, and so is its copy.
        """
        meta = parse(Timestamp, timestamp, "timestamp.json").snapshot_meta
        snapshot_bytes = files.read(files.metadata / f"{meta.version}.snapshot.json", _names(meta))
        snapshot = parse(Snapshot, snapshot_bytes, f"{meta.version}.snapshot.json")
        roles = {
            name.removesuffix(".json"): files.read(files.metadata / f"{m.version}.{name}", _names(m))
            for name, m in snapshot.meta.items()
        }
        return cls(files, timestamp, snapshot_bytes, roles, 1).with_newest_root()

    def with_newest_root(self) -> PublishedState:
        """The same with the newest root: no timestamp refers to a root, so the newest file counts."""
        version = self.root_version
        while self.files.root(version + 1) is not None:
            version += 1
        return self if version == self.root_version else replace(self, root_version=version)

    @cached_property
    def root_bytes(self) -> bytes:
        """Newest root metadata."""
        return self._root(self.root_version)

    @cached_property
    def root(self) -> Root:
        """Newest root."""
        return parse(Root, self.root_bytes, f"{self.root_version}.root.json")

    @cached_property
    def timestamp(self) -> Timestamp:
        """The timestamp."""
        return parse(Timestamp, self.timestamp_bytes, "timestamp.json")

    @cached_property
    def snapshot(self) -> Snapshot:
        """The snapshot."""
        return parse(Snapshot, self.snapshot_bytes, "snapshot")

    @cached_property
    def roles(self) -> Mapping[str, Targets]:
        """Targets and delegated roles."""
        return {name: parse(Targets, data, name) for name, data in self.role_bytes.items()}

    @property
    def targets(self) -> Targets:
        """Top-level targets: delegations only."""
        return self.roles[TARGETS]

    def versions(self) -> dict[str, int]:
        """Version of each role."""
        return {
            ROOT: self.root_version,
            TIMESTAMP: self.timestamp.version,
            SNAPSHOT: self.snapshot.version,
            **{name: role.version for name, role in self.roles.items()},
        }

    def metadata_since(self, versions: Mapping[str, int]) -> list[tuple[str, bytes]]:
        """Metadata files that a reader with these versions lacks: roots, timestamp, each changed role.

        Roots are in order: a reader verifies each by the one before it.
        """
        files = []
        for version in range(max(versions.get(ROOT, 0), 0) + 1, self.root_version + 1):
            files.append((f"{version}.root.json", self._root(version)))
        files.append(("timestamp.json", self.timestamp_bytes))
        newest = self.versions()
        for name, data in {SNAPSHOT: self.snapshot_bytes, **self.role_bytes}.items():
            if versions.get(name) != newest[name]:
                files.append((f"{newest[name]}.{name}.json", data))
        return files

    def target(self, path: str) -> TargetRecord | None:
        """Entry of a target in the role that the path is delegated to; None: it has none."""
        # All delegations are terminating, so the first role that matches decides.
        delegations = self.targets.delegations
        for name, _ in delegations.get_roles_for_target(path) if delegations is not None else ():
            entry = self.roles[name].targets.get(path) if name in self.roles else None
            return None if entry is None else TargetRecord(entry.length, entry.hashes["sha256"], entry.custom)
        return None

    def documents(self, group: str | None, versions: Collection[str] = ()) -> list[tuple[str, str]]:
        """Path and SHA-256 of the policy's and the group's documents, and of these versions of profiles.

        Args:
            group: None: of all groups, and of all versions.
            versions: Target paths.
        """
        own = (_CHANNELS, VERSIONS) if group is None else (f"{_CHANNELS}{group}/",)
        return [
            (path, entry.hashes["sha256"])
            for role in self.roles.values()
            for path, entry in role.targets.items()
            if path in (POLICY_PATH, BOUNDS_PATH) or path.startswith(own) or path in versions
        ]

    def artifact_path(self, sha256: str) -> str | None:
        """Target path of the published bundle with that digest; None: there is none."""
        for name, role in self.roles.items():
            if name.startswith(model_role("")):
                for path, entry in role.targets.items():
                    if entry.hashes["sha256"] == sha256:
                        return path
        return None

    def _root(self, version: int) -> bytes:
        data = self.files.root(version)
        if data is None:
            raise DamagedFileError(f"root {version} of the trust repository is missing: restore it")
        return data


def _names(meta: MetaFile) -> Check:
    """Whether bytes are those that a metadata file names."""

    def is_named(data: bytes) -> bool:
        try:
            meta.verify_length_and_hashes(data)
        except LengthOrHashMismatchError:
            return False
        return True

    return is_named

"""Signs snapshot and timestamp with the engine's keys, and makes files visible in a safe order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from model_service.settings import ModelSettings
from model_service.trust.keys import load_online_key
from model_service.trust.metadata import CryptoSigner, Root, Targets, is_signed, meta_file, newer, parse, sign
from model_service.trust.published import PublishedState
from model_service.trust.repository import TrustRepository
from model_service.trust.roles import ENGINE
from schemas.channel_documents import ROOT, SNAPSHOT, TARGETS, TIMESTAMP
from schemas.errors import OperatorError

_DUE = 0.5
"""Metadata are renewed once less than this share of their lifetime is left."""


@dataclass(frozen=True)
class Lifetimes:
    """How long snapshot and timestamp are valid."""

    snapshot: timedelta = timedelta(days=7)
    timestamp: timedelta = timedelta(days=1)

    @classmethod
    def of(cls, settings: ModelSettings) -> Self:
        """The lifetimes in the settings."""
        return cls(timedelta(seconds=settings.snapshot_s), timedelta(seconds=settings.timestamp_s))


class OnlineSigner:
    """Makes signed roles visible to readers.

    Args:
        snapshot: The engine's snapshot key.
        timestamp: The engine's timestamp key.
        lifetimes: Lifetimes of both; None: the defaults.
        also: Further keys that sign both. A rotation signs with the old key and the new one, so that no
            reader ever finds metadata signed by a key that its root does not list.
    """

    def __init__(
        self,
        snapshot: CryptoSigner,
        timestamp: CryptoSigner,
        lifetimes: Lifetimes | None = None,
        also: Sequence[CryptoSigner] = (),
    ) -> None:
        self._snapshot, self._timestamp = (snapshot, *also), (timestamp, *also)
        self._lifetimes = lifetimes or Lifetimes()

    @classmethod
    def load(cls, settings: ModelSettings) -> Self:
        """The engine's signer.

        Raises:
            OperatorError: A key is missing.
        """
        folder = settings.keys / ENGINE
        return cls(
            load_online_key(folder, SNAPSHOT), load_online_key(folder, TIMESTAMP), Lifetimes.of(settings)
        )

    def publish(
        self,
        repo: TrustRepository,
        published: PublishedState,
        roles: Mapping[str, bytes],
        targets: Mapping[Path, bytes] | None = None,
        root: bytes | None = None,
        *,
        root_first: bool = False,
    ) -> None:
        """Make roles visible, all at once. Call it within ``repo.locked()``.

        Args:
            repo: Gets the files.
            published: The state that ``repo.locked()`` returned.
            roles: Metadata files of targets roles, with enough signatures.
            targets: New target files.
            root: Next root. It becomes visible last: what is visible before verifies by the old root and by
                the new one.
            root_first: The old snapshot or timestamp key is lost, so the next root must become visible first.
                Readers that fetch it before the timestamp fail once, and retry.

        Raises:
            OperatorError: A role lacks signatures, or the snapshot or timestamp key was rotated.
        """
        now = repo.now()
        verifying_root = published.root if root is None or not root_first else parse(Root, root, ROOT)
        snapshot = newer(published.snapshot, now, self._lifetimes.snapshot)
        parts = {name: parse(Targets, data, name) for name, data in roles.items()}
        delegator = parts.get(TARGETS, published.targets)
        # Nothing is written before every role verifies: an unverifiable role would lock all readers out.
        for name, data in roles.items():
            parent = published.root if name == TARGETS else delegator
            _require(is_signed(parent, name, data, name), name)
            snapshot.meta[f"{name}.json"] = meta_file(parts[name].version, data)
        snapshot_bytes = sign(snapshot, self._snapshot)
        timestamp = self._timestamped(published, verifying_root, snapshot.version, snapshot_bytes, now)
        _require(is_signed(verifying_root, SNAPSHOT, snapshot_bytes, SNAPSHOT), SNAPSHOT)
        # Step 1: target files. A crash after it leaves files that nothing refers to.
        for path, data in (targets or {}).items():
            repo.files.put(path, data)
        # Step 2: roles and snapshot under their versions. Nothing refers to them yet; a retry replaces them.
        for name, data in roles.items():
            repo.files.put(repo.metadata / f"{parts[name].version}.{name}.json", data)
        repo.files.put(repo.metadata / f"{snapshot.version}.snapshot.json", snapshot_bytes)
        if root is not None and root_first:
            write_root(repo, published.root_version + 1, root)
        # Step 3: the timestamp. From here on readers get all of it.
        repo.files.put(repo.metadata / "timestamp.json", timestamp)
        # Step 4: the root.
        if root is not None and not root_first:
            write_root(repo, published.root_version + 1, root)

    def renew_if_due(self, repo: TrustRepository, now: datetime) -> bool:
        """Renew snapshot and timestamp where less than half of their lifetime is left.

        Returns:
            Whether anything changed.

        Raises:
            OperatorError: The key was rotated.
        """
        if not self._due(repo.published(), now):
            return False
        with repo.locked() as published:
            if self._snapshot_due(published, now):
                self.publish(repo, published, {})
            else:
                version, data = published.snapshot.version, published.snapshot_bytes
                timestamp = self._timestamped(published, published.root, version, data, now)
                repo.files.put(repo.metadata / "timestamp.json", timestamp)
        return True

    def _due(self, published: PublishedState, now: datetime) -> bool:
        """Whether one is too old, or the newest root does not list its key (a rotation was cut short)."""
        return (
            _is_due(published.timestamp.expires, now, self._lifetimes.timestamp)
            or not is_signed(published.root, TIMESTAMP, published.timestamp_bytes, TIMESTAMP)
            or self._snapshot_due(published, now)
        )

    def _snapshot_due(self, published: PublishedState, now: datetime) -> bool:
        return _is_due(published.snapshot.expires, now, self._lifetimes.snapshot) or not is_signed(
            published.root, SNAPSHOT, published.snapshot_bytes, SNAPSHOT
        )

    def _timestamped(
        self, published: PublishedState, verifying_root: Root, version: int, snapshot: bytes, now: datetime
    ) -> bytes:
        timestamp = newer(published.timestamp, now, self._lifetimes.timestamp)
        timestamp.snapshot_meta = meta_file(version, snapshot)
        data = sign(timestamp, self._timestamp)
        _require(is_signed(verifying_root, TIMESTAMP, data, TIMESTAMP), TIMESTAMP)
        return data


def write_root(repo: TrustRepository, version: int, data: bytes) -> None:
    """Make a root visible: under its version, for readers that follow the chain, and as the newest one."""
    repo.files.put(repo.metadata / f"{version}.{ROOT}.json", data)
    repo.files.put(repo.metadata / f"{ROOT}.json", data)


def _is_due(expires: datetime, now: datetime, lifetime: timedelta) -> bool:
    return expires - now < lifetime * _DUE


def _require(signed: bool, role: str) -> None:
    if not signed:
        raise OperatorError(
            f"role {role} lacks valid signatures: if its keys were rotated, restart this process; else the "
            "key on disk is damaged or of another moment: restore it, or `edgeloop trust rotate`"
        )

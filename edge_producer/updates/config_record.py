"""What a device keeps of one family of configurations: durable before it is followed.

configs/<family>/state.json      the record
configs/<family>/accepted.json   the number that must survive damage to it
configs/<family>/<sha256>.bundle an artifact, as verified
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, NonNegativeInt, ValidationError

from edge_producer.updates.journal import SANE_SEQ
from schemas.channel_documents import Release
from schemas.config_manifest import ConfigBundle
from schemas.durable import Disk
from schemas.errors import BundleError, DamagedLakeError, TrustError
from schemas.self_digest import checked, with_digest
from schemas.updates import Attack, UpdateResult, UpdateState

log = logging.getLogger(__name__)

KEPT = 2
"""Earlier configurations that stay, beside the one in force."""
MOST_REFUSED = 16
_STATE, _ACCEPTED, _SUFFIX = "state.json", "accepted.json", ".bundle"


class ConfigRecord(BaseModel):
    """What a device was told of a family, and what became of it.

    Attributes:
        seq: Newest channel document that it followed for this family.
        rollout_id: Rollout of that document.
        active: What it decides by; without a digest: no configuration.
        wanted: What comes into force at ``switch_at``; None: nothing is on its way.
        switch_at: UTC.
        previous: Earlier ones that it can return to, newest first.
        refused: By digest, the document for which one was refused or taken back; a newer one tries it again.
        result: How the last attempt ended; None: it is under way, or there was none.
        attempted: What that attempt was about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: NonNegativeInt = 0
    rollout_id: str = ""
    active: Release
    wanted: Release | None = None
    switch_at: AwareDatetime | None = None
    previous: tuple[Release, ...] = ()
    refused: dict[str, int] = {}
    state: UpdateState = UpdateState.IDLE
    result: UpdateResult | None = None
    attack: Attack | None = None
    detail: str = ""
    attempted: Release | None = None

    def refuses(self, release: Release, seq: int) -> bool:
        """Whether an earlier failure forbids trying it for this document."""
        return seq <= self.refused.get(_key(release), -1)

    def with_refusal(self, release: Release, seq: int) -> dict[str, int]:
        """``refused`` with one more, the oldest left out."""
        kept = {d: s for d, s in self.refused.items() if d != _key(release)}
        newest = sorted(kept.items(), key=lambda item: item[1])[-(MOST_REFUSED - 1) :]
        return {**dict(newest), _key(release): seq}


class ConfigStore:
    """One family of one device on disk.

    Args:
        folder: The family's own; made with the first record.
        none: The state without a configuration.
        disk: Reads and writes it.
    """

    def __init__(self, folder: Path, none: Release, disk: Disk) -> None:
        self._folder, self._none, self._disk = folder, none, disk

    def load(self) -> ConfigRecord:
        """The record; a new one where it is missing or unreadable, with the seq that survived."""
        accepted = self._numbers()
        raw = self._disk.read(self._folder / _STATE)
        try:
            found = None if raw is None else ConfigRecord.model_validate(checked(raw, str(self._folder)))
        except (ValidationError, DamagedLakeError) as exc:
            log.warning("%s: the record cannot be read, no configuration is in force: %s", self._folder, exc)
            found = None
        record = found or ConfigRecord(active=self._none)
        return record.model_copy(update={"seq": max(record.seq if record.seq <= SANE_SEQ else 0, accepted)})

    def save(self, record: ConfigRecord) -> None:
        """Persist a record.

        Raises:
            OSError: The disk does not take it.
        """
        self._disk.make_folder(self._folder, private=True)
        # The number first: a record that is damaged later must not let an older document in.
        if record.seq > self._numbers():
            self._disk.write(self._folder / _ACCEPTED, with_digest(json.dumps({"seq": record.seq}).encode()))
        self._disk.write(self._folder / _STATE, with_digest(record.model_dump_json().encode()))

    def put(self, sha256: str, data: bytes) -> None:
        """Keep an artifact.

        Raises:
            OSError: The disk does not take it.
        """
        self._disk.make_folder(self._folder, private=True)
        self._disk.write(self._path(sha256), data)

    def get(self, release: Release) -> ConfigBundle:
        """A kept configuration, all of it checked again.

        Raises:
            BundleError: It is missing, altered or not what the release names.
        """
        sha256 = release.sha256 or ""
        data = self._disk.read(self._path(sha256))
        if data is None:
            raise BundleError(f"configuration {release.version} is not kept")
        if hashlib.sha256(data).hexdigest() != sha256:
            raise BundleError(f"configuration {release.version} is altered on the disk")
        try:
            return ConfigBundle.unpacked(data, release.version)
        except TrustError as exc:
            raise BundleError(str(exc)) from exc

    def tidy(self, record: ConfigRecord) -> None:
        """Remove artifacts that the record does not name."""
        named = {r.sha256 for r in (record.active, record.wanted, *record.previous) if r is not None}
        for path in self._folder.glob(f"*{_SUFFIX}"):
            if path.name.removesuffix(_SUFFIX) not in named:
                self._disk.remove(path)

    def _path(self, sha256: str) -> Path:
        return self._folder / f"{sha256}{_SUFFIX}"

    def _numbers(self) -> int:
        try:
            raw = checked(self._disk.read(self._folder / _ACCEPTED) or b"{}", str(self._folder))
            seq = int(raw.get("seq", 0))
        except (DamagedLakeError, ValueError, TypeError) as exc:
            log.warning("%s; the number in the record counts", exc)
            return 0
        return seq if 0 <= seq <= SANE_SEQ else 0


def _key(release: Release) -> str:
    return release.sha256 or release.version

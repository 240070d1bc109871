"""What a backup holds: its files with their digests, and the facts that a restore is compared with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from schemas.errors import BackupError, DamagedLakeError
from schemas.self_digest import checked

MANIFEST, DATA = "backup.json", "state"
_CHUNK_BYTES = 1024 * 1024


class SavedFile(BaseModel):
    """One file of a backup.

    Attributes:
        sha256: Of its content, hex.
        mode: Permission bits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int
    sha256: str
    mode: int


class BackupManifest(BaseModel):
    """Content of ``backup.json``.

    Attributes:
        taken_at: The moment; everything in the backup is as it was then.
        release: Version of edgeloop that took it.
        cut: Newest cut of the lake; 0: none.
        rows: Rows by table that queries saw in that cut.
        files: By path relative to the state folder.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    taken_at: AwareDatetime
    release: str
    cut: int
    rows: dict[str, int]
    files: dict[str, SavedFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(f.size for f in self.files.values())


def read_manifest(backup: Path) -> BackupManifest:
    """The manifest of a backup.

    Raises:
        BackupError: There is none, or it cannot be read.
    """
    try:
        return BackupManifest.model_validate(checked((backup / MANIFEST).read_bytes(), MANIFEST))
    except FileNotFoundError as exc:
        raise BackupError(
            f"{backup} holds no backup, for it has no {MANIFEST}: `edgeloop backup FOLDER` makes one"
        ) from exc
    except (OSError, ValidationError, DamagedLakeError) as exc:
        why = " ".join(str(exc).split())[:200]
        raise BackupError(f"{backup / MANIFEST} cannot be read ({why}): use another backup") from exc


def saved_file(path: Path) -> SavedFile:
    """Size, digest and mode of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return SavedFile(size=size, sha256=digest.hexdigest(), mode=path.stat().st_mode & 0o777)


def damaged_files(backup: Path, files: Mapping[str, SavedFile]) -> Iterator[str]:
    """Files of a backup that are missing or differ from the manifest."""
    for name, expected in files.items():
        path = backup / DATA / name
        if (
            not path.is_file()
            or path.stat().st_size != expected.size
            or saved_file(path).sha256 != expected.sha256
        ):
            yield name

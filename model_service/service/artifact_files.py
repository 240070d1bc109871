"""Opens artifacts by digest, from the artifacts folder or the repository's published targets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from model_service.service.refusals import BadFieldError, OutOfRangeError, UnknownNameError
from model_service.stored_artifacts import places, whole_artifact

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class ArtifactFile:
    """An open artifact; the caller closes it.

    Attributes:
        size: Size in bytes.
    """

    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from the offset on; fewer than ``length`` at the end of the file."""
        return os.pread(self.descriptor, length, offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class ArtifactFiles:
    """Opens the artifact of a digest, and no other file.

    Args:
        artifacts: Folder of files that are named by their SHA-256.
        targets: Targets folder of a TUF repository with consistent snapshots; a bundle is
            ``models/<family>/<sha256>.<name>``.
    """

    def __init__(self, artifacts: Path, targets: Path) -> None:
        self._artifacts, self._targets = artifacts, targets
        self._whole: dict[str, tuple[Path, tuple[int, int, int]]] = {}
        self._reading = Lock()

    def open(self, sha256: str, offset: int) -> ArtifactFile:
        """The artifact, if it reaches as far as the offset.

        Raises:
            BadFieldError: It is not a digest, or the offset is negative.
            OutOfRangeError: The artifact ends before the offset.
            UnknownNameError: No artifact has this digest.
            DamagedFileError: It is damaged, and so is every copy.
        """
        if not _DIGEST.fullmatch(sha256):
            raise BadFieldError("sha256", "64 hex digits in lower case")
        if offset < 0:
            raise BadFieldError("offset", "must not be negative")
        descriptor = self._descriptor(sha256)
        file = ArtifactFile(descriptor, os.fstat(descriptor).st_size)
        if offset > file.size:
            file.close()
            raise OutOfRangeError("offset", f"{sha256} has {file.size} bytes")
        return file

    def _descriptor(self, sha256: str) -> int:
        path = self._known(sha256)
        if path is None:
            with self._reading:  # however many ask for a new model at once, it is read whole once
                path = self._known(sha256) or self._look(sha256)
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as exc:  # removed meanwhile
            raise UnknownNameError(f"no artifact {sha256}") from exc

    def _known(self, sha256: str) -> Path | None:
        """The file, if it is as it was when it was read whole."""
        known = self._whole.get(sha256)
        return known[0] if known is not None and _fingerprint(known[0]) == known[1] else None

    def _look(self, sha256: str) -> Path:
        path = whole_artifact(places(self._artifacts, self._targets, sha256), sha256)
        mark = None if path is None else _fingerprint(path)
        if path is None or mark is None:
            raise UnknownNameError(f"no artifact {sha256}")
        self._whole[sha256] = path, mark
        return path


def _fingerprint(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

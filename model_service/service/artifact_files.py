"""Artifacts by digest: from the artifacts folder, or from the repository's published targets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from model_service.service.refusals import BadFieldError, OutOfRangeError, UnknownNameError

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass
class ArtifactFile:
    """An open artifact. Close it.

    Attributes:
        size: Bytes.
    """

    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from the offset on; fewer at the end."""
        return os.pread(self.descriptor, length, offset)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class ArtifactFiles:
    """Opens what a digest names, and nothing else.

    Args:
        artifacts: Files named by their SHA-256.
        targets: Targets of a TUF repository with consistent snapshots: ``models/<family>/<sha256>.<name>``.
    """

    def __init__(self, artifacts: Path, targets: Path) -> None:
        self._artifacts, self._targets = artifacts, targets

    def open(self, sha256: str, offset: int) -> ArtifactFile:
        """The artifact, if it reaches as far as the offset.

        Raises:
            BadFieldError: Not a digest, or an offset that no file has.
            OutOfRangeError: The artifact ends before the offset.
            UnknownNameError: No artifact has this digest.
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
        for path in (self._artifacts / sha256, *self._targets.glob(f"models/*/{sha256}.*")):
            try:
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except OSError:
                continue  # absent, or a link: never followed
        raise UnknownNameError(f"no artifact {sha256}")

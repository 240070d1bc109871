"""Model bundles by digest, with a copy of each published one: what is damaged is restored, or refused.

An artifact is ``artifacts/<sha256>``. A published one is also ``targets/models/<family>/<sha256>.<name>`` in
the trust repository; of release 0.2.0 both names mean the same bytes on disk.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from schemas.bundle_archive import MAX_ARTIFACT_BYTES
from schemas.durable import DISK
from schemas.errors import DamagedFileError

log = logging.getLogger(__name__)


def places(artifacts: Path, targets: Path, sha256: str) -> list[Path]:
    """Files that an artifact may have: as it was stored, and as it was published."""
    return [artifacts / sha256, *sorted(targets.glob(f"models/*/{sha256}.*"))]


def put_artifact(folder: Path, data: bytes) -> str:
    """Store bytes under their digest, which it returns; a damaged file of that name is replaced."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / sha256
    if not DISK.put_if_absent(path, data) and not is_whole(path, sha256):
        DISK.write(path, data)
    return sha256


def whole_artifact(found: Sequence[Path], sha256: str) -> Path | None:
    """The first file with this digest; the others are restored from it. None: there is no file at all.

    Raises:
        DamagedFileError: There are files, but none is whole.
    """
    known = [path for path in found if path.is_file() and not path.is_symlink()]
    whole = next((path for path in known if is_whole(path, sha256)), None)
    if whole is None and known:
        raise lost_artifact(known[0], "is damaged")
    if whole is not None:
        _restore([p for p in known if p != whole and not is_whole(p, sha256)], whole)
    return whole


def lost_artifact(path: Path, problem: str) -> DamagedFileError:
    """The error for a bundle of which there is no whole file."""
    return DamagedFileError(
        f"{path} {problem}, and no copy of it is whole: no device can fetch this model, and those that have "
        "it keep it; restore the file, or the whole state with `edgeloop restore` "
        "(docs/runbook.md#damaged-model-service)"
    )


def is_whole(path: Path, sha256: str) -> bool:
    """Whether a file has this digest; False where it cannot be read."""
    with suppress(OSError):
        if path.stat().st_size <= MAX_ARTIFACT_BYTES:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    return False


def _restore(damaged: Sequence[Path], whole: Path) -> None:
    for path in damaged:
        try:
            DISK.write(path, whole.read_bytes())
        except OSError as exc:
            log.warning("%s is damaged, and cannot be restored from %s now: %s", path, whole, exc)
        else:
            log.warning("%s was damaged: restored from %s, nothing is lost", path, whole)

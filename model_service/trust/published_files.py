"""Files of the trust repository with a copy of each: what is damaged is restored from its copy, or named.

Whatever is published can be checked: a root and a timestamp carry signatures, and everything else is named
with length and digest by a file that does. ``<repository>-copies`` holds a second copy of every file but the
bundles, whose copies are the artifacts. The copy is written first, so it is never older than the file.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from model_service.trust.metadata import (
    Root,
    Timestamp,
    has_signatures_as_written,
    is_signed,
    parse,
    signers_of,
)
from schemas.channel_documents import ROOT, TIMESTAMP
from schemas.durable import DISK, Disk
from schemas.errors import DamagedFileError, TrustError

log = logging.getLogger(__name__)

COPIES = "-copies"
"""End of the name of the folder of copies, beside the repository."""
_TIMESTAMP_FILE = "timestamp.json"
_REMEDY = "restore it, or the whole state with `edgeloop restore` (docs/runbook.md#damaged-model-service)"
Check = Callable[[bytes], bool]


class PublishedFiles:
    """Reads and writes the files of one repository. From any thread.

    Args:
        repository: Folder of ``metadata`` and ``targets``.
        disk: Reads and writes them.
    """

    def __init__(self, repository: Path, disk: Disk = DISK) -> None:
        self.metadata, self.targets = repository / "metadata", repository / "targets"
        self._repository, self._disk = repository, disk
        self._copies = repository.with_name(repository.name + COPIES)
        self._restores = False
        self._lock = threading.RLock()
        self._roots: list[tuple[bytes, Root]] = []
        self._checked: bytes | None = None

    def put(self, path: Path, data: bytes) -> None:
        """Write a file of the repository: a crash between the two leaves the newer one as the copy."""
        self._disk.write(self._copy(path), data)
        self._disk.write(path, data)

    def read(self, path: Path, is_whole: Check) -> bytes:
        """A file of the repository, or its copy where the file is damaged.

        Raises:
            DamagedFileError: Neither the file nor its copy is what was published.
        """
        data = self._disk.read(path)
        if data is not None and is_whole(data):
            return data
        copy = self._disk.read(self._copy(path))
        problem = "is missing" if data is None else "is damaged"
        if copy is None or not is_whole(copy):
            raise DamagedFileError(
                f"{path} of the trust repository {problem}, and no copy of it is whole: nothing can be "
                f"published, and devices keep what they run; {_REMEDY}"
            )
        self._restore(path, copy, problem)
        return copy

    def keep(self, path: Path, data: bytes) -> None:
        """See that a file and its copy hold this; release 0.2.0 made no copies."""
        for one in (self._copy(path), path):
            if self._disk.read(one) != data:
                self._disk.write(one, data)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Read everything again, and restore what is damaged, while the caller keeps publishers out.

        Readers restore nothing: beside a publisher they could take a file back a version.
        """
        self._roots, self._checked, self._restores = [], None, True
        try:
            yield
        finally:
            self._restores = False

    def timestamp(self) -> bytes | None:
        """The newest timestamp that was published; None: there is no repository.

        Raises:
            DamagedFileError: Neither the file nor its copy was signed.
        """
        path = self.metadata / _TIMESTAMP_FILE
        data = self._disk.read(path)
        if data is not None and data == self._checked:
            return data
        with self._lock:
            return self._newest_timestamp(path, data)

    def _newest_timestamp(self, path: Path, data: bytes | None) -> bytes | None:
        copy = self._disk.read(self._copy(path))
        if data is None and copy is None and self.root(1) is None:
            return None
        known = [t for t in (data, copy) if t is not None and self._is_timestamp(t)]
        if not known:
            return self.read(path, self._is_timestamp)  # raises: neither is whole
        newest = max(known, key=self._age)
        if newest != data:
            age = (
                "is missing" if data is None else "is older than its copy" if data in known else "is damaged"
            )
            self._restore(path, newest, age)
        self._checked = newest
        return newest

    def root(self, version: int) -> bytes | None:
        """A root by its version, verified by the one before it; None: there is none yet.

        Raises:
            DamagedFileError: Neither the file nor its copy is that root.
        """
        with self._lock:
            while len(self._roots) < version:
                following = len(self._roots) + 1
                path = self.metadata / f"{following}.{ROOT}.json"
                if not path.exists() and not self._copy(path).exists():
                    return None
                data = self.read(path, lambda d, n=following: self._is_root(d, n))  # type: ignore[misc]
                self._roots.append((data, parse(Root, data, path.name)))
            return self._roots[version - 1][0]

    def roots(self) -> Iterator[bytes]:
        """Every root, oldest first."""
        version = 1
        while (data := self.root(version)) is not None:
            yield data
            version += 1

    def _is_root(self, data: bytes, version: int) -> bool:
        try:
            root = parse(Root, data, ROOT)
            before = self._roots[-1][1] if self._roots else root
            signed = is_signed(before, ROOT, data, ROOT) and is_signed(root, ROOT, data, ROOT)
            signers = signers_of(before, ROOT, data, ROOT) | signers_of(root, ROOT, data, ROOT)
            whole = signed and has_signatures_as_written(data, ROOT, signers)
        except (TrustError, ValueError):
            return False
        return whole and root.version == version

    def _is_timestamp(self, data: bytes) -> bool:
        """Whether a key of any root signed it: a rotation changes root and timestamp in two steps."""
        with suppress(TrustError, ValueError):
            parse(Timestamp, data, TIMESTAMP)
            list(self.roots())
            signed = any(is_signed(root, TIMESTAMP, data, TIMESTAMP) for _, root in reversed(self._roots))
            return signed and has_signatures_as_written(data, TIMESTAMP)
        return False

    def _age(self, timestamp: bytes) -> tuple[int, int]:
        """Version, then how many signatures hold: in a rotation there are two, and one may be damaged."""
        held = set().union(*(signers_of(root, TIMESTAMP, timestamp, TIMESTAMP) for _, root in self._roots))
        return parse(Timestamp, timestamp, TIMESTAMP).version, len(held)

    def _restore(self, path: Path, data: bytes, problem: str) -> None:
        if not self._restores:
            return
        try:
            self._disk.write(path, data)
        except OSError as exc:
            log.warning("%s %s, and cannot be restored from its copy now: %s", path, problem, exc)
        else:
            log.warning("%s %s: restored from its copy, nothing is lost", path, problem)

    def _copy(self, path: Path) -> Path:
        return self._copies / path.relative_to(self._repository)


def was_founded(repository: Path) -> bool:
    """Whether there is, or ever was, a repository: one that lost a file is never founded a second time."""
    folders = (repository, repository.with_name(repository.name + COPIES))
    return any(next(f.glob("metadata/*.json"), None) is not None for f in folders)


def require_unfounded(repository: Path, keys: Path) -> None:
    """Return where a new repository may be founded.

    Raises:
        DamagedFileError: Keys exist, so the repository of these keys is lost.
    """
    if next(keys.glob("*/*.pem"), None) is not None:
        raise DamagedFileError(
            f"the trust repository {repository} is gone, but its keys are there: a new one would lock out "
            f"every device; {_REMEDY}"
        )

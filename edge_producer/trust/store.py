"""Trusted metadata on the device's disk: each file written beside, synced, then named.

Names are unversioned (``root.json``, ``timestamp.json``, ``<role>.json``); every root that was ever verified
stays in ``root_history``, so that the chain from the built-in root can be walked again without a network.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

Write = Callable[[Path, bytes], None]

_BESIDE = ".part-"
_MAX_READ = 8 * 1024**2
_MAX_VERSION = 2**63 - 1
"""What a request can carry."""


def durable_write(path: Path, data: bytes) -> None:
    """Create or overwrite the file in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{_BESIDE}{path.name}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class MetadataStore:
    """One folder of trusted metadata and signed documents. One process at a time.

    Args:
        folder: Made at the first write.
        write: How a file gets onto the disk.
    """

    def __init__(self, folder: Path, write: Write = durable_write) -> None:
        self.folder = folder
        self._write = write

    def role(self, name: str) -> bytes | None:
        """Newest trusted metadata of a role; None where there are none."""
        return _read(self.folder / f"{_encoded(name)}.json")

    def put_role(self, name: str, data: bytes) -> None:
        """Keep verified metadata of a role."""
        self._write(self.folder / f"{_encoded(name)}.json", data)

    def forget_role(self, name: str) -> None:
        """Drop metadata that do not verify any more, so that they are asked for again."""
        (self.folder / f"{_encoded(name)}.json").unlink(missing_ok=True)

    def root(self, version: int) -> bytes | None:
        """A root that was verified once."""
        return _read(self.folder / "root_history" / f"{version}.root.json")

    def put_root(self, version: int, data: bytes) -> None:
        """Keep a verified root. The history first: ``root.json`` never names what is not in it."""
        self._write(self.folder / "root_history" / f"{version}.root.json", data)
        self._write(self.folder / "root.json", data)

    def versions(self) -> dict[str, int]:
        """Version of each role's metadata as the files say; damaged files are left out."""
        found: dict[str, int] = {}
        for path in sorted(self.folder.glob("*.json")):
            version = _version(_read(path))
            if version is not None:
                found[unquote(path.name.removesuffix(".json"))] = version
        return found

    def document(self, path: str) -> bytes | None:
        """A signed document by its target path; to be held against its digest before use."""
        return _read(self.folder / "documents" / _encoded(path))

    def put_document(self, path: str, data: bytes) -> None:
        """Keep a verified document."""
        self._write(self.folder / "documents" / _encoded(path), data)

    def forget_document(self, path: str) -> None:
        """Drop a document that nobody vouches for any more."""
        (self.folder / "documents" / _encoded(path)).unlink(missing_ok=True)

    def documents(self) -> dict[str, str]:
        """SHA-256 of each document by its target path."""
        found: dict[str, str] = {}
        for file in sorted((self.folder / "documents").glob("*")):
            data = None if file.name.startswith(_BESIDE) else _read(file)
            if data is not None:
                found[unquote(file.name)] = hashlib.sha256(data).hexdigest()
        return found


def _encoded(name: str) -> str:
    return quote(name, safe="")


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_READ)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _version(data: bytes | None) -> int | None:
    try:
        version = None if data is None else json.loads(data)["signed"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return version if isinstance(version, int) and 0 <= version <= _MAX_VERSION else None

"""Trusted metadata on the device's disk: each file is durable before anything relies on it.

Names are unversioned (``root.json``, ``timestamp.json``, ``<role>.json``); every root that was ever verified
stays in ``root_history``, so that the chain from the built-in root can be walked again without a network.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from urllib.parse import quote, unquote

from edge_producer.file_stamps import Stamps, files_in, stamps_of
from schemas.durable import DISK, Disk, is_temporary

_MAX_READ = 8 * 1024**2
_MAX_VERSION = 2**63 - 1
"""Largest version that a request can carry (int64)."""


class MetadataStore:
    """One folder of trusted metadata and signed documents. One process at a time.

    Args:
        folder: Created at the first write.
        disk: Everything is written through it.
    """

    def __init__(self, folder: Path, disk: Disk = DISK) -> None:
        self.folder = folder
        self._disk = disk

    def role(self, name: str) -> bytes | None:
        """Newest trusted metadata of a role; None where there are none."""
        return _read(self.folder / f"{_encoded(name)}.json")

    def put_role(self, name: str, data: bytes) -> None:
        """Keep verified metadata of a role."""
        self._write(self.folder / f"{_encoded(name)}.json", data)

    def forget_role(self, name: str) -> None:
        """Remove metadata that no longer verify, so that the next request asks for them again."""
        self._disk.remove(self.folder / f"{_encoded(name)}.json")

    def root(self, version: int) -> bytes | None:
        """A root that was verified before; None where that version is not kept."""
        return _read(self.folder / "root_history" / f"{version}.root.json")

    def put_root(self, version: int, data: bytes) -> None:
        """Keep a verified root. The history first: ``root.json`` never names what is not in it."""
        self._write(self.folder / "root_history" / f"{version}.root.json", data)
        self._write(self.folder / "root.json", data)

    def versions(self) -> dict[str, int]:
        """Version of each role's metadata, read from the files; damaged files are left out."""
        found: dict[str, int] = {}
        for path in sorted(self.folder.glob("*.json")):
            version = _version(_read(path))
            if version is not None:
                found[unquote(path.name.removesuffix(".json"))] = version
        return found

    def document(self, path: str) -> bytes | None:
        """A signed document by its target path; the caller must check its digest before use."""
        return _read(self.folder / "documents" / _encoded(path))

    def put_document(self, path: str, data: bytes) -> None:
        """Keep a verified document."""
        self._write(self.folder / "documents" / _encoded(path), data)

    def forget_document(self, path: str) -> None:
        """Remove a document that no role lists any more."""
        self._disk.remove(self.folder / "documents" / _encoded(path))

    def documents(self) -> dict[str, str]:
        """SHA-256 of each document by its target path."""
        found: dict[str, str] = {}
        for file in sorted((self.folder / "documents").glob("*")):
            data = None if is_temporary(file) else _read(file)
            if data is not None:
                found[unquote(file.name)] = hashlib.sha256(data).hexdigest()
        return found

    def stamps(self) -> Stamps:
        """What tells whether any file has changed since, without reading one."""
        folders = (self.folder, self.folder / "root_history", self.folder / "documents")
        return stamps_of(file for folder in folders for file in files_in(folder))

    def _write(self, path: Path, data: bytes) -> None:
        self._disk.make_folder(path.parent, private=True)
        self._disk.write(path, data)


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

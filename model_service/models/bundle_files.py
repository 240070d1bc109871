"""A bundle's three files as bytes: read and checked, or built and written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from schemas.bundle_archive import GOLDEN, MANIFEST, MODEL
from schemas.errors import BundleError
from schemas.manifest import Manifest, parse_manifest

__all__ = ["GOLDEN", "MANIFEST", "MODEL", "BundleFiles", "build_bundle"]


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """A bundle: its manifest, and the bytes of its files by name, the manifest's among them."""

    manifest: Manifest
    files: dict[str, bytes]

    @property
    def model(self) -> bytes:
        """The graph."""
        return self.files[MODEL]

    @property
    def golden(self) -> bytes:
        """The golden vectors."""
        return self.files[GOLDEN]

    @classmethod
    def of(cls, files: Mapping[str, bytes], origin: str) -> BundleFiles:
        """The bundle of these files.

        Args:
            files: Bytes by name, as ``schemas.bundle_archive.unpack`` gives them.
            origin: Where they come from, for messages.

        Raises:
            BundleError: A file is missing, or not the one that the manifest names.
        """
        if missing := {MODEL, GOLDEN, MANIFEST} - set(files):
            raise BundleError(f"{origin}: lacks {', '.join(sorted(missing))}")
        manifest = parse_manifest(files[MANIFEST], origin)
        for name in (MODEL, GOLDEN):
            if hashlib.sha256(files[name]).hexdigest() != manifest.files.get(name):
                raise BundleError(f"{origin}: {name} is not the file that the manifest names")
        return cls(manifest, dict(files))

    @classmethod
    def read(cls, folder: Path) -> BundleFiles:
        """The bundle in a folder.

        Raises:
            BundleError: As ``of``, or a file cannot be read.
        """
        try:
            files = {name: (folder / name).read_bytes() for name in (MODEL, GOLDEN, MANIFEST)}
        except OSError as exc:
            raise BundleError(f"{folder}: cannot be read: {exc}") from exc
        return cls.of(files, str(folder))

    def write(self, folder: Path) -> None:
        """Writes the files; files that are there already are overwritten."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.files.items():
            (folder / name).write_bytes(data)

    def differences(self, folder: Path) -> list[str]:
        """Names of the files that are missing in the folder or hold other bytes."""
        return [
            name
            for name, data in self.files.items()
            if not (folder / name).is_file() or (folder / name).read_bytes() != data
        ]


def build_bundle(manifest: Manifest, model: bytes, golden: bytes, major: int = 0) -> BundleFiles:
    """The bundle of a model; completes the manifest by the files' digests and the version.

    Args:
        manifest: Without digests and version: these follow from the content.
        model: The graph.
        golden: The golden vectors.
        major: First number of the version; the factory's is 0.
    """
    parts = {MODEL: model, GOLDEN: golden}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    final = manifest.model_copy(update={"files": digests}).versioned(major)
    return BundleFiles(final, {**parts, MANIFEST: final.to_json().encode()})

"""A bundle's three files as bytes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from schemas.bundle import Manifest

MODEL, GOLDEN, MANIFEST = "model.onnx", "golden.arrow", "manifest.json"


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """What a bundle's folder holds: bytes by file name."""

    manifest: Manifest
    files: dict[str, bytes]

    def write(self, folder: Path) -> None:
        """Writes the files; a folder that is there is overwritten."""
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


def sealed(manifest: Manifest, model: bytes, golden: bytes, major: int = 0) -> BundleFiles:
    """Bundle whose manifest names its files' digests and the version that follows from its content."""
    parts = {MODEL: model, GOLDEN: golden}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()}
    final = manifest.model_copy(update={"files": digests}).versioned(major)
    return BundleFiles(final, {**parts, MANIFEST: final.to_json().encode()})

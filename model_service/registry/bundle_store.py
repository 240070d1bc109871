"""Bundles by digest and by version: candidates' artifacts, and what ships in the wheel."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Connection

from model_service.models.bundle_files import BundleFiles
from model_service.registry import candidates
from schemas.bundle_archive import MAX_ARTIFACT_BYTES, pack, unpack
from schemas.durable import DISK
from schemas.errors import BundleError, RegistryError, TrustError


def store_artifact(folder: Path, bundle: BundleFiles) -> tuple[str, int]:
    """Puts a bundle's artifact into the folder, durably, once; returns its SHA-256 and length."""
    data = pack(bundle.files)
    digest = hashlib.sha256(data).hexdigest()
    DISK.put_if_absent(folder / digest, data)
    return digest, len(data)


def read_artifact(folder: Path, digest: str) -> BundleFiles:
    """The bundle of an artifact; every digest is verified.

    Raises:
        BundleError: It is missing, altered or no bundle.
    """
    path = folder / digest
    try:
        if path.stat().st_size > MAX_ARTIFACT_BYTES:
            raise BundleError(f"artifact {digest[:12]}: larger than {MAX_ARTIFACT_BYTES} bytes")
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"artifact {digest[:12]}: cannot be read: {exc.strerror}") from exc
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"artifact {digest[:12]}: its bytes are not those of its name")
    try:
        return BundleFiles.of(unpack(data), f"artifact {digest[:12]}")
    except TrustError as exc:
        raise BundleError(f"artifact {digest[:12]}: {exc}") from exc


def factory_families() -> list[str]:
    """Families of the bundles that ship.

    Raises:
        BundleError: The wheel holds none.
    """
    return sorted(p.name for p in _shipped().iterdir() if p.is_dir())


def factory_bundle_of(family: str) -> BundleFiles:
    """The bundle that ships for a family.

    Raises:
        BundleError: None does, or it is altered.
    """
    return BundleFiles.read(_shipped() / family)


def _shipped() -> Path:
    room = find_spec("edge_producer")  # found, not imported: files of the same wheel
    if room is None or room.origin is None:
        raise BundleError("the wheel holds no factory bundles")
    return Path(room.origin).parent / "bundles"


def bundle_of_version(connection: Connection, artifacts: Path, family: str, version: str) -> BundleFiles:
    """The bundle of a version: the factory's, or a candidate's artifact.

    Raises:
        RegistryError: Nobody knows this version.
        BundleError: Its bytes are missing or altered.
    """
    candidate = candidates.get(connection, version)
    if candidate is not None:
        return read_artifact(artifacts, candidate.sha256)
    factory = factory_bundle_of(family)
    if factory.manifest.version != version:
        raise RegistryError(
            f"no model {version}: the factory model of {family} is {factory.manifest.version}"
        )
    return factory

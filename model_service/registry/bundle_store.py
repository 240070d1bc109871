"""Bundles by digest and by version: artifacts of candidates, and the factory bundles in the wheel."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from sqlalchemy import Connection

from model_service.detectors.trained_mark import is_trained
from model_service.models.bundle_files import BundleFiles
from model_service.registry import candidates
from model_service.stored_artifacts import put_artifact
from schemas.bundle_archive import MAX_ARTIFACT_BYTES, pack, unpack
from schemas.config_manifest import ConfigBundle
from schemas.errors import BundleError, RegistryError, TrustError

GENERIC_FAMILY = "robust"
"""Family whose bundle fits any profile; nothing in it is learnt."""


def store_artifact(folder: Path, bundle: BundleFiles) -> tuple[str, int]:
    """Write a bundle's artifact into the folder, durably, unless it is there.

    Returns:
        SHA-256 of the artifact, which is also its file name, and its length in bytes.
    """
    return store_bytes(folder, pack(bundle.files))


def store_bytes(folder: Path, data: bytes) -> tuple[str, int]:
    """As ``store_artifact``, of an artifact's bytes."""
    return put_artifact(folder, data), len(data)


def config_of(folder: Path, digest: str, version: str) -> ConfigBundle:
    """The configuration of an artifact; all digests are verified.

    Raises:
        BundleError: It is missing, altered or not this version.
    """
    try:
        return ConfigBundle.unpacked(_artifact_bytes(folder, digest), version)
    except TrustError as exc:
        raise BundleError(f"artifact {digest[:12]}: {exc}") from exc


def read_artifact(folder: Path, digest: str) -> BundleFiles:
    """The bundle of an artifact; all digests are verified.

    Raises:
        BundleError: It is missing, altered or not a bundle.
    """
    data = _artifact_bytes(folder, digest)
    try:
        return BundleFiles.of(unpack(data), f"artifact {digest[:12]}")
    except TrustError as exc:
        raise BundleError(f"artifact {digest[:12]}: {exc}") from exc


def _artifact_bytes(folder: Path, digest: str) -> bytes:
    path = folder / digest
    try:
        if path.stat().st_size > MAX_ARTIFACT_BYTES:
            raise BundleError(f"artifact {digest[:12]}: larger than {MAX_ARTIFACT_BYTES} bytes")
        data = path.read_bytes()
    except OSError as exc:
        raise BundleError(f"artifact {digest[:12]}: cannot be read: {exc.strerror}") from exc
    if hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"artifact {digest[:12]}: its bytes do not have the digest of its name")
    return data


def factory_families() -> list[str]:
    """Families that a factory bundle ships for, sorted.

    Raises:
        BundleError: The wheel holds no factory bundles.
    """
    return sorted(p.name for p in _shipped().iterdir() if p.is_dir())


@cache
def learnable_families() -> frozenset[str]:
    """Families whose factory model was learnt: `robust` holds no parameters. A trainer's are in its graph.

    Raises:
        BundleError: The wheel holds no factory bundles, or one is altered.
    """
    manifests = {family: factory_bundle_of(family).manifest for family in factory_families()}
    return frozenset(f for f, m in manifests.items() if m.parameters or is_trained(m))


def starting_bundle_of(family: str) -> BundleFiles:
    """What devices of a family run before any candidate of it: its factory bundle, else the generic one.

    Raises:
        BundleError: It is altered.
    """
    return factory_bundle_of(family if family in factory_families() else GENERIC_FAMILY)


def factory_bundle_of(family: str) -> BundleFiles:
    """The factory bundle of a family.

    Raises:
        BundleError: There is none, or it is altered.
    """
    return BundleFiles.read(_shipped() / family)


def _shipped() -> Path:
    package = find_spec("edge_producer")  # located, not imported: only its files are needed
    if package is None or package.origin is None:
        raise BundleError("the wheel holds no factory bundles: install the package again")
    return Path(package.origin).parent / "bundles"


def bundle_of_version(connection: Connection, artifacts: Path, family: str, version: str) -> BundleFiles:
    """The bundle of a version: the factory's, or a candidate's artifact.

    Raises:
        RegistryError: It is neither a candidate's version nor the factory's.
        BundleError: Its bytes are missing or altered.
    """
    candidate = candidates.get(connection, version)
    if candidate is not None:
        return read_artifact(artifacts, candidate.sha256)
    factory = starting_bundle_of(family)
    if factory.manifest.version != version:
        raise RegistryError(
            f"no model {version}: the factory model of {family} is {factory.manifest.version}"
        )
    return factory

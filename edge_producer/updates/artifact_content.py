"""The content of an artifact, checked after its digest and before any of it is installed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from edge_producer.bundle import Bundle, check_fit
from edge_producer.updates.onnx_graph import check_graph
from schemas.bundle_archive import GOLDEN, MANIFEST, MODEL, unpack
from schemas.errors import BundleError, TrustError
from schemas.manifest import parse_manifest
from schemas.profile import Profile
from schemas.updates import Attack

TRIAL_BYTES = 160 * 1024**2
"""What a child process with the runtime takes before it loads a model (measured: 105 MB resident)."""
MEMORY_PER_MODEL_BYTE = 24
"""A session takes up to ten times its file (random forests), and there are two for a moment."""


def open_artifact(data: bytes, version: str, profile: Profile) -> tuple[Bundle, Mapping[str, bytes]]:
    """The bundle inside an artifact whose digest was verified, and its files to be stored.

    Args:
        data: The artifact.
        version: The version that the signed instruction names.
        profile: The profile that the model must fit.

    Raises:
        TrustError: The artifact is signed, but unsafe or not the version that the instruction names.
    """
    files = unpack(data)
    bundle = bundle_of(files, version)
    if bundle.manifest.version != version:
        raise TrustError(
            f"the artifact of {version} holds {bundle.manifest.version}", Attack.UNSIGNED_INSTRUCTION
        )
    try:
        check_fit(bundle.manifest, profile)
    except BundleError as exc:
        raise TrustError(str(exc), Attack.UNSAFE_CONTENT) from exc
    return bundle, files


def bundle_of(files: Mapping[str, bytes], version: str) -> Bundle:
    """The bundle in these files, after its digests and its graph have been checked.

    Raises:
        TrustError: A digest that is not the manifest's, or a graph that may not be loaded.
    """
    try:
        manifest = parse_manifest(files[MANIFEST], version)
    except BundleError as exc:
        raise TrustError(str(exc), Attack.UNSAFE_CONTENT) from exc
    for name in (MODEL, GOLDEN):
        if hashlib.sha256(files[name]).hexdigest() != manifest.files.get(name):
            raise TrustError(f"{version}: {name} is not the file its manifest names", Attack.UNSAFE_CONTENT)
    needed = check_graph(files[MODEL], version)
    if needed > manifest.opset:
        raise TrustError(
            f"{version}: the graph needs operator set {needed}, its manifest says {manifest.opset}",
            Attack.UNSAFE_CONTENT,
        )
    return Bundle(manifest, files[MODEL], files[GOLDEN])


def memory_needed(model_bytes: int) -> int:
    """Most bytes that a trial beside the running model takes."""
    return TRIAL_BYTES + MEMORY_PER_MODEL_BYTE * model_bytes


def memory_available(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process may still take: the kernel's MemAvailable, or less under a cgroup limit.

    Where neither can be read, memory counts as sufficient.
    """
    bounds = [2**62]
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        bounds.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        pass
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        if limit != "max":
            bounds.append(int(limit) - int((cgroup / "memory.current").read_text()))
    except (OSError, ValueError):
        pass
    return min(bounds)

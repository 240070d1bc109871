"""Imported models as trainer and gate read them: the file, and windows of the history, all by digest.

They lie in the model service's folder. What one record names never changes; which is a profile's newest does.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model_service.detectors.imported_bundle import ImportedModel
from model_service.models.imported_graph import imported_graph
from schemas.durable import DISK
from schemas.errors import BundleError, DatasetError
from schemas.profile import Profile

FOLDER, _NEWEST = "imports", ".newest"
MAX_WINDOW_BYTES = 32 * 1024**2
"""Most that is kept of a history's windows; the newest of them."""

Windows = NDArray[np.float32]


def put_import(root: Path, profile: str, data: bytes, output: str, windows: Windows) -> str:
    """Store an import and make it its profile's newest; returns the digest of its record."""
    kept = windows[-max(1, MAX_WINDOW_BYTES // max(windows[:1].nbytes, 1)) :]
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(kept, dtype=np.float32), allow_pickle=False)
    model, evidence = _put(root, data), _put(root, buffer.getvalue())
    record = {"profile": profile, "model": model, "output": output, "windows": evidence}
    digest = _put(root, json.dumps(record, sort_keys=True).encode())
    DISK.write(root / FOLDER / f"{profile}{_NEWEST}", digest.encode())
    return digest


def newest_import(root: Path, profile: str) -> str:
    """Digest of the record of a profile's newest import.

    Raises:
        DatasetError: There is none.
    """
    data = DISK.read(root / FOLDER / f"{profile}{_NEWEST}")
    if data is None:
        raise DatasetError(f"nothing was imported for profile {profile}: run `edgeloop model import`")
    return data.decode("ascii", "replace").strip()


def stored_import(root: Path, digest: str, profile: Profile) -> ImportedModel:
    """The import of a record.

    Raises:
        BundleError: A file of it is missing or altered, or it does not fit the profile any more.
    """
    record = json.loads(_get(root, digest))
    windows = np.load(io.BytesIO(_get(root, record["windows"])), allow_pickle=False)
    graph = imported_graph(_get(root, record["model"]), profile, record["output"])
    return ImportedModel(graph, windows)


def _put(root: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    DISK.put_if_absent(root / FOLDER / digest, data)
    return digest


def _get(root: Path, digest: str) -> bytes:
    data = DISK.read(root / FOLDER / digest)
    if data is None or hashlib.sha256(data).hexdigest() != digest:
        raise BundleError(f"the import {digest[:12]} is missing or altered: import it again")
    return data

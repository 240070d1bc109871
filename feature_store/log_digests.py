"""Digests of log files that deltalake writes itself: checkpoints, and entries that change columns.

``_digests/<table>/<name>.json``. A log file without one was written by release 0.2.0 or by another engine.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import orjson

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

FOLDER = "_digests"


def note(path: Path) -> None:
    """Record the digest of a table's log file as it is now."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    DISK.write(_place(path), with_digest(orjson.dumps({"sha256": digest})))


def agrees(path: Path, content: bytes) -> bool:
    """Whether the content of a log file is the one on record; True as well where none is."""
    try:
        stated = checked(_place(path).read_bytes(), str(path)).get("sha256")
    except (FileNotFoundError, DamagedLakeError):
        return True
    return stated == hashlib.sha256(content).hexdigest()


def is_known(table: Path) -> bool:
    """Whether a table's folder ever held a log."""
    return (table.parent / FOLDER / table.name).is_dir()


def know(table: Path) -> None:
    """Record that a table's folder holds a log: it is never made afresh in silence."""
    DISK.make_folder(table.parent / FOLDER / table.name)


def forget(path: Path) -> None:
    """Drop the digest of a log file that is deleted."""
    _place(path).unlink(missing_ok=True)


def _place(path: Path) -> Path:
    """Where the digest of ``<root>/<table>/_delta_log/<name>`` is."""
    table = path.parent.parent
    return table.parent / FOLDER / table.name / f"{path.name}.json"

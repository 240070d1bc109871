"""The status of an edge process for consoles: one small JSON file, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.durable import DISK, Disk


def write_status(path: Path, status: Mapping[str, Any], disk: Disk = DISK) -> None:
    """Replace the file; a reader gets the old one or the new one, never a part.

    Not synced: it is rewritten every second, and a power cut ends the process that it describes.
    """
    disk.write(path, json.dumps(status, separators=(",", ":")).encode(), sync=False)


def read_status(path: Path) -> dict[str, Any] | None:
    """Newest status of a process; None where it has not written one yet, or the file is damaged."""
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return status if isinstance(status, dict) else None

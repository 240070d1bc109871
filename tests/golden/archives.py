"""Folders in small archives that say nothing of the machine that made them."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent
EARLIEST = 315532800
"""1980-01-01: every member's time, so that the same content gives the same archive."""


def pack(folder: Path, archive: Path, skip: Callable[[str], bool] = lambda _: False) -> None:
    """Write the files of a folder to a ``.tar.xz``, without owner and time; sparse files stay small."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz", preset=9, format=tarfile.PAX_FORMAT) as out:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if not skip(name) and (path.is_file() or path.is_dir()):
                _add(out, path, name)


def _add(out: tarfile.TarFile, path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.mtime = path.stat().st_mode & 0o777, EARLIEST
    if path.is_dir():
        member.type = tarfile.DIRTYPE
        out.addfile(member)
        return
    data = path.read_bytes()
    member.size = len(data)
    out.addfile(member, io.BytesIO(data))


def unpack(release: str, name: str, folder: Path) -> Path:
    """Unpack ``<release>/<name>.tar.xz`` into a new folder, which it returns."""
    folder.mkdir(parents=True)
    with tarfile.open(GOLDEN / release / f"{name}.tar.xz") as packed:
        packed.extractall(folder, filter="data")
    return folder


def facts(release: str) -> dict[str, Any]:
    """What the release itself answered about its folders."""
    found: dict[str, Any] = json.loads((GOLDEN / release / "facts.json").read_text())
    return found

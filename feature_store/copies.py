"""Second copies of small files that are written once and needed for long: profiles and pins.

``_copies/<same path>``. Where a file is damaged or missing and its copy is not, the copy takes its place.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from feature_store.self_digest import checked
from feature_store.set_aside import set_aside
from schemas.durable import DISK
from schemas.errors import DamagedLakeError

log = logging.getLogger(__name__)

FOLDER = "_copies"


def copy_of(root: Path, path: Path) -> Path:
    """Where the copy of a file of the lake is."""
    return root / FOLDER / path.relative_to(root)


def add_copy(root: Path, path: Path) -> None:
    """Copy a file, unless it has a sound copy; a reader without the right to write leaves it.

    Raises:
        DamagedLakeError: The file itself is damaged.
    """
    copy = copy_of(root, path)
    if _sound(copy) is None:
        data = path.read_bytes()
        checked(data, str(path.relative_to(root)))
        with contextlib.suppress(OSError):
            DISK.write(copy, data)


def read_sound(root: Path, path: Path) -> dict[str, Any]:
    """The JSON object in a file, or in its copy, which then replaces the file.

    Raises:
        DamagedLakeError: Both are damaged or missing.
    """
    name = str(path.relative_to(root))
    try:
        return checked(path.read_bytes(), name)
    except FileNotFoundError:
        problem = DamagedLakeError(f"{name} is missing")
    except DamagedLakeError as exc:
        problem = exc
    except OSError as exc:
        problem = DamagedLakeError(f"{name} cannot be read: {exc.strerror or exc}")
    copy = _sound(copy_of(root, path))
    if copy is None:
        raise problem
    log.warning("%s; its copy takes its place", problem)
    _restore(root, path)
    return copy


def with_copies(root: Path, folder: Path, pattern: str) -> list[Path]:
    """Files of a folder, those included of which only the copy is left; sorted."""
    names = {p.name for place in (folder, copy_of(root, folder)) for p in place.glob(pattern)}
    return [folder / name for name in sorted(names)]


def remove_both(root: Path, path: Path) -> None:
    """Remove a file and its copy.

    Raises:
        FileNotFoundError: There is neither.
    """
    copy = copy_of(root, path)
    existed = copy.exists()
    copy.unlink(missing_ok=True)  # first: a crash in between must not bring the file back
    path.unlink(missing_ok=existed)


def _sound(copy: Path) -> dict[str, Any] | None:
    try:
        return checked(copy.read_bytes(), str(copy))
    except (OSError, DamagedLakeError):
        return None


def _restore(root: Path, path: Path) -> None:
    with contextlib.suppress(OSError):  # a reader without the right to write reads the copy each time
        if path.exists():
            set_aside(root, path)
        DISK.write(path, copy_of(root, path).read_bytes())


def add_copies(root: Path, paths: Iterable[Path]) -> None:
    """Copy the sound ones of these files that have no copy yet."""
    for path in paths:
        with contextlib.suppress(DamagedLakeError, OSError):
            add_copy(root, path)

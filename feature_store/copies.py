"""Second copies of small files that are written once and needed for long: profiles and pins.

``_copies/<same path>``. Where a file is damaged or missing and its copy is not, the copy takes its place.
Each file also states which one it is, so that one file under the name of another is not believed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from feature_store.set_aside import set_aside
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

FOLDER = "_copies"
_SELF = "file"
"""Key under which a file states its path; files of release 0.2.0 do not."""


def stating_path(root: Path, path: Path, payload: bytes) -> bytes:
    """A JSON object that also states the path of its file, with its digest."""
    raw = orjson.loads(payload)
    return with_digest(orjson.dumps({**raw, _SELF: path.relative_to(root).as_posix()}))


def copy_of(root: Path, path: Path) -> Path:
    """Where the copy of a file of the lake is."""
    return root / FOLDER / path.relative_to(root)


def add_copy(root: Path, path: Path) -> None:
    """Copy a file, unless it has a sound copy; a reader without the right to write leaves it.

    Raises:
        DamagedLakeError: The file itself is damaged.
    """
    copy = copy_of(root, path)
    if _sound(root, path, copy) is None:
        data = path.read_bytes()
        _checked(root, path, data)
        with contextlib.suppress(OSError):
            DISK.write(copy, data)


def read_sound(root: Path, path: Path) -> dict[str, Any]:
    """The JSON object in a file, or in its copy, which then replaces the file.

    A sound copy that says something else is the newer one: it is written first.

    Raises:
        DamagedLakeError: Both are damaged or missing.
    """
    name = path.relative_to(root).as_posix()
    copy = _sound(root, path, copy_of(root, path))
    try:
        found = _checked(root, path, path.read_bytes())
        if copy is None or copy == found:
            return found
        problem = DamagedLakeError(f"{name} is of an earlier moment than its copy")
    except FileNotFoundError:
        problem = DamagedLakeError(f"{name} is missing")
    except DamagedLakeError as exc:
        problem = exc
    except OSError as exc:
        problem = DamagedLakeError(f"{name} cannot be read: {exc.strerror or exc}")
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


def file_problem(root: Path, path: Path) -> str | None:
    """What is wrong with a file itself, its copy aside; None: nothing."""
    name = path.relative_to(root).as_posix()
    try:
        _checked(root, path, path.read_bytes())
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as exc:
        return f"{name} cannot be read: {exc.strerror or exc}"
    except DamagedLakeError as exc:
        return str(exc)
    return None


def _checked(root: Path, path: Path, data: bytes) -> dict[str, Any]:
    name = path.relative_to(root).as_posix()
    raw = checked(data, name)
    if (stated := raw.pop(_SELF, name)) != name:
        raise DamagedLakeError(f"{name} is damaged: it holds {stated}")
    return raw


def _sound(root: Path, path: Path, copy: Path) -> dict[str, Any] | None:
    try:
        return _checked(root, path, copy.read_bytes())
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

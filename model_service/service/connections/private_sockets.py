"""A folder for the sockets that gRPC listens on: only this process's user reaches them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from schemas.errors import OperatorError

_PREFIX: Final = "sockets-"
_LONGEST: Final = 90
"""A socket's path may have 107 bytes on Linux, 103 on macOS; its own name is part of them."""


@contextmanager
def private_sockets(root: Path) -> Iterator[Path]:
    """A path of a new folder, short enough for sockets; the folder is removed at the end.

    Its lock goes with the process, so the next one finds and removes what a killed one left.

    Raises:
        OperatorError: The folder cannot be made, or its path is too long.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))  # mode 0700
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise OperatorError(f"cannot make a folder for sockets in {root}: {exc.strerror or exc}") from exc
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield _short(folder, handle)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _short(folder: Path, handle: int) -> Path:
    """The folder's path, or on Linux a short one that holds in this process alone."""
    own = Path(f"/proc/self/fd/{handle}")
    if own.exists():
        return own
    if len(os.fsencode(folder)) > _LONGEST:
        raise OperatorError(f"the path {folder} is too long for sockets: choose a shorter MODEL_ROOT")
    return folder


def _sweep(root: Path) -> None:
    """Remove folders whose process has ended without doing so."""
    for folder in root.glob(f"{_PREFIX}*"):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            continue  # its process lives
        finally:
            os.close(handle)

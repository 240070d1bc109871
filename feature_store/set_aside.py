"""Sets damaged files of a lake aside: they are moved to ``_set_aside/``, never deleted."""

from __future__ import annotations

import logging
from itertools import count
from pathlib import Path

from schemas.durable import DISK

log = logging.getLogger(__name__)

FOLDER = "_set_aside"


def set_aside(root: Path, path: Path) -> Path:
    """Move a file to the same place below ``_set_aside/``.

    Args:
        root: The lake's folder.
        path: A file in it.

    Returns:
        Where it is now.

    Raises:
        OSError: It cannot be moved.
    """
    wanted = root / FOLDER / path.relative_to(root)
    DISK.make_folder(wanted.parent)
    target = next(
        p for i in count() if not (p := wanted.with_name(f"{wanted.name}.{i}" if i else wanted.name)).exists()
    )
    DISK.rename(path, target)
    DISK.sync_folder(path.parent)
    log.warning("%s was set aside as %s", path.relative_to(root), target.relative_to(root))
    return target

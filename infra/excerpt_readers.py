"""Who may read the tables of raw samples: their owner, and one group of the machine if a person says so."""

from __future__ import annotations

from pathlib import Path

from schemas.errors import OperatorError
from schemas.excerpt_table import holds_excerpts
from schemas.folder_access import guard_folder


def set_readers(lake_root: Path, group: str) -> list[Path]:
    """Give every table of raw samples to a group, or to nobody but its owner.

    Args:
        lake_root: The lake's folder. Readers must be able to enter it: they are in its data group, too.
        group: Name; empty: only the owner.

    Returns:
        The folders.

    Raises:
        OperatorError: There is no such group, or this user is not in it.
    """
    if not lake_root.is_dir():
        raise OperatorError(f"no lake at {lake_root}")
    folders = sorted(p for p in lake_root.iterdir() if holds_excerpts(p.name) and p.is_dir())
    for folder in folders:
        guard_folder(folder, group)
    return folders

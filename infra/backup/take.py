"""Takes a backup: the whole state folder as it was at one moment."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from infra.backup.backup_manifest import DATA, MANIFEST, BackupManifest, saved_file
from infra.backup.frozen_stack import frozen
from infra.backup.state_copy import StateCopy
from infra.printing import size
from schemas.durable import DISK
from schemas.errors import BackupError
from schemas.instants import utc_now
from schemas.self_digest import with_digest

_ROOM = 1.1
"""A disk must have room for as much as the state folder, and some more."""


@dataclass(frozen=True)
class TakenBackup:
    """A backup that was taken.

    Attributes:
        frozen_s: How long the stack stood still; 0: it was down.
    """

    folder: Path
    manifest: BackupManifest
    frozen_s: float


def take_backup(
    state_dir: Path, folder: Path, progress: Callable[[str], None], clock: Callable[[], datetime] = utc_now
) -> TakenBackup:
    """Copy the state folder to a new folder, all of it or nothing.

    Raises:
        BackupError: There is nothing to copy, the folder exists, or the disk has no room.
    """
    if not (state_dir / "lake").is_dir():
        raise BackupError(f"{state_dir} holds no stack: nothing to back up")
    if folder.exists():
        raise BackupError(f"{folder} exists: name a new folder for each backup")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _require_room(state_dir, folder.parent)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        DISK.make_folder(partial, private=True)
        manifest, frozen_s = _copy(state_dir, partial, progress, clock)
        content = with_digest(manifest.model_dump_json(indent=1).encode())
        DISK.write(partial / MANIFEST, content, private=True)
        DISK.rename(partial, folder)
    except OSError as exc:
        raise BackupError(f"cannot write {folder}: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TakenBackup(folder, manifest, frozen_s)


def _copy(
    state_dir: Path, partial: Path, progress: Callable[[str], None], clock: Callable[[], datetime]
) -> tuple[BackupManifest, float]:
    copy = StateCopy(state_dir, partial / DATA)
    progress("copying while the stack goes on")
    copy.run()
    with frozen(state_dir) as was_up:
        began = clock()
        copy.run()
        ended = clock()
    progress("computing digests")
    files = {}
    for name in sorted(copy.copied):
        path = partial / DATA / name
        DISK.sync_file(path)
        files[name] = saved_file(path)
    for folder, _, _ in os.walk(partial / DATA):
        DISK.sync_folder(Path(folder))
    cut, rows = count_rows(partial / DATA / "lake")
    manifest = BackupManifest(taken_at=began, release=version("edgeloop"), cut=cut, rows=rows, files=files)
    return manifest, (ended - began).total_seconds() if was_up else 0.0


def count_rows(lake_root: Path) -> tuple[int, dict[str, int]]:
    """Newest cut of a lake, and the rows of each table that queries see in it."""
    lake = Lake.open(lake_root)
    newest = CutStore(lake).latest()
    if newest is None:
        return 0, {}
    with closing(connect(lake_root, comments=False)) as connection:
        rows = {}
        for table in sorted(newest.tables):
            found = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608
            rows[table] = int(found[0]) if found else 0
    return newest.id, rows


def _require_room(state_dir: Path, folder: Path) -> None:
    needed = sum(p.stat().st_blocks * 512 for p in state_dir.rglob("*") if p.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed * _ROOM:
        raise BackupError(f"{folder} has {size(free)} free, the backup needs {size(needed)}")

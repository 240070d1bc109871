"""``catalog.duckdb``: the views of the newest cut, for any plain DuckDB client from 1.0 on.

It holds views and macros only, and is never changed in place: each refresh builds a new file beside it and
renames that. A client that has the old file open keeps reading the old cut. Files are named relative to the
lake's folder, so that the lake can be moved or mounted elsewhere: a client starts in that folder, or sets
``file_search_path`` to it. The view ``how_to_open`` says so, and reads no file.
"""

from __future__ import annotations

from pathlib import Path

from feature_store import duck
from feature_store.cut_store import CutRef, CutStore
from feature_store.cut_views import ViewForm, open_views
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from schemas.durable import DISK, temporary

CATALOG = "catalog.duckdb"


def catalog_problem(root: Path) -> str | None:
    """What is wrong with the catalog, in words; None: nothing, or there is none yet."""
    path = root / CATALOG
    return None if not path.exists() or duck.is_readable(path) else "the catalog cannot be opened"


def refresh_catalog(lake: Lake) -> Path:
    """Rebuild the catalog from the newest cut.

    Returns:
        Its path.
    """
    return _write(lake, lake.root.absolute() / CATALOG, None, relative=True)


def write_catalog(lake: Lake, path: Path, cut: CutRef = None) -> Path:
    """Write a catalog with absolute paths of the lake's folder as it is given: for a mount.

    Args:
        lake: Its root is what the paths begin with.
        path: The new file; an earlier one is replaced.
        cut: Id, pin or instant; None: the newest cut.

    Returns:
        The file's path.
    """
    return _write(lake, path.absolute(), cut, relative=False)


def _write(lake: Lake, path: Path, cut: CutRef, *, relative: bool) -> Path:
    cuts = CutStore(lake)
    beside = temporary(path)
    try:
        profiles = ProfileRegistry(lake).profiles()
        root = lake.root.absolute()
        form = ViewForm(beside, relative=relative, comments=True)
        duck.finish(open_views(root, cuts.resolve(cut), cuts, profiles, form=form)[0])
        DISK.rename(beside, path, sync=False)  # not synced: the next refresh builds it again
        return path
    finally:
        beside.unlink(missing_ok=True)
        Path(f"{beside}.wal").unlink(missing_ok=True)

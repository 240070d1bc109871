"""``catalog.duckdb``: the views of the newest cut, for any plain DuckDB client.

It holds views only, with absolute paths, and is never changed in place: each refresh builds a new file beside
it and renames that. A client that has the old file open keeps reading the old cut.
"""

from __future__ import annotations

from pathlib import Path

from feature_store import duck
from feature_store.cut_store import CutStore
from feature_store.cut_views import open_views
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
    cuts = CutStore(lake)
    root = lake.root.absolute()
    path = root / CATALOG
    beside = temporary(path)
    try:
        profiles = ProfileRegistry(lake).profiles()
        open_views(root, cuts.resolve(None), cuts, profiles, database=beside)[0].close()
        DISK.rename(beside, path, sync=False)  # not synced: the next refresh builds it again
        return path
    finally:
        beside.unlink(missing_ok=True)
        Path(f"{beside}.wal").unlink(missing_ok=True)

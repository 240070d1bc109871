"""``catalog.duckdb``: the views of the newest cut, for any plain DuckDB client.

It holds views only, with absolute paths, and is never written where a client can see it: each refresh
builds a new file beside and renames it over. A client that has the old one open keeps reading the old cut.
"""

from __future__ import annotations

import uuid
from pathlib import Path

from feature_store import duck
from feature_store.cuts import Cuts
from feature_store.durable import BESIDE
from feature_store.lake import Lake
from feature_store.registry import ProfileRegistry
from feature_store.views import statements

CATALOG = "catalog.duckdb"


def refresh_catalog(lake: Lake) -> Path:
    """Rebuild the catalog from the newest cut.

    Returns:
        Its path.
    """
    cut = Cuts(lake).resolve(None)
    root = lake.root.absolute()
    beside = root / f"{BESIDE}{CATALOG}.{uuid.uuid4().hex}"
    try:
        duck.build(statements(root, cut, ProfileRegistry(lake).profiles()), beside).close()
        return beside.replace(root / CATALOG)
    finally:
        beside.unlink(missing_ok=True)
        Path(f"{beside}.wal").unlink(missing_ok=True)

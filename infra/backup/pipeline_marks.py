"""What tells one pipeline from another: the ids that its lake and its authority got when they were made."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from feature_store.worker_keys import FOLDER as KEYS

_KEY_ID = re.compile(r"[0-9a-f]{16}")


def pipeline_marks(state_dir: Path) -> frozenset[str]:
    """Marks that no other pipeline has; what is missing or damaged has none.

    Two states of one pipeline share at least one, however far they are apart: keys and tables are added, and
    none of them is removed. Works on damaged states too, so it opens nothing and reads a few small files.
    """
    return frozenset(_marks(state_dir))


def _marks(state_dir: Path) -> Iterator[str]:
    lake = state_dir / "lake"
    for key in lake.glob(f"{KEYS}/*.json"):
        if _KEY_ID.fullmatch(key.stem):
            yield f"worker {key.stem}"
    for log in lake.glob("*/_delta_log"):
        if (made := _table_id(log)) is not None:
            yield f"table {made}"
    authority = state_dir / "models" / "pki" / "ca.pem"
    if authority.is_file():
        yield f"authority {hashlib.sha256(authority.read_bytes()).hexdigest()}"


def _table_id(log: Path) -> str | None:
    """The id that a Delta table got when it was made, from the oldest entry of its log that is left."""
    oldest = min(log.glob("[0-9]*.json"), default=None)
    if oldest is None:
        return None
    try:
        for line in oldest.read_text(encoding="utf-8").splitlines():
            if "metaData" in (entry := json.loads(line)):
                return str(entry["metaData"]["id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None

"""One entry of a Delta log: what it changes, and whether it is as it was written.

Our entries carry a digest of their actions in ``commitInfo``. Entries of release 0.2.0, of deltalake itself
and of other engines have none; they must be whole JSON lines at least.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
import pyarrow as pa

from schemas.tables import PARTITION_COLUMN

DIGEST = "edgeloop.digest"
"""Key in ``commitInfo``."""
INPUTS = "edgeloop.inputs"
"""Key in ``commitInfo`` of a compaction: for each new file, the files that it replaces, in order."""

COMPACTOR = "compactor"
"""Application of compactions: by its transaction the second of two simultaneous ones is refused."""


@dataclass(frozen=True)
class LogFile:
    """A data file as the Delta log names it.

    Attributes:
        path: Relative to the table's folder.
        size: Bytes.
        day: Partition value, ``YYYY-MM-DD``.
        stats: Delta statistics, JSON.
    """

    path: str
    size: int
    day: str
    stats: str = "{}"


@dataclass
class TableState:
    """State of a table at ``version``, from its log.

    Attributes:
        sizes: Bytes by path of each active file.
        rows: Rows by path of each active file, where the log states them.
        transactions: Newest version by application, as far as it is known.
        reshaped: An entry changed the columns, so the table must be opened again.
    """

    version: int
    columns: pa.Schema
    sizes: dict[str, int]
    rows: dict[str, int] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    reshaped: bool = False

    def apply(self, entry: bytes) -> None:
        """Apply the next log entry."""
        for action in _actions(entry):
            if add := action.get("add"):
                path = unquote(add["path"])
                self.sizes[path] = add["size"]
                self.rows |= rows_of(path, add.get("stats"))
            elif remove := action.get("remove"):
                path = unquote(remove["path"])
                self.sizes.pop(path, None)
                self.rows.pop(path, None)
            elif txn := action.get("txn"):
                self.transactions[txn["appId"]] = txn["version"]
            elif "metaData" in action:
                self.reshaped = True
        self.version += 1


def rows_of(path: str, stats: str | None) -> dict[str, int]:
    """The path with its number of rows by Delta statistics; empty where they do not state it."""
    try:
        number = orjson.loads(stats or "{}").get("numRecords")
    except orjson.JSONDecodeError:
        return {}
    return {path: number} if isinstance(number, int) else {}


def actions_digest(
    version: int, adds: Iterable[LogFile], removes: Iterable[str], transactions: Mapping[str, int]
) -> str:
    """Digest of what the log entry of a version adds, removes and commits, in any order."""
    lines = [
        ["version", version],
        *(["add", f.path, f.size, f.day, f.stats] for f in adds),
        *(["remove", path] for path in removes),
        *(["txn", app, n] for app, n in transactions.items()),
    ]
    return hashlib.sha256(b"\n".join(sorted(orjson.dumps(line) for line in lines))).hexdigest()


def entry_problem(entry: bytes, version: int) -> str | None:
    """What is wrong with the log entry of a version, in words; None: nothing that shows."""
    if not entry.strip():
        return "is empty"
    try:
        actions = _actions(entry)
        info: dict[str, Any] = next((a["commitInfo"] for a in actions if "commitInfo" in a), {})
        stated = info.get(DIGEST)
        if stated is not None and stated != _digest_of(actions, version):
            return "was altered, or is of another version: its actions are not those of its digest"
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError):
        return "is torn or altered"
    return None


def compaction_inputs(entry: bytes) -> dict[str, list[str]]:
    """Files that each new file of a compaction replaced, in order; empty for any other entry."""
    for action in _actions(entry):
        found = action.get("commitInfo", {}).get(INPUTS)
        if isinstance(found, dict):
            return found
    return {}


def _digest_of(actions: Sequence[Mapping[str, Any]], version: int) -> str:
    adds = [
        LogFile(unquote(a["path"]), a["size"], a["partitionValues"][PARTITION_COLUMN], a["stats"])
        for a in (action["add"] for action in actions if "add" in action)
    ]
    removes = [unquote(a["remove"]["path"]) for a in actions if "remove" in a]
    return actions_digest(
        version, adds, removes, {a["txn"]["appId"]: a["txn"]["version"] for a in actions if "txn" in a}
    )


def _actions(entry: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in entry.splitlines() if line]

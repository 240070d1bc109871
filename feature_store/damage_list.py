"""The damage list: data files that were found missing or altered, kept on disk until they are whole again.

``_damaged/<table>/<path>.json``, one small file for each. Views leave these files out and name them. The
name alone is enough: where such an entry is itself unreadable, its file stays left out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from schemas.durable import DISK, is_temporary
from schemas.errors import DamagedLakeError
from schemas.instants import utc_now
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

FOLDER = "_damaged"
_SUFFIX = ".json"
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class DamagedFile:
    """A data file whose rows no query shows.

    Attributes:
        path: Relative to the table's folder.
        rows: Rows it held; None: not known.
        reason: What is wrong with it, in words.
        found: UTC.
    """

    table: str
    path: str
    rows: int | None
    reason: str
    found: datetime

    def line(self) -> str:
        """File, what is wrong and what it means, in one sentence."""
        rows = "an unknown number of rows" if self.rows is None else f"{self.rows} rows"
        return f"{self.table}/{self.path}: {self.reason}; {rows} are left out of every query"


class DamageList:
    """The damaged data files of one lake.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER

    def add(self, table: str, path: str, rows: int | None, reason: str) -> DamagedFile:
        """Put a file on the list, unless it is there; a reader without the right to write only returns it."""
        found = DamagedFile(table, path, rows, reason, utc_now())
        entry = {
            "table": table,
            "path": path,
            "rows": rows,
            "reason": reason,
            "found": found.found.isoformat(),
        }
        try:
            DISK.put_if_absent(self._entry(table, path), with_digest(orjson.dumps(entry)))
        except OSError as exc:
            log.warning("%s; this cannot be put on record: %s", found.line(), exc)
        return found

    def remove(self, table: str, path: str) -> None:
        """Take a file off the list: it is whole again."""
        self._entry(table, path).unlink(missing_ok=True)

    def all(self) -> list[DamagedFile]:
        """Every file on the list, by table and path."""
        if not self._root.is_dir():
            return []
        entries = sorted(p for p in self._root.rglob(f"*{_SUFFIX}") if not is_temporary(p))
        return [found for entry in entries if (found := self._read(entry)) is not None]

    def of_table(self, table: str) -> dict[str, DamagedFile]:
        """The table's damaged files by path."""
        return {d.path: d for d in self.all() if d.table == table}

    def _read(self, entry: Path) -> DamagedFile | None:
        table, _, path = entry.relative_to(self._root).as_posix().removesuffix(_SUFFIX).partition("/")
        try:
            raw = checked(entry.read_bytes(), str(entry))
            found = datetime.fromisoformat(raw["found"])
            return DamagedFile(table, path, raw["rows"], raw["reason"], found)
        except FileNotFoundError:
            return None  # taken off meanwhile
        except (DamagedLakeError, KeyError, ValueError, TypeError):
            return DamagedFile(table, path, None, "the file was found damaged", _LONG_AGO)

    def _entry(self, table: str, path: str) -> Path:
        return self._root / table / f"{path}{_SUFFIX}"


def by_table(damage: Iterable[DamagedFile]) -> dict[str, list[DamagedFile]]:
    """Damaged files by table, both in order."""
    found: dict[str, list[DamagedFile]] = {}
    for item in sorted(damage, key=lambda d: (d.table, d.path)):
        found.setdefault(item.table, []).append(item)
    return found

"""Labels on their way: numbered once, durably, before they are sent, so that a repeat is the same message."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from schemas.errors import OperatorError
from schemas.events import Label

_TABLES = """
CREATE TABLE IF NOT EXISTS outbox (spool_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS labels (
    msg_no INTEGER PRIMARY KEY, label_id TEXT NOT NULL UNIQUE, content TEXT NOT NULL, value BLOB NOT NULL,
    profile TEXT NOT NULL, sent INTEGER NOT NULL);
"""


_INSERT = """
INSERT INTO labels VALUES ((SELECT coalesce(max(msg_no), -1) + 1 FROM labels), ?, ?, ?, ?, 0)"""


class PendingLabel(NamedTuple):
    """A numbered label that the broker has not acknowledged.

    Attributes:
        value: Its JSON, as it is sealed.
    """

    msg_no: int
    profile: str
    value: bytes


class LabelOutbox:
    """SQLite file of one signer's labels. Several commands may use it at once.

    Args:
        path: The file, made where absent.

    Raises:
        OperatorError: It is there and is no such file.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
            try:
                self.spool_id = self._prepared()
            except BaseException:
                self._db.close()
                raise
        except sqlite3.DatabaseError as exc:
            raise OperatorError(f"label outbox {path} cannot be used: {exc}; move it aside") from exc

    def _prepared(self) -> str:
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("SELECT spool_id FROM outbox").fetchone()
        spool_id: str = found[0] if found else secrets.token_hex(8)
        if not found:
            self._db.execute("INSERT INTO outbox VALUES (?)", [spool_id])
        self._db.execute("COMMIT")
        return spool_id

    def take(self, labels: Iterable[tuple[Label, str]]) -> dict[str, str]:
        """Number what is new, all or nothing.

        Args:
            labels: With the profile of the labelled device.

        Returns:
            By label id: ``new``, ``known`` (said before, word for word) or ``conflict`` (said before with
            other words: it needs an id of its own that supersedes the old one).
        """
        told: dict[str, str] = {}
        self._db.execute("BEGIN IMMEDIATE")
        for label, profile in labels:
            content = label.model_dump_json(exclude={"known_at"})
            known = self._db.execute(
                "SELECT content FROM labels WHERE label_id = ?", [label.label_id]
            ).fetchone()
            if known is None:
                self._db.execute(
                    _INSERT, [label.label_id, content, label.model_dump_json().encode(), profile]
                )
            told[label.label_id] = "new" if known is None else "known" if known[0] == content else "conflict"
        self._db.execute("COMMIT")
        return told

    def waiting(self) -> list[PendingLabel]:
        """Labels without an acknowledgement, in order."""
        rows = self._db.execute("SELECT msg_no, profile, value FROM labels WHERE NOT sent ORDER BY msg_no")
        return [PendingLabel(*row) for row in rows]

    def acknowledged(self, sent: Iterable[PendingLabel]) -> None:
        """Note that the broker has them."""
        self._db.executemany("UPDATE labels SET sent = 1 WHERE msg_no = ?", [(w.msg_no,) for w in sent])

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def open_outbox(path: Path) -> closing[LabelOutbox]:
    """The outbox, closed at the end of a ``with``."""
    return closing(LabelOutbox(path))

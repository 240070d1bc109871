"""The outbox of labels: each is numbered durably before it is sent, so that a repeat is the same message."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from schemas.durable import DISK
from schemas.errors import DamagedLakeError, OperatorError
from schemas.events import Label
from schemas.self_digest import checked, with_digest

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
        path: The file; it is made if it is absent.

    Raises:
        OperatorError: The file exists but is not an outbox.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lost = not path.exists() or path.stat().st_size == 0
        if lost and _witness(path).exists():
            raise OperatorError(
                f"label outbox {path} is lost, and labels that were not sent with it: remove "
                f"{_witness(path).name}, then give the labels that did not land again"
            )
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
        if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()) != ("ok",):
            raise sqlite3.DatabaseError(found[0])
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN IMMEDIATE")
        found = self._db.execute("SELECT spool_id FROM outbox").fetchone()
        spool_id: str = found[0] if found else secrets.token_hex(8)
        if not found:
            self._db.execute("INSERT INTO outbox VALUES (?)", [spool_id])
        self._db.execute("COMMIT")
        self._require_newest(spool_id)
        return spool_id

    def _newest(self) -> int:
        return int(self._db.execute("SELECT coalesce(max(msg_no), -1) FROM labels").fetchone()[0])

    def _require_newest(self, spool_id: str) -> None:
        """Return unless the file is of an earlier moment: it would number other labels as before."""
        data = DISK.read(_witness(self._path))
        try:
            known = {} if data is None else checked(data, "")
        except DamagedLakeError:
            return
        if known.get("spool_id") == spool_id and self._newest() < known.get("msg_no", -1):
            raise sqlite3.DatabaseError("it is of an earlier moment")

    def take(self, labels: Iterable[tuple[Label, str]]) -> dict[str, str]:
        """Number the labels that are new, all or none.

        Args:
            labels: Each with the profile of its device.

        Returns:
            By label id: ``new``, ``known`` (the same content is here already) or ``conflict`` (the id is here
            with other content: the label needs an id of its own that supersedes the old one).
        """
        outcome: dict[str, str] = {}
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
            outcome[label.label_id] = (
                "new" if known is None else "known" if known[0] == content else "conflict"
            )
        self._db.execute("COMMIT")
        newest = {"format": 1, "spool_id": self.spool_id, "msg_no": self._newest()}
        DISK.write(_witness(self._path), with_digest(orjson.dumps(newest)))
        return outcome

    def pending(self) -> list[PendingLabel]:
        """Labels that the broker has not acknowledged, in order of their numbers.

        Raises:
            OperatorError: One is damaged.
        """
        query = "SELECT msg_no, profile, value, content FROM labels WHERE NOT sent ORDER BY msg_no"
        waiting = []
        for *row, content in self._db.execute(query):
            label = PendingLabel(*row)
            if not _agree(label.value, content):
                raise OperatorError(
                    f"label outbox {self._path} is damaged: number {label.msg_no} is not what was given; "
                    "nothing is sent; move the file aside, and give the labels that did not land again"
                )
            waiting.append(label)
        return waiting

    def mark_sent(self, sent: Iterable[PendingLabel]) -> None:
        """Record that the broker acknowledged these labels."""
        self._db.executemany(
            "UPDATE labels SET sent = 1 WHERE msg_no = ?", [(label.msg_no,) for label in sent]
        )

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _witness(path: Path) -> Path:
    """File of the newest number that the outbox gave."""
    return path.with_name(f"{path.name}.newest")


def _agree(value: bytes, content: str) -> bool:
    """Whether the bytes that are sealed are the label that was given: both are on disk."""
    try:
        return Label.model_validate_json(value).model_dump_json(exclude={"known_at"}) == content
    except ValidationError:
        return False


def open_outbox(path: Path) -> closing[LabelOutbox]:
    """The outbox, closed at the end of a ``with``."""
    return closing(LabelOutbox(path))

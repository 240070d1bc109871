"""Sealed messages in the spool: numbered without gaps, unchanged until they are acknowledged or refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from edge_producer.spool.spool_books import SpoolBooks
from schemas.envelope import SealedMessage
from schemas.topics import Lane


class StoredMessage(NamedTuple):
    """A reference to a sealed message in the spool."""

    id: int
    lane: Lane
    device: int


class SpoolMessages:
    """Sealed messages of all devices. Every change happens inside the spool's transaction.

    Attributes:
        bytes: Size of all messages.
    """

    def __init__(self, connection: sqlite3.Connection, books: SpoolBooks, names: Mapping[int, str]) -> None:
        self._connection = connection
        self._books = books
        self._names = names
        (size,) = connection.execute("SELECT coalesce(sum(size), 0) FROM messages").fetchone()
        self.bytes = int(size)

    def next_no(self, device: int, lane: Lane) -> int:
        """Take the next number of a lane; the message must be stored in the same transaction."""
        (following,) = self._connection.execute(
            "INSERT INTO lanes VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET next_no = next_no + 1"
            " RETURNING next_no",
            (device, lane.value),
        ).fetchone()
        return int(following) - 1

    def store(
        self, device: int, lane: Lane, msg_no: int, message: SealedMessage, books: Mapping[int, int]
    ) -> StoredMessage:
        """Store a sealed message.

        Args:
            device: Number of the device that sealed it.
            lane: Lane of ``msg_no``.
            msg_no: From ``next_no``.
            message: The message, to be sent and resent as it is.
            books: Number of telemetry rows inside, by id of the line of the books that counts them.
        """
        headers = json.dumps([[name, value.hex()] for name, value in message.headers])
        lines, n_rows = json.dumps(list(books.items())), sum(books.values())
        cursor = self._connection.execute(
            "INSERT INTO messages (device, lane, msg_no, topic, headers, value, size, n_rows, books)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (device, lane.value, msg_no, message.topic, headers, message.value, message.size, n_rows, lines),
        )
        self.bytes += message.size
        return StoredMessage(int(cursor.lastrowid or 0), lane, device)

    def read(self, id_: int) -> SealedMessage:
        """A stored message, byte for byte as it was sealed."""
        device, topic, headers, value = self._connection.execute(
            "SELECT device, topic, headers, value FROM messages WHERE id = ?", (id_,)
        ).fetchone()
        pairs = [(name, bytes.fromhex(text)) for name, text in json.loads(headers)]
        return SealedMessage(topic, self._names[device].encode(), pairs, value)

    def stored(self) -> list[StoredMessage]:
        """All messages that are not settled, in the order in which they were sealed."""
        found = self._connection.execute("SELECT id, lane, device FROM messages ORDER BY id")
        return [StoredMessage(id_, Lane(lane), device) for id_, lane, device in found]

    def settle(self, ids: Iterable[int], outcome: Literal["acked", "refused"], now_s: float) -> None:
        """Delete messages that got their final answer, and count their rows in the books.

        An unknown id was settled before: a resent message was acknowledged twice.
        """
        for id_ in ids:
            row = self._connection.execute(
                "DELETE FROM messages WHERE id = ? RETURNING size, books, lane", (id_,)
            ).fetchone()
            if row is None:
                continue
            size, lines, lane = row
            self.bytes -= size
            for book, n in json.loads(lines):
                self._books.settle(book, n, outcome, now_s)
            if lane == Lane.BOOKS:
                self._books.acknowledged(id_)

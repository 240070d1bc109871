"""Sealed messages in the spool: numbered without gaps, unchanged until they are acknowledged or refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Literal, NamedTuple

from edge_producer.spool.spool_books import SpoolBooks
from edge_producer.spool.spool_tallies import total
from schemas.envelope import Headers, SealedMessage
from schemas.topics import Lane


class StoredMessage(NamedTuple):
    """A reference to a sealed message in the spool.

    Attributes:
        may_have_landed: An attempt to send it may have reached the broker.
        blocked: Why the broker does not take it; empty where nothing is known against it.
    """

    id: int
    lane: Lane
    device: int
    may_have_landed: bool = True
    blocked: str = ""


class BlockedCount(NamedTuple):
    """What is blocked, in all."""

    messages: int = 0
    rows: int = 0
    bytes: int = 0
    reason: str = ""


class SpoolMessages:
    """Sealed messages of all devices. Every change happens inside the spool's transaction.

    Attributes:
        bytes: Size of all messages.
    """

    def __init__(self, connection: sqlite3.Connection, books: SpoolBooks, names: Mapping[int, str]) -> None:
        self._connection = connection
        self._books = books
        self._names = names
        self.bytes = 0
        self.measure()

    def measure(self) -> None:
        """Set ``bytes`` to what the file's sums say."""
        self.bytes = total(self._connection, "message_bytes")

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
        headers = _text_of(message.headers)
        lines, n_rows = json.dumps(list(books.items())), sum(books.values())
        cursor = self._connection.execute(
            "INSERT INTO messages (device, lane, msg_no, topic, headers, value, size, n_rows, books)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (device, lane.value, msg_no, message.topic, headers, message.value, message.size, n_rows, lines),
        )
        self.bytes += message.size
        return StoredMessage(int(cursor.lastrowid or 0), lane, device, may_have_landed=False)

    def sign_anew(self, id_: int, headers: Headers, more_bytes: int) -> None:
        """Give a message that was stored in this transaction its final headers.

        Args:
            id_: Its id.
            headers: All of them.
            more_bytes: By how much they are longer than those before.
        """
        self._connection.execute(
            "UPDATE messages SET headers = ?, size = size + ? WHERE id = ?",
            (_text_of(headers), more_bytes, id_),
        )
        self.bytes += more_bytes

    def take_over(
        self, device: int, lane: Lane, message: SealedMessage, books: Mapping[int, int]
    ) -> StoredMessage:
        """Store a message that another spool sealed. Its number is in its headers; here it gets none.

        Args:
            device: Number of the device that sealed it.
            lane: Its lane.
            message: The message, as it was sealed.
            books: As for ``store``; line 0 stands for the device's totals.
        """
        (lowest,) = self._connection.execute(
            "SELECT min(msg_no) FROM messages WHERE device = ? AND lane = ?", (device, lane.value)
        ).fetchone()
        return self.store(device, lane, min(lowest or 0, 0) - 1, message, books)

    def holds(self, device: int, lane: Lane, headers: str) -> bool:
        """Whether a message with these headers, signature included, is stored."""
        query = "SELECT EXISTS (SELECT 1 FROM messages WHERE device = ? AND lane = ? AND headers = ?)"
        return bool(self._connection.execute(query, (device, lane.value, headers)).fetchone()[0])

    def read(self, id_: int) -> SealedMessage | None:
        """A stored message, byte for byte as it was sealed; None where it is damaged, or gone."""
        row = self._connection.execute(
            "SELECT device, topic, headers, value FROM messages WHERE id = ?", (id_,)
        ).fetchone()
        if row is None:
            return None
        device, topic, headers, value = row
        try:
            pairs = [(name, bytes.fromhex(text)) for name, text in json.loads(headers)]
            if sha256(value).digest() != dict(pairs)["digest"]:
                return None
        except (ValueError, TypeError, KeyError):
            return None
        return SealedMessage(topic, self._names[device].encode(), pairs, value)

    def books(self, id_: int) -> dict[int, int]:
        """Number of rows inside a message, by id of the line of the books that counts them."""
        (lines,) = self._connection.execute("SELECT books FROM messages WHERE id = ?", (id_,)).fetchone()
        return dict(json.loads(lines))

    def stored(self) -> list[StoredMessage]:
        """All messages that are not settled, in the order in which they were sealed."""
        found = self._connection.execute(
            "SELECT id, lane, device, attempt, coalesce(blocked, '') FROM messages ORDER BY id"
        )
        return [
            StoredMessage(id_, Lane(lane), device, bool(attempt), blocked)
            for id_, lane, device, attempt, blocked in found
        ]

    def note(self, id_: int, *, may_have_landed: bool, blocked: str) -> None:
        """Remember what is known of attempts to send a message, and why it is blocked; empty: it is not."""
        self._connection.execute(
            "UPDATE messages SET attempt = ?, blocked = ? WHERE id = ?",
            (int(may_have_landed), blocked or None, id_),
        )

    def blocked(self) -> BlockedCount:
        """What the broker does not take as it is, and the newest reason."""
        n, rows, size, reason = self._connection.execute(
            "SELECT count(*), coalesce(sum(n_rows), 0), coalesce(sum(size), 0), max(blocked)"
            " FROM messages WHERE blocked IS NOT NULL"
        ).fetchone()
        return BlockedCount(int(n), int(rows), int(size), str(reason or ""))

    def remove(self, id_: int) -> None:
        """Remove a message whose rows others hold, which are stored in the same transaction."""
        (size,) = self._connection.execute(
            "DELETE FROM messages WHERE id = ? RETURNING size", (id_,)
        ).fetchone()
        self.bytes -= size

    def of_lane(self, lane: Lane) -> list[tuple[int, bytes]]:
        """Ids and values of the messages of a lane that are not settled."""
        query = "SELECT id, value FROM messages WHERE lane = ? ORDER BY id"
        return [(int(id_), bytes(value)) for id_, value in self._connection.execute(query, (lane.value,))]

    def overwrite_deleted(self) -> None:
        """Have what is deleted from here on overwritten in the file."""
        self._connection.execute("PRAGMA secure_delete = ON")

    def empty_log(self) -> None:
        """Copy the write-ahead log into the file and cut it: it holds what was deleted. In no transaction."""
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def withdraw(self, ids: Iterable[int]) -> dict[int, list[int]]:
        """Delete messages that may not leave any more. Their numbers stay used.

        Returns:
            The numbers, by number of the producer; without those that another spool gave.
        """
        gone: dict[int, list[int]] = {}
        for id_ in ids:
            query = "SELECT device, msg_no FROM messages WHERE id = ?"
            producer, number = self._connection.execute(query, (id_,)).fetchone()
            self.remove(id_)
            if number >= 0:
                gone.setdefault(int(producer), []).append(int(number))
        return gone

    def give_up(self, id_: int, now_s: float) -> None:
        """Remove a message that is damaged, and count its rows as lost."""
        row = self._connection.execute(
            "DELETE FROM messages WHERE id = ? RETURNING size, books, device", (id_,)
        ).fetchone()
        if row is None:
            return
        size, lines, device = row
        self.bytes -= size
        for book, n in json.loads(lines):
            if book:
                self._books.lose(book, n, now_s)
            else:
                self._books.settle_total(device, n, "evicted")
        self._books.unstate(id_)

    def settle(self, ids: Iterable[int], outcome: Literal["acked", "refused"], now_s: float) -> None:
        """Delete messages that got their final answer, and count their rows in the books.

        An unknown id was settled before: a resent message was acknowledged twice.
        """
        for id_ in ids:
            row = self._connection.execute(
                "DELETE FROM messages WHERE id = ? RETURNING size, books, lane, device", (id_,)
            ).fetchone()
            if row is None:
                continue
            size, lines, lane, device = row
            self.bytes -= size
            for book, n in json.loads(lines):
                if book:
                    self._books.settle(book, n, outcome, now_s)
                else:
                    self._books.settle_total(device, n, outcome)
            if lane == Lane.BOOKS:
                self._books.acknowledged(id_)


def _text_of(headers: Headers) -> str:
    return json.dumps([[name, value.hex()] for name, value in headers])

"""Seals what waits in the spool into messages, each row at most once.

Called inside the spool's transaction, so that rows leave the spool and the message with them enters it
together. A message is cut so that its topic takes it, headers, key and the broker's own framing counted. What
cannot be cut any smaller is sealed all the same: it waits, blocked, until the topic takes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edge_producer.books import BookKey, books_batch
from edge_producer.sending.topic_limits import wire_size
from edge_producer.sensed_rows import StoredRow, wire_batch
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_books import DueLine
from edge_producer.spool.spool_messages import StoredMessage
from schemas.columns import RowLayout
from schemas.envelope import (
    Envelope,
    MessageSigner,
    blank_message,
    encode_rows,
    read_envelope,
    seal,
    unpack,
)
from schemas.packed_rows import read_rows
from schemas.packed_schemas import PACKED_BOOKS_LAYOUT, packed_summary_layout
from schemas.profile import Profile
from schemas.row_batch import RowBatch
from schemas.row_schemas import (
    SUMMARY_LAYOUT,
    stratum_of,
    telemetry_layout,
    telemetry_layout_of_wire_1,
)
from schemas.topics import (
    ALERT,
    BOOKS,
    DEVICE_STATE,
    MAX_MESSAGE_BYTES,
    SUMMARY,
    TELEMETRY,
    Lane,
    Topic,
)

JSON_SCHEMA = "json"
SUMMARIES_PER_MESSAGE = 64
_LARGEST = 10**9
"""Number that the room for headers is counted with."""
_LENGTHS = 8
"""Bytes by which the lengths of value and record may be longer than those of an empty message."""


@dataclass(frozen=True)
class _Payload:
    topic: Topic
    lane: Lane
    schema: str
    value: bytes
    n_rows: int
    raw_bytes: int


class Sealer:
    """Seals with each device's own key.

    Args:
        spool: Rows and summaries are taken out of it, messages are stored in it.
        signers: Key of each device that has one, by device id.
        profile: Profile of the devices.
        limit: Returns the largest message of a topic, as the broker counts it, by the topic's base name.

    Attributes:
        profile: As given.
    """

    def __init__(
        self,
        spool: Spool,
        signers: Mapping[str, MessageSigner],
        profile: Profile,
        limit: Callable[[str], int] = lambda _: MAX_MESSAGE_BYTES,
    ) -> None:
        self._spool = spool
        self._signers = signers
        self.profile = self._profile = profile
        self._wire = telemetry_layout(profile)
        self._wires = {
            TELEMETRY.base: _by_fingerprint(self._wire, telemetry_layout_of_wire_1(profile)),
            SUMMARY.base: _by_fingerprint(packed_summary_layout(profile), SUMMARY_LAYOUT),
        }
        self._limit = limit
        self._period_us = round(profile.summaries.period_s * 1e6)
        self._around: dict[tuple[int, Lane, str], int] = {}

    def can_seal(self, device: int) -> bool:
        """Whether the device's key is there."""
        return self._spool.names[device] in self._signers

    def alert(self, device: int, event: bytes) -> StoredMessage:
        """Seal the JSON of an urgent decision."""
        return self._store(device, _Payload(ALERT, Lane.ALERT, JSON_SCHEMA, event, 1, len(event)))

    def device_state(self, device: int, event: bytes) -> StoredMessage:
        """Seal the JSON of a device-state event."""
        return self._store(device, _Payload(DEVICE_STATE, Lane.STATE, JSON_SCHEMA, event, 1, len(event)))

    def rows(self, device: int, lane: Lane, rows: Sequence[StoredRow]) -> list[StoredMessage]:
        """Seal telemetry rows, in several messages if need be."""
        if not rows:
            return []
        batch = wire_batch(self._spool.names[device], rows, self._wire)
        books = [row.book for row in rows]
        self._spool.rows.remove(rows)
        return self._telemetry(device, lane, batch, books)

    def _telemetry(
        self, device: int, lane: Lane, batch: RowBatch, books: Sequence[int]
    ) -> list[StoredMessage]:
        """Seal rows as they go to the broker.

        Args:
            device: Number of the device.
            lane: Lane of the messages.
            batch: The rows.
            books: Id of the line of the books that counts each.
        """
        schema, stored, start = self._wire.fingerprint, [], 0
        for value, n_rows, raw in self._cut(device, TELEMETRY.base, lane, schema, batch):
            payload = _Payload(TELEMETRY, lane, schema, value, n_rows, raw)
            stored.append(self._store(device, payload, Counter(books[start : start + n_rows])))
            start += n_rows
        return stored

    def summaries(self, producer: int, devices: Sequence[int] | None = None) -> list[StoredMessage]:
        """Seal some closed summaries together, in several messages if need be.

        Args:
            producer: Number of the device that seals.
            devices: Numbers of those that it speaks for; None: itself alone.
        """
        found = [self._spool.summaries(device, SUMMARIES_PER_MESSAGE) for device in devices or (producer,)]
        waiting = [one for of_device in found for one in of_device]
        if not waiting:
            return []
        self._spool.remove_summaries(waiting)
        batches = [summary.batch(self._spool.layout) for _, summary in waiting]
        return self._summary_rows(producer, RowBatch.concat(batches))

    def _summary_rows(self, device: int, batch: RowBatch) -> list[StoredMessage]:
        schema = batch.layout.fingerprint
        return [
            self._store(device, _Payload(SUMMARY, Lane.SUMMARY, schema, value, n_rows, raw))
            for value, n_rows, raw in self._cut(device, SUMMARY.base, Lane.SUMMARY, schema, batch)
        ]

    def books(self, device: int, lines: Sequence[DueLine], now_s: float) -> list[StoredMessage]:
        """Seal statements on lines of books, which may be of several devices that this one speaks for.

        A line that is too large loses its moments.
        """
        names = [self._spool.names[due.device] for due in lines]
        value, raw_bytes = encode_rows(books_batch(names, [due.line for due in lines]))
        schema = PACKED_BOOKS_LAYOUT.fingerprint
        if len(value) > self._room(device, BOOKS.base, Lane.BOOKS, schema):
            if len(lines) > 1:
                half = len(lines) // 2
                return self.books(device, lines[:half], now_s) + self.books(device, lines[half:], now_s)
            if lines[0].line.moments is not None:
                self._spool.count({"moments_dropped": 1})
                bare = lines[0]._replace(line=lines[0].line._replace(moments=None))
                return self.books(device, [bare], now_s)
        payload = _Payload(BOOKS, Lane.BOOKS, schema, value, len(lines), raw_bytes)
        stored = self._store(device, payload)
        self._spool.books.stated(lines, stored.id, now_s)
        return [stored]

    def reseal(self, id_: int) -> list[StoredMessage] | None:
        """Seal what a message holds anew, in smaller ones under new numbers; None where that cannot be.

        Only for a message that cannot be in the broker's log: else its rows would be there twice.
        """
        found = self._spool.messages.read(id_)
        if found is None or found.topic not in (TELEMETRY.base, SUMMARY.base, BOOKS.base):
            return None
        envelope, _ = read_envelope(found.key, found.headers)
        device = self._spool.devices[envelope.producer]
        if found.topic == BOOKS.base:
            return self._restate(id_, envelope)
        layout = self._wires[found.topic].get(envelope.schema)
        if layout is None or envelope.n_rows < 2:
            return None
        batch = read_rows(unpack(found.value, envelope.raw_bytes), layout)
        lines = self._lines(id_, device, batch) if found.topic == TELEMETRY.base else []
        if lines is None or not self._divides(device, envelope, found.topic, batch):
            return None
        self._spool.messages.remove(id_)
        self._spool.count({"messages_resealed": 1})
        if found.topic == TELEMETRY.base:
            return self._telemetry(device, envelope.lane, batch, lines)
        return self._summary_rows(device, batch)

    def _restate(self, id_: int, envelope: Envelope) -> list[StoredMessage] | None:
        """Have the lines of a message on the books stated anew, with what they count by then."""
        if envelope.n_rows < 2 and not self._spool.books.has_moments(id_):
            return None
        self._spool.books.unstate(id_)
        self._spool.messages.remove(id_)
        self._spool.count({"messages_resealed": 1})
        return []

    def _divides(self, device: int, envelope: Envelope, topic: str, batch: RowBatch) -> bool:
        """Whether messages with one row each would fit."""
        room = self._room(device, topic, envelope.lane, envelope.schema)
        return all(len(encode_rows(batch.slice(n, 1))[0]) <= room for n in range(batch.num_rows))

    def _lines(self, id_: int, device: int, batch: RowBatch) -> list[int] | None:
        """Line of the books of each row of a message; None where it cannot be told."""
        counted = self._spool.messages.books(id_)
        if len(counted) == 1:
            return list(counted) * batch.num_rows
        by_key = self._spool.books.ids(device, counted)
        lines = []
        for row in batch.to_pylist():
            period_us = row["event_time"] - row["event_time"] % self._period_us
            stratum = stratum_of(row["reasons"]).value
            lines.append(by_key.get(BookKey(row["boot_id"], period_us, row["model_version"], stratum)))
        known = [line for line in lines if line is not None]
        return known if Counter(known) == Counter(counted) else None

    def _cut(
        self, device: int, topic: str, lane: Lane, schema: str, batch: RowBatch
    ) -> Iterator[tuple[bytes, int, int]]:
        """The batch as values that fit, in order, each with its number of rows and its raw size.

        A single row that does not fit comes as it is.
        """
        value, raw_bytes = encode_rows(batch)
        if len(value) <= self._room(device, topic, lane, schema) or batch.num_rows == 1:
            yield value, batch.num_rows, raw_bytes
            return
        half = batch.num_rows // 2
        for part in (batch.slice(0, half), batch.slice(half)):
            yield from self._cut(device, topic, lane, schema, part)

    def _room(self, device: int, topic: str, lane: Lane, schema: str) -> int:
        """Bytes that a value may have."""
        around = self._around.get((device, lane, schema))
        if around is None:
            envelope = self._envelope(device, lane, schema, _LARGEST, _LARGEST, _LARGEST)
            around = wire_size(blank_message(topic, envelope)) + _LENGTHS
            self._around[device, lane, schema] = around
        return self._limit(topic) - around

    def _store(self, device: int, payload: _Payload, books: Mapping[int, int] | None = None) -> StoredMessage:
        number, lane = self._spool.messages.next_no(device, payload.lane), payload.lane
        envelope = self._envelope(device, lane, payload.schema, number, payload.n_rows, payload.raw_bytes)
        signer = self._signers[self._spool.names[device]]
        message = seal(payload.topic.base, envelope, payload.value, signer)
        return self._spool.messages.store(device, payload.lane, number, message, books or {})

    def _envelope(
        self, device: int, lane: Lane, schema: str, number: int, n_rows: int, raw_bytes: int
    ) -> Envelope:
        return Envelope(
            schema=schema,
            profile=self._profile.name,
            producer=self._spool.names[device],
            spool_id=self._spool.spool_id,
            lane=lane,
            msg_no=number,
            n_rows=n_rows,
            raw_bytes=raw_bytes,
            digest=b"",
            signer="",
        )


def _by_fingerprint(*layouts: RowLayout) -> dict[str, RowLayout]:
    """Layouts that a profile's rows have or had, by what their messages were sealed with."""
    return {layout.fingerprint: layout for layout in layouts}

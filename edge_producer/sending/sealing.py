"""Seals what waits in the spool into messages, each row at most once.

Called inside the spool's transaction, so that rows leave the spool and the message with them enters it
together. A message is limited to ``MAX_MESSAGE_BYTES``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from edge_producer.books import books_batch
from edge_producer.device_identity import DeviceIdentity
from edge_producer.sensed_rows import StoredRow, wire_batch
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_books import DueLine
from edge_producer.spool.spool_messages import StoredMessage
from schemas.envelope import Envelope, encode_rows, seal
from schemas.profile import Profile
from schemas.row_schemas import BOOKS_ROWS, SUMMARY_ROWS, fingerprint, telemetry_rows
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
HEADROOM_BYTES = 4096
"""Bytes of a message that are kept free for key and headers."""
SUMMARIES_PER_MESSAGE = 64


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
        identities: Identity of each device, by device id.
        profile: Profile of the devices.
        max_message_bytes: Largest message, headers included.
    """

    def __init__(
        self,
        spool: Spool,
        identities: Mapping[str, DeviceIdentity],
        profile: Profile,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._spool = spool
        self._signers = {spool.devices[name]: identity.signer for name, identity in identities.items()}
        self._profile = profile
        self._wire = telemetry_rows(profile)
        self._max_value = max_message_bytes - HEADROOM_BYTES

    def alert(self, device: int, event: bytes) -> StoredMessage:
        """Seal the JSON of an urgent decision."""
        return self._store(device, _Payload(ALERT, Lane.ALERT, JSON_SCHEMA, event, 1, len(event)))

    def device_state(self, device: int, event: bytes) -> StoredMessage:
        """Seal the JSON of a device-state event."""
        return self._store(device, _Payload(DEVICE_STATE, Lane.STATE, JSON_SCHEMA, event, 1, len(event)))

    def rows(self, device: int, lane: Lane, rows: Sequence[StoredRow], now_s: float) -> list[StoredMessage]:
        """Seal telemetry rows, in several messages if need be; refuse a row that is too large for any."""
        if not rows:
            return []
        value, raw_bytes = encode_rows(wire_batch(self._spool.names[device], rows, self._wire))
        if len(value) > self._max_value:
            if len(rows) == 1:
                self._spool.rows.refuse(rows, now_s)
                return []
            half = len(rows) // 2
            return self.rows(device, lane, rows[:half], now_s) + self.rows(device, lane, rows[half:], now_s)
        self._spool.rows.remove(rows)
        payload = _Payload(TELEMETRY, lane, fingerprint(self._wire), value, len(rows), raw_bytes)
        return [self._store(device, payload, Counter(row.book for row in rows))]

    def summaries(self, device: int) -> list[StoredMessage]:
        """Seal the device's closed summaries, as many as fit into one message."""
        waiting = self._spool.summaries(device, SUMMARIES_PER_MESSAGE)
        while waiting:
            batch = _concat([summary.batch() for _, summary in waiting])
            value, raw_bytes = encode_rows(batch)
            if len(value) <= self._max_value:
                self._spool.remove_summaries(waiting)
                schema = fingerprint(SUMMARY_ROWS)
                payload = _Payload(SUMMARY, Lane.SUMMARY, schema, value, batch.num_rows, raw_bytes)
                return [self._store(device, payload)]
            if len(waiting) == 1:
                self._spool.remove_summaries(waiting)
                self._spool.count({"summaries_refused": 1})
            waiting = waiting[: len(waiting) // 2]
        return []

    def books(self, device: int, lines: Sequence[DueLine], now_s: float) -> list[StoredMessage]:
        """Seal statements on lines of the device's books."""
        batch = books_batch(
            self._spool.names[device], [due.line for due in lines], self._profile.summaries.period_s
        )
        value, raw_bytes = encode_rows(batch)
        if len(value) > self._max_value and len(lines) > 1:
            half = len(lines) // 2
            return self.books(device, lines[:half], now_s) + self.books(device, lines[half:], now_s)
        payload = _Payload(BOOKS, Lane.BOOKS, fingerprint(BOOKS_ROWS), value, len(lines), raw_bytes)
        stored = self._store(device, payload)
        self._spool.books.stated(lines, stored.id, now_s)
        return [stored]

    def _store(self, device: int, payload: _Payload, books: Mapping[int, int] | None = None) -> StoredMessage:
        number = self._spool.messages.next_no(device, payload.lane)
        envelope = Envelope(
            schema=payload.schema,
            profile=self._profile.name,
            producer=self._spool.names[device],
            spool_id=self._spool.spool_id,
            lane=payload.lane,
            msg_no=number,
            n_rows=payload.n_rows,
            raw_bytes=payload.raw_bytes,
            digest=b"",
            signer="",
        )
        message = seal(payload.topic.base, envelope, payload.value, self._signers[device])
        return self._spool.messages.store(device, payload.lane, number, message, books or {})


def _concat(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]

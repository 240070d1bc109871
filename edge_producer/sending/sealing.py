"""Seals what waits in the spool into messages, each row at most once.

Called inside the spool's transaction, so that rows leave the spool and the message with them enters it
together. A message is cut so that its topic takes it, headers, key and the broker's own framing counted. What
cannot be cut any smaller is sealed all the same: it waits, blocked, until the topic takes it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from edge_producer.books import BookKey, books_batch
from edge_producer.sending.sealed_payload import Payload, state_payloads
from edge_producer.sending.topic_limits import wire_size
from edge_producer.sensed_rows import StoredRow, wire_batch
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_books import DueLine
from edge_producer.spool.spool_messages import StoredMessage
from schemas.boot_ids import boot_tag, gateway_tag
from schemas.columns import RowLayout
from schemas.envelope import (
    Envelope,
    MessageSigner,
    SealedMessage,
    blank_message,
    encode_rows,
    read_envelope,
    seal,
)
from schemas.events import JSON_LINES_SCHEMA, JSON_SCHEMA, decode_events
from schemas.lz4_block import unpack
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
from schemas.sealed_together import signed_as_a_turn
from schemas.topics import (
    ALERT,
    BOOKS,
    DEVICE_STATE,
    EXCERPT,
    MAX_MESSAGE_BYTES,
    SUMMARY,
    TELEMETRY,
    Lane,
)
from schemas.version_names import VersionHeader

SUMMARIES_PER_MESSAGE = 64
LARGEST_PATH_BYTES = 150
"""Bytes on the wire of the longest header ``path``."""
_LARGEST = 10**9
"""Number that the room for headers is counted with."""
_LENGTHS = 8
"""Bytes by which the lengths of value and record may be longer than those of an empty message."""


class _Share(NamedTuple):
    """What goes into one message: number of who sends it, and the version that its rows name."""

    producer: int
    version: VersionHeader | None = None


class Sealer:
    """Seals with the key of whom each boot belongs to: the gateway that made its id, or the device itself.

    So a spool from before there was a gateway goes on: what its devices sensed then, they seal themselves.

    Args:
        spool: Rows and summaries are taken out of it, messages are stored in it.
        signers: Key of each producer that has one, by id.
        profile: Profile of the devices.
        limit: Returns the largest message of a topic, as the broker counts it, by the topic's base name.
        gateway: Id of the gateway that sends for the devices; empty: there is none.

    Attributes:
        profile: As given.
    """

    def __init__(
        self,
        spool: Spool,
        signers: Mapping[str, MessageSigner],
        profile: Profile,
        limit: Callable[[str], int] = lambda _: MAX_MESSAGE_BYTES,
        gateway: str = "",
    ) -> None:
        self._spool = spool
        self._gateway = spool.devices[gateway] if gateway else None
        self._tag = gateway_tag(gateway) if gateway else None
        self._signers = signers
        self.profile = self._profile = profile
        self._wire = telemetry_layout(profile)
        self._wires = {
            TELEMETRY.base: _by_fingerprint(self._wire, telemetry_layout_of_wire_1(profile)),
            SUMMARY.base: _by_fingerprint(packed_summary_layout(profile), SUMMARY_LAYOUT),
        }
        self._limit = limit
        self._period_us = round(profile.summaries.period_s * 1e6)
        self._around: dict[tuple[int, VersionHeader | None, Lane, str], int] = {}
        self._turn: dict[int, dict[int, SealedMessage]] | None = None  # without values, by producer and id

    def can_seal(self, device: int) -> bool:
        """Whether there is the key of who sends what the device does now."""
        return self._spool.names[self._sender_of(device)] in self._signers

    def together(self, devices: Sequence[int]) -> list[list[int]]:
        """The devices in groups whose rows share messages: all behind a gateway, else each by itself."""
        if self._gateway is not None:
            return [list(devices)] if devices else []
        return [[device] for device in devices]

    def _sender_of(self, device: int) -> int:
        """Number of the producer that sends what the device does now."""
        return device if self._gateway is None else self._gateway

    def _producer_of(self, device: int, boot_id: int) -> int:
        """Number of the producer to which the boot belongs."""
        tag = boot_tag(boot_id) if self._gateway is not None else None
        return device if tag is None or tag != self._tag else self._sender_of(device)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Within it, what each producer seals gets one signature at the end, where that is much.

        Ends inside the transaction that it began in. Alerts stay as they are: the cloud of an earlier release
        reads them, too.
        """
        self._turn = defaultdict(dict)
        try:
            yield
            for producer, sealed in self._turn.items():
                signed = signed_as_a_turn(list(sealed.values()), self._signers[self._spool.names[producer]])
                for (id_, alone), one in zip(sealed.items(), signed, strict=True):
                    if one is not alone:
                        self._spool.messages.sign_anew(id_, one.headers, one.size - alone.size)
        finally:
            self._turn = None

    def alert(self, device: int, event: bytes) -> StoredMessage:
        """Seal the JSON of an urgent decision."""
        payload = Payload(ALERT, Lane.ALERT, JSON_SCHEMA, event, 1, len(event))
        return self._store(self._sender_of(device), payload)

    def excerpt(self, device: int, boot_id: int, event: bytes, samples: int) -> StoredMessage:
        """Seal the JSON of a part of an excerpt, which has so many instants."""
        version = self._spool.boots.version(boot_id)
        payload = Payload(EXCERPT, Lane.EXCERPT, JSON_SCHEMA, event, samples, len(event), version)
        return self._store(self._producer_of(device, boot_id), payload)

    def withdrawal(self, producer: int, event: bytes) -> StoredMessage:
        """Seal the JSON that says which excerpts of a producer are withdrawn."""
        return self._store(producer, Payload(EXCERPT, Lane.EXCERPT, JSON_SCHEMA, event, 0, len(event)))

    def device_states(self, states: Mapping[int, bytes]) -> list[StoredMessage]:
        """Seal the JSON of device-state events: those of a gateway's devices together."""
        if self._gateway is not None:
            return self._states(self._gateway, list(states.values()))
        return [m for device, event in states.items() for m in self._states(device, [event])]

    def _states(self, producer: int, events: Sequence[bytes]) -> list[StoredMessage]:
        room = self._room(_Share(producer), DEVICE_STATE.base, Lane.STATE, JSON_LINES_SCHEMA)
        return [self._store(producer, payload) for payload in state_payloads(events, room)]

    def rows(self, device: int, lane: Lane, rows: Sequence[StoredRow]) -> list[StoredMessage]:
        """Seal telemetry rows of one device, in several messages if need be."""
        return self.rows_of({device: rows}, lane)

    def rows_of(self, rows: Mapping[int, Sequence[StoredRow]], lane: Lane) -> list[StoredMessage]:
        """Seal telemetry rows of each device: a message, or several, for each producer and version."""
        shares: dict[_Share, list[tuple[str, StoredRow]]] = defaultdict(list)
        for device, found in rows.items():
            for row in found:
                share = _Share(self._producer_of(device, row.boot_id), self._spool.boots.version(row.boot_id))
                shares[share].append((self._spool.names[device], row))
        stored = []
        for share, found_rows in shares.items():
            names, own = [name for name, _ in found_rows], [row for _, row in found_rows]
            batch = wire_batch(names, own, self._wire)
            self._spool.rows.remove(own)
            stored += self._telemetry(share, lane, batch, [row.book for row in own])
        return stored

    def _telemetry(
        self, share: _Share, lane: Lane, batch: RowBatch, books: Sequence[int]
    ) -> list[StoredMessage]:
        """Seal rows as they go to the broker.

        Args:
            share: Who sends them, and the version that they name.
            lane: Lane of the messages.
            batch: The rows.
            books: Id of the line of the books that counts each.
        """
        schema, stored, start = self._wire.fingerprint, [], 0
        for value, n_rows, raw in self._cut(share, TELEMETRY.base, lane, schema, batch):
            payload = Payload(TELEMETRY, lane, schema, value, n_rows, raw, share.version)
            stored.append(self._store(share.producer, payload, Counter(books[start : start + n_rows])))
            start += n_rows
        return stored

    def summaries(self, device: int) -> list[StoredMessage]:
        """Seal some of the device's closed summaries, in several messages if need be."""
        return self.summaries_of([device])

    def summaries_of(self, devices: Sequence[int]) -> list[StoredMessage]:
        """Seal some of the devices' closed summaries: for each producer one message, or several."""
        shares: dict[int, list[RowBatch]] = defaultdict(list)
        left = SUMMARIES_PER_MESSAGE
        for device in devices:
            waiting = self._spool.summaries(device, left) if left else []
            left -= len(waiting)
            self._spool.remove_summaries(waiting)
            for _, summary in waiting:
                shares[self._producer_of(device, summary.boot_id)].append(summary.batch(self._spool.layout))
        return [
            message
            for producer, batches in shares.items()
            for message in self._summary_rows(producer, RowBatch.concat(batches))
        ]

    def _summary_rows(self, producer: int, batch: RowBatch) -> list[StoredMessage]:
        schema = batch.layout.fingerprint
        return [
            self._store(producer, Payload(SUMMARY, Lane.SUMMARY, schema, value, n_rows, raw))
            for value, n_rows, raw in self._cut(_Share(producer), SUMMARY.base, Lane.SUMMARY, schema, batch)
        ]

    def books(self, lines: Sequence[DueLine], now_s: float) -> list[StoredMessage]:
        """Seal statements on lines of books; a line that is too large loses its moments."""
        shares: dict[int, list[DueLine]] = defaultdict(list)
        for due in lines:
            shares[self._producer_of(due.device, due.line.boot_id)].append(due)
        return [m for producer, share in shares.items() for m in self._statements(producer, share, now_s)]

    def _statements(self, producer: int, lines: Sequence[DueLine], now_s: float) -> list[StoredMessage]:
        names = [self._spool.names[due.device] for due in lines]
        value, raw_bytes = encode_rows(books_batch(names, [due.line for due in lines]))
        schema = PACKED_BOOKS_LAYOUT.fingerprint
        if len(value) > self._room(_Share(producer), BOOKS.base, Lane.BOOKS, schema):
            if len(lines) > 1:
                half = len(lines) // 2
                parts = lines[:half], lines[half:]
                return [m for part in parts for m in self._statements(producer, part, now_s)]
            if lines[0].line.moments is not None:
                self._spool.count({"moments_dropped": 1})
                bare = lines[0]._replace(line=lines[0].line._replace(moments=None))
                return self._statements(producer, [bare], now_s)
        payload = Payload(BOOKS, Lane.BOOKS, schema, value, len(lines), raw_bytes)
        stored = self._store(producer, payload)
        self._spool.books.stated(lines, stored.id, now_s)
        return [stored]

    def reseal(self, id_: int) -> list[StoredMessage] | None:
        """Seal what a message holds anew, in smaller ones under new numbers; None where that cannot be.

        Only for a message that cannot be in the broker's log: else its rows would be there twice.
        """
        found = self._spool.messages.read(id_)
        if found is None or found.topic not in (TELEMETRY.base, SUMMARY.base, BOOKS.base, DEVICE_STATE.base):
            return None
        envelope, _ = read_envelope(found.key, found.headers)
        producer = self._spool.devices[envelope.producer]
        anew = {DEVICE_STATE.base: self._states_anew, BOOKS.base: self._restate}.get(found.topic)
        if anew is not None:
            return anew(id_, found.value, envelope)
        layout = self._wires[found.topic].get(envelope.schema)
        if layout is None or envelope.n_rows < 2:
            return None
        batch = read_rows(unpack(found.value, envelope.raw_bytes), layout)
        lines = self._lines(id_, batch) if found.topic == TELEMETRY.base else []
        if lines is None or not self._divides(producer, envelope, found.topic, batch):
            return None
        self._spool.messages.remove(id_)
        self._spool.count({"messages_resealed": 1})
        if found.topic == TELEMETRY.base:
            return self._telemetry(_Share(producer, envelope.version), envelope.lane, batch, lines)
        return self._summary_rows(producer, batch)

    def _states_anew(self, id_: int, value: bytes, envelope: Envelope) -> list[StoredMessage] | None:
        """States that went together, in two messages."""
        if envelope.n_rows < 2:
            return None
        events = decode_events(value, envelope.raw_bytes, envelope.n_rows)
        self._spool.messages.remove(id_)
        self._spool.count({"messages_resealed": 1})
        producer, half = self._spool.devices[envelope.producer], len(events) // 2
        return [*self._states(producer, events[:half]), *self._states(producer, events[half:])]

    def _restate(self, id_: int, _value: bytes, envelope: Envelope) -> list[StoredMessage] | None:
        """Have the lines of a message on the books stated anew, with what they count by then."""
        if envelope.n_rows < 2 and not self._spool.books.has_moments(id_):
            return None
        self._spool.books.unstate(id_)
        self._spool.messages.remove(id_)
        self._spool.count({"messages_resealed": 1})
        return []

    def _divides(self, producer: int, envelope: Envelope, topic: str, batch: RowBatch) -> bool:
        """Whether messages with one row each would fit."""
        room = self._room(_Share(producer, envelope.version), topic, envelope.lane, envelope.schema)
        return all(len(encode_rows(batch.slice(n, 1))[0]) <= room for n in range(batch.num_rows))

    def _lines(self, id_: int, batch: RowBatch) -> list[int] | None:
        """Line of the books of each row of a message; None where it cannot be told."""
        counted = self._spool.messages.books(id_)
        if len(counted) == 1:
            return list(counted) * batch.num_rows
        rows = batch.to_pylist()
        by_key = {
            (name, key): line
            for name in {row["device_id"] for row in rows}
            for key, line in self._spool.books.ids(self._spool.devices[name], counted).items()
        }
        lines = []
        for row in rows:
            period_us = row["event_time"] - row["event_time"] % self._period_us_of(row["boot_id"])
            stratum = stratum_of(row["reasons"]).value
            key = BookKey(row["boot_id"], period_us, row["model_version"], stratum)
            lines.append(by_key.get((row["device_id"], key)))
        known = [line for line in lines if line is not None]
        return known if Counter(known) == Counter(counted) else None

    def _period_us_of(self, boot_id: int) -> int:
        terms = self._spool.boots.of(boot_id)
        return self._period_us if terms is None else round(terms.period_s * 1e6)

    def _cut(
        self, share: _Share, topic: str, lane: Lane, schema: str, batch: RowBatch
    ) -> Iterator[tuple[bytes, int, int]]:
        """The batch as values that fit, in order, each with its number of rows and its raw size.

        A single row that does not fit comes as it is.
        """
        value, raw_bytes = encode_rows(batch)
        if len(value) <= self._room(share, topic, lane, schema) or batch.num_rows == 1:
            yield value, batch.num_rows, raw_bytes
            return
        half = batch.num_rows // 2
        for part in (batch.slice(0, half), batch.slice(half)):
            yield from self._cut(share, topic, lane, schema, part)

    def _room(self, share: _Share, topic: str, lane: Lane, schema: str) -> int:
        """Bytes that a value may have."""
        around = self._around.get((*share, lane, schema))
        if around is None:
            largest = Payload(TELEMETRY, lane, schema, b"", _LARGEST, _LARGEST, share.version)
            envelope = self._envelope(share.producer, largest, _LARGEST)
            around = wire_size(blank_message(topic, envelope)) + _LENGTHS
            self._around[*share, lane, schema] = around
        return self._limit(topic) - around

    def _store(
        self, producer: int, payload: Payload, books: Mapping[int, int] | None = None
    ) -> StoredMessage:
        number, lane = self._spool.messages.next_no(producer, payload.lane), payload.lane
        envelope = self._envelope(producer, payload, number)
        signer = self._signers[self._spool.names[producer]]
        message = seal(payload.topic.base, envelope, payload.value, signer)
        stored = self._spool.messages.store(producer, payload.lane, number, message, books or {})
        topic = payload.topic.base
        fits = wire_size(message) + LARGEST_PATH_BYTES <= self._limit(topic)
        if self._turn is not None and lane != Lane.ALERT and fits:
            self._turn[producer][stored.id] = replace(message, value=b"")
        return stored

    def _envelope(self, producer: int, payload: Payload, number: int) -> Envelope:
        return Envelope(
            schema=payload.schema,
            profile=self._profile.name,
            producer=self._spool.names[producer],
            spool_id=self._spool.spool_id,
            lane=payload.lane,
            msg_no=number,
            n_rows=payload.n_rows,
            raw_bytes=payload.raw_bytes,
            digest=b"",
            signer="",
            version=payload.version,
        )


def _by_fingerprint(*layouts: RowLayout) -> dict[str, RowLayout]:
    """Layouts that a profile's rows have or had, by what their messages were sealed with."""
    return {layout.fingerprint: layout for layout in layouts}

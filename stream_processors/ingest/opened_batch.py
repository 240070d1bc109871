"""The messages of one call: who says to have sent each, and what is found out about many of them together.

Signatures of messages that are probably new are checked, and then rows of the same schema are decoded and
their owners compared in one pass (``sealed_rows``). That is only work done early: each message is judged in
its turn, alone, and whatever was not found out in advance, or not to be right, is found out then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from schemas.boot_ids import boot_tags
from schemas.errors import MessageError
from schemas.packed_arrow import is_packed_schema
from schemas.text_dictionaries import TEXTS
from stream_processors.ingest.admission import (
    EVENT_OF,
    Admitted,
    Claimed,
    DeviceDirectory,
    KnownDevice,
    identify,
    open_message,
    wire_schema_of,
)
from stream_processors.ingest.boot_owners import BootOwners
from stream_processors.ingest.known_headers import (
    MOST_REPEATS,
    KnownHeaders,
    Learnt,
    Repeat,
    RepeatedHeaders,
    repeated_of,
)
from stream_processors.ingest.lanes import Lanes
from stream_processors.ingest.packed_reader import PackedReader
from stream_processors.ingest.sealed_rows import RowReader, RowSpan, SealedValue
from stream_processors.job import RawMessage


class OpenedMessage:
    """One message of a call, as far as it has been looked at.

    Attributes:
        message: As it came.
        claimed: Who says to have sent it; None: it is ``refused``.
        refused: Why nobody is known to have sent it.
    """

    __slots__ = ("_is_verified", "_learnt", "_rows", "_unknown_to", "claimed", "message", "refused")

    def __init__(
        self,
        message: RawMessage,
        claimed: Claimed | None,
        refused: MessageError | None,
        unknown_to: KnownHeaders | None = None,
        learnt: Learnt | None = None,
    ) -> None:
        """Look at a message.

        Args:
            message: As it came.
            claimed: Who says to have sent it; None: it is ``refused``.
            refused: Why nobody is known to have sent it.
            unknown_to: Keeps ``learnt`` once the signature is found to hold.
            learnt: The repeated part of the headers; None: it is known, or there is none.
        """
        self.message, self.claimed, self.refused = message, claimed, refused
        self._unknown_to, self._learnt = unknown_to, learnt
        self._is_verified = False
        self._rows: RowSpan | None = None

    def verify(self, claimed: Claimed) -> None:
        """Return if digest and signature hold.

        Raises:
            SignatureError: They do not.
        """
        if not self._is_verified:
            claimed.verify()
            self._is_verified = True
            if self._unknown_to is not None and self._learnt is not None:
                self._unknown_to.keep(self._learnt)

    def open(self, claimed: Claimed, directory: DeviceDirectory, owners: BootOwners) -> Admitted:
        """The admitted message with its content.

        Raises:
            MessageError: It is refused.
        """
        return open_message(self.message, claimed.envelope, claimed.device, directory, owners, self._rows)

    def give(self, rows: RowSpan) -> None:
        """Keep rows that were decoded together with others; the sender may send all of them."""
        self._rows = rows


class ReaderCaches:
    """What is known of headers and rows that came before; kept between calls, and changes no outcome.

    Attributes:
        headers: Headers that producers repeat.
    """

    def __init__(self) -> None:
        self.headers = KnownHeaders()
        self._readers: dict[str, RowReader | PackedReader] = {}

    def rows(self, fingerprint: str, schema: pa.Schema) -> RowReader | PackedReader:
        """The reader of a schema."""
        if fingerprint not in self._readers:
            self._readers[fingerprint] = (
                PackedReader(schema) if is_packed_schema(schema) else RowReader(schema)
            )
        return self._readers[fingerprint]


def opened(
    messages: Sequence[RawMessage], directory: DeviceDirectory, lanes: Lanes, caches: ReaderCaches
) -> list[OpenedMessage]:
    """All messages in order, with what could be found out in advance."""
    signers: dict[str, KnownDevice] = {}
    fresh: dict[Repeat, RepeatedHeaders] = {}
    found = [_identified(message, directory, caches.headers, fresh, signers) for message in messages]
    groups: dict[tuple[str, str, str], list[OpenedMessage]] = defaultdict(list)
    for one, claimed in _likely_new(found, lanes):
        if claimed.message.topic in EVENT_OF:
            continue
        try:
            one.verify(claimed)
        except MessageError:
            continue  # its turn comes
        groups[claimed.message.topic, claimed.envelope.profile, claimed.envelope.schema].append(one)
    for (topic, _profile, fingerprint), group in groups.items():
        _open_rows(topic, fingerprint, group, directory, caches)
    return found


def _identified(
    message: RawMessage,
    directory: DeviceDirectory,
    headers: KnownHeaders,
    fresh: dict[Repeat, RepeatedHeaders],
    signers: dict[str, KnownDevice],
) -> OpenedMessage:
    """Who says to have sent a message.

    Args:
        message: As it came.
        directory: For look-ups.
        headers: Those that came before, and held.
        fresh: Repeated headers that were read in full in this call, held or not; grows.
        signers: Active producers that this call has looked up, by key id; grows.
    """
    known, unproved = headers.look(message, fresh)
    if known is not None:
        device = signers.get(known.envelope.signer)
        if device is not None and device.producer == known.envelope.producer:
            claimed = Claimed(message, known.envelope, known.proof, known.signed, device)
            return OpenedMessage(message, claimed, None, headers, unproved)
    try:
        claimed = identify(message, directory)
    except MessageError as exc:
        return OpenedMessage(message, None, exc)
    signers[claimed.envelope.signer] = claimed.device
    if known is not None:
        return OpenedMessage(message, claimed, None, headers, unproved)
    learnt = repeated_of(message, claimed.envelope)
    if learnt is not None and len(fresh) < MOST_REPEATS:
        fresh[learnt[0]] = learnt[1]
    return OpenedMessage(message, claimed, None, headers, learnt)


def _likely_new(found: Sequence[OpenedMessage], lanes: Lanes) -> Iterator[tuple[OpenedMessage, Claimed]]:
    """Messages whose number is neither known nor comes twice: copies may be dropped without a check."""
    numbers: set[tuple[str, str, str, int]] = set()
    for one in found:
        claimed = one.claimed
        if claimed is None:
            continue
        envelope = claimed.envelope
        number = (envelope.producer, envelope.spool_id, envelope.lane, envelope.msg_no)
        if number not in numbers and envelope.msg_no not in lanes.marks(envelope):
            numbers.add(number)
            yield one, claimed


def _open_rows(
    topic: str,
    fingerprint: str,
    group: Sequence[OpenedMessage],
    directory: DeviceDirectory,
    caches: ReaderCaches,
) -> None:
    """Give each message its rows, where they are sound and its sender's own."""
    claims = [one.claimed for one in group if one.claimed is not None]
    try:
        schema = wire_schema_of(topic, claims[0].envelope, directory)
    except MessageError:
        return
    values = [SealedValue(c.message.value, c.envelope.raw_bytes) for c in claims]
    spans = caches.rows(fingerprint, schema).read(values)
    together: dict[int, list[tuple[OpenedMessage, Claimed, RowSpan]]] = defaultdict(list)
    for one, claimed, span in zip(group, claims, spans, strict=True):
        if isinstance(span, RowSpan):
            together[id(span.table)].append((one, claimed, span))
    for part in together.values():
        may = _may_send([(claimed.device, span) for _, claimed, span in part])
        for (one, _, span), is_right in zip(part, may, strict=True):
            if is_right:
                one.give(span)


def _may_send(spans: Sequence[tuple[KnownDevice, RowSpan]]) -> list[bool]:
    """Whether each producer may send all its rows; False: that is found out in the message's turn.

    Args:
        spans: Producer and rows of each message, in order, out of one table.
    """
    counts = np.array([span.n for _, span in spans])
    if not counts.all():
        return [False] * len(spans)
    table, ends = spans[0][1].table, np.cumsum(counts)
    places = np.repeat(np.array([span.start for _, span in spans]) - ends + counts, counts)
    places += np.arange(len(places))
    devices = table.column("device_id").combine_chunks()
    if devices.type != TEXTS:
        devices = devices.dictionary_encode()
    names, codes = devices.dictionary.to_pylist(), devices.indices.to_numpy()[places]
    senders = {id(sender): sender for sender, _ in spans}
    number_of = {sender: number for number, sender in enumerate(senders)}
    numbers, by_number = np.array([number_of[id(s)] for s, _ in spans]), [*senders.values()]
    pair_of = np.repeat(numbers, counts) * len(names) + codes
    # Whom a producer may send for is asked once for each two of them that come together, not for each row.
    allowed = np.zeros(len(by_number) * len(names), dtype=bool)
    pairs = np.flatnonzero(np.bincount(pair_of)).tolist()
    allowed[pairs] = [_sends_for(by_number[pair // len(names)], names[pair % len(names)]) for pair in pairs]
    tags = np.repeat(np.array([sender.tag for sender, _ in spans]), counts)
    boots = table.column("boot_id").to_numpy()[places]
    right = np.logical_and.reduceat(allowed[pair_of] & (boot_tags(boots) == tags), ends - counts)
    return [bool(is_right) for is_right in right]


def _sends_for(sender: KnownDevice, device_id: str) -> bool:
    """Whether a producer may send for a device, as far as no history has to be asked."""
    return device_id in sender.sends_for and (sender.tag >= 0 or device_id == sender.producer)

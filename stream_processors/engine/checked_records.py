"""Record batches as aiokafka wants them, but unpacked within a bound, and never raising for a stranger's.

The broker looks at a batch as it was sent. 46 kB that unpack to 1.5 GB pass, header names that are no UTF-8,
and records that say they lie a million offsets ahead. aiokafka unpacks whatever comes, raises for such a name
at every attempt, and believes such an offset. A batch comes from one producer, so that nobody else loses by
it when the rest of the batch is refused unread.
Line numbers are aiokafka 0.14.0's.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import MemoryRecords

from stream_processors.job import RawMessage
from stream_processors.unread_range import UnreadRange

log = logging.getLogger(__name__)

MAX_UNPACKED_BYTES = 4 * 1024**2
"""What one batch may unpack to; ours, and those of any client at its defaults, hold one megabyte."""
LARGEST_RATIO = 256
"""How much larger than it came a batch may become: as much as lz4 can. Signed messages reach 10."""
SMALL_BYTES = 64 * 1024
"""Up to this size it may, so that a few bytes cost no milliseconds."""
_CODECS = {1: "gzip", 3: "lz4", 4: "zstd"}
"""Those that can unpack to very much, by their number in Kafka; snappy (2) reaches 22 times what came."""
_LENGTH_AT, _HEAD_BYTES, _COUNT_AT, _RECORDS_AT = 8, 12, 57, 61
_STEP_BYTES = 256 * 1024
_LZ4_MAGIC = bytes.fromhex("04224d18")


@dataclass(frozen=True)
class Unread:
    """In a record's ``checksum``, which current batches leave empty: the record stands for unread ones."""

    first_offset: int
    reason: str


class StandIn(NamedTuple):
    """A record for those from ``checksum.first_offset`` to ``offset`` of one batch, which were not read."""

    offset: int
    timestamp: int
    timestamp_type: int
    checksum: Unread
    key: None = None
    value: bytes = b""
    headers: tuple[tuple[str, bytes], ...] = ()


class CheckedBatch:
    """One batch with the members that aiokafka uses (consumer/fetcher.py:209)."""

    def __init__(self, batch: Any, content: memoryview) -> None:
        self._batch, self._records = batch, content[_RECORDS_AT:]
        self.base_offset: int = batch.base_offset
        self.next_offset: int = batch.next_offset
        self.is_control_batch: bool = batch.is_control_batch
        self.producer_id: int | None = batch.producer_id
        self.validate_crc = batch.validate_crc
        count = int.from_bytes(content[_COUNT_AT:_RECORDS_AT], "big")
        self._compacted = count != self.next_offset - self.base_offset  # it may have holes

    def __iter__(self) -> Iterator[Any]:
        expected = self.base_offset
        try:
            _check_size(self._batch.compression_type, self._records)
            for record in self._batch:
                offset = record.offset
                if offset != expected or self._compacted:  # the broker counts records, but trusts theirs
                    _check_offset(offset, expected, self.next_offset if self._compacted else expected + 1)
                yield record
                expected = offset + 1
        except Exception as exc:  # noqa: BLE001  (whatever a stranger's bytes make a decoder raise)
            if expected < self.next_offset:
                yield self._unread(expected, f"{type(exc).__name__}: {exc}"[:300])

    def _unread(self, first: int, reason: str) -> StandIn:
        last = self.next_offset - 1
        log.debug("offsets %d..%d are refused unread: %s", first, last, reason)
        return StandIn(last, self._batch.max_timestamp, self._batch.timestamp_type, Unread(first, reason))


class CheckedRecords:
    """What one fetch brought of a partition: takes the place of aiokafka's ``MemoryRecords``."""

    def __init__(self, data: bytes) -> None:
        self._data, self._records = memoryview(data), MemoryRecords(data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Bytes of all batches, a cut one at the end included."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a whole batch is left."""
        return bool(self._records.has_next())

    def next_batch(self) -> Any:
        """The next batch; one in the form of before Kafka 0.11, which no broker sends us, as it is."""
        batch = self._records.next_batch()
        if batch is None:
            return None
        length = self._data[self._at + _LENGTH_AT : self._at + _HEAD_BYTES]
        end = self._at + _HEAD_BYTES + int.from_bytes(length, "big")
        content, self._at = self._data[self._at : end], end
        return CheckedBatch(batch, content) if isinstance(batch, DefaultRecordBatch) else batch


class FetchedRecord(Protocol):
    """A record of a batch, as aiokafka's decoder or a ``StandIn`` has it: partition and topic it lacks."""

    @property
    def offset(self) -> int:
        """Its offset."""
        ...

    @property
    def timestamp(self) -> int:
        """Ms since 1970 UTC."""
        ...

    @property
    def key(self) -> bytes | None:
        """The message's key."""
        ...

    @property
    def value(self) -> bytes | None:
        """The message's value."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """The message's headers."""
        ...

    @property
    def checksum(self) -> object:
        """None, or what makes it a ``StandIn``."""
        ...


class PlainRecords(fetcher.PartitionRecords):  # type: ignore[misc]  # aiokafka is untyped
    """A fetch's records of one partition, without a ``ConsumerRecord`` for each, which costs 1.4 us."""

    def _consumer_record(self, _tp: object, record: FetchedRecord) -> FetchedRecord:
        return record


def as_message(topic: str, partition: int, record: FetchedRecord) -> RawMessage:
    """A record as jobs get it, with its topic's name without namespace."""
    r, unread = record, record.checksum
    if unread is not None and isinstance(unread, Unread):
        return UnreadRange.of(topic, partition, unread.first_offset, r.offset, r.timestamp, unread.reason)
    return RawMessage(topic, partition, r.offset, r.timestamp, r.key, list(r.headers), r.value or b"")


def check_all_batches() -> None:
    """Make aiokafka, in this process, read every fetch as ``CheckedRecords`` (consumer/fetcher.py:830)."""
    vars(fetcher)["MemoryRecords"] = CheckedRecords
    vars(fetcher)["PartitionRecords"] = PlainRecords


def _check_offset(offset: int, first: int, end: int) -> None:
    """Return if the offset is one that the record may have.

    Raises:
        ValueError: It is not.
    """
    if not first <= offset < end:
        raise ValueError(f"a record says that its offset is {offset}, outside {first}..{end - 1}")


def _check_size(codec: int, records: memoryview) -> None:
    """Return if the records unpack to no more than they may; they are unpacked in steps, and dropped.

    Raises:
        ValueError: They unpack to more.
    """
    name = _CODECS.get(codec)
    most = min(MAX_UNPACKED_BYTES, max(SMALL_BYTES, LARGEST_RATIO * len(records)))
    if name is None or (name == "lz4" and _lz4_bound(records) <= most):
        return
    unpacked = 0
    with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(records)), name) as stream:
        while part := stream.read(min(_STEP_BYTES, most + 1 - unpacked)):
            unpacked += len(part)
            if unpacked > most:
                raise ValueError(f"a batch of {len(records)} bytes unpacks to more than {most}")


def _lz4_bound(frame: memoryview) -> int:
    """Bound on what an LZ4 frame unpacks to, by the sizes of its blocks: nothing is unpacked.

    Source: the LZ4 frame format, version 1.6.4.

    Raises:
        ValueError: It is no frame, or something comes after it.
    """
    if len(frame) < 7 or frame[:4] != _LZ4_MAGIC:
        raise ValueError("not an LZ4 frame")
    flags, largest_block = frame[4], 1 << (8 + 2 * (frame[5] >> 4 & 7))
    at, bound = 7 + (8 if flags & 0x08 else 0) + (4 if flags & 0x01 else 0), 0
    while size := int.from_bytes(frame[at : at + 4], "little"):
        stored, length = size >> 31, size & 0x7FFFFFFF
        bound += length if stored else min(largest_block, LARGEST_RATIO * length)
        at += 4 + length + (4 if flags & 0x10 else 0)
    if at + 4 + (4 if flags & 0x04 else 0) != len(frame):
        raise ValueError("something comes after the LZ4 frame, or its end is missing")
    return bound

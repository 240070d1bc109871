"""Bounds on what a fetched batch of the log may unpack to, and a stand-in for a message that cannot be read.

Anybody who may write to a topic can send a batch of 10 kB that unpacks to gigabytes, or a header whose name
is no UTF-8. aiokafka unpacks the first without a bound and raises on the second, each time it is fetched: the
partition then never moves again. Here a batch unpacks to ``MAX_BATCH_BYTES`` at most, names are decoded
as far as they go, and a batch that still cannot be read is given on as one message without key and value,
with the header ``UNREADABLE`` that names its offsets. Ingest refuses it like any other broken message.

aiokafka has no setting for this, so ``install`` replaces some of its module globals. Names and lines are
those of aiokafka 0.14.0.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import cramjam
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record import default_records, legacy_records, memory_records
from aiokafka.record.util import decode_varint
from aiokafka.structs import ConsumerRecord

from schemas.envelope import UNREADABLE

MAX_BATCH_BYTES = 4 * 1024**2
"""What one batch may unpack to. Clients fill batches up to about 1 MB before they compress them."""
MAX_TAKEN_BYTES = 4 * 1024**2
"""Bytes of one partition that are taken out of a fetch at a time; a fetch can hold many such batches."""
MAX_BATCH_MESSAGES = 65_536
"""Messages of one batch. A signed message has 300 bytes at least, so no batch of ours has a tenth of it."""
_MAGIC = 2
_LENGTH_ENDS = 12  # a batch begins with its base offset and the length of what follows
_XERIAL = bytes((0x82, *b"SNAPPY", 0))
_GZIP_WINDOW = 31  # zlib: the largest window, with a gzip header

_scratch = threading.local()
_UnboundedRecords, _UnboundedResult = fetcher.PartitionRecords, fetcher.FetchResult
_UNREADABLE = (CorruptRecordException, ValueError, LookupError, OSError)


class OversizedBatchError(ValueError):
    """A batch of the log that would unpack to more than ``MAX_BATCH_BYTES``."""


def install() -> None:
    """Bound every consumer of this process; may be called again."""
    fetcher.PartitionRecords = BoundedPartitionRecords
    fetcher.FetchResult = BoundedFetchResult
    fetcher.MemoryRecords = KeptRecords
    for module in _decoding_modules():
        vars(module).update(DECODERS)


def _decoding_modules() -> list[ModuleType]:
    """Modules that call the decoders by their own globals: aiokafka's Python ones and its compiled ones."""
    found: list[ModuleType] = [default_records, legacy_records]
    for kind in (default_records.DefaultRecordBatch, legacy_records.LegacyRecordBatch):
        module = __import__(kind.__module__, fromlist=["*"])
        if module not in found:
            found.append(module)
    return found


def _into_scratch(decompress_into: Callable[[bytes, bytearray], int], payload: bytes) -> bytes:
    buffer = getattr(_scratch, "buffer", None)
    if buffer is None:  # one a thread; the system gives it memory only as far as it is written to
        buffer = _scratch.buffer = bytearray(MAX_BATCH_BYTES)
    try:
        size = decompress_into(payload, buffer)
    except cramjam.DecompressionError as exc:
        raise OversizedBatchError(f"the batch does not unpack to {MAX_BATCH_BYTES} bytes: {exc}") from exc
    return bytes(memoryview(buffer)[:size])


def unpack_lz4(payload: Any) -> bytes:
    """Content of an lz4 frame, bounded."""
    return _into_scratch(cramjam.lz4.decompress_into, bytes(payload))


def unpack_zstd(payload: Any) -> bytes:
    """Content of a zstd frame, bounded."""
    return _into_scratch(cramjam.zstd.decompress_into, bytes(payload))


def unpack_gzip(payload: Any) -> bytes:
    """Content of a gzip stream, bounded."""
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        content = unpacker.decompress(bytes(payload), MAX_BATCH_BYTES + 1)
    except zlib.error as exc:
        raise OversizedBatchError(f"the batch does not unpack: {exc}") from exc
    if len(content) > MAX_BATCH_BYTES:
        raise OversizedBatchError(f"the batch unpacks to more than {MAX_BATCH_BYTES} bytes")
    return content


def unpack_snappy(payload: Any) -> bytes:
    """Content of a snappy block, or of the framed blocks that Java clients write, bounded together."""
    data = bytes(payload)
    if not data.startswith(_XERIAL) or len(data) <= 16:
        return _snappy_block(data, MAX_BATCH_BYTES)
    parts, at, left = list[bytes](), 16, MAX_BATCH_BYTES
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        parts.append(_snappy_block(data[at + 4 : at + 4 + size], left))
        left -= len(parts[-1])
        at += 4 + size
    return b"".join(parts)


def _snappy_block(block: bytes, limit: int) -> bytes:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size <= limit:
            return bytes(cramjam.snappy.decompress_raw(block))
    except cramjam.DecompressionError as exc:
        raise OversizedBatchError(f"the batch does not unpack: {exc}") from exc
    raise OversizedBatchError(f"the batch unpacks to more than {MAX_BATCH_BYTES} bytes")


DECODERS: dict[str, Callable[[Any], bytes]] = {
    "gzip_decode": unpack_gzip,
    "snappy_decode": unpack_snappy,
    "lz4_decode": unpack_lz4,
    "zstd_decode": unpack_zstd,
}


class KeptRecords:
    """A fetched message set that keeps its newest batch's bytes, for a second reading where the first fails.

    Has the methods of aiokafka's ``MemoryRecords``.
    """

    def __init__(self, data: bytes) -> None:
        self._inner = memory_records.MemoryRecords(data)
        self._data = memoryview(data)
        self._at = 0
        self.batch = memoryview(b"")

    def size_in_bytes(self) -> int:
        """Bytes of the whole set."""
        return int(self._inner.size_in_bytes())

    def has_next(self) -> bool:
        """Whether there is one more whole batch."""
        return bool(self._inner.has_next())

    def next_batch(self) -> Any:
        """The next batch; ``batch`` are its bytes."""
        length = int.from_bytes(self._data[self._at + 8 : self._at + 12], "big", signed=True)
        self.batch = self._data[self._at : self._at + _LENGTH_ENDS + length]
        self._at += len(self.batch)
        return self._inner.next_batch()


class BoundedPartitionRecords(_UnboundedRecords):  # type: ignore[misc, valid-type]  # aiokafka is untyped
    """Records of one fetch; what cannot be read is given on as a stand-in instead of raised."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[ConsumerRecord]:
        """As aiokafka's own (consumer/fetcher.py:209), for a reader of uncommitted records."""
        if self._isolation_level == fetcher.READ_COMMITTED:
            yield from super()._unpack_records()
            return
        while self._records.has_next():
            batch = self._records.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if not batch.is_control_batch:
                yield from self._records_of(batch)
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _records_of(self, batch: Any) -> Iterator[ConsumerRecord]:
        """The batch's records; one that is not UTF-8 is read leniently, the first unreadable one stands in.

        Where the stand-in is depends on the batch alone, not on where the fetch began: a second reader finds
        the same messages.
        """
        if batch.magic < _MAGIC:
            yield from self._fresh(batch)
            return
        unread = batch.base_offset
        try:
            if batch.next_offset - unread > MAX_BATCH_MESSAGES:
                raise OversizedBatchError(f"more than {MAX_BATCH_MESSAGES} messages in one batch")
            for record in batch:
                unread = record.offset + 1
                yield from self._fresh((record,))
        except _UNREADABLE as first:
            reason = str(first)
            try:
                for record in () if isinstance(first, OversizedBatchError) else self._leniently():
                    unread = record.offset + 1
                    yield from self._fresh((record,))
            except _UNREADABLE as second:
                reason = str(second)
            if unread < batch.next_offset:
                yield from self._fresh((_stand_in(batch, unread, reason),))

    def _leniently(self) -> Iterator[Record]:
        return lenient_records(self._records.batch)

    def _fresh(self, records: Iterable[Any]) -> Iterator[ConsumerRecord]:
        for record in records:
            if record.offset >= self.next_fetch_offset:
                self.next_fetch_offset = record.offset + 1
                yield self._consumer_record(self._tp, record)


class BoundedFetchResult(_UnboundedResult):  # type: ignore[misc, valid-type]  # aiokafka is untyped
    """One partition's part of a fetch, taken out a few megabytes at a time."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[ConsumerRecord]:
        """The next records, about ``MAX_TAKEN_BYTES`` at most (as consumer/fetcher.py:124)."""
        found: list[ConsumerRecord] = []
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return found
        size = 0
        for record in self._partition_records:
            found.append(record)
            size += max(record.serialized_value_size, 0) + max(record.serialized_key_size, 0)
            if size >= MAX_TAKEN_BYTES or len(found) == max_records:
                self._update_position()
                return found
        self._update_position()
        self._partition_records = None
        return found


class Record(NamedTuple):
    """A record as aiokafka's batches yield it."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def lenient_records(data: memoryview) -> Iterator[Record]:
    """Records of a batch (magic 2), with what is no UTF-8 in the names of headers escaped.

    Raises:
        OversizedBatchError: It unpacks to too much, or not at all.
        ValueError: Its structure is broken; so does IndexError.
    """
    batch = default_records._DefaultRecordBatchPy(data)  # noqa: SLF001  (its compiled twin hides its bytes)
    batch._maybe_uncompress()  # noqa: SLF001
    buffer, at = batch._buffer, batch._pos  # noqa: SLF001
    appended = batch.timestamp_type == batch.LOG_APPEND_TIME
    for _ in range(batch._num_records):  # noqa: SLF001
        length, at = decode_varint(buffer, at)
        end = at + length
        later, at = decode_varint(buffer, at + 1)  # after the attributes
        delta, at = decode_varint(buffer, at)
        key, at = _bytes(buffer, at)
        value, at = _bytes(buffer, at)
        count, at = decode_varint(buffer, at)
        headers = []
        for _ in range(count):
            name, at = _bytes(buffer, at)
            content, at = _bytes(buffer, at)
            headers.append(((name or b"").decode("utf-8", "backslashreplace"), content))
        if at != end:
            raise ValueError(f"a record of {length} bytes ends {at - end} bytes off")
        at_ms = batch.max_timestamp if appended else batch.first_timestamp + later
        yield Record(batch.base_offset + delta, at_ms, batch.timestamp_type, key, value, headers)


def _bytes(buffer: bytearray, at: int) -> tuple[bytes | None, int]:
    length, at = decode_varint(buffer, at)
    if length < 0:
        return None, at
    if at + length > len(buffer):
        raise IndexError(f"{length} bytes at {at} of {len(buffer)}")
    return bytes(buffer[at : at + length]), at + length


def _stand_in(batch: Any, offset: int, reason: str) -> Record:
    span = f"offsets {offset} to {batch.next_offset - 1} cannot be read: {reason}"
    return Record(
        offset, batch.max_timestamp, batch.timestamp_type, None, None, [(UNREADABLE, span[:1000].encode())]
    )

"""Reads a span of one partition without a group: what Faust skipped, and originals of dead letters.

It reads with the same bounds as Faust's consumer and gives the same messages, a bounded number at a time.
"""

from __future__ import annotations

import asyncio
import time

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from schemas.errors import BrokerUnavailableError, OperatorError
from stream_processors.engine import fetch_bounds
from stream_processors.engine.checked_records import as_message
from stream_processors.engine.log_span import LogSpan
from stream_processors.job import RawMessage

fetch_bounds.install()

PATIENCE_S = 10.0
"""How long the broker may give nothing."""
MAX_READ_BYTES = 8 * 1024**2
"""Bytes that one call returns, about."""
_POLL_MS = 1000


def read_span(servers: str, full_topic: str, span: LogSpan, limit: int) -> tuple[list[RawMessage], int]:
    """Messages of a span, at most ``limit`` and about ``MAX_READ_BYTES``.

    Returns:
        The messages, and the offset up to which the span is now known: offsets without a message are
        legitimate holes.

    Raises:
        OperatorError: The span is not in the log any more.
        BrokerUnavailableError: No answer.
    """
    try:
        return asyncio.run(_read(servers, full_topic, span, limit))
    except OffsetOutOfRangeError as exc:
        raise OperatorError(f"{span} are not in the log any more") from exc
    except (KafkaError, OSError, TimeoutError) as exc:
        raise BrokerUnavailableError(f"reading {span}: {exc}") from exc


async def _read(servers: str, full_topic: str, span: LogSpan, limit: int) -> tuple[list[RawMessage], int]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=servers,
        enable_auto_commit=False,
        auto_offset_reset="none",
        isolation_level="read_uncommitted",
        fetch_max_wait_ms=50,
        request_timeout_ms=int(PATIENCE_S * 1000),
    )
    await consumer.start()
    try:
        partition = TopicPartition(full_topic, span.partition)
        consumer.assign([partition])
        end = min(span.end, (await consumer.end_offsets([partition]))[partition])
        if end < span.start:
            raise OffsetOutOfRangeError({partition: span.start})
        consumer.seek(partition, span.start)
        found, size, reached = list[RawMessage](), 0, span.start
        until = time.monotonic() + PATIENCE_S
        while reached < end and len(found) < limit and size < MAX_READ_BYTES:
            records = await consumer.getmany(partition, timeout_ms=_POLL_MS, max_records=limit - len(found))
            new = [r for r in records.get(partition, ()) if r.offset < end]
            taken = [as_message(span.topic, span.partition, r) for r in new]
            found += taken
            size += sum(len(m.value) for m in taken)
            position = await consumer.position(partition)
            if position > reached:
                reached, until = position, time.monotonic() + PATIENCE_S
            elif time.monotonic() > until:
                raise TimeoutError(f"nothing after offset {reached} for {PATIENCE_S:.0f} s")
        return found, min(reached, end)
    finally:
        await consumer.stop()

"""The same logical rows for everybody: sealed for us, and as a peer's user would send them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from functools import cached_property

import orjson
import pyarrow as pa

from benchmarks import workload
from benchmarks.stage import Stage
from benchmarks.workload import Workload
from infra.kafka.kafka_admin import KafkaAdmin
from schemas.envelope import SealedMessage, decode_rows
from schemas.row_schemas import telemetry_rows
from schemas.topics import DEVICE_PARTITIONS, Topic

ROWS = {1: 200_000, 10: 1_000_000, 100: 3_000_000, 500: 4_000_000}
"""Rows in all by rows a message: the fastest peer drains them in a second or more."""
SHORT = 5
"""The slow ones drain a fifth of them."""


class Backlog:
    """What waits on the broker: each of a few messages made once, however many runs drain them.

    Attributes:
        rows_per_message: Rows of each message.
    """

    def __init__(self, on: Stage, rows_per_message: int) -> None:
        self._on, self.rows_per_message = on, rows_per_message
        self._topics: dict[tuple[bool, bool], str] = {}

    @cached_property
    def _all(self) -> Workload:
        count = round(ROWS[self.rows_per_message] * self._on.effort.scale) // self.rows_per_message
        return workload.of_size(self.rows_per_message, count)

    def sealed(self, *, together: bool) -> Workload:
        """Messages as our devices send them: each signed alone, or as of a backlog."""
        return workload.signed_together(self._all) if together else self._all

    def topic(self, *, short: bool, json: bool) -> str:
        """A topic full of the same rows, JSON or Arrow, without our envelope; filled at the first call.

        One row is a JSON object, several a JSON array or an Arrow stream with lz4 buffers.
        """
        if (short, json) not in self._topics:
            kind = "json" if json else "arrow"
            base = Topic(
                f"peers-{kind}-{self.rows_per_message}{'-short' if short else ''}", DEVICE_PARTITIONS
            )
            namespace = f"p{id(self):x}"
            KafkaAdmin(self._on.servers).create_topics(namespace, [base])
            sent = [*_as_peers_send(self._messages(short), base.base, json=json)]
            workload.produce(self._on.servers, namespace, Workload("", sent, 0, ()))
            self._topics[short, json] = base.named(namespace)
        return self._topics[short, json]

    def count(self, *, short: bool) -> int:
        """Number of messages."""
        return len(self._messages(short))

    def _messages(self, short: bool) -> Sequence[SealedMessage]:
        messages = self._all.messages
        return messages[: len(messages) // SHORT] if short else messages


def _as_peers_send(messages: Sequence[SealedMessage], topic: str, *, json: bool) -> Iterator[SealedMessage]:
    profile = workload.machine()
    schema = telemetry_rows(profile)
    names = ["device_id", "seq", "event_time", *profile.feature_names]
    for m in messages:
        rows = decode_rows(m.value, int(dict(m.headers)["raw_bytes"]), schema)
        kept = rows.select(names).rename_columns([*names[:3], *(f"f{n}" for n in range(len(names) - 3))])
        yield SealedMessage(topic, m.key, [], _json(kept) if json else _arrow(kept))


def _json(rows: pa.RecordBatch) -> bytes:
    """Compact JSON: times as µs since 1970, float32 in its shortest exact form."""
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in rows.columns]
    values = [c.to_numpy() if pa.types.is_floating(c.type) else c.to_pylist() for c in columns]
    objects = [dict(zip(rows.schema.names, row, strict=True)) for row in zip(*values, strict=True)]
    return orjson.dumps(objects if len(objects) > 1 else objects[0], option=orjson.OPT_SERIALIZE_NUMPY)


def _arrow(rows: pa.RecordBatch) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, rows.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
        stream.write_batch(rows)
    return out.getvalue()

"""What every peer but Spark shares: decode a message as its user would, append to a Delta table now and then.

Runs in a peer's own environment. Nothing of it checks, deduplicates or remembers anything.
"""

import time

import deltalake
import orjson
import pyarrow as pa

FLUSH_S = 0.25
FLUSH_ROWS = 250_000
FEATURES = [f"f{n}" for n in range(10)]
SCHEMA = pa.schema(
    [
        ("device_id", pa.string()),
        ("seq", pa.int64()),
        ("event_time", pa.timestamp("us", tz="UTC")),
        *((name, pa.float32()) for name in FEATURES),
    ]
)


def table_of(messages: list) -> pa.Table:
    """Rows of messages: decoded JSON objects, or the bytes of Arrow streams."""
    if isinstance(messages[0], dict):
        return pa.Table.from_pylist(messages, schema=SCHEMA)
    return pa.concat_tables([pa.ipc.open_stream(m).read_all() for m in messages]).combine_chunks()


class DeltaSink:
    """Gathers messages as long as our worker does by default, and appends them."""

    def __init__(self, folder: str, rows_per_message: int) -> None:
        self._folder, self._rows = folder, rows_per_message
        self._waiting: list = []
        self._flushed = time.monotonic()

    def add(self, messages: list) -> None:
        """Take messages, decoded if they are JSON."""
        self._waiting.extend(messages)
        late = time.monotonic() - self._flushed >= FLUSH_S
        if late or len(self._waiting) * self._rows >= FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Append what waits."""
        if self._waiting:
            append(self._folder, self._waiting)
        self._waiting, self._flushed = [], time.monotonic()


def append(folder: str, messages: list) -> None:
    """Append the rows of these messages in one Delta commit."""
    deltalake.write_deltalake(folder, table_of(messages), mode="append")


def decoded(value: bytes, rows_per_message: int):
    """A message's value as its user's code sees it: one JSON object, or Arrow's bytes, decoded in batches."""
    return orjson.loads(value) if rows_per_message == 1 else value

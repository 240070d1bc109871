"""What leaves a device: every message, call, log line and status file, and numbers found in them.

Samples carry a mark in the low half of their float32, so that they are known again wherever they turn up: as
float32 or float64 at any place of any bytes, in a decoded column, or written out as text.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.message import Message
from numpy.typing import NDArray

from infra.kafka.kafka_admin import KafkaAdmin
from schemas.envelope import SealedMessage, decode_rows, read_envelope
from schemas.events import JSON_LINES_SCHEMA, JSON_SCHEMA, decode_events
from schemas.excerpt_event import Excerpt
from schemas.packed_schemas import packed_books_rows, packed_summary_rows
from schemas.profile import Profile
from schemas.row_schemas import telemetry_rows
from schemas.topics import DEVICE_TOPICS, EXCERPT

MARK = 0xBEEF
RUN = 3
"""Marked numbers one after the other that are samples; one in 65,536 others carries the mark by chance."""
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def marked(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples with the mark; it changes them by less than one part in a hundred."""
    bits = samples.astype(np.float32).view(np.uint32)
    return ((bits & 0xFFFF0000) | MARK).view(np.float32)


def longest_run(numbers: Iterable[float] | NDArray[Any]) -> int:
    """Most marked numbers in a row."""
    with np.errstate(over="ignore", invalid="ignore"):
        wide = np.asarray(numbers, dtype=np.float64)
        narrow = wide.astype(np.float32)
        # Written out with fewer digits than float64 has, a sample is still the nearest float32.
        near = np.abs(wide - narrow) <= 1e-8 * np.abs(wide)
    return _run(np.isfinite(wide) & near & ((narrow.view(np.uint32) & 0xFFFF) == MARK))


def _run(hits: NDArray[np.bool_]) -> int:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], hits, [False]]).astype(np.int8)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def run_in_bytes(data: bytes) -> int:
    """Most marked numbers in a row in bytes: as float32, as float64, or written out."""
    found = [longest_run([float(n) for n in _NUMBER.findall(data)])]
    for dtype in ("<f4", "<f8"):
        width = np.dtype(dtype).itemsize
        for at in range(min(width, len(data))):
            whole = (len(data) - at) // width
            found.append(longest_run(np.frombuffer(data, dtype, whole, at)))
    return max(found)


class Leavings:
    """Everything that left a device: bytes as they were, and the numbers that they mean.

    Attributes:
        raw: By origin, bytes; compressed ones as what they unpack to as well.
        columns: By origin, numbers of a decoded column.
    """

    def __init__(self) -> None:
        self.raw: list[tuple[str, bytes]] = []
        self.columns: list[tuple[str, NDArray[np.float64]]] = []

    def add_messages(self, admin: KafkaAdmin, namespace: str, profile: Profile) -> None:
        """All messages of a namespace's device topics, decoded as its profile's."""
        bases = {t.named(namespace): t.base for t in DEVICE_TOPICS}
        found = admin.read(admin.spans(list(bases)))
        self._add([(bases[m.topic], m.key, m.headers, m.value) for m in found], profile)

    def add_sealed(self, messages: Iterable[SealedMessage], profile: Profile) -> None:
        """Messages as a device has sealed them."""
        self._add([(m.topic, m.key, m.headers, m.value) for m in messages], profile)

    def _add(self, messages: Iterable[tuple[str, bytes, Any, bytes]], profile: Profile) -> None:
        schemas = {
            "telemetry.v1": telemetry_rows(profile),
            "summary.v1": packed_summary_rows(profile),
            "books.v1": packed_books_rows(),
        }
        for base, key, headers, value in messages:
            envelope, _ = read_envelope(key, headers)
            for name, header in headers:
                self.raw.append((f"{base} header {name}", header))
            self.raw.append((base, value))
            if base in schemas:
                self._add_rows(base, decode_rows(value, envelope.raw_bytes, schemas[base]))
            elif envelope.schema == JSON_LINES_SCHEMA:
                for event in decode_events(value, envelope.raw_bytes, envelope.n_rows):
                    self.raw.append((base, event))
            elif base == EXCERPT.base:
                for channel, values in Excerpt.model_validate_json(value).values().items():
                    self.columns.append((f"{base} {channel}", values))
            else:
                assert envelope.schema == JSON_SCHEMA, envelope.schema

    def add_calls(self, requests: Iterable[tuple[str, bytes, Message]]) -> None:
        """Requests of calls: method, bytes, and what they are."""
        for method, data, request in requests:
            self.raw.append((method, data))
            self.columns.append((method, np.array(list(_numbers(request)), dtype=np.float64)))

    def add_files(self, *paths: Path) -> None:
        """Logs and status files."""
        self.raw += [(path.name, path.read_bytes()) for path in paths]

    def origins(self) -> set[str]:
        """Where something came from."""
        return {origin for origin, _ in (*self.raw, *self.columns)}

    def runs(self) -> dict[str, int]:
        """Most marked numbers in a row, by origin, where there are ``RUN`` or more."""
        found: dict[str, int] = {}
        for origin, run in (
            *((o, run_in_bytes(data)) for o, data in self.raw),
            *((o, longest_run(numbers)) for o, numbers in self.columns),
        ):
            if run >= RUN:
                found[origin] = max(run, found.get(origin, 0))
        return found

    def told(self, values: Mapping[str, float]) -> set[str]:
        """Which of some values are among the numbers that left, in any width or as text: name and origin."""
        found = set()
        for origin, numbers in self.numbers():
            for name, value in values.items():
                with np.errstate(over="ignore", invalid="ignore"):
                    near = np.abs(numbers[np.isfinite(numbers)] - value) <= 2e-7 * abs(value)
                if near.any():
                    found.add(f"{name} in {origin}")
        for origin, data in self.raw:
            for name, value in values.items():
                if any(struct.pack(code, value) in data for code in ("<f", "<d", ">f", ">d")):
                    found.add(f"{name} in {origin}")
        return found

    def repeating(self, samples: NDArray[np.float32]) -> set[str]:
        """Decoded columns of which half of the numbers or more are samples, or one more than one."""
        known = np.unique(np.concatenate([samples.ravel(), samples.ravel() + np.float32(1)]))
        found = set()
        for origin, numbers in self.columns:
            finite = numbers[np.isfinite(numbers)].astype(np.float32)
            if len(finite) and np.isin(finite, known).mean() >= 0.5:
                found.add(origin)
        return found

    def numbers(self) -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Every number that is decoded or written out, by origin."""
        yield from self.columns
        for origin, data in self.raw:
            yield origin, np.array([float(n) for n in _NUMBER.findall(data)])

    def _add_rows(self, origin: str, batch: pa.RecordBatch) -> None:
        floats = []
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            values = _flat(column)
            if pa.types.is_string(column.type):
                self.raw.append((f"{origin} {name}", "\n".join(filter(None, column.to_pylist())).encode()))
            if values is not None:
                self.columns.append((f"{origin} {name}", values))
                floats += [values] if len(values) == len(batch) else []
        if floats:
            self.columns.append((f"{origin} row by row", np.column_stack(floats).ravel()))


def _flat(column: pa.Array) -> NDArray[np.float64] | None:
    """Numbers of a column, of its lists too; None: it has none."""
    while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        column = column.flatten()
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        return None
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _numbers(message: Message) -> Iterator[float]:
    for field, value in message.ListFields():
        many = value if field.is_repeated else [value]
        for one in many if not hasattr(many, "values") else many.values():
            if isinstance(one, Message):
                yield from _numbers(one)
            elif isinstance(one, int | float):
                yield float(one)

"""Messages of the log as a person reads them: envelope and rows, or the event; and dead letters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feature_store.lake_registry import ProfileRegistry
from infra.kafka.kafka_admin import LogMessage
from schemas.envelope import Headers, decode_rows, read_envelope
from schemas.errors import MessageError, RejectedError
from schemas.topics import ALL_TOPICS, DEVICE_TOPICS
from stream_processors.engine.kafka_log import ORIGINAL_HEADER

_DEVICE = {t.base for t in DEVICE_TOPICS}


def full_topic(name: str, namespace: str) -> str:
    """Topic on the broker that a user means by its base name or its full one.

    Raises:
        RejectedError: No such topic of ours.
    """
    known = {t.base: t.named(namespace) for t in ALL_TOPICS}
    if name in known:
        return known[name]
    if name in known.values():
        return name
    raise RejectedError(f"no topic '{name}': there are {', '.join(sorted(known))}")


def view(message: LogMessage, namespace: str, registry: ProfileRegistry) -> dict[str, Any]:
    """A message as JSON values; what does not decode says why and shows its size."""
    base = message.topic.removeprefix(f"{namespace}.") if namespace else message.topic
    shown: dict[str, Any] = {
        "topic": base,
        "partition": message.partition,
        "offset": message.offset,
        "at": message.at.isoformat(),
        "key": None if message.key is None else message.key.decode(errors="replace"),
    }
    if base in _DEVICE:
        return shown | _device_message(message, registry)
    shown["headers"] = {k: text(v) for k, v in message.headers}
    return shown | {"value": event(message.value)}


def _device_message(message: LogMessage, registry: ProfileRegistry) -> dict[str, Any]:
    value = message.value or b""
    try:
        envelope, _ = read_envelope(message.key, message.headers)
        shown: dict[str, Any] = {"envelope": {**envelope._asdict(), "digest": envelope.digest.hex()}}
        if envelope.schema == "json":
            return shown | {"value": event(value)}
        rows = decode_rows(value, envelope.raw_bytes, registry.wire(envelope.schema).schema)
        return shown | {"rows": [plain(row) for row in rows.to_pylist()]}
    except MessageError as exc:
        return {
            "headers": {k: text(v) for k, v in message.headers},
            "undecoded": f"{type(exc).__name__}: {exc}",
            "bytes": len(value),
        }


def event(value: bytes | None) -> Any:
    """JSON of an event; text or hex where it is none."""
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return text(value)


def text(value: bytes | None) -> str | None:
    """UTF-8 text where it is printable, else hex."""
    if value is None:
        return None
    try:
        decoded = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return decoded if decoded.isprintable() else value.hex()


def plain(value: Any) -> Any:
    """A row's values as JSON has them: instants in ISO 8601, bytes in hex, NaN and infinities null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if hasattr(value, "isoformat") else value


@dataclass(frozen=True)
class DeadLetter:
    """One refused message, as the dead-letter topic keeps it.

    Attributes:
        id: ``partition:offset`` in the dead-letter topic.
        at: When it was refused, UTC.
        source_topic: Topic it came from, without namespace.
        source: ``topic[partition]@offset`` it came from.
        error: Class of the refusal.
        reason: Its message.
        key: Key of the original.
        headers: Headers of the original.
        value: Bytes of the original.
        lost: The log had dropped the original before it could be copied.
    """

    id: str
    at: datetime
    source_topic: str
    source: str
    error: str
    reason: str
    key: bytes | None
    headers: Headers
    value: bytes
    lost: bool


def dead_letters(messages: Iterable[LogMessage]) -> list[DeadLetter]:
    """Dead letters in order of time; a repeat of the same refusal (same event id) counts once."""
    found: dict[str, DeadLetter] = {}
    for message in messages:
        fields = dict(message.headers)
        letter = _dead_letter(message, fields)
        found.setdefault(text(fields.get("event_id")) or letter.id, letter)
    return sorted(found.values(), key=lambda letter: (letter.at, letter.id))


def _dead_letter(message: LogMessage, fields: dict[str, bytes]) -> DeadLetter:
    def told(name: str) -> str:
        return text(fields.get(name)) or ""

    cut = len(ORIGINAL_HEADER)
    return DeadLetter(
        id=f"{message.partition}:{message.offset}",
        at=message.at,
        source_topic=told("source_topic"),
        source=f"{told('source_topic')}[{told('source_partition')}]@{told('source_offset')}",
        error=told("error"),
        reason=told("reason"),
        key=message.key,
        headers=[(k[cut:], v) for k, v in message.headers if k.startswith(ORIGINAL_HEADER)],
        value=message.value or b"",
        lost="lost" in fields,
    )

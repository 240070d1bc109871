"""Renders messages of the log for people: envelope and rows, or the event; and dead letters."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from feature_store.derived_trust import SIGNED_BY, DerivedTrust
from feature_store.lake_registry import ProfileRegistry
from infra.kafka.kafka_admin import LogMessage
from schemas.envelope import Headers, decode_rows, read_envelope
from schemas.errors import MessageError, RejectedError, SignatureError
from schemas.events import JSON_LINES_SCHEMA, JSON_SCHEMA, decode_events
from schemas.excerpt_event import without_samples
from schemas.topics import ALL_TOPICS, DEAD_LETTER, DEVICE_TOPICS, Lane
from stream_processors.engine.letters import ORIGINAL_HEADER
from stream_processors.job import WITHHELD
from stream_processors.refused_messages import SUMMED

_DEVICE = {t.base for t in DEVICE_TOPICS}
_RANGES = re.compile(r"[0-9]{1,18}-[0-9]{1,18}(,[0-9]{1,18}-[0-9]{1,18})*")


def full_topic(name: str, namespace: str) -> str:
    """Full name of a topic that a user names by its base name or its full one.

    Raises:
        RejectedError: edgeloop has no such topic.
    """
    known = {t.base: t.named(namespace) for t in ALL_TOPICS}
    if name in known:
        return known[name]
    if name in known.values():
        return name
    raise RejectedError(f"no topic '{name}': there are {', '.join(sorted(known))}")


def view(
    message: LogMessage, namespace: str, registry: ProfileRegistry, trust: DerivedTrust
) -> dict[str, Any]:
    """A message as JSON values; one that does not decode is shown by its error and size.

    A derived message is ``verified`` if a process of this lake wrote it.
    """
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
    if base in SIGNED_BY:
        shown["verified"] = is_ours(message, base, trust)
    return shown | {"value": event(message.value)}


def is_ours(message: LogMessage, base: str, trust: DerivedTrust) -> bool:
    """Whether a process of this lake wrote the message, as far as one can tell: 0.2.0 signed none."""
    try:
        trust.check(
            base, (message.partition, message.offset), message.key, message.headers, message.value or b""
        )
    except SignatureError:
        return False
    return True


def _device_message(message: LogMessage, registry: ProfileRegistry) -> dict[str, Any]:
    value = message.value or b""
    try:
        envelope, _ = read_envelope(message.key, message.headers)
        shown: dict[str, Any] = {"envelope": {**envelope._asdict(), "digest": envelope.digest.hex()}}
        if envelope.schema == JSON_SCHEMA:
            found = event(value)
            excerpt = envelope.lane == Lane.EXCERPT and isinstance(found, dict)
            return shown | {"value": without_samples(found) if excerpt else found}
        if envelope.schema == JSON_LINES_SCHEMA:
            lines = decode_events(value, envelope.raw_bytes, envelope.n_rows)
            return shown | {"values": [event(line) for line in lines]}
        rows = decode_rows(value, envelope.raw_bytes, registry.wire(envelope.schema).schema)
        return shown | {"rows": [plain(row) for row in rows.to_pylist()]}
    except MessageError as exc:
        return {
            "headers": {k: text(v) for k, v in message.headers},
            "undecoded": f"{type(exc).__name__}: {exc}",
            "bytes": len(value),
        }


def event(value: bytes | None) -> Any:
    """The event as JSON; where it is none, as text or hex."""
    if value is None:
        return None
    try:
        return json.loads(value)
    except ValueError:
        return text(value)


def text(value: bytes | None) -> str | None:
    """The bytes as UTF-8 text if it is printable, else as hex."""
    if value is None:
        return None
    try:
        decoded = value.decode()
    except UnicodeDecodeError:
        return value.hex()
    return decoded if decoded.isprintable() else value.hex()


def plain(value: Any) -> Any:
    """A row's values as JSON values: instants in ISO 8601, bytes in hex, NaN and infinities null."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if hasattr(value, "isoformat") else value


_WITHOUT_BYTES = {"lost", "too_large", WITHHELD, SUMMED}
"""Headers of letters whose value is not the original's."""


@dataclass(frozen=True)
class DeadLetter:
    """One refused message as the dead-letter topic keeps it, or several of which only the place is kept.

    Attributes:
        id: ``partition:offset`` in the dead-letter topic.
        at: When it was refused, UTC.
        source_topic: Topic it came from, without namespace.
        source_partition: Partition of that topic.
        offsets: First and last offset of each range of originals; ranges of a sum may hold a few others too.
        error: Class of the error that refused it.
        reason: Message of that error.
        key: Key of the original.
        headers: Headers of the original.
        value: Bytes of the original.
        lost: Whether the log dropped the original before it could be copied.
        has_bytes: Whether key, headers and value are the original's; else it is in the source topic only.
        messages: Refused messages that the letter stands for.
        n_bytes: Their size.
        signed: Whether a registered producer signed them; None: a letter of 0.2.0 or before.
        digest: Digest of the message, or over those of all of them, hex; empty: not kept.
        verified: Whether a worker of this lake wrote the letter.
    """

    id: str
    at: datetime
    source_topic: str
    source_partition: int
    offsets: tuple[tuple[int, int], ...]
    error: str
    reason: str
    key: bytes | None
    headers: Headers
    value: bytes
    lost: bool
    has_bytes: bool
    messages: int
    n_bytes: int
    signed: bool | None
    digest: str
    verified: bool

    @property
    def source(self) -> str:
        """``topic[partition]@offset`` it came from; a sum has the first offset and the last."""
        first, last = self.offsets[0][0], self.offsets[-1][1]
        where = f"{first}" if first == last else f"{first}..{last}"
        return f"{self.source_topic}[{self.source_partition}]@{where}"


def dead_letters(messages: Iterable[LogMessage], trust: DerivedTrust) -> list[DeadLetter]:
    """Dead letters in order of time; repeats of one refusal (same event id) by us count once."""
    found: dict[str, DeadLetter] = {}
    for message in messages:
        fields = dict(message.headers)
        letter = _dead_letter(message, fields, is_ours(message, DEAD_LETTER.base, trust))
        event_id = text(fields.get("event_id")) if letter.verified else None
        found.setdefault(event_id or letter.id, letter)
    return sorted(found.values(), key=lambda letter: (letter.at, letter.id))


def _dead_letter(message: LogMessage, fields: dict[str, bytes], verified: bool) -> DeadLetter:
    def field(name: str) -> str:
        return text(fields.get(name)) or ""

    def number(name: str, default: int) -> int:
        found = fields.get(name) or b""  # anybody may write a letter
        return int(found) if found.isdigit() and len(found) < 19 else default

    prefix, value, first = len(ORIGINAL_HEADER), message.value or b"", number("source_offset", 0)
    signed = field("signed")
    return DeadLetter(
        id=f"{message.partition}:{message.offset}",
        at=message.at,
        source_topic=field("source_topic"),
        source_partition=number("source_partition", 0),
        offsets=_ranges(field("offsets")) or ((first, first),),
        error=field("error"),
        reason=field("reason"),
        key=message.key,
        headers=[(k[prefix:], v) for k, v in message.headers if k.startswith(ORIGINAL_HEADER)],
        value=value,
        lost="lost" in fields,
        has_bytes=not _WITHOUT_BYTES & fields.keys(),
        messages=number(SUMMED, 1),
        n_bytes=number("n_bytes", len(value)),
        signed=signed == "true" if signed else None,
        digest=field("original_digest"),
        verified=verified,
    )


def _ranges(offsets: str) -> tuple[tuple[int, int], ...]:
    """Ranges written as ``3-7,9-9``; empty where they are not of this form: anybody may write a letter."""
    if not _RANGES.fullmatch(offsets):
        return ()
    pairs = [part.split("-") for part in offsets.split(",")]
    return tuple((int(a), int(b)) for a, b in pairs)

"""What is to be sealed into one message, and device-state events cut to messages that a topic takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.events import JSON_LINES_SCHEMA, JSON_SCHEMA, MAX_EVENTS, encode_events
from schemas.topics import DEVICE_STATE, Lane, Topic
from schemas.version_names import VersionHeader


@dataclass(frozen=True)
class Payload:
    """The value of a message, and what its headers say about it.

    Attributes:
        schema: Fingerprint of the rows' schema, or how events are written.
        raw_bytes: Length of the value before compression.
        version: Version of the profile that its rows name; None: they name none.
    """

    topic: Topic
    lane: Lane
    schema: str
    value: bytes
    n_rows: int
    raw_bytes: int
    version: VersionHeader | None = None


def state_payloads(events: Sequence[bytes], room: int) -> list[Payload]:
    """Device-state events, as many as fit in one message; one that is alone is as release 0.2.0 sends it.

    Args:
        events: JSON without line breaks.
        room: Bytes that the value of several may have.
    """
    if len(events) < 2:
        return [Payload(DEVICE_STATE, Lane.STATE, JSON_SCHEMA, event, 1, len(event)) for event in events]
    if len(events) <= MAX_EVENTS:
        value, raw_bytes = encode_events(events)
        if len(value) <= room:
            return [Payload(DEVICE_STATE, Lane.STATE, JSON_LINES_SCHEMA, value, len(events), raw_bytes)]
    half = len(events) // 2
    return [*state_payloads(events[:half], room), *state_payloads(events[half:], room)]

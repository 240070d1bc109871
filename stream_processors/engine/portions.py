"""Splits a task's batch into portions that unpack to a bounded size together.

One message may unpack to 16 MiB from 66 kB. A batch of a few hundred of them is small on the wire and would
take gigabytes at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from schemas.arrow_bounds import MAX_RATIO, MAX_RAW_BYTES
from stream_processors.job import RawMessage

PORTION_BYTES = 64 * 1024**2
"""What the messages of one portion may unpack to together, where they are more than one."""
_RAW_BYTES = "raw_bytes"
_USUAL_PLACES = (6, 7)
"""Of that header among those of a sealed message, without and with a version of its profile."""


def portions(messages: Sequence[RawMessage], most: int = PORTION_BYTES) -> list[Sequence[RawMessage]]:
    """The messages in order, in one portion where that is surely small enough; one empty portion for none."""
    if sum(len(m.value) for m in messages) * MAX_RATIO <= most:
        return [messages]
    found, start, size = list[Sequence[RawMessage]](), 0, 0
    for i, message in enumerate(messages):
        own = unpacked_bytes(message)
        if i > start and size + own > most:
            found.append(messages[start:i])
            start, size = i, 0
        size += own
    return [*found, messages[start:]]


def unpacked_bytes(message: RawMessage) -> int:
    """What the message can unpack to at most, by what it says and by its size; the smaller of both holds."""
    largest = min(MAX_RATIO * len(message.value), MAX_RAW_BYTES)
    headers = message.headers
    for place in _USUAL_PLACES:
        if len(headers) > place and headers[place][0] == _RAW_BYTES:
            headers = headers[place:]
            break
    for name, value in headers:
        if name == _RAW_BYTES and (value or b"").isdigit() and len(value) < 10:
            return min(max(int(value), len(message.value)), largest)
    return len(message.value)

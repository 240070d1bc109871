"""Messages that name a version of a profile that the lake does not hold yet: they wait here, within bounds.

They cannot wait in the log: one message of one device would then hold up its whole partition. So their bytes
stand in the job's state, and each later call tries them again.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from schemas.instants import to_us
from stream_processors.job import RawMessage, State

WAIT_S = 300
"""Longest wait, by append time; then a message is refused."""
MOST_OF_PRODUCER, MOST_OF_TASK = 16, 64
"""Messages that wait at once; one more is refused."""
MOST_BYTES = 256 * 1024
"""Keys, headers and values of all that wait in a task: they stand in its commit records."""
_WAITS = "waits"


class WaitingVersions:
    """The messages of a task that wait, as of a state and what this call of the job has changed.

    Args:
        state: The job's state; ``changes`` are to be added to the job's own.
        now: The commit's clock.
    """

    def __init__(self, state: State, now: datetime) -> None:
        self._now_us = to_us(now)
        prefix = f"{_WAITS}/"
        self._before = {key: _restored(raw) for key, raw in state.items() if key.startswith(prefix)}
        self._kept: dict[str, RawMessage] = {}
        self._of: Counter[bytes | None] = Counter()
        self._bytes = 0

    def messages(self) -> Sequence[RawMessage]:
        """Those that waited before this call, in order of their offsets: to be judged before any other."""
        return sorted(self._before.values(), key=lambda m: (m.topic, m.offset))

    def keep(self, message: RawMessage) -> bool:
        """Let a message wait (on); False: it has waited for too long, or there is no room.

        What is not kept in a call is forgotten: it was decided.
        """
        key, size = _key(message), _size(message)
        if self._now_us - message.appended_us > WAIT_S * 1_000_000:
            return False
        if len(self._kept) >= MOST_OF_TASK or self._of[message.key] >= MOST_OF_PRODUCER:
            return False
        if self._bytes + size > MOST_BYTES:
            return False
        self._kept[key] = message
        self._of[message.key] += 1
        self._bytes += size
        return True

    def moved(self) -> Mapping[str, int]:
        """By topic, how many more wait than before."""
        moved = Counter(message.topic for message in self._kept.values())
        moved.subtract(message.topic for message in self._before.values())
        return {topic: n for topic, n in moved.items() if n}

    def changes(self) -> Mapping[str, Any]:
        """State keys that changed; None removes."""
        begun = {key: _stored(m) for key, m in self._kept.items() if key not in self._before}
        return begun | {key: None for key in self._before if key not in self._kept}


def _key(message: RawMessage) -> str:
    return f"{_WAITS}/{message.topic}/{message.offset}"


def _size(message: RawMessage) -> int:
    return len(message.key or b"") + len(message.value) + sum(len(k) + len(v) for k, v in message.headers)


def _stored(message: RawMessage) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp_ms,
        "key": _text(message.key or b""),
        "headers": [[name, _text(value)] for name, value in message.headers],
        "value": _text(message.value),
    }


def _restored(raw: Mapping[str, Any]) -> RawMessage:
    headers = [(str(name), base64.b64decode(value)) for name, value in raw["headers"]]
    return RawMessage(
        raw["topic"], raw["partition"], raw["offset"], raw["timestamp_ms"], base64.b64decode(raw["key"]),
        headers, base64.b64decode(raw["value"]),
    )  # fmt: skip


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()

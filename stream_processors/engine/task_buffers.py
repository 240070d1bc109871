"""Messages that tasks have received and not yet committed: ordered, complete, bounded, shared fairly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from schemas.errors import OperatorError
from stream_processors.job import RawMessage

MESSAGE_OVERHEAD_BYTES = 320
"""Memory of a message beside its bytes: tuple, two numbers, list, two bytes objects."""
HEADER_OVERHEAD_BYTES = 160
"""The same of one header: tuple, name, bytes object."""


def held_bytes(message: RawMessage) -> int:
    """About how much memory the message takes while it waits."""
    headers, key, value = message.headers, message.key, message.value
    size = MESSAGE_OVERHEAD_BYTES + len(value) + HEADER_OVERHEAD_BYTES * len(headers)
    if key:
        size += len(key)
    if not headers:
        return size
    pairs: Any = zip(*headers, strict=True)
    names, values = pairs
    try:
        return size + len("".join(names)) + len(b"".join(values))
    except TypeError:  # a header without a value
        return size + sum(len(name) + len(value or b"") for name, value in headers)


@dataclass
class TaskBuffer:
    """Messages of one task in arrival order.

    Attributes:
        next_offsets: Next expected offset by topic; it never goes back.
        sizes: Memory of each waiting message (``held_bytes``).
        n_bytes: Of all of them.
    """

    next_offsets: dict[str, int]
    messages: list[RawMessage] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    n_bytes: int = 0

    def extend(self, messages: Sequence[RawMessage]) -> int:
        """Append messages of one topic, in order, and drop what is known; returns how many were new.

        Offsets that they skip are taken for legitimate holes.
        """
        before = len(self.messages)
        if not messages:
            return 0
        topic = messages[0].topic
        expected = self.next_offsets[topic]
        for message in messages:
            if message.offset >= expected:
                expected = message.offset + 1
                self.messages.append(message)
                self.sizes.append(held_bytes(message))
        self.n_bytes += sum(self.sizes[before:])
        self.next_offsets[topic] = expected
        return len(self.messages) - before

    def take(self, max_bytes: int | None = None) -> list[RawMessage]:
        """Hand over waiting messages, oldest first: all, or at least one and up to ``max_bytes``."""
        if max_bytes is None or self.n_bytes <= max_bytes:
            taken, self.messages, self.sizes, self.n_bytes = self.messages, [], [], 0
            return taken
        ends = list(accumulate(self.sizes))
        count = max(1, bisect_right(ends, max_bytes))
        taken, self.messages, self.sizes = self.messages[:count], self.messages[count:], self.sizes[count:]
        self.n_bytes -= ends[count - 1]
        return taken

    def reopened(self, task: int, in_flight: Sequence[RawMessage], offsets: Mapping[str, int]) -> TaskBuffer:
        """Buffer after the task was opened again: messages at or after its new checkpoint stay.

        Args:
            task: Number of the task, for the error.
            in_flight: Messages of the call that lost the task.
            offsets: Next offset by topic, from the checkpoint as it is now.

        Raises:
            OperatorError: The checkpoint lies before the oldest message held: it went back.
        """
        held = [*in_flight, *self.messages]
        started = {m.topic: m.offset for m in reversed(held)}
        fresh = TaskBuffer({t: offsets.get(t, started.get(t, o)) for t, o in self.next_offsets.items()})
        for topic, offset in fresh.next_offsets.items():
            if offset < started.get(topic, 0):
                raise OperatorError(
                    f"{topic}[{task}]: the checkpoint went back to {offset}, before {started[topic]}: "
                    "was `_commits` restored from an old copy?"
                )
        for message in held:
            fresh.extend([message])
        return fresh


@dataclass
class TaskBuffers:
    """The buffers of all tasks of one worker.

    A task that gets more than its share never keeps the others waiting: while all together hold too much,
    only tasks below their share receive, and a batch is divided evenly among those that have something.

    Attributes:
        max_bytes: Bound on what all tasks hold; tasks below their share may exceed it by half as much again.
        in_flight_bytes: Memory of what ``take`` handed over and is not yet done.
    """

    max_bytes: int
    of_task: dict[int, TaskBuffer] = field(default_factory=dict)
    in_flight_bytes: int = 0

    @property
    def n_bytes(self) -> int:
        """Memory of all waiting messages."""
        return sum(b.n_bytes for b in self.of_task.values())

    @property
    def full(self) -> bool:
        """Whether all tasks together hold too much."""
        return self.n_bytes + self.in_flight_bytes >= self.max_bytes

    def has_room(self, task: int) -> bool:
        """Whether more of this task's messages may be fetched; an unknown task has nothing to hold."""
        buffer = self.of_task.get(task)
        if buffer is None or not buffer.messages:
            return True
        return not self.full or buffer.n_bytes < self.max_bytes // (2 * len(self.of_task))

    def take(self, max_bytes: int) -> dict[int, list[RawMessage]]:
        """Take a batch of at most about ``max_bytes``, divided evenly: what one task leaves, others get."""
        waiting = sorted((b.n_bytes, task) for task, b in self.of_task.items() if b.messages)
        held, batches = self.n_bytes, dict[int, list[RawMessage]]()
        left = max_bytes
        for position, (n_bytes, task) in enumerate(waiting):  # the smallest first: it may leave something
            share = left // (len(waiting) - position)
            batches[task] = self.of_task[task].take(share)
            left = max(0, left - min(n_bytes, share))
        self.in_flight_bytes = held - self.n_bytes
        return batches

    def done(self) -> None:
        """The batch that was taken has been committed, or is waiting again."""
        self.in_flight_bytes = 0

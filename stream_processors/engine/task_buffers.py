"""Messages that tasks have received and not yet committed: ordered, complete, bounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.errors import OperatorError
from stream_processors.job import RawMessage

MESSAGE_OVERHEAD_BYTES = 100


@dataclass
class TaskBuffer:
    """Messages of one task in arrival order.

    Attributes:
        next_offsets: Next expected offset by topic; it never goes back.
        oldest: Monotonic time, seconds, at which the first waiting message came.
    """

    next_offsets: dict[str, int]
    messages: list[RawMessage] = field(default_factory=list)
    n_bytes: int = 0
    oldest: float = 0.0

    def add(self, message: RawMessage, now: float) -> int:
        """Append unless already known; returns the bytes added."""
        if message.offset < self.next_offsets[message.topic]:
            return 0
        if not self.messages:
            self.oldest = now
        self.next_offsets[message.topic] = message.offset + 1
        self.messages.append(message)
        size = MESSAGE_OVERHEAD_BYTES + len(message.value)
        self.n_bytes += size
        return size

    def take(self) -> list[RawMessage]:
        """Hand over the waiting messages; the buffer is empty afterwards."""
        taken, self.messages, self.n_bytes = self.messages, [], 0
        return taken

    def reopened(
        self, task: int, in_flight: Sequence[RawMessage], offsets: dict[str, int], now: float
    ) -> TaskBuffer:
        """Buffer after the task was opened again: messages at or after its new checkpoint stay.

        Args:
            task: Number of the task, for the error.
            in_flight: Messages of the call that lost the task.
            offsets: Next offset by topic, from the checkpoint as it is now.
            now: Monotonic time, seconds.

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
            fresh.add(message, now)
        return fresh


def take_longest_waiting(
    buffers: dict[int, TaskBuffer], tasks: Iterable[int], max_bytes: int
) -> dict[int, list[RawMessage]]:
    """Take whole buffers, at least one and up to ``max_bytes``, longest waiting first."""
    batches: dict[int, list[RawMessage]] = {}
    taken = 0
    ready = [t for t in tasks if t in buffers and buffers[t].messages]
    for task in sorted(ready, key=lambda t: buffers[t].oldest):
        n_bytes = buffers[task].n_bytes
        if batches and taken + n_bytes > max_bytes:
            break
        batches[task] = buffers[task].take()
        taken += n_bytes
    return batches

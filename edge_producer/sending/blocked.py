"""Messages that the broker does not take as they are: kept, shown, and tried again, while others go on. Pure.

A message that is too large waits until its topic takes its size. Any other is tried again, ever more rarely.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 600.0


@dataclass
class BlockedMessage:
    """One of them.

    Attributes:
        id: Its id in the spool.
        topic: Base name of its topic.
        size: Its bytes as the broker counts them.
        reason: Why it is blocked, for people.
        too_large: It is too large for its topic.
        due_s: Steady clock from which it is tried again.
        indivisible: It cannot be made smaller under the present limits.
    """

    id: int
    topic: str
    size: int
    reason: str
    too_large: bool
    due_s: float = 0.0
    indivisible: bool = False


class BlockedMessages:
    """All of them, by id in the spool."""

    def __init__(self) -> None:
        self._blocked: dict[int, BlockedMessage] = {}
        # Those that were blocked and are being tried again stay known, with how often.
        self._tried: dict[int, tuple[int, BlockedMessage]] = {}

    def __contains__(self, id_: int) -> bool:
        return id_ in self._blocked

    def __len__(self) -> int:
        """Number of them."""
        return len(self._blocked)

    def all(self) -> list[BlockedMessage]:
        """All, in the order in which they were sealed."""
        return [self._blocked[id_] for id_ in sorted(self._blocked)]

    def add(self, message: BlockedMessage, now_s: float) -> None:
        """Block a message; ``due_s`` is set here, later with each time that it comes back."""
        tries, _ = self._tried.get(message.id, (0, message))
        self._tried[message.id] = (tries + 1, message)
        message.due_s = now_s + min(FIRST_WAIT_S * 2.0 ** min(tries, 12), LONGEST_WAIT_S)
        self._blocked[message.id] = message

    def due(
        self, now_s: float, limit: Callable[[str], int], assumed: Callable[[str], bool]
    ) -> list[BlockedMessage]:
        """Messages to be tried again now.

        Args:
            now_s: Steady clock.
            limit: Returns the limit of a topic.
            assumed: Returns whether that is a guess: then only a try can tell.
        """
        return [
            m
            for m in self.all()
            if now_s >= m.due_s and (not m.too_large or m.size <= limit(m.topic) or assumed(m.topic))
        ]

    def release(self, id_: int) -> None:
        """A message is tried again."""
        self._blocked.pop(id_, None)

    def forget(self, id_: int) -> BlockedMessage | None:
        """A message arrived after all, or was sealed anew; None where it was never blocked."""
        self._blocked.pop(id_, None)
        return self._tried.pop(id_, (0, None))[1]

    def limits_changed(self) -> None:
        """What could not be divided may be divisible now."""
        for message in self._blocked.values():
            message.indivisible = False

"""Messages that wait to be read, in bounded room that is shared fairly: one that floods drops its own.

Not thread-safe: whoever uses it from several threads locks.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A message that takes room."""

    @property
    def payload(self) -> bytes:
        """Its bytes."""
        ...


Received = TypeVar("Received", bound=Sized)


class FairInbox(Generic[Received]):
    """Takes turns between those that send; beyond its bounds the oldest of whoever holds most is dropped.

    Args:
        most: Messages.
        most_bytes: Bytes of payload.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._waiting: OrderedDict[Hashable, deque[Received]] = OrderedDict()
        self._bytes: dict[Hashable, int] = {}
        self._count = self._total = 0

    def __len__(self) -> int:
        return self._count

    def put(self, sender: Hashable, message: Received) -> int:
        """Take a message in; returns how many were dropped for it."""
        self._waiting.setdefault(sender, deque()).append(message)
        self._add(sender, 1, len(message.payload))
        dropped = 0
        while self._count > self._most or self._total > self._most_bytes:
            self._pop(self._largest())
            dropped += 1
        return dropped

    def get(self) -> Received:
        """The oldest message of whoever's turn it is.

        Raises:
            IndexError: There is none.
        """
        if not self._count:
            raise IndexError("no message waits")
        sender = next(iter(self._waiting))
        message = self._pop(sender)
        if sender in self._waiting:
            self._waiting.move_to_end(sender)
        return message

    def _largest(self) -> Hashable:
        if self._total > self._most_bytes:
            return max(self._bytes, key=self._bytes.__getitem__)
        return max(self._waiting, key=lambda sender: len(self._waiting[sender]))

    def _pop(self, sender: Hashable) -> Received:
        message = self._waiting[sender].popleft()
        self._add(sender, -1, -len(message.payload))
        if not self._waiting[sender]:
            del self._waiting[sender], self._bytes[sender]
        return message

    def _add(self, sender: Hashable, messages: int, size: int) -> None:
        self._count += messages
        self._total += size
        self._bytes[sender] = self._bytes.get(sender, 0) + size

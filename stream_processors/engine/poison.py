"""Poison: whose fault it is that a job fails, the input's, the surroundings', or our own. Pure.

*Surroundings*: a lake, broker or disk that does not answer, and a person's decision that is missing, say so
by their own errors (``RetryableError``, ``OperatorError``, ``OSError``). Such an error is never blamed on a
message. Memory that runs out ends the process: it may be a message's fault or a neighbour's, and a child with
a limit of its own finds out which.

*Ours*: a message that only one producer in a thousand would send is a fault of that producer. When the
messages of several fail at once, the likely cause is the job that all of them meet. Then nothing is
quarantined: the job stops, and goes on from where it stopped once it is mended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from schemas.errors import OperatorError, RetryableError, TaskLostError
from stream_processors.job import RawMessage

MOST_PRODUCERS = 3
"""Verified producers whose messages may fail together before the fault is ours."""
MOST_SHARE = 0.01
"""Share of the messages that may fail, of at least ``LEAST_MESSAGES``."""
LEAST_MESSAGES = 100
"""Of fewer messages a share says nothing: a single one would be more than one per cent."""
MOST_KEYS = 16
"""State keys of a job that may be guilty together (or one per cent, if that is more) before the fault is
ours."""

Manner = Literal["raised", "ended", "hung", "memory"]


class JobFailure(NamedTuple):
    """How a job failed on some input.

    Attributes:
        error: Class of the exception, or a word for how its process ended.
        how: It raised, its process ended, it took too long, or it took too much memory.
    """

    job: str
    error: str
    reason: str
    how: Manner = "raised"

    @classmethod
    def of(cls, job: str, error: BaseException) -> JobFailure:
        """The failure that an exception is."""
        how: Manner = "memory" if isinstance(error, MemoryError) else "raised"
        return cls(job, type(error).__name__, printable(str(error)), how)

    def __str__(self) -> str:
        return f"{self.job}: {self.error}: {self.reason}"


class VerifiedSender(NamedTuple):
    """Who signed a message, and how many rows it says to hold."""

    producer: str
    rows: int


SenderOf = Callable[[RawMessage], VerifiedSender | None]
"""Finds out who signed a message; None: nobody that we know."""


class GuiltyMessage(NamedTuple):
    """A message that makes a job fail, and who signed it."""

    message: RawMessage
    failure: JobFailure
    sender: VerifiedSender | None


def blames_input(error: BaseException) -> bool:
    """Whether an exception out of a job may be blamed on what the job was given."""
    surroundings = (RetryableError, TaskLostError, OperatorError, OSError, MemoryError)
    return isinstance(error, Exception) and not isinstance(error, surroundings)


def printable(text: str, longest: int = 500) -> str:
    """The text of an exception, fit for a table and a terminal: it may quote what a stranger sent."""
    return "".join(c if c.isprintable() else " " for c in text[:longest])


class RecentMessages:
    """What became of a task's newest messages, as far back as a share needs."""

    def __init__(self) -> None:
        self._portions: deque[tuple[int, tuple[GuiltyMessage, ...]]] = deque()

    def note(self, messages: int, guilty: Iterable[GuiltyMessage] = ()) -> None:
        """Note a decided portion; portions that no share needs any more are forgotten."""
        self._portions.append((messages, tuple(guilty)))
        while self.count - self._portions[0][0] >= LEAST_MESSAGES:
            self._portions.popleft()

    @property
    def count(self) -> int:
        """Messages noted and not forgotten."""
        return sum(n for n, _ in self._portions)

    @property
    def guilty(self) -> list[GuiltyMessage]:
        """The guilty ones among them."""
        return [g for _, found in self._portions for g in found]


def is_ours(guilty: Sequence[GuiltyMessage], messages: int, before: RecentMessages) -> bool:
    """Whether so much fails that the job is at fault, not its input.

    Only signed messages count: a stranger's could otherwise stop the job. For the share, one producer alone
    is not enough: a device with broken firmware, or a stolen key, must not stop the others.

    Args:
        guilty: Messages of this batch that fail.
        messages: How many it has.
        before: What came before it; together with it a small batch has a share too.
    """
    signed = [g.sender.producer for g in guilty if g.sender is not None]
    if len(set(signed)) > MOST_PRODUCERS:
        return True
    earlier = [g.sender.producer for g in before.guilty if g.sender is not None]
    total, failed = messages + before.count, len(signed) + len(earlier)
    several = len({*signed, *earlier}) > 1
    return bool(signed) and several and total >= LEAST_MESSAGES and failed > MOST_SHARE * total

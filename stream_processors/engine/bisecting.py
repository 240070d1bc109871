"""Finds what makes a job fail: the smallest guilty part of a state, or the guilty messages of a batch. Pure.

A *trial* runs the jobs on some messages and some state, and commits nothing. An empty batch is tried first:
if that fails, no message is to blame. Else the batch is split until what fails is one message. Parts that
pass change the state for the parts after them, as commits would; so each part is run about once, and a guilty
message costs twice the batch at most. It ends for any job: every step commits, splits or sets aside
something.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stream_processors.engine.poison import (
    MOST_KEYS,
    GuiltyMessage,
    JobFailure,
    RecentMessages,
    SenderOf,
    VerifiedSender,
    is_ours,
)
from stream_processors.engine.records import TaskState
from stream_processors.job import RawMessage

AT_ONCE = 512
"""Messages that are decided on at a time; the rest of the batch is a batch of its own afterwards."""
UNSIGNED_TRIED = 16
"""Guilty messages without a known signer after which all such messages of the batch are set aside untried:
nothing of them could land anyway, and a stranger can send any number."""


class Passed(NamedTuple):
    """A trial that went well, and the state keys that it changed."""

    changes: dict[str, Any]


Trial = Callable[[Sequence[RawMessage], TaskState], JobFailure | Passed]


@dataclass(frozen=True)
class Isolated:
    """What to do about a batch that makes a job fail.

    Attributes:
        taken: How many messages of the batch this is about; the rest is to be handed over again.
        kept: Those of them that may be processed, together.
        guilty: Those that are set aside.
        keys: State keys (with their job's prefix) to set aside first; then no message is taken.
        failure: Why; for guilty messages each has its own.
        ours: The job is at fault: nothing is set aside, and it has to stop.
    """

    taken: int = 0
    kept: tuple[RawMessage, ...] = ()
    guilty: tuple[GuiltyMessage, ...] = ()
    keys: tuple[str, ...] = ()
    failure: JobFailure | None = None
    ours: bool = False


def isolate(
    trial: Trial,
    messages: Sequence[RawMessage],
    state: TaskState,
    sender_of: SenderOf,
    before: RecentMessages,
    ways: int = 2,
) -> Isolated:
    """What to do about a batch; where it passes after all, all of it is kept.

    Args:
        trial: Runs the jobs.
        messages: The batch, in log order within a topic.
        state: The task's state before it.
        sender_of: Who signed a message.
        before: What became of the messages before.
        ways: Into how many parts a part that fails is split. Two cost least where failing costs as much as
            passing; where each failure costs a new process, more parts need fewer of them.
    """
    empty = trial((), state)
    if isinstance(empty, JobFailure):
        keys = guilty_keys(trial, state, empty)
        return Isolated(keys=keys, failure=empty, ours=not keys)
    batch = tuple(messages[:AT_ONCE])
    if not batch or isinstance(trial(batch, state), Passed):
        return Isolated(taken=len(batch), kept=batch)
    return _Walk(trial, batch, state, sender_of, before).run(ways)


class _Walk:
    """One pass over a batch in order: what passes changes the state, what fails is split."""

    def __init__(
        self,
        trial: Trial,
        batch: tuple[RawMessage, ...],
        state: TaskState,
        sender_of: SenderOf,
        before: RecentMessages,
    ) -> None:
        self._trial, self._batch, self._state = trial, batch, state
        self._sender_of, self._before = _remembered(sender_of), before
        self._now = state
        self._kept: list[RawMessage] = []
        self._guilty: list[GuiltyMessage] = []
        # How many were kept, and how many guilty, once the first part had passed.
        self._first_passed: tuple[int, int] | None = None
        self._unsigned = 0

    def run(self, ways: int) -> Isolated:
        """What to do about the batch."""
        left, taken = [self._batch], 0
        while left:
            part = left.pop()
            if len(part) == 1 and self._is_spared(part[0]):
                taken += 1
                continue
            result = self._trial(part, self._now)
            if isinstance(result, Passed):
                self._pass(part, result)
                taken += len(part)
            elif len(part) > 1:
                size = -(-len(part) // ways)
                left += [part[i : i + size] for i in range(0, len(part), size)][::-1]
            elif self._kept and isinstance(self._trial((), self._now), JobFailure):
                break  # what was kept before it spoils the state: that is decided on once it is committed
            else:
                taken += 1
                self._convict(part[0], result)
                if is_ours(self._guilty, len(self._batch), self._before):
                    return Isolated(failure=result, ours=True)
        return self._together(taken)

    def _pass(self, part: Sequence[RawMessage], result: Passed) -> None:
        self._now = self._now.changed_by(result.changes)
        self._kept += part
        if self._first_passed is None:
            self._first_passed = len(self._kept), len(self._guilty)

    def _convict(self, message: RawMessage, failure: JobFailure) -> None:
        sender = self._sender_of(message)
        self._unsigned += sender is None
        self._guilty.append(GuiltyMessage(message, failure, sender))

    def _is_spared(self, message: RawMessage) -> bool:
        """Set aside without a trial, where too many unsigned ones were guilty already."""
        if self._unsigned < UNSIGNED_TRIED or self._sender_of(message) is not None:
            return False
        self._convict(message, self._guilty[-1].failure)
        return True

    def _together(self, taken: int) -> Isolated:
        """The outcome, once what passed in parts has passed in one batch too."""
        failure = self._guilty[0].failure if self._guilty else None
        if self._first_passed is None or isinstance(self._trial(self._kept, self._state), Passed):
            return Isolated(taken, tuple(self._kept), tuple(self._guilty), failure=failure)
        # Messages that only fail together are committed apart: none of them is set aside.
        kept, guilty = self._first_passed
        return Isolated(
            kept + guilty, tuple(self._kept[:kept]), tuple(self._guilty[:guilty]), failure=failure
        )


def _remembered(sender_of: SenderOf) -> SenderOf:
    """Checks each signature once."""
    known: dict[tuple[str, int], VerifiedSender | None] = {}

    def once(message: RawMessage) -> VerifiedSender | None:
        place = (message.topic, message.offset)
        if place not in known:
            known[place] = sender_of(message)
        return known[place]

    return once


def guilty_keys(trial: Trial, state: TaskState, failure: JobFailure) -> tuple[str, ...]:
    """The smallest state keys without which the jobs run again on an empty batch; one, where one is enough.

    Returns:
        Nothing where the jobs fail without them too, or where too many are guilty: then it is not the state.
    """
    removed: list[str] = []
    found: JobFailure | None = failure
    most = max(MOST_KEYS, len(state.state) // 100)
    while found is not None and len(removed) < most:
        own = sorted(k for k in state.without(removed).state if k.startswith(f"{found.job}/"))
        guilty = _first_guilty(trial, state.without(removed), own)
        if guilty is None:
            return ()
        removed.append(guilty)
        result = trial((), state.without(removed))
        found = result if isinstance(result, JobFailure) else None
    if found is not None:
        return ()
    # A key may have failed only for lack of the others: what does no harm goes back.
    for key in list(removed):
        rest = [k for k in removed if k != key]
        if rest and isinstance(trial((), state.without(rest)), Passed):
            removed = rest
    return tuple(removed)


def _first_guilty(trial: Trial, state: TaskState, own: Sequence[str]) -> str | None:
    """The key with which the job's keys, taken in order, begin to fail; None: it fails without any."""
    passes, fails = 0, len(own)
    if not own or isinstance(trial((), state.without(own)), JobFailure):
        return None
    while fails - passes > 1:
        middle = (passes + fails) // 2
        if isinstance(trial((), state.without(own[middle:])), JobFailure):
            fails = middle
        else:
            passes = middle
    return own[fails - 1]

"""The states of one device's update, and which may follow which. Pure: other modules persist and act."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from edge_producer.updates.resource_limits import LimitCounts
from edge_producer.updates.slots import ModelSet
from schemas.channel_documents import Release
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked
from schemas.updates import TRIAL_SAYS, Attack, UpdateResult, UpdateState

_JITTER = random.Random()  # noqa: S311  (spreads retries, guards nothing)

MAX_TRANSITIONS = 28
"""Persisted transitions of one attempt after which it is given up (Mender's number)."""
MAX_CRASHES = 2
"""Unclean ends of the process in the trial and the watch of a model that end its attempt: one is excused."""
BACKOFF_S, BACKOFF_LIMIT_S, DOUBLINGS = 1.0, 3600.0, 12

S = UpdateState
FOLLOWS: dict[UpdateState, frozenset[UpdateState]] = {
    S.IDLE: frozenset({S.FETCHING, S.STAGED, S.RESTORING}),
    S.FETCHING: frozenset({S.VERIFIED, S.IDLE, S.FETCHING}),
    S.VERIFIED: frozenset({S.STAGED, S.IDLE, S.FETCHING, S.VERIFIED}),
    S.STAGED: frozenset({S.TRIAL, S.DEFERRED, S.IDLE, S.FETCHING, S.STAGED}),
    S.TRIAL: frozenset({S.COMMITTED, S.RESTORING, S.DEFERRED, S.IDLE, S.FETCHING, S.STAGED}),
    S.DEFERRED: frozenset({S.FETCHING, S.STAGED, S.IDLE}),
    S.COMMITTED: frozenset({S.WATCH, S.RESTORING}),
    S.WATCH: frozenset({S.WATCH, S.IDLE, S.RESTORING, S.FETCHING, S.STAGED}),
    S.RESTORING: frozenset({S.RESTORED, S.INCONSISTENT}),
    S.RESTORED: frozenset({S.IDLE, S.FETCHING, S.STAGED}),
    S.INCONSISTENT: frozenset({S.IDLE, S.FETCHING, S.STAGED, S.RESTORING}),
}
"""The states that may follow each state. A newer instruction supersedes: FETCHING and STAGED follow most."""


class Attempt(BaseModel):
    """One try to run another set.

    Attributes:
        seq: Number of the channel document that asks for it.
        path: TUF target of the artifact; empty for the factory set, which is never fetched.
        before: The set that ran when the attempt began.
        transitions: Number of transitions persisted so far.
        crashes: Number of unclean ends of the process during the trial and the watch.
        live: A process runs under this watch, and has not ended in order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seq: int
    rollout_id: str
    wanted: ModelSet
    before: ModelSet
    release: Release
    path: str = ""
    transitions: NonNegativeInt = 0
    crashes: NonNegativeInt = 0
    live: bool = False

    @property
    def key(self) -> tuple[int, str]:
        """Equal for attempts at the same set for the same channel document."""
        return self.seq, self.wanted.digest


class Failure(BaseModel):
    """A set that failed.

    Attributes:
        kind: ``final``: not tried again until a newer channel document names the set; ``passing``: tried
            again after ``not_before``.
        seq: Number of the channel document that asked for it.
        count: Passing failures in a row.
        not_before: Trusted time, seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["final", "passing"]
    seq: int
    count: NonNegativeInt = 0
    not_before: float = 0.0
    reason: str = ""


_YOUNGER = ("running", "restarts", "unclean_ends", "out_of_memory", "limits", "on_faults", "not_on_faults")
"""Keys that release 0.2.0 did not have: left out of the file where they say nothing."""


class UpdateRecord(BaseModel):
    """Everything a device remembers of its updates; one JSON file.

    Attributes:
        attempt: The attempt under way, or the last one.
        seq, rollout_id: Of the newest channel document that was accepted: older ones are replays.
        failed: Failures by the digest of the set.
        reported: The last reported cause of refused ``metadata``, and of an ``artifact`` that failed: each
            cause is reported once. The key in the file is ``told``.
        result, attack, detail: How the last attempt ended; None or empty while one is under way.
        running: A process works with this record, and has not ended in order.
        restarts: Starts of the process since the newest rollout was accepted.
        unclean_ends: Those of them before which the process had not ended in order.
        out_of_memory: Unclean ends by a limit on memory or another resource, the trial's process included.
        limits: The kernel's counts when the process started; None: none started since 0.2.0.
        on_faults, not_on_faults: Trials that passed in which faults were superposed on the device's windows,
            and those in which they could not be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    format: Literal[1] = 1
    state: UpdateState = UpdateState.IDLE
    attempt: Attempt | None = None
    seq: NonNegativeInt = 0
    rollout_id: str = ""
    failed: dict[str, Failure] = {}
    reported: dict[str, str] = Field(default={}, alias="told")
    result: UpdateResult | None = None
    attack: Attack | None = None
    detail: str = ""
    running: bool = False
    restarts: NonNegativeInt = 0
    unclean_ends: NonNegativeInt = 0
    out_of_memory: NonNegativeInt = 0
    limits: LimitCounts | None = None
    on_faults: NonNegativeInt = 0
    not_on_faults: NonNegativeInt = 0

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        dumped: dict[str, Any] = handler(self)
        return {key: value for key, value in dumped.items() if value or key not in _YOUNGER}

    def accept(self, seq: int, rollout_id: str) -> UpdateRecord:
        """The record once a newer channel document is accepted; another rollout counts restarts anew."""
        counts = {} if rollout_id == self.rollout_id else dict.fromkeys(_YOUNGER[1:4], 0)
        return self.model_copy(update={"seq": seq, "rollout_id": rollout_id, **counts})

    def started(self, now: LimitCounts) -> tuple[UpdateRecord, bool]:
        """The record as a starting process counts it, and whether the one before it may have hit a limit."""
        hit = self.running and self.limits is not None and self.limits.may_have_hit(now)
        counts = {
            "running": True,
            "restarts": self.restarts + (self.limits is not None),
            "unclean_ends": self.unclean_ends + self.running,
            "out_of_memory": self.out_of_memory + hit,
            "limits": now,
        }
        return self.model_copy(update=counts), hit

    def tried(self, says: str, *, on_faults: bool) -> UpdateRecord:
        """The record with the outcome of a trial that passed, as reports carry it."""
        counts = {
            "on_faults": self.on_faults + on_faults,
            "not_on_faults": self.not_on_faults + (not on_faults),
        }
        return self.model_copy(update={"detail": f"{TRIAL_SAYS}{says}"[:500], **counts})

    def to(self, state: UpdateState, **changes: object) -> UpdateRecord:
        """The record after a transition.

        Raises:
            ValueError: ``state`` may not follow.
        """
        if state not in FOLLOWS[self.state]:
            raise ValueError(f"{state} does not follow {self.state}")
        attempt = changes.pop("attempt", self.attempt)
        if isinstance(attempt, Attempt):
            attempt = attempt.model_copy(update={"transitions": attempt.transitions + 1})
        return self.model_copy(update={"state": state, "attempt": attempt, **changes})

    def begin(self, attempt: Attempt, state: UpdateState) -> UpdateRecord:
        """The record at the start of an attempt; one that a crash broke off goes on counting."""
        before = self.attempt if self.result is None else None
        if before is not None and before.key == attempt.key:
            attempt = attempt.model_copy(update={"transitions": before.transitions})
        if before is not None and (before.rollout_id, before.wanted) == (attempt.rollout_id, attempt.wanted):
            attempt = attempt.model_copy(update={"crashes": before.crashes})
        return self.to(state, attempt=attempt, result=None, attack=None, detail="")

    def proved(self, attempt: Attempt) -> UpdateRecord:
        """The record once the attempt's set has passed its watch."""
        ended, failed = attempt.model_copy(update={"live": False}), self.forgive(attempt.wanted)
        return self.to(S.IDLE, attempt=ended, result=UpdateResult.COMMITTED, failed=failed)

    @property
    def looping(self) -> bool:
        """Whether the attempt has been persisted so often that it must be stuck in a loop."""
        return self.attempt is not None and self.attempt.transitions > MAX_TRANSITIONS

    def may_try(self, wanted: ModelSet, seq: int, now_s: float) -> bool:
        """Whether no earlier failure forbids trying a set now."""
        failure = self.failed.get(wanted.digest)
        if failure is None:
            return True
        if failure.kind == "final":
            return seq > failure.seq
        # A time further ahead than any wait was set by a clock that was wrong: it must not lock the set out.
        return now_s >= failure.not_before or failure.not_before > now_s + BACKOFF_LIMIT_S

    def fail(
        self,
        wanted: ModelSet,
        seq: int,
        now_s: float,
        reason: str,
        draw: Callable[[], float] = _JITTER.random,
    ) -> dict[str, Failure]:
        """``failed`` with one more passing failure: backs off exponentially, with jitter."""
        known = self.failed.get(wanted.digest)
        count = known.count + 1 if known is not None and known.kind == "passing" else 1
        wait = min(BACKOFF_S * 2.0 ** min(count - 1, DOUBLINGS), BACKOFF_LIMIT_S) * (0.5 + draw() / 2)
        failure = Failure(kind="passing", seq=seq, count=count, not_before=now_s + wait, reason=reason[:500])
        return {**self.failed, wanted.digest: failure}

    def give_up(self, wanted: ModelSet, seq: int, reason: str) -> dict[str, Failure]:
        """``failed`` with a failure that lasts until a newer channel document names the set."""
        return {**self.failed, wanted.digest: Failure(kind="final", seq=seq, reason=reason[:500])}

    def forgive(self, wanted: ModelSet) -> dict[str, Failure]:
        """``failed`` without a set that works."""
        return {digest: f for digest, f in self.failed.items() if digest != wanted.digest}


def parse_record(raw: bytes | None) -> UpdateRecord | None:
    """The record in a file's bytes; a new one where there is no file; None where it is unreadable."""
    if raw is None:
        return UpdateRecord()
    try:
        return UpdateRecord.model_validate(checked(raw, "the record of updates"))
    except (ValidationError, DamagedLakeError):
        return None


def after_restart(
    record: UpdateRecord, proven: ModelSet | None = None, *, ended: bool = False, hit_limit: bool = False
) -> UpdateRecord:
    """The record with which a starting process goes on, from the one that the process before it left.

    Before the commit nothing active had changed: the attempt goes back to idle, its counter stays, and the
    next check takes it up again. A commit is carried out again. A trial or a watch that did not end in order
    counts as one more crash, unless its last step, to mark the set as proven, was done. The first crash of an
    attempt is excused, unless a resource limit may have been hit: the model may be what needed too much.

    Args:
        record: As it was left.
        proven: The set that the pointer marks as proven; None where it marks none.
        ended: The process before this one did not end in order.
        hit_limit: It may have hit a resource limit.
    """
    attempt = record.attempt
    if attempt is None or record.state in SETTLED:
        return record
    if record.state is S.WATCH and attempt.wanted == proven:
        return record.proved(attempt)
    if record.looping:
        return _given_up(record, attempt)
    if (record.state is S.WATCH and attempt.live) or (record.state is S.TRIAL and ended):
        return _crashed(record, attempt, hit_limit=hit_limit)
    return broken_off(record)


def broken_off(record: UpdateRecord) -> UpdateRecord:
    """The record once an attempt that has changed nothing yet is put off to the next check."""
    if record.state not in UNCHANGED:
        return record
    if record.looping and record.attempt is not None:
        return _given_up(record, record.attempt)
    return record.to(S.IDLE)


SETTLED = frozenset({S.IDLE, S.DEFERRED, S.RESTORING, S.RESTORED, S.INCONSISTENT})
UNCHANGED = frozenset({S.FETCHING, S.VERIFIED, S.STAGED, S.TRIAL})
"""States of an attempt in which nothing that runs has changed yet."""


def _given_up(record: UpdateRecord, attempt: Attempt) -> UpdateRecord:
    failed = record.give_up(attempt.wanted, attempt.seq, "looped")
    detail = f"given up after {attempt.transitions} persisted transitions"
    if record.state in UNCHANGED:
        return record.to(S.IDLE, failed=failed, result=UpdateResult.NO_CHANGE_FAILED, detail=detail)
    return record.to(S.RESTORING, failed=failed, detail=detail)


_ADVICE = "docs/runbook.md#the-process-ended-under-the-new-model"


def _crashed(record: UpdateRecord, attempt: Attempt, *, hit_limit: bool) -> UpdateRecord:
    crashed = attempt.model_copy(update={"crashes": attempt.crashes + 1})
    excused = crashed.crashes < MAX_CRASHES and not hit_limit
    if excused:
        return record.to(S.IDLE if record.state is S.TRIAL else S.WATCH, attempt=crashed)
    failed = record.give_up(attempt.wanted, attempt.seq, "crashed")
    times = "once" if crashed.crashes == 1 else f"{crashed.crashes} times"
    detail = f"the process ended {times} under the new model"
    if hit_limit:
        detail += f", and may have hit a resource limit ({_ADVICE})"
    return record.to(S.RESTORING, attempt=crashed, failed=failed, detail=detail)

"""The lanes of every producer: their marks, and bounds on how many one producer may make us remember."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.envelope import Envelope
from schemas.errors import LimitError
from schemas.topics import Lane
from stream_processors.ingest.marks import LaneMarks, NumberStatus
from stream_processors.job import State

DAY_MS = 86_400_000
LIVE_SPOOLS = 8
"""Spools of one producer whose lanes are remembered. Another one retires the one unused for longest."""
RETIRED_SPOOLS = 512
"""How many one producer may have. What a retired spool sends is refused: it may have landed before."""
_SPOOLS, _MARKS = "spools", "marks"


class Lanes:
    """Marks by lane, as of a state and what this call of the job has changed.

    Args:
        state: The job's state; ``changes`` are to be added to the job's own.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._marks: dict[tuple[str, str, Lane], LaneMarks] = {}
        self._spools: dict[str, _Spools] = {}
        self._held_before: dict[str, list[str]] | None = None
        self._changed: dict[str, Any] = {}
        self._touched: dict[tuple[str, str, Lane], LaneMarks] = {}

    def marks(self, envelope: Envelope) -> LaneMarks:
        """The lane's marks; not to be changed by the caller."""
        lane = (envelope.producer, envelope.spool_id, envelope.lane)
        found = self._marks.get(lane)
        if found is None:
            key = _lane_key(*lane)
            found = self._marks[lane] = LaneMarks.from_state(self._changed.get(key, self._state.get(key)))
        return found

    def check(self, envelope: Envelope) -> None:
        """Return if the message's number may be added, once its content is found to be good.

        Raises:
            LimitError: Its spool is retired or one too many, or its number was given up or is absurd.
        """
        producer, spool = envelope.producer, envelope.spool_id
        spools = self._of(producer)
        if spool in spools.retired:
            raise LimitError(
                f"spool {spool} of {producer} is retired: {LIVE_SPOOLS} others were used after it"
            )
        if (
            spool not in spools.live
            and len(spools.live) + len(spools.retired) >= LIVE_SPOOLS + RETIRED_SPOOLS
        ):
            raise LimitError(f"{producer} has used {LIVE_SPOOLS + RETIRED_SPOOLS} spools and may use no more")
        status = self.marks(envelope).status(envelope.msg_no)
        if status is NumberStatus.CLOSED:
            raise LimitError(
                f"{envelope.lane} {envelope.msg_no} of spool {spool} was given up: too many gaps came later"
            )
        if status is NumberStatus.BEYOND:
            raise LimitError(f"{envelope.lane} {envelope.msg_no} lies too far above what spool {spool} sent")

    def add(self, envelope: Envelope, timestamp_ms: int) -> int:
        """Add a number that ``check`` allows; returns by how much the lane's gap has grown."""
        self._use(envelope.producer, envelope.spool_id, timestamp_ms // DAY_MS)
        marks = self.marks(envelope)
        self._touched[envelope.producer, envelope.spool_id, envelope.lane] = marks
        if envelope.msg_no == marks.mark and not marks.above:  # in order: no gap grows or heals
            marks.add(envelope.msg_no, envelope.digest)
            return 0
        before = marks.gap
        marks.add(envelope.msg_no, envelope.digest)
        return marks.gap - before

    def withdraw(self, envelope: Envelope, numbers: Sequence[int]) -> int:
        """Numbers of a message's lane will never come, as an added message says; returns how many lacked."""
        marks = self.marks(envelope)
        return sum(marks.withdraw(number) for number in sorted(set(numbers)))

    def changes(self) -> Mapping[str, Any]:
        """State keys that changed; None removes."""
        return self._changed | {_lane_key(*lane): marks.to_state() for lane, marks in self._touched.items()}

    def _use(self, producer: str, spool: str, day: int) -> None:
        spools = self._of(producer)
        if spools.live.get(spool, -1) >= day:
            return
        spools.live[spool] = day
        while len(spools.live) > LIVE_SPOOLS:
            idle = min((s for s in spools.live if s != spool), key=lambda s: spools.live[s])
            self._retire(producer, idle, spools)
        self._changed[f"{_SPOOLS}/{producer}"] = {"live": spools.live, "retired": spools.retired}

    def _retire(self, producer: str, spool: str, spools: _Spools) -> None:
        del spools.live[spool]
        spools.retired.append(spool)
        for lane in Lane:
            key = _lane_key(producer, spool, lane)
            self._marks.pop((producer, spool, lane), None)
            self._touched.pop((producer, spool, lane), None)
            self._changed.pop(key, None)
            if key in self._state:
                self._changed[key] = None

    def _of(self, producer: str) -> _Spools:
        found = self._spools.get(producer)
        if found is None:
            value = self._state.get(f"{_SPOOLS}/{producer}")
            if value is not None:
                found = _Spools(dict(value["live"]), list(value["retired"]))
            else:
                found = _Spools(dict.fromkeys(self._before(producer), 0), [])
            self._spools[producer] = found
        return found

    def _before(self, producer: str) -> list[str]:
        """Spools of a producer whose lanes an older version remembered without listing them."""
        if self._held_before is None:
            held: dict[str, set[str]] = defaultdict(set)
            for key in self._state:
                what, _, lane = key.partition("/")
                if what == _MARKS:
                    owner, spool, _ = lane.rsplit("/", 2)
                    held[owner].add(spool)
            self._held_before = {owner: sorted(spools) for owner, spools in held.items()}
        return self._held_before.get(producer, [])


class _Spools:
    """Spools of one producer: day of last use of those in use, and ids of those retired."""

    def __init__(self, live: dict[str, int], retired: list[str]) -> None:
        self.live, self.retired = live, retired


def _lane_key(producer: str, spool: str, lane: Lane) -> str:
    return f"{_MARKS}/{producer}/{spool}/{lane}"

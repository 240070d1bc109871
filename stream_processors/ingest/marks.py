"""Which message numbers of a lane are known: the mark, below which all are, and the ranges above it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

REMEMBERED_DIGESTS = 64
MOST_RANGES = 128
"""Known ranges above the mark. One more, and the oldest gap is closed: its numbers are given up."""
MOST_CLOSED = 32
"""Closed holes that are kept apart; more are joined, and what lay between two of them counts as closed."""
LARGEST_JUMP = 1 << 30
"""How far a number may lie above the highest known one: 34 years of a message a second."""
_DIGEST_CHARS = 8


class NumberStatus(Enum):
    """What a lane knows of a message number."""

    NEW = "new"
    KNOWN = "known"
    CLOSED = "closed"
    """In a closed gap: whether it was given up or came before is not known any more."""
    BEYOND = "beyond"
    """No device counts that far."""


@dataclass
class LaneMarks:
    """Known numbers of one (producer, spool, lane).

    Numbers are dense from 0, so everything unknown below the highest known one is a gap: a message
    that is late, lost or refused. The state is bounded, whatever numbers a device uses: the holes that it
    leaves are closed from the oldest on, and what comes for them later must be refused.

    Attributes:
        mark: All numbers below it are known or closed.
        above: Known half-open ranges above the mark, ascending, disjoint, not touching.
        digests: Start of the digest of the newest known numbers, ascending.
        closed: Half-open ranges below the mark that hold all numbers that were given up, ascending.
        given_up: Numbers that were not known when their hole was closed.
    """

    mark: int = 0
    above: list[list[int]] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)
    closed: list[list[int]] = field(default_factory=list)
    given_up: int = 0

    def __contains__(self, msg_no: int) -> bool:
        return self.status(msg_no) is NumberStatus.KNOWN

    def status(self, msg_no: int) -> NumberStatus:
        """What is known of a number."""
        if msg_no == self.mark:  # nearly every message: what comes above never touches the mark
            return NumberStatus.NEW
        if msg_no >= self.highest + LARGEST_JUMP:
            return NumberStatus.BEYOND
        if msg_no > self.mark and not self.above:
            return NumberStatus.NEW
        if msg_no >= self.mark:
            return NumberStatus.KNOWN if _holds(self.above, msg_no) else NumberStatus.NEW
        return NumberStatus.CLOSED if self.closed and _holds(self.closed, msg_no) else NumberStatus.KNOWN

    @property
    def highest(self) -> int:
        """The number after the highest known one."""
        return self.above[-1][1] if self.above else self.mark

    @property
    def gap(self) -> int:
        """Messages missing below the highest known number, given up or not."""
        if not self.above:
            return self.given_up
        return self.given_up + self.highest - self.mark - sum(b - a for a, b in self.above)

    def same_bytes(self, msg_no: int, digest: bytes) -> bool:
        """Whether a known number came with these bytes; also True where its digest is no longer kept."""
        known = self.digests.get(msg_no)
        return known is None or known == digest[: _DIGEST_CHARS // 2].hex()

    def add(self, msg_no: int, digest: bytes) -> None:
        """Add a new number."""
        self._take(msg_no)
        self.digests[msg_no] = digest[: _DIGEST_CHARS // 2].hex()
        if msg_no + 1 < self.highest:  # it came late
            self.digests = dict(sorted(self.digests.items()))
        if len(self.digests) > REMEMBERED_DIGESTS:
            del self.digests[next(iter(self.digests))]

    def withdraw(self, msg_no: int) -> bool:
        """Take a number for known though nothing came, for nothing will; whether it was missing.

        What comes for it nevertheless is a duplicate, whatever bytes it has.
        """
        if self.status(msg_no) is not NumberStatus.NEW:
            return False
        self._take(msg_no)
        return True

    def _take(self, msg_no: int) -> None:
        if msg_no == self.mark:
            self.mark += 1
            if self.above and self.above[0][0] == self.mark:
                self.mark = self.above.pop(0)[1]
        else:
            self._add_above(msg_no)
            if len(self.above) > MOST_RANGES:
                self._close_oldest()

    def _add_above(self, msg_no: int) -> None:
        at = bisect_right(self.above, [msg_no])
        joins_left = at > 0 and self.above[at - 1][1] == msg_no
        joins_right = at < len(self.above) and self.above[at][0] == msg_no + 1
        if joins_left and joins_right:
            self.above[at - 1][1] = self.above.pop(at)[1]
        elif joins_left:
            self.above[at - 1][1] = msg_no + 1
        elif joins_right:
            self.above[at][0] = msg_no
        else:
            self.above.insert(at, [msg_no, msg_no + 1])

    def _close_oldest(self) -> None:
        start, end = self.above.pop(0)
        self.closed.append([self.mark, start])
        self.given_up += start - self.mark
        self.mark = end
        if len(self.closed) > MOST_CLOSED:
            self.closed[0][1] = self.closed.pop(1)[1]

    def to_state(self) -> dict[str, Any]:
        """JSON value for a job's state."""
        state: dict[str, Any] = {
            "mark": self.mark,
            "above": self.above,
            "digests": {str(n): d for n, d in self.digests.items()},
        }
        if self.closed:
            state |= {"closed": self.closed, "given_up": self.given_up}
        return state

    @classmethod
    def from_state(cls, value: dict[str, Any] | None) -> Self:
        """Marks from their JSON value; None: nothing is known yet. The value is not shared.

        More ranges than are kept today (0.2.0 kept all) are closed from the oldest on.
        """
        if value is None:
            return cls()
        digests = dict(sorted((int(n), d) for n, d in value["digests"].items()))
        closed = [list(r) for r in value.get("closed", ())]
        marks = cls(
            value["mark"], [list(r) for r in value["above"]], digests, closed, value.get("given_up", 0)
        )
        while len(marks.above) > MOST_RANGES:
            marks._close_oldest()
        return marks


def _holds(ranges: list[list[int]], msg_no: int) -> bool:
    at = bisect_right(ranges, msg_no, key=lambda r: r[0]) - 1
    return at >= 0 and msg_no < ranges[at][1]

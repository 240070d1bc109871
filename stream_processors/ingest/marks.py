"""Which message numbers of a lane are known: the mark, below which all are, and the ranges above it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any, Self

REMEMBERED_DIGESTS = 64
_DIGEST_CHARS = 8


@dataclass
class LaneMarks:
    """Known numbers of one (producer, spool, lane).

    Numbers are dense from 0, so everything unknown below the highest known one is a gap: a message
    that is late, lost or refused.

    Attributes:
        mark: All numbers below it are known.
        above: Known half-open ranges above the mark, ascending, disjoint, not touching.
        digests: Start of the digest of the newest known numbers.
    """

    mark: int = 0
    above: list[list[int]] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)

    def __contains__(self, msg_no: int) -> bool:
        return msg_no < self.mark or any(a <= msg_no < b for a, b in self.above)

    @property
    def gap(self) -> int:
        """Messages missing below the highest known number."""
        if not self.above:
            return 0
        known = sum(b - a for a, b in self.above)
        return self.above[-1][1] - self.mark - known

    def same_bytes(self, msg_no: int, digest: bytes) -> bool:
        """Whether a known number came with these bytes; also True where its digest is no longer kept."""
        known = self.digests.get(msg_no)
        return known is None or known == digest.hex()[:_DIGEST_CHARS]

    def add(self, msg_no: int, digest: bytes) -> None:
        """Add a number that was not known."""
        if msg_no == self.mark:
            self.mark += 1
            if self.above and self.above[0][0] == self.mark:
                self.mark = self.above.pop(0)[1]
        else:
            self._add_above(msg_no)
        self.digests[msg_no] = digest.hex()[:_DIGEST_CHARS]
        if len(self.digests) > REMEMBERED_DIGESTS:
            del self.digests[min(self.digests)]

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

    def to_state(self) -> dict[str, Any]:
        """JSON value for a job's state."""
        return {
            "mark": self.mark,
            "above": self.above,
            "digests": {str(n): d for n, d in self.digests.items()},
        }

    @classmethod
    def from_state(cls, value: dict[str, Any] | None) -> Self:
        """Marks from their JSON value; None: nothing is known yet. The value is not shared."""
        if value is None:
            return cls()
        above = [list(r) for r in value["above"]]
        return cls(value["mark"], above, {int(n): d for n, d in value["digests"].items()})

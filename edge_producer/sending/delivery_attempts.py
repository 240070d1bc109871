"""What a refusal means: whether the broker can have taken the message before it refused it. Pure.

The client resends by itself when a connection breaks: then the first try may have arrived, and the refusal is
of the second. So a refusal is certain only if no connection was disturbed since the message was handed over.
The client counts disturbances and reports the count about once a second: a refusal is judged by the second
report after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Rejection(NamedTuple):
    """A message that the broker does not take as it is.

    Attributes:
        id: Its id in the spool.
        reason: Why, for people.
        too_large: It is too large for its topic.
        cannot_have_landed: Neither this attempt nor a try before it can have put it into the log.
    """

    id: int
    reason: str
    too_large: bool
    cannot_have_landed: bool


@dataclass
class _Refusal:
    id: int
    reason: str
    too_large: bool
    handed_at: int
    reports_left: int = 2


class Attempts:
    """Messages in flight, and refusals to be judged."""

    def __init__(self) -> None:
        self._in_flight: dict[int, int] = {}
        self._refusals: list[_Refusal] = []
        self._errors = self._reported = 0

    def __len__(self) -> int:
        """Number of messages in flight."""
        return len(self._in_flight)

    @property
    def judging(self) -> int:
        """Number of refusals that are not judged yet."""
        return len(self._refusals)

    def hand_over(self, id_: int) -> None:
        """A message was handed to the client."""
        self._in_flight[id_] = self._disturbances

    def end(self, id_: int) -> None:
        """A message got its delivery report."""
        self._in_flight.pop(id_, None)

    def refuse(self, id_: int, reason: str, *, too_large: bool) -> None:
        """The delivery report of a message was a refusal."""
        handed_at = self._in_flight.pop(id_, -1)
        self._refusals.append(_Refusal(id_, reason, too_large, handed_at))

    def disturbed(self) -> None:
        """The client gave an error of a connection."""
        self._errors += 1

    def report(self, disturbances: int) -> list[Rejection]:
        """The client's count of disturbances, which never falls; returns what can be judged now."""
        self._reported = disturbances
        judged = []
        for refusal in self._refusals:
            refusal.reports_left -= 1
            if refusal.reports_left <= 0:
                certain = refusal.handed_at == self._disturbances
                judged.append(Rejection(refusal.id, refusal.reason, refusal.too_large, certain))
        self._refusals = [refusal for refusal in self._refusals if refusal.reports_left > 0]
        return judged

    def drop(self) -> tuple[list[int], list[Rejection]]:
        """Nothing more will be heard: messages in flight, and refusals of which nothing is certain."""
        returned = sorted(self._in_flight)
        rejected = [Rejection(r.id, r.reason, r.too_large, False) for r in self._refusals]
        self._in_flight, self._refusals = {}, []
        self._errors = self._reported = 0
        return returned, rejected

    @property
    def _disturbances(self) -> int:
        return self._errors + self._reported

"""How long what waits may wait for more, so that they share a message. Pure.

A message costs a device 240 bytes of headers and signature, whatever is in it.
"""

from __future__ import annotations

from typing import NamedTuple, Self

from edge_producer.settings import EdgeSettings
from schemas.profile import Profile

STATED_EVERY_S = 15.0
"""Shortest time between two statements of a line of the books, where the settings do not say."""
GATHERED_PERIODS, GATHERED_S = 8.5, 6 * 3600.0
"""How long a line then waits for those of later periods, which go in the same message; and at most."""


class SendingPace(NamedTuple):
    """Times of one turn, seconds.

    Attributes:
        linger_s: How long a row waits for a message to fill.
        delay_s: How long one may wait that no rule has selected, if that is longer; 0: no longer.
        backlog_s: Age from which rows go to the backlog lane.
        interval_s: Shortest time between two statements of a line of the books.
        gather_s: How long such a line waits for later ones.
    """

    linger_s: float
    delay_s: float
    backlog_s: float
    interval_s: float
    gather_s: float

    @classmethod
    def of(cls, settings: EdgeSettings, profile: Profile) -> Self:
        """What settings and profile allow."""
        delay_s = profile.filter.delay_s if profile.filter.delay_s > settings.linger_s else 0.0
        stated = settings.books_interval_s
        gather_s = min(GATHERED_PERIODS * profile.summaries.period_s, GATHERED_S)
        return cls(
            settings.linger_s,
            delay_s,
            settings.backlog_after_s + delay_s,
            STATED_EVERY_S if stated is None else stated,
            gather_s if stated is None else 0.0,
        )

    def draining(self) -> Self:
        """The same when no more rows will come: nothing waits."""
        return self._replace(linger_s=0.0, delay_s=0.0, interval_s=0.0, gather_s=0.0)

"""A change that a person announced before it came: which cohorts, when, and which channels show it. Pure.

A fault that nobody knows can look like any change, and a new load like a fault. No number in the data tells
them apart for sure; the person who changes the load knows. An announcement is that knowledge, given in
advance: for one change, in a bounded time, in named channels, of which some must move for it to count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

LONGEST = timedelta(days=7)
"""Most time in which an announced change may come."""
EARLIEST = timedelta(days=90)
"""Most time between an announcement and its change."""


@dataclass(frozen=True, slots=True)
class AnnouncedChange:
    """One announced change.

    Attributes:
        change_id: 12 hex digits.
        profile: Of the devices.
        site: Of the cohorts; empty: every site.
        group: Of the cohorts; empty: every group.
        moves: Channels that the change moves; where one of them stays, it is another change.
        may_move: Further channels that may move with them.
        start: The change comes at this instant at the earliest, UTC.
        end: And before this one.
        by: Who announced it.
        reason: In the person's words.
    """

    change_id: str
    profile: str
    site: str
    group: str
    moves: tuple[str, ...]
    may_move: tuple[str, ...]
    start: datetime
    end: datetime
    by: str
    reason: str = ""

    @property
    def channels(self) -> frozenset[str]:
        """All channels that the change may move."""
        return frozenset(self.moves) | frozenset(self.may_move)

    def covers(self, cohorts: Collection[str], onset: datetime, window: timedelta) -> bool:
        """Whether a drift may be this change by its place and time.

        Args:
            cohorts: As ``profile/site/group/hardware``.
            onset: Start of the drift window within which it began.
            window: Length of a drift window.
        """
        in_time = onset + window > self.start and onset < self.end
        return in_time and bool(cohorts) and all(self._holds(cohort) for cohort in cohorts)

    def is_shown_by(self, moved: Collection[str]) -> bool:
        """Whether channels that moved in common are those of this change: all that must, and no others."""
        return set(self.moves) <= set(moved) <= self.channels

    def _holds(self, cohort: str) -> bool:
        profile, site, group, *_ = cohort.split("/")
        return profile == self.profile and self.site in ("", site) and self.group in ("", group)


def is_spent(
    change_id: str, onset: datetime, uses: Iterable[tuple[str, datetime | None]], reach: timedelta
) -> bool:
    """Whether another change has been learnt under an announcement: it is for one.

    Args:
        change_id: Of the announcement.
        onset: Of the drift that asks.
        uses: Of each run: the id of the announcement that it went by, and its onset.
        reach: Onsets no farther apart are of one change.
    """
    return any(used == change_id and at is not None and abs(at - onset) > reach for used, at in uses)

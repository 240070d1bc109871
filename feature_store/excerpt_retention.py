"""Takes excerpts out of their tables once their time is over; vacuum then deletes the files.

No cut and no pin keeps them: raw samples are not kept because somebody once pinned the lake.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta

from feature_store.current_profiles import current_profiles
from feature_store.cut_store import CutStore
from feature_store.delta_entry import COMPACTOR, LogFile
from feature_store.lake import Lake
from schemas.errors import DamagedLakeError
from schemas.excerpt_policy import DEFAULT_RETENTION_DAYS
from schemas.excerpt_table import EXCERPT_PREFIX, holds_excerpts
from schemas.profile import Profile
from schemas.tables import PARTITION_COLUMN

log = logging.getLogger(__name__)


def expire_excerpts(lake: Lake, cuts: CutStore, now: datetime) -> int:
    """Remove excerpts of days that are older than their profile lets them be kept, and show it in a new cut.

    Args:
        lake: Its tables of excerpts are gone through.
        cuts: Of the same lake.
        now: UTC.

    Returns:
        How many files left their table.
    """
    tables = [t for t in lake.tables() if holds_excerpts(t)]
    if not tables:
        return 0
    profiles = current_profiles(lake)
    gone = 0
    for table in tables:
        try:
            gone += _expire(lake, table, _oldest_day(table, profiles, now))
        except DamagedLakeError as exc:  # the other tables do without it
            log.warning("excerpts of %s are not looked through: %s", table, exc)
    if gone:
        cuts.record({})
        log.info("%d files of excerpts have reached the end of their time", gone)
    return gone


def _oldest_day(table: str, profiles: Mapping[str, Profile], now: datetime) -> str:
    """The first day that stays. A profile that has no excerpts any more leaves the usual time."""
    profile = profiles.get(table.removeprefix(EXCERPT_PREFIX))
    policy = None if profile is None else profile.excerpts
    days = DEFAULT_RETENTION_DAYS if policy is None else policy.retention_days
    return (now - timedelta(days=days)).date().isoformat()


def _expire(lake: Lake, table: str, oldest: str) -> int:
    table_log = lake.log(table)
    table_log.catch_up()
    old = [
        LogFile(path, size, _day(path))
        for path, size in table_log.snapshot().sizes.items()
        if _day(path) < oldest
    ]
    if not old:
        return 0
    number = (table_log.transaction(COMPACTOR) or 0) + 1
    return len(old) if table_log.commit([], old, {COMPACTOR: number}) else 0


def _day(path: str) -> str:
    """Day of a file; of one that tells none, a day that never ends."""
    key, _, value = path.split("/", 1)[0].partition("=")
    return value if key == PARTITION_COLUMN else "9999"

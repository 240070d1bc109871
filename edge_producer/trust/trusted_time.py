"""Time that an attacker's clock cannot move: it advances only by instants from trusted sources.

The raw wall clock is never read: a clock without a battery starts at 1970, and NTP is not authenticated.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from schemas.durable import DISK, Disk
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

SERVER = "server"
"""Source of an instant that the service sent over mTLS."""
_WORTH_WRITING = timedelta(seconds=60)
_FAR = datetime(9000, 1, 1, tzinfo=UTC)
"""No later instant is learnt: the clock must be able to run on from the newest one without an overflow."""


@dataclass(frozen=True)
class _Mark:
    """An instant, and the monotonic seconds at which it was the present."""

    instant: datetime
    at_s: float

    def by(self, now_s: float) -> datetime:
        return self.instant + timedelta(seconds=now_s - self.at_s)


class TrustedTime:
    """The newest of build time, verified issue times and the service's time, advanced by the monotonic clock.

    Verified time never goes back and survives restarts. While a device is off its time does not advance;
    it catches up with the next instant that it learns. The service holds no signing key, so each time that
    it sends replaces the one before: enough to notice a freeze, too little to make later metadata look
    expired for good.

    Args:
        path: File that keeps the time over restarts.
        build_time: No earlier instant is believed; aware.
        monotonic: Seconds, any origin.
        disk: Writes the file.
    """

    def __init__(
        self,
        path: Path,
        build_time: datetime,
        monotonic: Callable[[], float] = time.monotonic,
        disk: Disk = DISK,
    ) -> None:
        self._path, self._monotonic, self._disk = path, monotonic, disk
        self._written = _load(path)
        now_s, build = monotonic(), build_time.astimezone(UTC)
        verified, server = self._written
        self._verified = _Mark(build if verified is None else max(verified, build), now_s)
        self._server = None if server is None else _Mark(server, now_s)

    def now(self) -> datetime:
        """The present by everything learnt so far, UTC."""
        now_s = self._monotonic()
        verified = self._verified.by(now_s)
        return verified if self._server is None else max(verified, self._server.by(now_s))

    def learn(self, instant: datetime, source: str) -> None:
        """Advance to an instant if it is newer; the service's time replaces the one before in any case.

        Args:
            instant: Aware.
            source: ``SERVER`` for the service's time; else the role whose signed metadata was issued then.
        """
        mark = _Mark(min(instant.astimezone(UTC), _FAR), self._monotonic())
        if source == SERVER:
            self._server = mark
        elif mark.instant > self._verified.by(mark.at_s):
            if mark.instant - self._verified.by(mark.at_s) > _WORTH_WRITING:
                log.info(
                    "trusted time moves to %s, by %s", mark.instant.isoformat(timespec="seconds"), source
                )
            self._verified = mark
        self._save_if_worth()

    def _save_if_worth(self) -> None:
        now_s = self._monotonic()
        state = self._verified.by(now_s), None if self._server is None else self._server.by(now_s)
        if any(_differ(new, old) for new, old in zip(state, self._written, strict=True)):
            verified, server = (None if at is None else at.isoformat() for at in state)
            text = json.dumps({"verified": verified, "told": server})
            self._disk.write(self._path, with_digest(text.encode()))
            self._written = state


_State = tuple[datetime | None, datetime | None]


def _differ(new: datetime | None, old: datetime | None) -> bool:
    if new is None or old is None:
        return new is not old
    return abs(new - old) >= _WORTH_WRITING


def _load(path: Path) -> _State:
    try:
        raw = checked(path.read_bytes(), str(path))
        return _instant(raw["verified"]), _instant(raw["told"])
    except FileNotFoundError:
        return None, None
    except (DamagedLakeError, ValueError, KeyError, TypeError, OverflowError):
        log.warning("%s is damaged; trusted time starts again from the build time", path)
        return None, None


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    instant = datetime.fromisoformat(text).astimezone(UTC)
    if instant.year > _FAR.year:
        raise ValueError(f"{text} is beyond the year {_FAR.year}")
    return instant

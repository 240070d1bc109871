"""Time that an attacker's clock cannot move: it only learns, and only from whom it trusts.

The raw wall clock is never read: a device's battery-less clock starts at 1970, and NTP is not authenticated.
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

log = logging.getLogger(__name__)

SERVER = "server"
"""Source of an instant that the service told over mTLS."""
_WORTH_WRITING = timedelta(seconds=60)
_FAR = datetime(9000, 1, 1, tzinfo=UTC)
"""No lie reaches further: a clock has to be able to run on from it."""


@dataclass(frozen=True)
class _Mark:
    """An instant, and the monotonic seconds at which it was."""

    instant: datetime
    at_s: float

    def by(self, now_s: float) -> datetime:
        return self.instant + timedelta(seconds=now_s - self.at_s)


class TrustedTime:
    """The newest of build time, verified issue times and what the service told; the monotonic clock moves it.

    What was verified never goes back and survives restarts; while a device is off its time stands still
    until it learns. The service holds no signing key, so what it told counts only until it tells something
    else: enough to see a freeze, too little to make later metadata look expired for good.

    Args:
        path: Where it is kept.
        build_time: No instant before it is believed; aware.
        monotonic: Seconds; any origin.
        disk: Writes it.
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
        verified, told = self._written
        self._verified = _Mark(build if verified is None else max(verified, build), now_s)
        self._told = None if told is None else _Mark(told, now_s)

    def now(self) -> datetime:
        """The instant by everything learnt so far, UTC."""
        now_s = self._monotonic()
        verified = self._verified.by(now_s)
        return verified if self._told is None else max(verified, self._told.by(now_s))

    def learn(self, instant: datetime, source: str) -> None:
        """Move on to the instant if it is newer.

        Args:
            instant: Aware.
            source: ``SERVER``: told by the service. Anything else: a role whose signed metadata was issued
                then.
        """
        mark = _Mark(min(instant.astimezone(UTC), _FAR), self._monotonic())
        if source == SERVER:
            self._told = mark
        elif mark.instant > self._verified.by(mark.at_s):
            if mark.instant - self._verified.by(mark.at_s) > _WORTH_WRITING:
                log.info(
                    "trusted time moves to %s, by %s", mark.instant.isoformat(timespec="seconds"), source
                )
            self._verified = mark
        self._save_if_worth()

    def _save_if_worth(self) -> None:
        now_s = self._monotonic()
        state = self._verified.by(now_s), None if self._told is None else self._told.by(now_s)
        if any(_differ(new, old) for new, old in zip(state, self._written, strict=True)):
            verified, told = (None if at is None else at.isoformat() for at in state)
            text = json.dumps({"verified": verified, "told": told})
            self._disk.write(self._path, text.encode())
            self._written = state


_State = tuple[datetime | None, datetime | None]


def _differ(new: datetime | None, old: datetime | None) -> bool:
    if new is None or old is None:
        return new is not old
    return abs(new - old) >= _WORTH_WRITING


def _load(path: Path) -> _State:
    try:
        raw = json.loads(path.read_bytes())
        return _instant(raw["verified"]), _instant(raw["told"])
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        log.warning("%s is damaged; trusted time starts again from the build time", path)
        return None, None


def _instant(text: str | None) -> datetime | None:
    if text is None:
        return None
    instant = datetime.fromisoformat(text).astimezone(UTC)
    if instant.year > _FAR.year:
        raise ValueError(f"{text}: no clock gets there")
    return instant

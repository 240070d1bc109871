"""Time that an attacker's clock cannot move: it only learns, and only from whom it trusts.

The raw wall clock is never read: a device's battery-less clock starts at 1970, and NTP is not authenticated.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge_producer.trust.store import durable_write

log = logging.getLogger(__name__)

SERVER = "server"
"""Source of an instant that the service told over mTLS."""
_WORTH_WRITING = timedelta(seconds=60)
_SLACK = timedelta(seconds=1)


class TrustedTime:
    """The newest of build time, verified issue times and server time, advanced by the monotonic clock.

    It never goes back, and it survives restarts; while a device is off it stands still until it learns.

    Args:
        path: Where the newest instant is kept.
        build_time: No instant before it is believed; aware.
        monotonic: Seconds; any origin.
    """

    def __init__(
        self, path: Path, build_time: datetime, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._monotonic = path, monotonic
        saved, self._bound = _load(path)
        self._base = build_time.astimezone(UTC) if saved is None else max(saved, build_time.astimezone(UTC))
        self._since = monotonic()
        self._written = saved
        self._told: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The instant by everything learnt so far, UTC."""
        return self._base + timedelta(seconds=self._monotonic() - self._since)

    def learn(self, instant: datetime, source: str) -> None:
        """Move on to the instant if it is newer.

        Args:
            instant: Aware.
            source: ``SERVER``: told by the service, which holds no signing key: believed up to the bound,
                and not before there is one. Anything else: a role whose signed metadata was issued then.
        """
        instant = instant.astimezone(UTC)
        if source == SERVER:
            self._told = (instant, self._monotonic())
            self._believe()
        else:
            self._advance(instant, source)

    def bound(self, expires: datetime) -> None:
        """Believe the service up to just past the expiry of the newest verified timestamp metadata.

        That is all it takes to see a freeze; and a service that lies about time cannot make metadata
        expire that are issued later.
        """
        self._bound = expires.astimezone(UTC)
        self._believe()

    def _believe(self) -> None:
        """Move on to what the service told last, and the time since, as far as the bound allows."""
        if self._told is not None and self._bound is not None:
            instant, at = self._told
            told = instant + timedelta(seconds=self._monotonic() - at)
            self._advance(min(told, self._bound + _SLACK), SERVER)

    def _advance(self, instant: datetime, source: str) -> None:
        now = self.now()
        if instant > now:
            if instant - now > _WORTH_WRITING:
                log.info("trusted time moves to %s, by %s", instant.isoformat(timespec="seconds"), source)
            self._base, self._since = instant, self._monotonic()
            now = instant
        if self._written is None or now - self._written >= _WORTH_WRITING:
            self._save(now)

    def _save(self, now: datetime) -> None:
        bound = None if self._bound is None else self._bound.isoformat()
        durable_write(self._path, json.dumps({"instant": now.isoformat(), "bound": bound}).encode())
        self._written = now


def _load(path: Path) -> tuple[datetime | None, datetime | None]:
    try:
        raw = json.loads(path.read_bytes())
        return _instant(raw["instant"]), _instant(raw["bound"])
    except FileNotFoundError:
        return None, None
    except (ValueError, KeyError, TypeError):
        log.warning("%s is damaged; trusted time starts again from the build time", path)
        return None, None


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)

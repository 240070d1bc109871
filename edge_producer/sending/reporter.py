"""How the process reports on itself: device-state events, counters and the status file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from edge_producer.device_update import DeviceUpdate
from edge_producer.metering import Meters
from edge_producer.sending.sender import Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import DeviceBooks, Spool
from edge_producer.status_file import write_status
from schemas.events import DeviceState
from schemas.profile import Profile
from schemas.row_schemas import BOOK_COUNTS

REPORT_EVERY_S = 1.0
Phase = Literal["sensing", "draining", "stopped"]


class Reporter:
    """Makes device-state events and writes the status file. Used by the writer's thread.

    Args:
        spool: Gives totals and counters.
        sender: Gives counts, and whether the broker answers.
        meters: Gives latencies.
        profile: Named in device states.
        settings: Intervals and the path of the status file.
        extras: Returns further parts of the status, such as the source's counts.
    """

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        meters: Meters,
        profile: Profile,
        settings: EdgeSettings,
        extras: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self.period_us = round(profile.summaries.period_s * 1e6)
        self._spool = spool
        self._sender = sender
        self._meters = meters
        self._profile = profile
        self._settings = settings
        self._extras = extras
        self._newest: dict[str, DeviceUpdate] = {}
        self._counted: Counter[str] = Counter()
        self._stated_s = 0.0
        self._reported_s = 0.0
        self._windows = 0
        self._rate = 0.0
        self._started = datetime.now(UTC).isoformat()

    def note(self, update: DeviceUpdate) -> None:
        """Remember a device's newest boot and decision."""
        self._newest[update.device_id] = update

    def sent_since(self) -> dict[str, int]:
        """The growth of the sender's counts since the last call, by name."""
        counts = Counter(self._sender.counts)
        grown = counts - self._counted
        self._counted = counts
        return dict(grown)

    def states(self, now_s: float, *, at_once: bool = False) -> dict[int, bytes]:
        """Device-state events by device number; empty where they are neither due nor wanted at once."""
        if not at_once and now_s - self._stated_s < self._settings.state_interval_s:
            return {}
        self._stated_s = now_s
        oldest, totals = self._spool.rows.oldest_s(), self._spool.totals()
        at = datetime.now(UTC)
        return {
            self._spool.devices[name]: self._state(update, totals[name], at, now_s, oldest)
            for name, update in self._newest.items()
        }

    def report(self, now_s: float, *, phase: Phase, unsent: int) -> None:
        """Write the status file, at most about once a second; always when the process has stopped."""
        if phase != "stopped" and now_s - self._reported_s < REPORT_EVERY_S:
            return
        counters = self._spool.counters()
        windows = counters.get("windows", 0)
        if self._reported_s:
            self._rate = (windows - self._windows) / max(now_s - self._reported_s, 1e-9)
        self._windows, self._reported_s = windows, now_s
        write_status(self._settings.status_path, self._status(counters, phase, unsent, now_s))

    def _state(
        self,
        update: DeviceUpdate,
        books: DeviceBooks,
        at: datetime,
        now_s: float,
        oldest: Mapping[int, float],
    ) -> bytes:
        device = self._spool.devices[update.device_id]
        state = DeviceState(
            device_id=update.device_id,
            boot_id=update.boot_id,
            event_time=at,
            profile=self._profile.name,
            model_version=update.model_version,
            decision=update.decision,
            spool_bytes=books.pending_bytes,
            pending_rows=books.pending,
            oldest_pending_s=max(now_s - oldest.get(device, now_s), 0.0),
        )
        return state.model_dump_json().encode()

    def _status(self, counters: Mapping[str, int], phase: Phase, unsent: int, now_s: float) -> dict[str, Any]:
        totals = self._spool.totals()
        oldest = min(self._spool.rows.oldest_s().values(), default=now_s)
        return {
            "name": self._settings.name,
            "pid": os.getpid(),
            "profile": self._profile.name,
            "started": self._started,
            "updated": datetime.now(UTC).isoformat(),
            "phase": phase,
            "online": self._sender.online,
            "stalled": self._sender.stalled(self._settings.stall_s),
            "books": {n: sum(getattr(b, n) for b in totals.values()) for n in BOOK_COUNTS},
            "counters": dict(counters),
            "windows_per_s": round(self._rate, 1),
            "decide_ms": self._meters.decide_ms(),
            "pickup_ms": self._meters.pickup_ms(),
            "queue": {
                "bytes": self._spool.bytes,
                "unsent": unsent,
                "in_flight": self._sender.in_flight,
                "oldest_s": round(max(now_s - oldest, 0.0), 3),
            },
            "decisions": {name: update.decision for name, update in sorted(self._newest.items())},
            **self._extras(),
        }

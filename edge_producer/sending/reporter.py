"""How the process reports on itself: device-state events, counters and the status file.

The status file is written whatever state the spool is in; what cannot be written is counted, and no error.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from edge_producer.device_update import DeviceUpdate
from edge_producer.metering import Meters
from edge_producer.sending.outbox import Outbox
from edge_producer.sending.sender import Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import DeviceBooks, Spool
from edge_producer.status_file import write_status
from schemas.durable import DISK, Disk
from schemas.events import DeviceState
from schemas.profile import Profile
from schemas.row_schemas import BOOK_COUNTS

log = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
FEATURE_BYTES = "feature_bytes"
"""Counts what sending every row would have taken."""
Phase = Literal["sensing", "draining", "stopped"]


class Reporter:
    """Makes device-state events and writes the status file. Used by the writer's thread.

    Args:
        sender: Gives counts, and whether the broker answers.
        meters: Gives latencies.
        profile: Named in device states.
        settings: Intervals and the path of the status file.
        extras: Returns further parts of the status, such as the spool's state and the source's counts.
        disk: Writes the status file.
    """

    def __init__(
        self,
        sender: Sender,
        meters: Meters,
        profile: Profile,
        settings: EdgeSettings,
        extras: Callable[[], Mapping[str, Any]] = dict,
        disk: Disk = DISK,
    ) -> None:
        self.follow(profile)
        self._sender = sender
        self._meters = meters
        self._settings = settings
        self._extras = extras
        self._disk = disk
        self._newest: dict[str, DeviceUpdate] = {}
        self._absurd: dict[str, dict[str, float]] = {}
        self._counted: Counter[str] = Counter()
        self._own: Counter[str] = Counter()
        self._stated_s = 0.0
        self._reported_s = 0.0
        self._windows = 0
        self._rate = 0.0
        self._started = datetime.now(UTC).isoformat()
        self._spool_part: dict[str, Any] = {
            "books": dict.fromkeys(BOOK_COUNTS, 0),
            "counters": {},
            "queue": {"bytes": 0, "unsent": 0, "in_flight": 0, "oldest_s": 0.0},
            "blocked": {"messages": 0, "rows": 0, "bytes": 0, "reason": ""},
        }

    def follow(self, profile: Profile) -> None:
        """Go by another profile from here on."""
        self._profile = profile
        self.period_us = round(profile.summaries.period_s * 1e6)

    def weighed(self, update: DeviceUpdate) -> DeviceUpdate:
        """An update that counts what sending all rows that it sensed would have taken."""
        if not update.sensed:
            return update
        taken = self._meters.unfiltered_bytes(update.device_id, update.sensed)
        counts = {**update.meters, FEATURE_BYTES: update.meters.get(FEATURE_BYTES, 0) + taken}
        return replace(update, sensed=(), meters=counts)

    def note(self, update: DeviceUpdate) -> None:
        """Remember a device's newest boot and decision, and what its channels lost since its last report."""
        self._newest[update.device_id] = update
        lost = self._absurd.setdefault(update.device_id, {})
        for channel, share in update.absurd.items():
            lost[channel] = max(share, lost.get(channel, 0.0))

    def counts_since(self) -> dict[str, int]:
        """The growth of the sender's and of our own counts since the last call, by name."""
        counts = Counter(self._sender.counts) + self._own
        grown = counts - self._counted
        self._counted = counts
        return dict(grown)

    def states(self, spool: Spool, now_s: float, *, at_once: bool = False) -> dict[int, bytes]:
        """Device-state events by device number; empty where they are neither due nor wanted at once."""
        if not at_once and now_s - self._stated_s < self._settings.state_interval_s:
            return {}
        self._stated_s = now_s
        oldest, totals = spool.rows.oldest_s(), spool.totals()
        at = datetime.now(UTC)
        states = {}
        for name, update in self._newest.items():
            number = spool.devices[name]
            waited_s = max(now_s - oldest.get(number, now_s), 0.0)
            states[number] = self._state(update, totals[name], at, waited_s)
        return states

    def report(
        self,
        now_s: float,
        phase: Phase,
        spool: tuple[Spool, Outbox] | None,
        waiting: Mapping[str, int],
    ) -> None:
        """Write the status file, at most about once a second; always when the process has stopped.

        Args:
            now_s: Steady clock.
            phase: What the process does.
            spool: The open spool; None: its last known numbers are repeated.
            waiting: What waits in memory for the spool.
        """
        if phase != "stopped" and now_s - self._reported_s < REPORT_EVERY_S:
            return
        if spool is not None:
            self._spool_part = self._of_spool(*spool, now_s)
        self._reported_s = now_s
        try:
            write_status(self._settings.status_path, self._status(phase, waiting), self._disk)
        except Exception as exc:  # noqa: BLE001  (a status that cannot be written must not stop anything)
            if not self._own["status_unwritten"]:
                log.warning("the status file cannot be written: %s", exc)
            self._own["status_unwritten"] += 1

    def _state(self, update: DeviceUpdate, books: DeviceBooks, at: datetime, waited_s: float) -> bytes:
        lost = self._absurd.pop(update.device_id, {})
        channel = max(lost, key=lambda name: lost[name], default=None)
        clips = update.clipped
        state = DeviceState(
            device_id=update.device_id,
            boot_id=update.boot_id,
            event_time=at,
            profile=self._profile.name,
            model_version=update.model_version,
            decision=update.decision,
            spool_bytes=books.pending_bytes,
            pending_rows=books.pending,
            oldest_pending_s=waited_s,
            absurd_channel=channel,
            absurd_share=None if channel is None else lost[channel],
            clipped_times=sum(clips.values()) or None,
            clipped_number=max(clips, key=lambda name: clips[name], default=None),
        )
        # A cloud of an earlier release knows no such keys: they come only where there is something to say.
        return state.model_dump_json(exclude_none=True).encode()

    def _of_spool(self, spool: Spool, outbox: Outbox, now_s: float) -> dict[str, Any]:
        """The parts of the status that the spool gives."""
        totals, counters = spool.totals(), spool.counters()
        oldest = min(spool.rows.oldest_s().values(), default=now_s)
        windows = counters.get("windows", 0)
        if self._reported_s and windows >= self._windows:
            self._rate = (windows - self._windows) / max(now_s - self._reported_s, 1e-9)
        self._windows = windows
        return {
            "books": {n: sum(getattr(b, n) for b in totals.values()) for n in BOOK_COUNTS},
            "counters": dict(counters),
            "queue": {
                "bytes": spool.bytes,
                "unsent": outbox.unsent,
                "in_flight": self._sender.in_flight,
                "oldest_s": round(max(now_s - oldest, 0.0), 3),
            },
            "blocked": spool.messages.blocked()._asdict(),
        }

    def _broker(self) -> dict[str, Any]:
        until = self._sender.certificate_until
        return {
            "servers": self._settings.bootstrap_servers,
            "tls": self._settings.broker_tls,
            "certificate_until": None if until is None else until.isoformat(),
            "problem": self._sender.broker_problem,
        }

    def _status(self, phase: Phase, waiting: Mapping[str, int]) -> dict[str, Any]:
        return {
            "name": self._settings.name,
            "pid": os.getpid(),
            "profile": self._profile.name,
            "started": self._started,
            "updated": datetime.now(UTC).isoformat(),
            "phase": phase,
            "online": self._sender.online,
            "stalled": self._sender.stalled(self._settings.stall_s),
            "waits_because": self._sender.limits.why_wait,
            "broker": self._broker(),
            "log_ends": {t: {str(p): n for p, n in ends.items()} for t, ends in self._sender.ends.items()},
            **self._spool_part,
            "in_memory": dict(waiting),
            "windows_per_s": round(self._rate, 1),
            "decide_ms": self._meters.decide_ms(),
            "pickup_ms": self._meters.pickup_ms(),
            "decisions": {name: update.decision for name, update in sorted(self._newest.items())},
            **self._extras(),
        }

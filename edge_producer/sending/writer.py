"""The thread that commits, seals and sends, so that the sensing loop never waits for disk or network.

One turn, in this order:

Step 1  make room, in transactions of their own (a crash leaves a spool that is less full)
Step 2  take of the devices' updates what there is room for, and the broker's answers (in memory: a crash
        loses the last second as if it had not been sensed, and messages without an answer are sent again)
Step 3  one transaction: updates, alerts, answers, sealing (a crash leaves all of it or nothing)
Step 4  send what is sealed (a crash after any message: it is sent again, the same bytes)

No error of disk, spool or network ends the thread or reaches the sensing loop. Without a spool the updates
wait in memory, bounded, with what is given up counted: see ``update_backlog.py``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from edge_producer.clock import Clock
from edge_producer.device_update import DeviceUpdate
from edge_producer.sending.outbox import Outbox
from edge_producer.sending.reporter import Phase, Reporter
from edge_producer.sending.sender import DeliveryReports, Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool import Spool
from edge_producer.spool.spool_housekeeping import HEADROOM, TIGHT_S, SpoolHousekeeping
from edge_producer.spool.spool_keeper import SpoolKeeper
from edge_producer.spool.update_backlog import UpdateBacklog, counts_alone
from schemas.errors import SpoolCrowdedError, SpoolDamagedError, SpoolUnavailableError
from schemas.profile import Profile

log = logging.getLogger(__name__)

WAKE_S, IDLE_S = 0.05, 0.25
"""Time between two looks at the network: while messages are under way or the end is near, and else."""
FORGET_EVERY_S = 30.0
DRAIN_COMMIT_S = 0.25
"""Longest wait for the next commit while draining: the end of the process waits for the last answers."""
OVERDUE_INTERVALS = 1.5
"""Commit intervals without a submission after which the writer commits by itself. More than one, so that the
sensing loop sets the rhythm while devices sense: its updates and the answers share a transaction."""
QUEUED_UPDATES = 4
"""Updates per device that may wait; beyond them a source that can wait should."""
PATIENCE_S = 30.0
"""How long a source that can wait does so for a spool that fails."""
END_S = 30.0
"""Longest wait for the thread at the end: a disk may hang."""


@dataclass(frozen=True)
class OpenSpool:
    """A spool, and what works on it as long as it is open."""

    spool: Spool
    outbox: Outbox
    housekeeping: SpoolHousekeeping


class Writer:
    """Owns the spool, the outbox and the sender while it runs.

    Args:
        keeper: Opens the spool; closed by the caller after ``stop``.
        make: Makes what works on a spool, each time that it is opened.
        sender: Polled for delivery reports.
        reporter: Makes device states and the status file.
        settings: Intervals and the flight-mode file.
        clock: Steady seconds.
        opened: Called each time that a spool was opened, outside a transaction; returns further updates.
    """

    def __init__(
        self,
        keeper: SpoolKeeper,
        make: Callable[[Spool], OpenSpool],
        sender: Sender,
        reporter: Reporter,
        settings: EdgeSettings,
        clock: Clock,
        opened: Callable[[Spool], Sequence[DeviceUpdate]] = lambda _: (),
    ) -> None:
        self._keeper = keeper
        self._make = make
        self._sender = sender
        self._reporter = reporter
        self._settings = settings
        self._clock = clock
        self._opened = opened
        self._offline_file = settings.offline_file or settings.state_dir / "offline"
        self._changed = threading.Condition()
        self._backlog = UpdateBacklog()
        self._doubtful: tuple[str, int, list[DeviceUpdate]] | None = None
        self._answers = DeliveryReports()
        self._open: OpenSpool | None = None
        self._commit_now = False
        self._followed: Profile | None = None
        self._draining = self._drained = self._stuck = False
        self._final_sealed = False
        """The device states after the last row are sealed: only their acknowledgement is missing."""
        self._stopping = False
        self._committed_s = self._forgot_s = 0.0
        self._failing_since_s: float | None = None
        self._tight_until_s = -float("inf")
        self._crowded = False
        self._last_logged = ""
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, updates: Sequence[DeviceUpdate], *, commit: bool = True) -> None:
        """Queue updates to be committed, at once or with the next turn. Never waits, never raises."""
        with self._changed:
            self._backlog.add(updates)
            self._commit_now = self._commit_now or commit
            self._changed.notify_all()

    def follow(self, profile: Profile) -> None:
        """Go by another version of the profile from the next turn on. Never waits, never raises."""
        self._followed = profile

    @property
    def crowded(self) -> bool:
        """Whether a source that can wait should: the spool is half full, or many updates wait for it."""
        since_s = self._failing_since_s
        if since_s is not None and self._clock() - since_s > PATIENCE_S:
            return False
        return self._crowded or self._backlog.updates > QUEUED_UPDATES * len(self._settings.devices)

    def wait_for_room(self, timeout_s: float) -> None:
        """Wait until the updates that were submitted are taken, at most so long."""
        with self._changed:
            limit = QUEUED_UPDATES * len(self._settings.devices)
            self._changed.wait_for(lambda: self._backlog.updates <= limit, timeout_s)

    @property
    def unkept(self) -> int:
        """Rows that wait in memory because there is no spool; lost if the process ends now."""
        return self._backlog.rows

    @property
    def blocked(self) -> bool:
        """Whether the spool holds messages that the broker does not take as they are."""
        return self._open is not None and self._open.outbox.blocked > 0

    def drain(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything is acknowledged and the books are stated; False if the time was too short.

        Also False, without waiting longer, if only messages are left that the broker does not take.

        Args:
            timeout_s: Longest wait.
            give_up: Polled about 20 times a second; True ends the wait early.
        """
        deadline = self._clock() + timeout_s
        with self._changed:
            self._draining = self._commit_now = True
            self._changed.notify_all()
            while not (self._drained or self._stuck or self._clock() >= deadline or give_up()):
                self._changed.wait(WAKE_S)
            return self._drained

    def stop(self) -> bool:
        """Commit what was submitted and end the thread; what is not sent stays in the spool.

        Returns:
            False: the thread hangs in a call to the disk, and still uses the spool.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(END_S)
        if self._thread.is_alive():
            log.error("the disk does not answer: the process ends without it")
            return False
        self._sender.close()
        return True

    def report_stopped(self) -> None:
        """Write the last status. After ``stop``."""
        self._report(self._clock(), "stopped")

    # The thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            with self._changed:
                if not self._commit_now and not self._stopping:
                    busy = self._draining or self._answers or self._sender.in_flight
                    self._changed.wait(WAKE_S if busy else IDLE_S)
            self._guarded(self._poll_network, self._drop_network)
            if self._due():
                self._guarded(self._turn, self._close_spool)
        self._guarded(self._turn, self._close_spool)
        waiting = self._backlog.updates
        while waiting and self._open is not None:  # what did not fit into one transaction
            self._guarded(self._turn, self._close_spool)
            left = self._backlog.updates
            waiting = left if left < waiting else 0

    def _guarded(self, work: Callable[[], None], mend: Callable[[Exception], None]) -> None:
        """Do some work; after any error, have what it worked on opened again."""
        try:
            work()
        except Exception as exc:
            text = f"{type(exc).__name__}: {exc}"
            if text != self._last_logged:
                self._last_logged = text
                known = isinstance(exc, SpoolUnavailableError | SpoolDamagedError)
                log.exception("the writer goes on after an error: %s", text, exc_info=not known)
            mend(exc)

    def _drop_network(self, _error: Exception) -> None:
        with suppress(Exception):
            self._sender.disconnect()

    def _poll_network(self) -> None:
        if self._offline_file.exists():
            self._sender.disconnect()
        else:
            self._sender.connect()
        self._answers.add(self._sender.poll())

    def _due(self) -> bool:
        waited = self._clock() - self._committed_s
        if self._draining:
            return self._commit_now or bool(self._answers) or waited > DRAIN_COMMIT_S
        return self._commit_now or waited > OVERDUE_INTERVALS * self._settings.commit_interval_s

    def _turn(self) -> None:
        now = self._committed_s = self._clock()
        with self._changed:
            self._commit_now = False
        open_ = self._ready(now)
        if open_ is None:
            self._report(now, "draining" if self._draining else "sensing")
            return
        followed, self._followed = self._followed, None
        if followed is not None:
            for part in (self._reporter, open_.outbox, open_.housekeeping):
                part.follow(followed)
        # Step 1: what gives way does so before anything is added.
        has_room = open_.housekeeping.make_room(now)
        tight = (not has_room or now < self._tight_until_s) and not self._stopping
        # Step 2: from here on the updates are this turn's.
        with self._changed:
            house = open_.housekeeping
            updates = [] if tight else self._backlog.take(house.room_bytes, house.at_once)
            more = self._backlog.updates > 0
            self._commit_now = self._commit_now or (more and not tight) or not has_room
            self._changed.notify_all()
        updates = [self._reporter.weighed(update) for update in updates]
        answers, self._answers = self._answers, DeliveryReports()
        # Step 3: all or nothing.
        try:
            if tight:
                self._settle(open_, answers, now)
            else:
                self._commit(open_, updates, answers, now, more=more)
        except BaseException as exc:
            if isinstance(exc, SpoolCrowdedError):
                self._tight_until_s = now + TIGHT_S
            self._put_back(open_.spool, updates)
            raise
        open_.outbox.excerpts.committed()
        self._keeper.worked()
        self._failing_since_s, self._last_logged = None, ""
        # Step 4: what is on disk may leave the device.
        open_.outbox.arrived(answers.acked)
        open_.outbox.returned(answers.returned)
        open_.outbox.rejected(answers.rejected)
        open_.outbox.send()
        self._keeper.salvage()
        self._crowded = open_.housekeeping.is_half_full
        self._report(now, "draining" if self._draining else "sensing")
        if not (updates or more or tight):
            self._note_end(open_)

    def _settle(self, open_: OpenSpool, answers: DeliveryReports, now: float) -> None:
        """Only remove what has arrived: the spool has no room, and nothing in it can give way."""
        with open_.housekeeping.transaction(HEADROOM):
            open_.spool.messages.settle(answers.acked, "acked", now)

    def _commit(
        self,
        open_: OpenSpool,
        updates: Sequence[DeviceUpdate],
        answers: DeliveryReports,
        now: float,
        *,
        more: bool,
    ) -> None:
        spool, outbox = open_.spool, open_.outbox
        with open_.housekeeping.transaction():
            for update in updates:
                spool.apply(update, now)
                self._reporter.note(update)
                for event in update.alerts:
                    outbox.seal_alert(spool.devices[update.device_id], event)
            spool.messages.settle(answers.acked, "acked", now)
            if now - self._forgot_s >= FORGET_EVERY_S:
                self._forgot_s = now
                spool.books.forget_settled(self._reporter.period_us)
                spool.rows.forget_blocks()
            draining = self._draining and not more
            stuck = draining and outbox.only_blocked_left()
            final = draining and not self._final_sealed and (stuck or spool.drained())
            stalled = self._sender.stalled(self._settings.stall_s)
            states = {} if stalled else self._reporter.states(spool, now, at_once=final)
            settled_only = self._draining and not stuck
            room = open_.housekeeping.sealed_bytes
            outbox.seal(now, states, draining=self._draining, settled_only=settled_only, room_bytes=room)
            self._final_sealed = self._final_sealed or (final and not stalled)
            spool.count(self._reporter.counts_since())

    def _note_end(self, open_: OpenSpool) -> None:
        """Notice while draining that nothing is left to do."""
        if not self._final_sealed:
            return
        drained = open_.spool.drained()
        stuck = open_.outbox.only_blocked_left() and not open_.spool.books.unstated()
        if drained or stuck:
            with self._changed:
                self._drained, self._stuck = drained, stuck
                self._changed.notify_all()

    # The spool -------------------------------------------------------------------------------------------

    def _ready(self, now: float) -> OpenSpool | None:
        """The spool and what works on it; None while there is none."""
        spool = self._keeper.get()
        if spool is None:
            if self._failing_since_s is None:
                self._failing_since_s = now
            self._drop_spool()
            return None
        if self._open is None or self._open.spool is not spool:
            self._drop_spool()
            self._open = self._make(spool)
            self._settle_doubt(spool)
            with self._changed:
                self._backlog.put_back(self._opened(spool))
                if self._keeper.wants_no_rows:
                    log.error("what waits is written without its rows: with them the spool failed")
                    self._backlog.drop_rows()
        return self._open

    def _put_back(self, spool: Spool, updates: list[DeviceUpdate]) -> None:
        """Keep updates whose transaction failed; those whose commit failed may hold all the same."""
        if spool.in_doubt:
            self._doubtful = (spool.spool_id, spool.commits + 1, updates)
            return
        with self._changed:
            self._backlog.put_back(updates)

    def _settle_doubt(self, spool: Spool) -> None:
        """Find out whether the commit that failed holds, and write its updates again if it does not."""
        doubtful, self._doubtful = self._doubtful, None
        if doubtful is None:
            return
        spool_id, commit, updates = doubtful
        same = spool.spool_id == spool_id
        commits = spool.found_commits if same else self._keeper.commits_of(spool_id)
        if commits is None:
            # The spool was set aside and does not tell: what is taken over from it may hold these rows.
            updates = [counts_alone(update) for update in updates]
        elif commits >= commit:
            return
        with self._changed:
            self._backlog.put_back(updates)

    def _close_spool(self, error: Exception) -> None:
        self._keeper.failed(error)
        if self._failing_since_s is None:
            self._failing_since_s = self._clock()
        self._drop_spool()

    def _drop_spool(self) -> None:
        """Forget what works on a spool that is closed; what was in flight is sent again from the next one."""
        if self._open is not None:
            self._open = None
            self._sender.disconnect()
            self._sender.poll()
            self._answers = DeliveryReports()
            self._final_sealed = False

    def _report(self, now: float, phase: Phase) -> None:
        open_ = self._open
        with self._changed:
            waiting = {"updates": self._backlog.updates, "rows": self._backlog.rows}
        self._reporter.report(now, phase, None if open_ is None else (open_.spool, open_.outbox), waiting)

"""The thread that commits, seals and sends, so that the sensing loop never waits for disk or network.

One turn, in this order:

Step 1  take the devices' updates and the broker's answers (in memory: a crash loses the last second
        as if it had not been sensed, and messages without an answer are sent again)
Step 2  one transaction: updates, alerts, answers, eviction, sealing (a crash leaves all of it or nothing)
Step 3  send what is sealed (a crash after any message: it is sent again, the same bytes)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from edge_producer.clock import Clock
from edge_producer.device_update import DeviceUpdate
from edge_producer.sending.outbox import Outbox
from edge_producer.sending.reporter import Phase, Reporter
from edge_producer.sending.sender import DeliveryReports, Sender
from edge_producer.settings import EdgeSettings
from edge_producer.spool.eviction import Eviction
from edge_producer.spool.spool import Spool
from schemas.errors import PipelineError, SpoolError

log = logging.getLogger(__name__)

WAKE_S = 0.05
FORGET_EVERY_S = 30.0
DRAIN_COMMIT_S = 0.25
"""Longest wait for the next commit while draining: the end of the process waits for the last answers."""
OVERDUE_INTERVALS = 1.5
"""Commit intervals without a submission after which the writer commits by itself. More than one, so that the
sensing loop sets the rhythm while devices sense: its updates and the answers share a transaction."""
QUEUED_UPDATES = 4
"""Updates per device that may wait; beyond them the sensing loop waits."""


class Writer:
    """Owns the spool, the outbox and the sender while it runs.

    Args:
        spool: Opened by the caller, closed by the caller after ``stop``.
        outbox: Seals and sends.
        sender: Polled for delivery reports.
        eviction: Keeps the spool below its size.
        reporter: Makes device states and the status file.
        settings: Intervals and the flight-mode file.
        clock: Steady seconds.
    """

    def __init__(
        self,
        spool: Spool,
        outbox: Outbox,
        sender: Sender,
        eviction: Eviction,
        reporter: Reporter,
        settings: EdgeSettings,
        clock: Clock,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._sender = sender
        self._eviction = eviction
        self._reporter = reporter
        self._settings = settings
        self._clock = clock
        self._offline_file = settings.offline_file or settings.state_dir / "offline"
        self._period_us = reporter.period_us
        self._changed = threading.Condition()
        self._updates: list[DeviceUpdate] = []
        self._answers = DeliveryReports()
        self._commit_now = False
        self._draining = False
        self._drained = False
        self._final_sealed = False
        """The device states after the last row are sealed: only their acknowledgement is missing."""
        self._stopping = False
        self._failure: PipelineError | None = None
        self._committed_s = 0.0
        self._forgot_s = 0.0
        self._crowded = False
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def submit(self, updates: Sequence[DeviceUpdate], *, commit: bool = True) -> None:
        """Queue updates to be committed, at once or with the next turn; blocks while too many wait.

        Raises:
            SpoolError: The spool cannot be written.
        """
        with self._changed:
            limit = QUEUED_UPDATES * len(self._spool.devices)
            while len(self._updates) > limit and not self._failed:
                self._changed.wait(WAKE_S)
            self._raise_failure()
            self._updates += updates
            self._commit_now = self._commit_now or commit
            self._changed.notify_all()

    @property
    def crowded(self) -> bool:
        """Whether the spool is half full, so that a source that can wait should wait."""
        self._raise_failure()
        return self._crowded

    def drain(self, timeout_s: float, give_up: Callable[[], bool] = lambda: False) -> bool:
        """Wait until everything is acknowledged and the books are stated; False if the time was too short.

        Args:
            timeout_s: Longest wait.
            give_up: Polled about 20 times a second; True ends the wait early.

        Raises:
            SpoolError: The spool cannot be written.
        """
        deadline = self._clock() + timeout_s
        with self._changed:
            self._draining = self._commit_now = True
            self._changed.notify_all()
            while not (self._drained or self._failed or self._clock() >= deadline or give_up()):
                self._changed.wait(WAKE_S)
            self._raise_failure()
            return self._drained

    def stop(self) -> None:
        """Commit what was submitted and end the thread. What is not sent stays in the spool."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._sender.close()

    @property
    def _failed(self) -> bool:
        return self._failure is not None or not (self._thread.is_alive() or self._stopping)

    def report_stopped(self) -> None:
        """Write the last status. After ``stop``."""
        self._reporter.report(self._clock(), phase="stopped", unsent=self._outbox.unsent)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._failed:
            raise SpoolError("the writer thread ended unexpectedly; its traceback is in the log")

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self._changed:
                    if not self._commit_now and not self._stopping:
                        self._changed.wait(WAKE_S)
                self._poll_network()
                if self._due():
                    self._turn()
            self._turn()
        except PipelineError as exc:
            log.exception("the spool failed; sensing stops")
            with self._changed:
                self._failure = exc
                self._changed.notify_all()

    def _poll_network(self) -> None:
        if self._offline_file.exists():
            self._sender.disconnect()
        else:
            self._sender.connect()
        outcomes = self._sender.poll()
        self._answers.acked += outcomes.acked
        self._answers.refused += outcomes.refused
        self._answers.returned += outcomes.returned

    def _due(self) -> bool:
        waited = self._clock() - self._committed_s
        if self._draining:
            return self._commit_now or bool(self._answers) or waited > DRAIN_COMMIT_S
        return self._commit_now or waited > OVERDUE_INTERVALS * self._settings.commit_interval_s

    def _turn(self) -> None:
        now = self._clock()
        # Step 1: from here on the updates are this turn's.
        with self._changed:
            updates, self._updates = self._updates, []
            self._commit_now = False
            self._changed.notify_all()
        answers, self._answers = self._answers, DeliveryReports()
        # Step 2: all or nothing.
        with self._spool.transaction():
            for update in updates:
                self._take(update, now)
            self._spool.messages.settle(answers.acked, "acked", now)
            self._spool.messages.settle(answers.refused, "refused", now)
            self._eviction.relieve(now)
            self._forget(now)
            final = self._draining and not self._final_sealed and self._spool.drained()
            stalled = self._sender.stalled(self._settings.stall_s)
            states = {} if stalled else self._reporter.states(now, at_once=final)
            self._outbox.seal(now, states, draining=self._draining)
            self._final_sealed = self._final_sealed or (final and not stalled)
            self._spool.count(self._reporter.sent_since())
        # Step 3: what is on disk may leave the device.
        if answers.returned:
            again = set(answers.returned)
            self._outbox.queue(m for m in self._spool.messages.stored() if m.id in again)
        self._outbox.send()
        self._committed_s = now
        self._crowded = self._spool.bytes > self._settings.spool_max_bytes / 2
        phase: Phase = "draining" if self._draining else "sensing"
        self._reporter.report(now, phase=phase, unsent=self._outbox.unsent)
        if self._final_sealed and not updates and self._spool.drained():
            with self._changed:
                self._drained = True
                self._changed.notify_all()

    def _take(self, update: DeviceUpdate, now: float) -> None:
        self._spool.apply(update, now)
        self._reporter.note(update)
        for event in update.alerts:
            self._outbox.seal_alert(self._spool.devices[update.device_id], event)

    def _forget(self, now: float) -> None:
        if now - self._forgot_s >= FORGET_EVERY_S:
            self._forgot_s = now
            self._spool.books.forget_settled(self._period_us)

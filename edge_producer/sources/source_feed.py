"""Runs a live source in a thread of its own: whatever it does, the device senses and decides on.

A source that fails is closed and another opened, after a wait that grows. What waits for the sensing loop is
bounded: where that is behind, the source waits too, or drops by a rule of its own and counts that.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from edge_producer.clock import Clock
from edge_producer.realtime_class import REALTIME
from edge_producer.sources.samples import Sample, SampleSource, SourceState
from schemas.errors import SourceError

log = logging.getLogger(__name__)

CAPACITY = 4096
"""Samples that may wait for the sensing loop."""
_END_S = 2.0


class Arrival(NamedTuple):
    """A sample, and when it came by the steady clock."""

    at_s: float
    sample: Sample


@dataclass(frozen=True, slots=True)
class RestartWait:
    """How long to wait before a source that failed is opened again: longer each time, with jitter.

    Attributes:
        first_s: After the first failure.
        most_s: The longest.
    """

    first_s: float = 0.5
    most_s: float = 60.0

    def after(self, failures: int) -> float:
        """Seconds after so many failures in a row, at least one."""
        longest = min(self.first_s * 2.0 ** min(failures - 1, 30), self.most_s)
        return longest * random.uniform(0.5, 1.0)  # noqa: S311  (jitter, no secret)


class SourceFeed:
    """A live source on its way to the sensing loop.

    Args:
        open_source: Opens the source; called again after each failure.
        address: Names it, without secrets, for people.
        clock: Steady seconds since 1970.
        restart: How long to wait after a failure.
        capacity: Samples that may wait.
    """

    def __init__(
        self,
        open_source: Callable[[], SampleSource],
        address: str,
        clock: Clock,
        restart: RestartWait | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        self._open_source = open_source
        self._clock = clock
        self._restart = restart or RestartWait()
        self._capacity = capacity
        self._arrived: deque[Arrival] = deque()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._source: SampleSource | None = None
        self._past: Counter[str] = Counter(malformed=0)
        self._failures = 0
        self._newest_s = clock()
        self._state = SourceState(address)
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    @property
    def counts(self) -> Counter[str]:
        """What the source counted, over all times that it was opened."""
        with self._changed:
            total, source = Counter(self._past), self._source
        if source is not None:
            total.update(source.counts)
        return total

    @property
    def state(self) -> SourceState:
        """How the source does now."""
        with self._changed:
            now = self._state
            silent_s = round(max(self._clock() - self._newest_s, 0.0), 3)
            return SourceState(now.address, now.phase, now.error, now.restarts, silent_s)

    @property
    def ended(self) -> bool:
        """Whether the source has ended, and everything that it gave was taken."""
        with self._changed:
            return self._state.phase == "ended" and not self._arrived

    def start(self) -> None:
        """Open the source, in its thread."""
        self._thread.start()

    def take(self, most: int) -> list[Arrival]:
        """What has come, the oldest first; never waits."""
        with self._changed:
            taken = [self._arrived.popleft() for _ in range(min(most, len(self._arrived)))]
            if taken:
                self._changed.notify_all()
            return taken

    def wait(self, most_s: float) -> None:
        """Wait until something has come or the source has ended, or for so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._arrived or self._state.phase == "ended", most_s)

    def stop(self) -> None:
        """Close the source and end its thread; one that hangs is left behind."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            source = self._source
        if source is not None:
            self._close(source)
        if self._thread.is_alive():
            self._thread.join(_END_S)

    def _run(self) -> None:
        REALTIME.join()
        while not self._stopping.is_set():
            try:
                self._read()
            except (Exception, SystemExit) as exc:  # noqa: BLE001  (whatever a source does: the device decides on)
                self._fail(exc)
            else:
                self._set_phase("ended")
                return
            self._stopping.wait(self._restart.after(self._failures))
            with self._changed:
                self._state.restarts += 1

    def _read(self) -> None:
        self._set_phase("opening")
        source = self._open_source()
        with self._changed:
            self._source = source
        try:
            self._set_phase("running")
            for sample in source.samples():
                if not isinstance(sample, Sample):
                    raise SourceError(f"the source gave a {type(sample).__name__} instead of a Sample")
                if not self._put(sample):
                    return
        finally:
            counts = source.counts
            with self._changed:
                self._past.update(counts)
                self._source = None
            self._close(source)

    def _put(self, sample: Sample) -> bool:
        """Hand a sample over; wait while the sensing loop is behind. False: it is over."""
        arrival = Arrival(self._clock(), sample)
        with self._changed:
            self._changed.wait_for(lambda: len(self._arrived) < self._capacity or self._stopping.is_set())
            if self._stopping.is_set():
                return False
            self._arrived.append(arrival)
            self._newest_s = arrival.at_s
            if self._failures:
                self._failures, self._state.error = 0, ""
            self._changed.notify_all()
        return True

    def _fail(self, exc: BaseException) -> None:
        text = f"{type(exc).__name__}: {exc}"
        with self._changed:
            known = self._state.error == text
            self._state.phase, self._state.error = "failed", text
            self._failures += 1
        if not known:
            log.warning("source %s failed, and is opened again: %s", self._state.address, text)

    def _set_phase(self, phase: str) -> None:
        with self._changed:
            self._state.phase = phase
            self._changed.notify_all()

    def _close(self, source: SampleSource) -> None:
        try:
            source.close()
        except Exception as exc:  # noqa: BLE001  (as above)
            log.warning("source %s cannot be closed: %s", self._state.address, exc)

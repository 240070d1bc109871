"""Samples from an OPC UA server: its reports, and in between what stands.

asyncio runs in a thread of its own, and hands readings over; they become samples in the source's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from edge_producer.sources.opcua_address import ChannelNode, OpcUaAddress
from edge_producer.sources.opcua_session import GOODBYE_S, NodeReport, OpcUaSession, check_access
from edge_producer.sources.payloads import PayloadReader
from edge_producer.sources.reading_queue import Reading, ReadingQueue
from edge_producer.sources.samples import Sample
from edge_producer.sources.source_access import SourceAccess
from edge_producer.sources.standing_values import StandingValues
from schemas.errors import SourceLostError
from schemas.instants import from_us
from schemas.profile import Profile

MOST_READINGS = 4096
"""Readings that may wait to become samples; beyond them the oldest of the busiest channel are dropped."""
LONGEST_TEXT = 64
"""A longer text is no number."""
OLD_STEPS = 1.5
"""A value that was measured so long before it was first reported has stood since."""
COUNTS = ("subscribed", "overrun", "server_overrun", "bad", "uncertain", "unknown_node")


class OpcUaSource:
    """One session with a server.

    The server reports a value once, and then only another one. What it has not reported again stands while it
    answers, and is repeated in steps of the profile's rate. A bad or uncertain value is none, and ends that.

    Args:
        address: The server, and how it is spoken to.
        nodes: What is subscribed to.
        profile: Channels, rate and ``[source]``.
        access: Credentials; ``ca`` holds the server's certificate, or its authority's.
        wall: What time it is, for certificates.
        name: Part of the session's name.

    Raises:
        SourceError: Credentials do not go with the address, or the profile's time zone is unknown.
    """

    def __init__(
        self,
        address: OpcUaAddress,
        nodes: Sequence[ChannelNode],
        profile: Profile,
        access: SourceAccess,
        wall: Callable[[], datetime],
        name: str = "edge",
    ) -> None:
        check_access(address, access)
        self._nodes, self._name = tuple(nodes), name
        step_s = 1.0 / profile.sampling.rate_hz
        self._old_us = OLD_STEPS * step_s * 1e6
        self._reader = PayloadReader(profile)
        self._standing = StandingValues(step_s)
        self._queue = ReadingQueue(MOST_READINGS)
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._changed = threading.Condition()
        self._lost: Exception | None = None
        self._closed, self._answered_us = False, 0
        self._reported: set[int] = set()
        self._running: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None
        self._session = OpcUaSession(
            address,
            self._nodes,
            access,
            step_s,
            wall,
            on_subscribed=self._on_subscribed,
            on_reports=self._on_reports,
        )

    @property
    def counts(self) -> Mapping[str, int]:
        """As ``PayloadReader.counts``, of which a payload is a value that the server reports.

        ``subscribed``: sessions in which the server took the subscription; ``unknown_node``: nodes that it
        did not have. Of the values, ``bad`` and ``uncertain`` are not used, by their status; ``overrun`` were
        dropped unread here; before a ``server_overrun`` the server dropped some. ``repeated``: values used
        again, since the server reports changes only.
        """
        with self._changed:
            return {**self._reader.counts, **self._counts, **self._standing.counts}

    def close(self) -> None:
        """Let ``samples`` end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def samples(self) -> Iterator[Sample]:
        """Samples of what the server reports, as it does.

        Raises:
            SourceLostError: The server cannot be reached or trusted, refuses the device, or was lost.
        """
        thread = threading.Thread(target=self._run, name="opcua", daemon=True)
        thread.start()
        try:
            while (samples := self._next()) is not None:
                yield from samples
        finally:
            self.close()
            if self._running is not None:
                loop, task = self._running
                with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                    loop.call_soon_threadsafe(task.cancel)
            thread.join(2 * GOODBYE_S)

    def _next(self) -> list[Sample] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._answered_us or self._lost or self._closed)
            if self._closed:
                return None
            if self._queue:
                return self._read(self._queue.get())
            if self._lost is not None:
                raise self._lost
            answered_us, self._answered_us = self._answered_us, 0
            return self._standing.due(time.monotonic(), answered_us)

    def _read(self, readings: Sequence[Reading]) -> list[Sample]:
        """The sample of readings of one device and time."""
        values: dict[str, float] = {}
        void: list[str] = []
        us, device_id, now_s = readings[0].us, readings[0].device_id, time.monotonic()
        for reading in readings:
            if reading.flaw:
                self._counts[reading.flaw] += 1
                void.append(reading.channel)
            elif (value := self._reader.value(reading.channel, reading.given)) is not None:
                values[reading.channel] = value
                if not math.isnan(value):
                    self._standing.report(device_id, reading.channel, value, us, now_s)
        self._standing.void(device_id, void)
        if us is None:
            values = {}  # they stand, and are repeated at a time of their own
        elif values:
            self._reader.counts["records"] += 1
        if not values and not void:
            return []
        return [Sample(values, None if us is None else from_us(us), device_id, tuple(void))]

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except asyncio.CancelledError:
            self._lose(SourceLostError("the session was ended"))
        except Exception as exc:  # noqa: BLE001  (raised again where the samples are read)
            self._lose(exc)

    async def _serve(self) -> None:
        task = asyncio.current_task()
        with self._changed:
            if self._closed or task is None:
                return
            self._running = asyncio.get_running_loop(), task
        await self._session.serve(f"edgeloop {self._name}")

    def _lose(self, why: Exception) -> None:
        with self._changed:
            self._lost = self._lost or why
            self._changed.notify_all()

    def _on_subscribed(self, unknown: int) -> None:
        with self._changed:
            self._counts["subscribed"] += 1
            self._counts["unknown_node"] += unknown

    def _on_reports(self, reports: list[NodeReport], published_us: int) -> None:
        with self._changed:
            for report in reports:
                self._take(report, published_us)
            self._answered_us = published_us
            self._changed.notify_all()

    def _take(self, report: NodeReport, published_us: int) -> None:
        node, us, given = self._nodes[report.at], report.us, report.given
        self._reader.counts["payloads"] += 1
        self._counts["server_overrun"] += report.overflowed
        flaw = "" if report.quality == "good" else report.quality
        if not flaw:
            if not _scalar(given):
                self._reader.counts["malformed"] += 1
                return
            if us is None:
                self._reader.counts["unreadable_time"] += 1
                return
            if report.at not in self._reported and published_us - us > self._old_us:
                us = None
        self._reported.add(report.at)
        self._counts["overrun"] += self._queue.put(Reading(node.device_id, node.channel, given, us, flaw))


def _scalar(given: object) -> bool:
    if isinstance(given, str):
        return len(given) <= LONGEST_TEXT
    return given is None or isinstance(given, bool | int | float)

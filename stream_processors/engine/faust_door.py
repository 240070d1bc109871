"""The door to Faust: membership and fetching by Faust, positions and commits by the checkpoint.

Faust assigns tasks (partition p of every task topic) to this worker and fetches their messages. The handler
decides where a task starts and what counts as processed: Kafka's committed offsets are never read. What is
skipped is read back, and what is repeated is dropped, both by offset. ADR 0003 explains why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import faust
from aiokafka.errors import IllegalStateError
from faust.types import TP

from schemas.errors import (
    BrokerUnavailableError,
    DamagedLakeError,
    OperatorError,
    TaskLostError,
    TasksStoppedError,
)
from stream_processors.engine.checked_records import FetchedRecord, as_message
from stream_processors.engine.faust_consumer import CheckpointConsumer, bound_to, make_app
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.serving import serve
from stream_processors.engine.task_buffers import TaskBuffer, TaskBuffers
from stream_processors.engine.task_handler import TaskHandler
from stream_processors.engine.watchdog import Watchdog
from stream_processors.job import RawMessage
from stream_processors.settings import StreamSettings
from stream_processors.unread_range import first_offset

log = logging.getLogger(__name__)
T = TypeVar("T")

ROOM_WAIT_S = 0.2
"""Longest wait for room in a buffer before the drain loop looks again whether it should stop."""
WATCH_S = 3.0
TAIL_CHECK_S = 3.0
"""Least time between two looks for a hole behind the last message received."""
RETRY_EVERY = 5  # rounds of ``_watch`` between two attempts to open stopped tasks
LONGEST_RETRY = 4  # times as many, for a task that is stopped again and again
STOP_TIMEOUT_S = 30.0


class FaustDoor:
    """One worker. ``run()`` blocks until SIGTERM."""

    def __init__(
        self,
        settings: StreamSettings,
        topics: Sequence[str],
        handler: TaskHandler,
        log_factory: Callable[[], KafkaLog],
        watchdog: Watchdog | None = None,
    ) -> None:
        self.counts = dict.fromkeys(("messages", "duplicates", "fetched_again", "lost", "rebalances"), 0)
        self._settings, self._handler, self._log_factory = settings, handler, log_factory
        prefix = f"{settings.namespace}." if settings.namespace else ""
        self._base_of = {f"{prefix}{t}": t for t in topics}
        self._full_of = {t: f"{prefix}{t}" for t in topics}
        self._buffers = TaskBuffers(settings.max_buffer_bytes)
        self._fetched_again: dict[TP, int] = {}  # offset, by partition
        self._tail_checked_at = 0.0
        self._opened: set[int] = set()  # tasks that the handler has open; _buffers may lag behind
        self._stopped: dict[int, str] = {}  # tasks that cannot go on, with the reason
        self._stops = Counter[int]()  # how often in a row a task was stopped: it is tried ever more rarely
        self._assignable = False
        self._lock = asyncio.Lock()  # held over every handler call: tasks change between calls only
        self._filled, self._space = asyncio.Event(), asyncio.Event()
        self._handler_thread = ThreadPoolExecutor(1, "handler")
        self._reader_thread = ThreadPoolExecutor(1, "reader")
        self._reader: KafkaLog | None = None
        self._watchdog = watchdog or Watchdog(settings.stall_timeout_s)
        self.app = self._build_app()

    def _build_app(self) -> faust.App:
        s = self._settings
        app = make_app(s)
        vars(app.transport)["Consumer"] = bound_to(self, s.bootstrap_servers, s.session_timeout_s)

        @app.agent(app.topic(*self._base_of, acks=False), name="receive")  # type: ignore[untyped-decorator]
        async def receive(stream: Any) -> None:
            """Makes Faust subscribe to the topics; messages go past it (``CheckpointConsumer``)."""
            async for event in stream.events():
                raise ValueError(f"Faust delivered {event.message.tp} to an agent")

        app.task(self._pump)
        app.task(self._watch)
        app.on_rebalance_complete.connect(self._on_rebalance_complete, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        app.on_before_shutdown.connect(self._on_shutdown, weak=False)
        return app

    # Membership

    async def open_assignment(self, consumer: CheckpointConsumer) -> Mapping[TP, int]:
        """Open every assigned task and seek to its checkpoint; called when an assignment is complete.

        Open tasks keep their buffers, and between revocation and assignment nothing is opened.

        Raises:
            OperatorError: A checkpoint lies outside the log; the message names the range.
        """
        async with self._lock:
            assigned = {tp for tp in consumer.assignment() if tp.topic in self._base_of}
            if not self._assignable:
                assigned = set()
            known = self._buffers.of_task.keys() | self._stopped.keys()
            opened = await self._open_tasks({tp.partition for tp in assigned} - known)
            await self._add_buffers(consumer, assigned, opened)
            positions = self._positions(assigned, self._buffers.of_task)
        if positions:
            await consumer.seek_wait(positions)  # in the consumer's thread; seek() from here would race it
        self._watchdog.progress()
        log.info("settled: tasks %s, opened %s", sorted(self._buffers.of_task), sorted(opened))
        return positions

    def _positions(self, assigned: Iterable[TP], tasks: Iterable[int]) -> dict[TP, int]:
        """Where to fetch these tasks' partitions from; nothing is fetched for a stopped task."""
        buffers = {task: self._buffers.of_task[task] for task in tasks}
        chosen = [tp for tp in assigned if tp.partition in buffers]
        return {tp: buffers[tp.partition].next_offsets[self._base_of[tp.topic]] for tp in chosen}

    async def _add_buffers(
        self, consumer: CheckpointConsumer, assigned: Iterable[TP], opened: Mapping[int, dict[str, int]]
    ) -> None:
        """Buffers for opened tasks, from where their checkpoints want to go on."""
        fresh = [tp for tp in assigned if tp.partition in opened]
        first = await consumer.earliest_offsets(*fresh) if fresh else {}
        end = await consumer.highwaters(*fresh) if fresh else {}
        for tp in fresh:
            offset = opened[tp.partition].setdefault(self._base_of[tp.topic], first[tp])
            if not first[tp] <= offset <= end[tp]:
                raise OperatorError(
                    f"{tp.topic}[{tp.partition}]: the checkpoint wants offset {offset}, the log holds "
                    f"{first[tp]}..{end[tp]} (docs/runbook.md#checkpoint-outside-the-log)"
                )
        self._buffers.of_task |= {task: TaskBuffer(offsets) for task, offsets in opened.items()}

    async def _open_tasks(self, tasks: Iterable[int]) -> dict[int, dict[str, int]]:
        """Next offsets of each task that can be opened; one that a damaged file concerns is stopped."""
        opened: dict[int, dict[str, int]] = {}
        for task in sorted(tasks):
            if not self._assignable:  # the next rebalance began; its revocation waits for our lock
                break
            self._opened.add(task)  # before open(): if that is cancelled, the next revocation closes the task
            try:
                opened[task] = await self._in_handler_thread(self._handler.open, task)
                self._stopped.pop(task, None)
            except DamagedLakeError as exc:
                self._stop(task, str(exc))
        return opened

    def _stop(self, task: int, reason: str) -> None:
        """Let one task rest while the others go on; ``_watch`` tries it again."""
        if self._stopped.get(task) != reason:
            log.error("%s", reason)
        self._stopped[task] = reason
        self._stops[task] += 1
        self._buffers.of_task.pop(task, None)

    def _due(self, round_number: int) -> set[int]:
        """Stopped tasks to try again in this round of ``_watch``."""
        longest = RETRY_EVERY * LONGEST_RETRY
        return {t for t in self._stopped if round_number % min(RETRY_EVERY * self._stops[t], longest) == 0}

    async def _retry_stopped(self, due: set[int]) -> None:
        """Open stopped tasks again: somebody may have healed what they need."""
        consumer = self.app.consumer
        async with self._lock:
            assigned = {tp for tp in consumer.assignment() if tp.topic in self._base_of}
            opened = await self._open_tasks({tp.partition for tp in assigned} & self._stopped.keys() & due)
            await self._add_buffers(consumer, assigned, opened)
            positions = self._positions(assigned, opened)
        if opened:
            with contextlib.suppress(IllegalStateError):  # revoked meanwhile
                await consumer.seek_wait(positions)
            log.info("tasks %s go on", sorted(opened))

    async def _on_rebalance_complete(self, *_: Any, **__: Any) -> None:
        self._assignable = True  # sent just before Faust seeks: faust/tables/recovery.py:306

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self.counts["rebalances"] += 1
        await self._flush_and_close()

    async def _on_shutdown(self, *_: Any, **__: Any) -> None:
        self._watchdog.limit_s = STOP_TIMEOUT_S
        await self._flush_and_close()

    async def _flush_and_close(self) -> None:
        """Commit what is buffered and close every task: Kafka's eager protocol revokes all of them."""
        self._assignable = False
        async with self._lock:  # waits for the call in flight; heartbeats go on in Faust's consumer thread
            batches = {t: b.take() for t, b in self._buffers.of_task.items() if b.messages}
            self._buffers.of_task.clear()  # before the call: nothing may follow it, even if it fails
            self._fetched_again.clear()
            self._stopped.clear()
            if batches:
                try:
                    await self._in_handler_thread(self._handler.process, batches)
                except (TaskLostError, TasksStoppedError) as exc:  # who opens the task next says it again
                    log.warning("%s", exc)
                    self.counts["lost"] += isinstance(exc, TaskLostError)
            while self._opened:
                await self._in_handler_thread(self._handler.close, self._opened.pop())
            self._space.set()

    # Messages

    async def partitions_with_room(self, partitions: Set[TP]) -> set[TP]:
        """Partitions whose tasks may receive more; waits a moment for room where none may."""
        going = {tp for tp in partitions if tp.partition not in self._stopped}
        with_room = {tp for tp in going if self._buffers.has_room(tp.partition)}
        if not with_room:
            self._space.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._space.wait(), ROOM_WAIT_S)
        return with_room

    async def receive(self, tp: TP, records: Sequence[FetchedRecord]) -> None:
        """Buffer what one fetch brought of a partition: consecutive records, so a hole in them is the log's.

        A hole before them may be ours: then the partition is fetched again from there.
        """
        buffer = self._buffers.of_task.get(tp.partition)
        if buffer is None or not records:  # revoked meanwhile
            return
        topic = self._base_of[tp.topic]
        messages = [as_message(topic, tp.partition, r) for r in records]
        expected, first = buffer.next_offsets[topic], first_offset(messages[0])
        if first > expected and not await self._is_hole(tp, expected, first):
            await self._fetch_again(tp, expected)
            return
        if self._buffers.of_task.get(tp.partition) is not buffer:  # revoked, or opened again
            return
        new = buffer.extend(messages)
        self.counts["messages"] += new
        self.counts["duplicates"] += len(messages) - new
        if new:
            self._filled.set()
            self._watchdog.progress()

    async def nothing_came(self, consumer: CheckpointConsumer) -> None:
        """Find holes behind the last message received: no record after one shows it.

        aiokafka's position is how far it has handed records over, or found that there are none. No record
        is on its way while the drain loop is in here.
        """
        now = time.monotonic()
        if now - self._tail_checked_at < TAIL_CHECK_S:
            return
        self._tail_checked_at = now
        for task, buffer in list(self._buffers.of_task.items()):
            for topic, offset in list(buffer.next_offsets.items()):
                tp = TP(self._full_of[topic], task)
                try:
                    position = await consumer.position(tp)
                except IllegalStateError:  # revoked meanwhile
                    continue
                if position is None or position <= offset:
                    continue
                if await self._is_hole(tp, offset, position):
                    buffer.next_offsets[topic] = max(position, buffer.next_offsets[topic])
                else:
                    await self._fetch_again(tp, offset)

    async def _is_hole(self, tp: TP, start: int, end: int) -> bool:
        """Whether the log has nothing from ``start`` to ``end``; asked when fetching again was in vain."""
        if self._fetched_again.get(tp) != start:
            return False
        topic = self._base_of[tp.topic]
        found, reached = await self._in_reader_thread(lambda k: k.read(topic, tp.partition, start, end, 1))
        return not found and reached >= end

    async def _fetch_again(self, tp: TP, offset: int) -> None:
        log.warning("%s[%d]: offset %d was not delivered; fetching again from there", *tp, offset)
        self._fetched_again[tp] = offset
        self.counts["fetched_again"] += 1
        with contextlib.suppress(IllegalStateError):  # revoked meanwhile
            await self.app.consumer.seek_wait({tp: offset})  # in the consumer's thread

    async def _pump(self) -> None:
        """Hand over what has accumulated, one ``process`` call at a time; without messages, as a tick."""
        ticked = time.monotonic()
        while True:
            await self._wait_for_work()
            async with self._lock:
                batches = self._buffers.take(self._settings.max_batch_bytes)
                if time.monotonic() - ticked >= self._settings.tick_s:
                    ticked = time.monotonic()
                    batches = {task: [] for task in self._buffers.of_task} | batches
                if batches:
                    await self._process(batches)
                self._buffers.done()
                self._space.set()
                if any(b.messages for b in self._buffers.of_task.values()):
                    self._filled.set()

    async def _wait_for_work(self) -> None:
        try:
            await asyncio.wait_for(self._filled.wait(), self._settings.tick_s)
        except TimeoutError:
            return
        self._filled.clear()
        if self._buffers.n_bytes < self._settings.max_batch_bytes:
            await asyncio.sleep(self._settings.linger_s)

    async def _process(self, batches: dict[int, list[RawMessage]]) -> None:
        try:
            await self._in_handler_thread(self._handler.process, batches)
            for task in batches:
                self._stops.pop(task, None)
        except TaskLostError as exc:
            log.warning("a task was lost: %s; opening tasks %s again", exc, sorted(batches))
            self.counts["lost"] += 1
            for task, messages in batches.items():
                try:
                    offsets = await self._in_handler_thread(self._handler.open, task)
                except DamagedLakeError as damaged:
                    self._stop(task, str(damaged))
                    continue
                old = self._buffers.of_task[task]
                self._buffers.of_task[task] = old.reopened(task, messages, offsets)
        except TasksStoppedError as exc:
            for task, reason in exc.reasons.items():
                self._stop(task, reason)
        except BaseException:  # crash or cancellation: what follows a failed batch must never be committed
            self._buffers.of_task.clear()
            raise
        self._watchdog.progress()

    # Supervision

    async def _watch(self) -> None:
        """Every ``WATCH_S``: distinguish idle from stalled."""
        self._watchdog.ensure_started()
        before: dict[TP, int] = {}
        stuck_s: dict[TP, float] = {}
        for round_number in count(1):
            await asyncio.sleep(WATCH_S)
            if self._lock.locked() or self.app.rebalancing or self._buffers.full:
                continue  # busy; the watchdog bounds how long
            if due := self._due(round_number):
                await self._retry_stopped(due)
            now = {TP(t, p): o for p, b in self._buffers.of_task.items() for t, o in b.next_offsets.items()}
            unmoved = [tp for tp, offset in now.items() if before.get(tp) == offset]
            behind = [tp for tp in unmoved if await self._is_behind(tp, now[tp])]
            stuck_s = {tp: stuck_s.get(tp, 0.0) + WATCH_S for tp in behind}
            if max(stuck_s.values(), default=0.0) > self._settings.stall_timeout_s:
                raise OperatorError(f"the log has messages that Faust does not deliver: {stuck_s}")
            before = now
            if not behind:
                self._watchdog.progress()  # idle is progress; an unfinished rebalance or a hung call is not

    async def _is_behind(self, tp: TP, offset: int) -> bool:
        """Whether the log has more than was received, and nothing of it has come meanwhile."""
        try:
            _, end = await self._in_reader_thread(lambda k: k.log_range(tp.topic, tp.partition))
        except BrokerUnavailableError as exc:
            log.warning("%s", exc)
            return False
        buffer = self._buffers.of_task.get(tp.partition)
        return end > offset and buffer is not None and buffer.next_offsets[tp.topic] == offset

    async def _in_handler_thread(self, call: Callable[..., T], *args: Any) -> T:
        # Shielded: a cancelled rebalance must not end the wait for a call that goes on running in the thread.
        running = asyncio.get_running_loop().run_in_executor(self._handler_thread, call, *args)
        return await asyncio.shield(running)

    async def _in_reader_thread(self, call: Callable[[KafkaLog], T]) -> T:
        def run() -> T:
            if self._reader is None:
                self._reader = self._log_factory()
            return call(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._reader_thread, run)

    def run(self) -> None:
        """Start, serve until SIGTERM or SIGINT, flush, leave the group.

        Raises:
            BrokerUnavailableError: No broker answers; the supervisor starts the worker again.
            Exception: The error that crashed the worker.
        """
        serve(self.app, self._watchdog, self._settings.bootstrap_servers)

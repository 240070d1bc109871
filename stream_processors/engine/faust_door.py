"""The door to Faust: membership and fetching by Faust, positions and commits by the checkpoint.

Faust assigns tasks (partition p of every task topic) to this worker and delivers their messages. The handler
decides where a task starts and what counts as processed: Kafka's committed offsets are never read. What Faust
skips is read back, and what it repeats is dropped, both by offset. ADR 0003 explains why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    PipelineError,
    TaskLostError,
    TasksStoppedError,
)
from stream_processors.engine.faust_consumer import CheckpointConsumer, bound_to, make_app
from stream_processors.engine.kafka_log import KafkaLog
from stream_processors.engine.serving import serve
from stream_processors.engine.task_buffers import TaskBuffer, take_longest_waiting
from stream_processors.engine.task_handler import TaskHandler
from stream_processors.engine.watchdog import Watchdog
from stream_processors.job import RawMessage
from stream_processors.settings import StreamSettings

log = logging.getLogger(__name__)
T = TypeVar("T")

TAIL_CHECK_S = 3.0
RETRY_EVERY = 5  # tail checks between two attempts to open stopped tasks
LONGEST_RETRY = 4  # times as many, for a task that is stopped again and again
STOP_TIMEOUT_S = 30.0


class FaustDoor:
    """One worker. ``run()`` blocks until SIGTERM; ``app`` also works with ``faust -A module worker``."""

    def __init__(
        self,
        settings: StreamSettings,
        topics: Sequence[str],
        handler: TaskHandler,
        log_factory: Callable[[], KafkaLog],
        watchdog: Watchdog | None = None,
    ) -> None:
        self.counts = dict.fromkeys(
            ("messages", "duplicates", "read_back", "tail_read_back", "lost", "rebalances"), 0
        )
        self._settings, self._handler, self._log_factory = settings, handler, log_factory
        prefix = f"{settings.namespace}." if settings.namespace else ""
        self._base_of = {f"{prefix}{t}": t for t in topics}
        self._full_of = {t: f"{prefix}{t}" for t in topics}
        self._buffers: dict[int, TaskBuffer] = {}
        self._buffered_bytes = 0
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
        vars(app.transport)["Consumer"] = bound_to(
            self.open_assignment, s.bootstrap_servers, s.session_timeout_s
        )
        raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
        channel = app.topic(*self._base_of, acks=False, **raw)

        @app.agent(channel, name="receive")  # type: ignore[untyped-decorator]  # Faust is untyped
        async def receive(stream: Any) -> None:
            async for event in stream.events():
                try:
                    await self._receive(self._raw(event.message))
                except PipelineError as exc:  # Faust would restart the agent and lose the message
                    await app.crash(exc)

        app.task(self._pump)
        app.task(self._watch)
        app.on_rebalance_complete.connect(self._on_rebalance_complete, weak=False)
        app.on_partitions_revoked.connect(self._on_revoked, weak=False)
        app.on_before_shutdown.connect(self._on_shutdown, weak=False)
        return app

    def _raw(self, m: Any) -> RawMessage:
        topic = self._base_of[m.topic]
        at_ms = round(m.timestamp * 1000)
        return RawMessage(topic, m.partition, m.offset, at_ms, m.key, list(m.headers or ()), m.value or b"")

    # Membership

    async def open_assignment(self, consumer: CheckpointConsumer) -> Mapping[TP, int]:
        """Open every assigned task and seek to its checkpoint; called when an assignment is complete.

        Faust's drain loop calls it too, when a fetch raced a rebalance (faust/transport/consumer.py:772):
        then open tasks keep their buffers, and between revocation and assignment nothing is opened.

        Raises:
            OperatorError: A checkpoint lies outside the log; the message names the range.
        """
        async with self._lock:
            assigned = {tp for tp in consumer.assignment() if tp.topic in self._base_of}
            if not self._assignable:
                assigned = set()
            known = self._buffers.keys() | self._stopped.keys()
            opened = await self._open_tasks({tp.partition for tp in assigned} - known)
            await self._add_buffers(consumer, assigned, opened)
            positions = {
                tp: self._buffers[tp.partition].next_offsets[self._base_of[tp.topic]]
                for tp in assigned
                if tp.partition in self._buffers
            }
            # What comes for a stopped task is dropped; once the task goes on, it is read back.
            stopped = [tp for tp in assigned if tp.partition in self._stopped]
            positions |= await consumer.highwaters(*stopped) if stopped else {}
        if positions:
            await consumer.seek_wait(positions)  # in the consumer's thread; seek() from here would race it
        self._watchdog.progress()
        log.info("settled: tasks %s, opened %s", sorted(self._buffers), sorted(opened))
        return positions

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
        self._buffers |= {task: TaskBuffer(offsets) for task, offsets in opened.items()}

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
        self._buffers.pop(task, None)

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
        if opened:
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
            batches = {t: b.take() for t, b in self._buffers.items() if b.messages}
            self._buffers.clear()  # before the call: nothing may follow it, whether it succeeds or not
            self._stopped.clear()
            if batches:
                try:
                    await self._in_handler_thread(self._handler.process, batches)
                except (TaskLostError, TasksStoppedError) as exc:  # who opens the task next says it again
                    log.warning("%s", exc)
                    self.counts["lost"] += isinstance(exc, TaskLostError)
            while self._opened:
                await self._in_handler_thread(self._handler.close, self._opened.pop())
            self._buffered_bytes = 0
            self._space.set()

    # Messages

    async def _receive(self, message: RawMessage) -> None:
        """Buffer one message, after filling any hole before it; wait while the buffers are full."""
        while (buffer := self._buffers.get(message.partition)) is not None:  # None: revoked meanwhile
            expected = buffer.next_offsets[message.topic]
            if message.offset < expected:
                self.counts["duplicates"] += 1
                return
            if message.offset == expected:
                self._add(buffer, message)
                await self._wait_for_space()
                return
            n = await self._read_back(message.topic, message.partition, message.offset)
            self.counts["read_back"] += n

    def _add(self, buffer: TaskBuffer, message: RawMessage) -> None:
        self._buffered_bytes += buffer.add(message, time.monotonic())
        self.counts["messages"] += 1
        self._filled.set()
        self._watchdog.progress()

    async def _read_back(self, topic: str, partition: int, end: int) -> int:
        """Read what Faust skipped before ``end``; return the number of messages."""
        buffer = self._buffers[partition]
        start = buffer.next_offsets[topic]
        log.warning("Faust skipped %s[%d] offsets %d..%d; reading them", topic, partition, start, end)
        messages, reached = await self._in_reader_thread(
            lambda kafka: kafka.read(topic, partition, start, end)
        )
        if self._buffers.get(partition) is not buffer:  # revoked while reading
            return 0
        fresh = [m for m in messages if m.offset >= buffer.next_offsets[topic]]
        for message in fresh:
            self._add(buffer, message)
        buffer.next_offsets[topic] = max(buffer.next_offsets[topic], reached)
        await self._wait_for_space()
        return len(fresh)

    async def _wait_for_space(self) -> None:
        while self._buffered_bytes >= self._settings.max_buffer_bytes:
            self._space.clear()
            await self._space.wait()

    async def _pump(self) -> None:
        """Hand over what has accumulated, one ``process`` call at a time; without messages, as a tick."""
        ticked = time.monotonic()
        while True:
            await self._wait_for_work()
            async with self._lock:
                limit = self._settings.max_batch_bytes
                batches = take_longest_waiting(self._buffers, list(self._buffers), limit)
                if time.monotonic() - ticked >= self._settings.tick_s:
                    ticked = time.monotonic()
                    batches = {task: [] for task in self._buffers} | batches
                if batches:
                    await self._process(batches)
                self._buffered_bytes = sum(b.n_bytes for b in self._buffers.values())
                self._space.set()
                if self._buffered_bytes:
                    self._filled.set()

    async def _wait_for_work(self) -> None:
        try:
            await asyncio.wait_for(self._filled.wait(), self._settings.tick_s)
        except TimeoutError:
            return
        self._filled.clear()
        if self._buffered_bytes < self._settings.max_batch_bytes:
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
                old = self._buffers[task]
                self._buffers[task] = old.reopened(task, messages, offsets, time.monotonic())
        except TasksStoppedError as exc:
            for task, reason in exc.reasons.items():
                self._stop(task, reason)
        except BaseException:  # crash or cancellation: what follows a failed batch must never be committed
            self._buffers.clear()
            raise
        self._watchdog.progress()

    # Supervision

    async def _watch(self) -> None:
        """Every ``TAIL_CHECK_S``: read back what was skipped at the tail; distinguish idle from stalled."""
        self._watchdog.ensure_started()
        before: dict[TP, int] = {}
        stuck_s: dict[TP, float] = {}
        for round_number in count(1):
            await asyncio.sleep(TAIL_CHECK_S)
            full = self._buffered_bytes >= self._settings.max_buffer_bytes
            if self._lock.locked() or self.app.rebalancing or full:
                continue  # busy; the watchdog bounds how long
            if due := self._due(round_number):
                await self._retry_stopped(due)
            now = {TP(t, p): o for p, b in self._buffers.items() for t, o in b.next_offsets.items()}
            unmoved = [tp for tp, offset in now.items() if before.get(tp) == offset]
            behind = [tp for tp in unmoved if await self._is_behind(tp, now[tp])]
            stuck_s = {tp: stuck_s.get(tp, 0.0) + TAIL_CHECK_S for tp in behind}
            if max(stuck_s.values(), default=0.0) > self._settings.stall_timeout_s:
                raise OperatorError(f"the log has messages that Faust does not deliver: {stuck_s}")
            before = now
            if not behind:
                self._watchdog.progress()  # idle is progress; an unfinished rebalance or a hung call is not

    async def _is_behind(self, tp: TP, offset: int) -> bool:
        """Whether the log has more than was received; what Faust took but did not deliver is read back.

        The log's end alone is not enough: with a backlog, Faust is about to deliver what lies before it.
        aiokafka's position is how far it has already handed messages to Faust.
        """
        try:
            _, end = await self._in_reader_thread(lambda k: k.log_range(tp.topic, tp.partition))
        except BrokerUnavailableError as exc:
            log.warning("%s", exc)
            return False
        if end <= offset or not self._is_waiting_for(tp, offset):
            return False
        try:
            position = await self.app.consumer.position(TP(self._full_of[tp.topic], tp.partition))
        except IllegalStateError:  # revoked meanwhile
            return False
        if position is not None and position > offset and self._is_waiting_for(tp, offset):
            self.counts["tail_read_back"] += await self._read_back(tp.topic, tp.partition, position)
        return self._is_waiting_for(tp, offset)

    def _is_waiting_for(self, tp: TP, offset: int) -> bool:
        buffer = self._buffers.get(tp.partition)
        return buffer is not None and buffer.next_offsets[tp.topic] == offset

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

"""Faust's consumer with our settings: whole tasks to one worker, bounded and prompt fetches, our offsets.

Records leave it as aiokafka fetched them, many at a time: Faust's way from the fetch to an agent (a message,
an event and a turn of the event loop each) costs 200 to 460 us a message, aiokafka's own part 1 to 2 us.
With ``faust_door`` this is the only door to Faust in this package. Line numbers are faust-streaming 0.15.3's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Protocol, cast

import aiokafka
import faust
from faust.transport.drivers import aiokafka as faust_aiokafka
from faust.types import TP

from schemas.errors import PipelineError
from stream_processors.engine import fetch_bounds
from stream_processors.engine.checked_records import FetchedRecord
from stream_processors.settings import StreamSettings

FETCH_MAX_PARTITION_BYTES = 1 << 20
FETCH_MAX_BYTES = 16 << 20
FETCH_MAX_WAIT_MS = 100
FETCH_RECORDS = 10_000
"""Most records that one turn of the drain loop takes: the event loop is held for some 20 ms."""
DRAIN_WAIT_S = 1.0
"""Longest wait for records while every partition may be fetched."""
CROWDED_WAIT_S = 0.05
"""The same while some are left out because their task's buffer is full: it may have room again soon."""
HEARTBEATS_PER_SESSION = 10
REBALANCE_TIMEOUT_MS = 60_000
"""A commit that takes longer makes the group continue without the worker."""
MAX_POLL_INTERVAL_MS = 300_000
METADATA_MAX_AGE_MS = 3_000
"""After a broker restart the group's leader may get no topics and assign nothing. It notices and joins again
when it next reads the metadata, which aiokafka by default does every five minutes."""
REQUEST_TIMEOUT_S = 90.0
"""Also bounds opening all tasks: past it Faust silently stops recovering (tables/recovery.py:320)."""

fetch_bounds.install()


class RecordReceiver(Protocol):
    """Where fetched records go, and who says where fetching starts: the Faust door."""

    async def open_assignment(self, consumer: CheckpointConsumer) -> Mapping[TP, int]:
        """Seek every assigned partition to its checkpoint; returns the offsets."""
        ...

    async def partitions_with_room(self, partitions: Set[TP]) -> set[TP]:
        """Those whose records may be fetched now; waits a moment for one where there is none."""
        ...

    async def nothing_came(self, consumer: CheckpointConsumer) -> None:
        """Look for what should have come; no record is on its way meanwhile."""
        ...

    async def receive(self, tp: TP, records: Sequence[FetchedRecord]) -> None:
        """Take consecutive records of one partition."""
        ...


class _CheckpointThread(faust_aiokafka.AIOKafkaConsumerThread):  # type: ignore[misc]  # Faust is untyped
    """Builds the aiokafka consumer.

    Without tables Faust takes aiokafka's round robin (drivers/aiokafka.py:579), which splits a task over
    workers; its own assignor keeps equal partitions of topics with equal counts together.
    """

    def _create_worker_consumer(self, transport: faust_aiokafka.Transport) -> aiokafka.AIOKafkaConsumer:
        conf = self.app.conf
        bound = cast("CheckpointConsumer", self.consumer)
        session_ms = int(bound.session_timeout_s * 1000)
        self._assignor = self.app.assignor
        return aiokafka.AIOKafkaConsumer(
            client_id=conf.broker_client_id,
            group_id=conf.id,
            bootstrap_servers=bound.bootstrap_servers,
            partition_assignment_strategy=[self._assignor],
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_uncommitted",
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // HEARTBEATS_PER_SESSION,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS,
            request_timeout_ms=int(REQUEST_TIMEOUT_S * 1000),
            metadata_max_age_ms=METADATA_MAX_AGE_MS,
            max_poll_records=FETCH_RECORDS,
            max_partition_fetch_bytes=FETCH_MAX_PARTITION_BYTES,
            fetch_max_bytes=FETCH_MAX_BYTES,
            fetch_max_wait_ms=FETCH_MAX_WAIT_MS,
            **faust_aiokafka.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )


class CheckpointConsumer(faust_aiokafka.Consumer):  # type: ignore[misc]  # Faust is untyped
    """Asks the checkpoint where to start, not Kafka's committed offsets, and hands over whole fetches.

    The transport builds it with arguments of its own, so a subclass holds what else it needs (``bound_to``).
    """

    receiver: RecordReceiver
    bootstrap_servers: str
    session_timeout_s: float

    def _new_consumer_thread(self) -> _CheckpointThread:
        return _CheckpointThread(self, loop=self.loop, beacon=self.beacon)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Offsets of the checkpoint, after seeking to them."""
        return await self.receiver.open_assignment(self)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Hand fetches to the receiver until stopped; replaces Faust's loop (transport/consumer.py:1170).

        Whatever a rebalance makes stale (records fetched before a seek, partitions revoked meanwhile) needs
        no check here: the receiver knows every partition's next offset.
        """
        app = self.transport.app
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                await self._drain_once()
        except (asyncio.CancelledError, *self.consumer_stopped_errors):
            if not app.should_stop:
                raise
        except PipelineError as exc:  # else only this loop would end, and the worker would idle
            await app.crash(exc)

    async def _drain_once(self) -> None:
        if not self.flow_active:  # a rebalance: it seeks before the flow is resumed
            await self.wait(self.can_resume_flow)
        active = set(self._get_active_partitions())
        wanted = await self.receiver.partitions_with_room(active)
        if not wanted or not self.flow_active:
            return
        fetched = await self._getmany(wanted, DRAIN_WAIT_S if wanted >= active else CROWDED_WAIT_S)
        for tp, records in fetched.items():
            await self.receiver.receive(tp, records)
        if not fetched and self.flow_active:
            await self.receiver.nothing_came(self)


def make_app(settings: StreamSettings) -> faust.App:
    """The Faust application of a worker, without its streams."""
    return faust.App(
        settings.group_id,
        broker=[f"kafka://{address}" for address in settings.bootstrap_servers.split(",")],
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        stream_wait_empty=False,
        broker_session_timeout=settings.session_timeout_s,
        broker_request_timeout=REQUEST_TIMEOUT_S,
        broker_commit_interval=30.0,  # nothing is acked: commit task and livelock detector find no work
        worker_redirect_stdouts=False,
        datadir=str(Path(settings.lake_root) / "_faust"),
    )


def bound_to(
    receiver: RecordReceiver, bootstrap_servers: str, session_timeout_s: float
) -> type[CheckpointConsumer]:
    """Consumer class for ``app.transport.Consumer``, with this receiver and these settings."""
    members = {
        "receiver": receiver,
        "bootstrap_servers": bootstrap_servers,
        "session_timeout_s": session_timeout_s,
    }
    return type("BoundCheckpointConsumer", (CheckpointConsumer,), members)

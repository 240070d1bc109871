"""Ships lifecycle events from the registry: into the lake exactly once, onto Kafka at least once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
import pyarrow as pa
from sqlalchemy import RowMapping, select, update

from feature_store.append import append, finish
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import NO_PARTITION
from feature_store.sound_files import read_all
from model_service.lifecycle.lifecycle_topic import LifecycleTopic
from model_service.registry.database import Registry
from model_service.registry.registry_tables import outbox
from schemas.errors import RetryableError
from schemas.events import Lifecycle
from schemas.tables import LIFECYCLE

TASK = "lifecycle"
"""Task of the lake's commits."""
EVERY_S = 2.0
_MOST = 2000
"""Largest number of events in one step."""


@dataclass
class EventShipper:
    """Ships the events in the outbox.

    Args:
        registry: Holds the outbox.
        lake: Gets every event exactly once.
        topic: Gets every event at least once; None: there is no Kafka.

    Attributes:
        landed: Ids known to be in the lake, of events that are not marked as shipped.
    """

    registry: Registry
    lake: Lake
    topic: LifecycleTopic | None = None
    landed: set[str] | None = None
    _cuts: CutStore = field(init=False)

    def __post_init__(self) -> None:
        self.lake.ensure_table(LIFECYCLE)
        self._cuts = CutStore(self.lake)

    def step(self, now: datetime) -> int:
        """Ship the events that wait.

        Returns:
            How many events have reached lake and topic.

        Raises:
            RetryableError: Registry or lake did not accept them; the next call continues.
        """
        waiting = self._waiting()
        if not waiting:
            return 0
        # Step 1: find events that the lake has already: an earlier process died between steps 2 and 4.
        landed = self._landed(waiting)
        # Step 2: append the others to the lake, in one commit.
        self._land([row for row in waiting if row["event_id"] not in landed], now)
        # Step 3: send all to Kafka, which confirms them later. A crash sends some of them twice.
        done = landed if self.topic is None else self._send(self.topic, waiting)
        # Step 4: mark as shipped what both have.
        done = done & {row["event_id"] for row in waiting}
        with self.registry.transaction() as connection:
            for event_id in sorted(done):
                mark = update(outbox).where(outbox.c.event_id == event_id)
                connection.execute(mark.values(shipped_at=now.timestamp()))
        landed -= done
        return len(done)

    def _waiting(self) -> Sequence[RowMapping]:
        query = select(outbox).where(outbox.c.shipped_at.is_(None)).order_by(outbox.c.event_time)
        with self.registry.reading() as connection:
            return connection.execute(query.limit(_MOST)).mappings().all()

    def _landed(self, waiting: Sequence[RowMapping]) -> set[str]:
        """Ids in the lake; read from the lake after a start or a failure, kept in memory otherwise."""
        if self.landed is None:
            finish(self.lake, self._cuts, TASK)
            self.landed = self._in_lake({row["event_id"] for row in waiting})
        return self.landed

    def _in_lake(self, wanted: set[str]) -> set[str]:
        rows = read_all(self.lake.root, LIFECYCLE.name, self.lake.snapshot(LIFECYCLE.name))
        return wanted & set(rows.column("event_id").to_pylist())

    def _land(self, rows: Sequence[RowMapping], now: datetime) -> None:
        assert self.landed is not None  # noqa: S101  (set in step 1)
        if not rows:
            return
        known, self.landed = self.landed, None  # if this fails, the next step reads them from the lake again
        try:
            append(self.lake, self._cuts, TASK, lambda n: {LIFECYCLE.name: _table(rows, now, n)})
        except OSError as exc:
            raise RetryableError(f"the lake does not accept lifecycle events: {exc}") from exc
        self.landed = known
        self.landed |= {row["event_id"] for row in rows}

    def _send(self, topic: LifecycleTopic, waiting: Sequence[RowMapping]) -> set[str]:
        confirmed = topic.confirmed()
        for row in waiting:
            if row["event_id"] not in confirmed:
                topic.send(row["event_id"], row["subject"], _message(row))
        return confirmed


def _message(row: RowMapping) -> bytes:
    event = Lifecycle(
        event_id=row["event_id"],
        event_time=datetime.fromtimestamp(row["event_time"], UTC),
        subject=row["subject"],
        step=row["step"],
        detail=row["detail"],
    )
    return event.model_dump_json().encode()


def _table(rows: Sequence[RowMapping], now: datetime, n: int) -> pa.Table:
    made: list[dict[str, Any]] = [
        {
            "event_id": row["event_id"],
            "event_time": datetime.fromtimestamp(row["event_time"], UTC),
            "subject": row["subject"],
            "step": row["step"],
            "detail": orjson.dumps(row["detail"]).decode(),
            "known_at": now,
            "_partition": NO_PARTITION,
            "_offset": n,
            "_row": i,
        }
        for i, row in enumerate(rows)
    ]
    return pa.Table.from_pylist(made, schema=LIFECYCLE.schema)

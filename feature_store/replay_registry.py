"""Recordings that were replayed, and starts of devices that were retired: facts that stay in the lake."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from feature_store import parquet
from feature_store.append import append, finish
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import NO_PARTITION
from feature_store.sound_files import read_each
from schemas.instants import utc_now
from schemas.tables import REPLAYS, RETIRED_BOOTS, TableSpec

TASK = "replays"
"""Task under which these facts are committed."""

Boot = tuple[str, int]
"""Device id and the id of one of its starts."""


@dataclass(frozen=True)
class ReplayRecord:
    """One start of a device in one replay; the columns of the table ``replays``."""

    replay_id: str
    content: str
    files: str
    profile: str
    device_id: str
    boot_id: int
    rows: int
    first_time: datetime | None
    last_time: datetime | None
    complete: bool


class ReplayRegistry:
    """The tables ``replays`` and ``retired_boots``.

    Args:
        lake: Holds the tables.
        clock: UTC now: ``known_at`` of a fact.
    """

    def __init__(self, lake: Lake, clock: Callable[[], datetime] = utc_now) -> None:
        self._lake = lake
        self._cuts = CutStore(lake, clock)
        self._clock = clock
        lake.ensure_table(REPLAYS)
        lake.ensure_table(RETIRED_BOOTS)
        finish(lake, self._cuts, TASK)

    def record(self, records: Sequence[ReplayRecord]) -> None:
        """Append these facts.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        if records:
            rows = [asdict(r) for r in records]
            append(self._lake, self._cuts, TASK, lambda n: {REPLAYS.name: self._table(REPLAYS, rows, n)})

    def retire(self, boots: Iterable[Boot], profile: str, reason: str) -> None:
        """Let the rows of these starts no longer count, from now on; nothing is deleted.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        rows = _facts(set(boots) - self.retired(), profile, reason, counts=False)
        if rows:
            append(
                self._lake,
                self._cuts,
                TASK,
                lambda n: {RETIRED_BOOTS.name: self._table(RETIRED_BOOTS, rows, n)},
            )

    def replace(
        self, records: Sequence[ReplayRecord], earlier: Iterable[Boot], profile: str, reason: str
    ) -> None:
        """Record a complete replay; in the same cut its starts begin to count, and earlier ones no longer do.

        Args:
            records: Of the complete replay.
            earlier: Starts that it replaces.
            profile: Of all of them.
            reason: Why the earlier ones no longer count.

        Raises:
            LakeConflictError: Other writers were first at every attempt.
        """
        gone = self.retired()
        fresh = {(r.device_id, r.boot_id) for r in records}
        rows = _facts(set(earlier) - gone - fresh, profile, reason, counts=False)
        rows += _facts(fresh & gone, profile, "its replay is complete", counts=True)
        facts = [asdict(r) for r in records]
        if not facts and not rows:
            return
        append(
            self._lake,
            self._cuts,
            TASK,
            lambda n: {
                spec.name: self._table(spec, held, n)
                for spec, held in ((REPLAYS, facts), (RETIRED_BOOTS, rows))
                if held
            },
        )

    def replays(self) -> list[ReplayRecord]:
        """Newest fact of each start that still counts, oldest first."""
        newest: dict[tuple[str, str, int], ReplayRecord] = {}
        for row in self._read(REPLAYS):
            record = ReplayRecord(**{f.name: row[f.name] for f in fields(ReplayRecord)})
            newest[record.replay_id, record.device_id, record.boot_id] = record
        gone = self.retired()
        return [r for r in newest.values() if (r.device_id, r.boot_id) not in gone]

    def retired(self) -> set[Boot]:
        """Starts whose rows do not count."""
        newest = {(row["device_id"], row["boot_id"]): row.get("counts") for row in self._read(RETIRED_BOOTS)}
        return {boot for boot, counts in newest.items() if not counts}

    def _read(self, spec: TableSpec) -> list[dict[str, Any]]:
        snapshot = self._lake.snapshot(spec.name)
        parts = read_each(self._lake.root, spec.name, list(snapshot.sizes), snapshot)
        tables = [parquet.conform(t, snapshot.columns) for t in parts.values()]
        rows = parquet.concat(tables, snapshot.columns)
        order = [("_offset", "ascending"), ("_row", "ascending")]
        return [dict(row) for row in rows.sort_by(order).to_pylist()]

    def _table(self, spec: TableSpec, rows: Sequence[Mapping[str, object]], n: int) -> pa.Table:
        now = self._clock().astimezone(UTC)
        full = [
            {**row, "known_at": now, "_partition": NO_PARTITION, "_offset": n, "_row": i}
            for i, row in enumerate(rows)
        ]
        return pa.Table.from_pylist(full, schema=spec.schema)


def _facts(boots: Iterable[Boot], profile: str, reason: str, *, counts: bool) -> list[dict[str, object]]:
    return [
        {"device_id": device, "boot_id": boot, "profile": profile, "reason": reason, "counts": counts}
        for device, boot in sorted(boots)
    ]


def new_replay_id() -> str:
    """An id that no replay ever had."""
    return uuid.uuid4().hex[:16]

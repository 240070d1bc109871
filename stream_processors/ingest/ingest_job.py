"""Ingest: device messages become rows, each exactly once, or end in quarantine with a reason."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa

from schemas import topics
from schemas.errors import MessageError
from schemas.events import Alert, DeviceState, Label
from schemas.tables import (
    ALERTS,
    BOOKS,
    DEVICE_STATES,
    LABELS,
    LANE_GAPS,
    PROFILE,
    QUARANTINE,
    SUMMARIES,
    telemetry_table_name,
)
from stream_processors.ingest.admission import (
    Admitted,
    DeviceDirectory,
    authenticate,
    claimed_rows,
    is_duplicate,
    lane_key,
    open_message,
)
from stream_processors.ingest.landing import Landed, land_statements, land_telemetry, provenance
from stream_processors.ingest.lane_gaps import lane_gaps
from stream_processors.ingest.marks import LaneMarks
from stream_processors.job import Batch, Derived, Output, RawMessage, State, dead_letter

EVENTS = {
    topics.ALERT.base: (ALERTS.schema, ALERTS.name),
    topics.LABEL.base: (LABELS.schema, LABELS.name),
    topics.DEVICE_STATE.base: (DEVICE_STATES.schema, DEVICE_STATES.name),
}
STATEMENTS = {
    topics.SUMMARY.base: (SUMMARIES.schema, SUMMARIES.name),
    topics.BOOKS.base: (BOOKS.schema, BOOKS.name),
}


@dataclass
class _Work:
    """What one call of the job collects."""

    marks: dict[str, LaneMarks] = field(default_factory=dict)
    rows: dict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    dead_letters: list[Derived] = field(default_factory=list)
    counters: Counter[str] = field(default_factory=Counter)

    def count(self, topic: str, what: str, rows: int) -> None:
        self.counters[f"{topic}/{what}_rows"] += rows
        self.counters[f"{topic}/{what}_messages"] += 1

    def refuse(self, message: RawMessage, error: MessageError, *, verified: bool) -> None:
        """Quarantine a whole message: a row for queries, its bytes for the dead-letter topic.

        Args:
            message: The message.
            error: Why.
            verified: Whether the signature of a registered producer holds for it.
        """
        rows = claimed_rows(message)
        self.count(message.topic, "quarantined", rows)
        self.quarantine.append(
            {
                "topic": message.topic,
                "producer": (message.key or b"").decode("utf-8", "replace")[:256] or None,
                "error": type(error).__name__,
                "reason": str(error)[:1000],
                "n_rows": rows,
                "n_bytes": len(message.value or b""),
                "verified": verified,
                "known_at": message.appended_us,
                "_partition": message.partition,
                "_offset": message.offset,
                "_row": 0,
            }
        )
        self.dead_letters.append(dead_letter(message, type(error).__name__, str(error)))


class Ingest:
    """Verify, dedupe, validate, land. The first job of every task."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    state_version: ClassVar[int] = 1
    essential: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = tuple(t.base for t in topics.DEVICE_TOPICS)
    writes: ClassVar[tuple[str, ...]] = (
        "telemetry_*",
        SUMMARIES.name,
        BOOKS.name,
        ALERTS.name,
        LABELS.name,
        DEVICE_STATES.name,
        QUARANTINE.name,
        LANE_GAPS.name,
    )

    def __init__(self, directory: DeviceDirectory) -> None:
        self._directory = directory

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        """Land what is admitted and new; quarantine what is refused; count everything.

        ``received = landed + duplicate + quarantined`` holds for the counters of each topic.
        """
        work = _Work()
        admitted = [a for m in batch.messages if (a := self._admit(m, state, work)) is not None]
        for (topic, profile, _schema), group in _groups(admitted).items():
            self._land(topic, profile, group, work)
        if work.quarantine:
            work.rows[QUARANTINE.name].append(_quarantine_table(work.quarantine))
        changed = {key: marks.to_state() for key, marks in work.marks.items()}
        gaps = lane_gaps(batch, state, changed, now)
        if gaps.rows.num_rows:
            work.rows[LANE_GAPS.name].append(gaps.rows)
        return Output(
            rows={name: pa.concat_tables(parts) for name, parts in work.rows.items()},
            state={**changed, **gaps.state},
            messages=tuple(work.dead_letters),
            counters=dict(work.counters),
        )

    def _admit(self, message: RawMessage, state: State, work: _Work) -> Admitted | None:
        rows = claimed_rows(message)
        work.count(message.topic, "received", rows)
        verified = False
        try:
            envelope, device = authenticate(message, self._directory)
            verified = True
            key = lane_key(envelope)
            marks = work.marks.get(key) or LaneMarks.from_state(state.get(key))
            if is_duplicate(envelope, marks):
                work.count(message.topic, "duplicate", rows)
                return None
            admitted = open_message(message, envelope, device, self._directory)
        except MessageError as exc:
            work.refuse(message, exc, verified=verified)
            return None
        _mark_known(work, key, marks, admitted)
        return admitted

    def _land(self, topic: str, profile_name: str, group: list[Admitted], work: _Work) -> None:
        if topic in EVENTS:
            schema, table = EVENTS[topic]
            landed = Landed(_event_rows(profile_name, group, schema), QUARANTINE.schema.empty_table())
        elif topic in STATEMENTS:
            schema, table = STATEMENTS[topic]
            landed = land_statements(group, schema, profile_name)
        else:
            table = telemetry_table_name(profile_name)
            landed = land_telemetry(group, self._directory.profile_of(profile_name))
        if landed.rows.num_rows:
            work.rows[table].append(landed.rows)
        work.counters[f"{topic}/landed_rows"] += landed.rows.num_rows
        if landed.refused.num_rows:
            _refuse_rows(topic, group, landed.refused, work)


def _mark_known(work: _Work, key: str, marks: LaneMarks, admitted: Admitted) -> None:
    before = marks.gap
    marks.add(admitted.envelope.msg_no, admitted.envelope.digest)
    work.marks[key] = marks
    if marks.gap != before:
        work.counters[f"{admitted.message.topic}/missing_messages"] += marks.gap - before


def _refuse_rows(topic: str, group: list[Admitted], refused: pa.Table, work: _Work) -> None:
    work.rows[QUARANTINE.name].append(refused)
    work.counters[f"{topic}/quarantined_rows"] += refused.num_rows
    sources = set(zip(refused["_partition"].to_pylist(), refused["_offset"].to_pylist(), strict=True))
    reason = refused["reason"][0].as_py()
    for admitted in group:
        raw = admitted.message
        if (raw.partition, raw.offset) in sources:
            work.dead_letters.append(dead_letter(raw, "PolicyError", f"some rows refused: {reason}"))


def _groups(admitted: list[Admitted]) -> Mapping[tuple[str, str, str], list[Admitted]]:
    groups: dict[tuple[str, str, str], list[Admitted]] = defaultdict(list)
    for item in admitted:
        groups[item.message.topic, item.envelope.profile, item.envelope.schema].append(item)
    return groups


def _quarantine_table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=QUARANTINE.schema)


def _event_rows(profile: str, group: list[Admitted], schema: pa.Schema) -> pa.Table:
    flat = [_flat(a.event) for a in group if a.event is not None]
    columns = provenance(group) | {PROFILE.name: pa.repeat(pa.scalar(profile), len(group))}
    arrays = [
        columns[f.name] if f.name in columns else pa.array([row[f.name] for row in flat], f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def _flat(event: Alert | Label | DeviceState) -> dict[str, Any]:
    row = event.model_dump()
    if isinstance(event, Alert):
        row["features"] = json.dumps(event.features)
    elif isinstance(event, Label):
        row["labelled_at"] = row.pop("known_at")
    return row

"""Ingest: device messages become rows, each exactly once, or end in quarantine with a reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar

import pyarrow as pa

from schemas import topics
from schemas.errors import (
    ForeignBootError,
    MessageError,
    PolicyError,
    ProfileVersionError,
    UnknownVersionError,
)
from schemas.excerpt_event import Excerpt, ExcerptWithdrawal
from schemas.excerpt_table import EXCERPT_PREFIX, excerpts_table_name
from schemas.tables import (
    ALERTS,
    BOOKS,
    DEVICE_STATES,
    LABELS,
    LANE_GAPS,
    QUARANTINE,
    SUMMARIES,
    telemetry_table_name,
)
from schemas.version_names import VersionHeader
from stream_processors.ingest.admission import Admitted, Claimed, DeviceDirectory, is_duplicate
from stream_processors.ingest.boot_owners import BootOwners
from stream_processors.ingest.excerpt_landing import check_excerpt, excerpt_judge, land_excerpts
from stream_processors.ingest.landing import land_events, land_statements, land_telemetry
from stream_processors.ingest.lane_gaps import lane_gaps
from stream_processors.ingest.lanes import Lanes
from stream_processors.ingest.opened_batch import OpenedMessage, ReaderCaches, opened
from stream_processors.ingest.waiting_versions import WaitingVersions
from stream_processors.job import Batch, Output, RawMessage, State
from stream_processors.refused_messages import Refusals
from stream_processors.unread_range import first_offset

EVENTS = {
    topics.ALERT.base: (ALERTS.schema, ALERTS.name),
    topics.LABEL.base: (LABELS.schema, LABELS.name),
    topics.DEVICE_STATE.base: (DEVICE_STATES.schema, DEVICE_STATES.name),
}
STATEMENTS = {
    topics.SUMMARY.base: (SUMMARIES.schema, SUMMARIES.name),
    topics.BOOKS.base: (BOOKS.schema, BOOKS.name),
}


_OF_ROWS = {kind.__name__: kind for kind in (MessageError, ForeignBootError)}
"""Errors of single rows, beside those of the policy."""
VERIFIED_DUPLICATES = 1000
"""Duplicates whose signatures one call checks; more are dropped unchecked, for they could not land anyway."""


@dataclass
class _Work:
    """What one call of the job collects."""

    lanes: Lanes
    owners: BootOwners
    refusals: Refusals
    waiting: WaitingVersions
    rows: dict[str, list[pa.Table]] = field(default_factory=lambda: defaultdict(list))
    counters: Counter[tuple[str, str]] = field(default_factory=Counter)
    strangers: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0

    def count(self, topic: str, what: str, rows: int = 0) -> None:
        """Count a message, and the rows that a signed header or the lake has of it."""
        self.counters[topic, f"{what}_messages"] += 1
        if rows:
            self.counters[topic, f"{what}_rows"] += rows

    def refuse(self, claimed: Claimed, error: MessageError) -> None:
        """Refuse a message whose signature holds."""
        message = claimed.message
        self.count(message.topic, "received", claimed.n_rows)
        self.count(message.topic, "quarantined", claimed.n_rows)
        self.refusals.signed(message, error, claimed.device.producer, claimed.n_rows)

    def refuse_stranger(self, message: RawMessage, error: MessageError) -> None:
        """Refuse a message of which nothing is known to be true: it has no rows in any counter."""
        self.strangers[message.topic] += 1 + message.offset - first_offset(message)
        self.refusals.stranger(message, error)

    def totals(self) -> dict[str, int]:
        """All counters, by the names under which they are committed."""
        counters = Counter({f"{topic}/{what}": n for (topic, what), n in self.counters.items()})
        counters.update({f"{topic}/waiting_messages": n for topic, n in self.waiting.moved().items()})
        for topic, n in self.strangers.items():
            counters.update({f"{topic}/{w}_messages": n for w in ("received", "quarantined", "unverified")})
        return dict(counters)


class Ingest:
    """Verify, dedupe, validate, land. The first job of every task."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 3
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
        f"{EXCERPT_PREFIX}*",
    )

    def __init__(self, directory: DeviceDirectory) -> None:
        self._directory = directory
        self._caches = ReaderCaches()

    def process(self, batch: Batch, state: State, now: datetime) -> Output:
        """Land what is admitted and new; quarantine what is refused; count everything.

        ``received = landed + duplicate + quarantined`` holds for the counters of each topic: of messages,
        and of the rows in messages whose signature holds. ``unverified_messages`` are those of the
        quarantined ones whose signature does not, ``unchecked_messages`` those of the duplicates that were
        dropped before it was checked. ``waiting_messages`` are those that are neither yet: they name a
        version of the profile that is not known here.
        """
        owners = BootOwners(self._directory, state)
        refusals = Refusals(self._directory.letters, state)
        work = _Work(Lanes(state), owners, refusals, WaitingVersions(state, now))
        messages = (*work.waiting.messages(), *batch.messages)
        found = opened(messages, self._directory, work.lanes, self._caches)
        # Rows show when a boot began; what is stated about it may not.
        found.sort(key=lambda one: one.message.topic != topics.TELEMETRY.base)
        admitted = [a for one in found if (a := self._admit(one, work)) is not None]
        for (topic, profile, _schema, _version), group in _groups(admitted).items():
            self._land(topic, profile, group, work)
        refused = work.refusals.table()
        if refused.num_rows:
            work.rows[QUARANTINE.name].append(refused)
        changed = work.lanes.changes()
        gaps = lane_gaps(batch, state, changed, now)
        if gaps.rows.num_rows:
            work.rows[LANE_GAPS.name].append(gaps.rows)
        return Output(
            rows={name: pa.concat_tables(parts) for name, parts in work.rows.items()},
            state={
                **changed,
                **gaps.state,
                **owners.changes(),
                **work.refusals.changes(),
                **work.waiting.changes(),
            },
            messages=work.refusals.letters(),
            counters=work.totals(),
        )

    def _admit(self, one: OpenedMessage, work: _Work) -> Admitted | None:
        claimed = one.claimed
        if claimed is None:
            if one.refused is not None:
                work.refuse_stranger(one.message, one.refused)
            return None
        if work.duplicates >= VERIFIED_DUPLICATES and self._is_known(claimed, work):
            for what in ("received", "duplicate", "unchecked"):
                work.count(one.message.topic, what)
            return None
        try:
            one.verify(claimed)
        except MessageError as exc:
            work.refuse_stranger(one.message, exc)
            return None
        try:
            return self._open(one, claimed, work)
        except UnknownVersionError as exc:
            if not work.waiting.keep(one.message):
                work.refuse(claimed, ProfileVersionError(f"{exc}: it stayed unknown, or too much waits"))
            return None
        except MessageError as exc:
            work.refuse(claimed, exc)
            return None

    def _is_known(self, claimed: Claimed, work: _Work) -> bool:
        """Whether the message can only be a duplicate, if its signature holds."""
        envelope, marks = claimed.envelope, work.lanes.marks(claimed.envelope)
        return envelope.msg_no in marks and marks.same_bytes(envelope.msg_no, envelope.digest)

    def _open(self, one: OpenedMessage, claimed: Claimed, work: _Work) -> Admitted | None:
        """The content of a verified message; None: a duplicate.

        Raises:
            MessageError: It is refused.
        """
        message, envelope = claimed.message, claimed.envelope
        if is_duplicate(envelope, work.lanes.marks(envelope)):
            work.duplicates += 1
            work.count(message.topic, "received", claimed.n_rows)
            work.count(message.topic, "duplicate", claimed.n_rows)
            return None
        work.lanes.check(envelope)
        if message.topic == topics.TELEMETRY.base:
            self._directory.judge_of(envelope.profile, envelope.version, envelope.producer)
        judge = excerpt_judge(claimed, self._directory) if message.topic == topics.EXCERPT.base else None
        admitted = one.open(claimed, self._directory, work.owners)
        for event in admitted.events if judge is not None else ():
            if judge is not None and isinstance(event, Excerpt):
                check_excerpt(event, judge)
        missing = work.lanes.add(envelope, message.timestamp_ms)
        for event in admitted.events:
            if isinstance(event, ExcerptWithdrawal):
                gone = work.lanes.withdraw(envelope, event.withdrawn)
                work.counters[message.topic, "withdrawn_messages"] += gone
                missing -= gone
        if missing:
            work.counters[message.topic, "missing_messages"] += missing
        return admitted

    def _land(self, topic: str, profile_name: str, group: list[Admitted], work: _Work) -> None:
        for what in ("received", "landed"):
            work.counters[topic, f"{what}_messages"] += len(group)
        work.counters[topic, "received_rows"] += sum(a.envelope.n_rows for a in group)
        if topic == topics.EXCERPT.base:
            self._land_excerpts(profile_name, group, work)
            return
        if topic in EVENTS:
            schema, table = EVENTS[topic]
            landed = land_events(group, schema, profile_name)
        elif topic in STATEMENTS:
            schema, table = STATEMENTS[topic]
            landed = land_statements(group, schema, profile_name)
        else:
            table = telemetry_table_name(profile_name)
            first = group[0].envelope  # all of them name the same version
            judge = self._directory.judge_of(profile_name, first.version, first.producer)
            landed = land_telemetry(group, judge)
        if landed.rows.num_rows:
            work.rows[table].append(landed.rows)
        work.counters[topic, "landed_rows"] += landed.rows.num_rows
        if landed.refused.num_rows:
            _refuse_rows(topic, group, landed.refused, work)

    def _land_excerpts(self, profile_name: str, group: list[Admitted], work: _Work) -> None:
        first = group[0].envelope  # all of them name the same version
        judge = self._directory.judge_of(profile_name, first.version, first.producer)
        rows = land_excerpts(group, judge)
        if not rows.num_rows:  # messages that say what is withdrawn
            return
        work.rows[excerpts_table_name(profile_name)].append(rows)
        work.counters[topics.EXCERPT.base, "landed_rows"] += rows.num_rows


def _refuse_rows(topic: str, group: list[Admitted], refused: pa.Table, work: _Work) -> None:
    work.rows[QUARANTINE.name].append(refused)
    work.counters[topic, "quarantined_rows"] += refused.num_rows
    sources = set(zip(refused["_partition"].to_pylist(), refused["_offset"].to_pylist(), strict=True))
    kind = _OF_ROWS.get(refused["error"][0].as_py(), PolicyError)
    error = kind(f"some rows refused: {refused['reason'][0].as_py()}")
    for admitted in group:
        raw = admitted.message
        if (raw.partition, raw.offset) in sources:
            work.refusals.some_rows(raw, error)


_Group = tuple[str, str, str, VersionHeader | None]
"""Topic, profile, schema, and version of the profile."""


def _groups(admitted: list[Admitted]) -> Mapping[_Group, list[Admitted]]:
    groups: dict[_Group, list[Admitted]] = defaultdict(list)
    for item in admitted:
        envelope = item.envelope
        groups[item.message.topic, envelope.profile, envelope.schema, envelope.version].append(item)
    return groups

"""The checkpoint's own formats: commit records and snapshots, versioned JSON.

A record is the decision: every later step can be repeated from the record alone.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import orjson

from feature_store.lake import StagedFile
from schemas.errors import OperatorError
from schemas.self_digest import checked, with_digest
from stream_processors.engine.job_keys import JobKeys
from stream_processors.job import Derived

FORMAT = 1


@dataclass(frozen=True)
class LogIdentity:
    """Which log the offsets belong to: a topic made anew is another log.

    Attributes:
        cluster_id: The Kafka cluster's id.
        topic_ids: Topic id by topic, without namespace.
    """

    cluster_id: str
    topic_ids: Mapping[str, str]


@dataclass(frozen=True)
class SetAside:
    """Something that was left out because a job failed on it, so that the rest could go on.

    Attributes:
        kind: A message, a key of a job's state, a derived message that cannot be published, landed rows that
            a job left out when it caught up, or offsets of the log that it could not catch up any more.
        job: Job that failed; for a derived message empty.
        what: ``topic[partition]@offset`` of a message, the state key, or the event id.
        error: Class of the error.
        reason: Its message.
        how: How the job failed: ``raised``, ``ended``, ``hung`` or ``memory``; ``refused`` by the broker.
        detail: By kind: ``producer`` and ``digest`` of a message, ``value`` of a state key, the derived
            message itself.
    """

    kind: SetAsideKind
    job: str
    what: str
    error: str
    reason: str
    how: str
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> SetAside:
        """Back from JSON values."""
        return cls(**raw)


SetAsideKind = Literal["message", "state", "derived", "rows", "gap"]


@dataclass(frozen=True)
class StoppedJob:
    """A job that does not run in this task until it works again.

    Attributes:
        error: Class of the exception that stopped it.
        reason: Its message.
        since: Clock of the commit that stopped it, ISO 8601 UTC.
        offsets: By topic, the offset of the first message that it has not had yet.
        how: How it failed, as in ``SetAside``.
    """

    error: str
    reason: str
    since: str
    offsets: Mapping[str, int]
    how: str = "raised"

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> StoppedJob:
        """Back from JSON values."""
        return cls(**raw)


@dataclass(frozen=True)
class CommitRecord:
    """One decided batch of one task.

    Attributes:
        n: Dense number within the task, from 0.
        clock: The ``now`` that the jobs were given, ISO 8601 UTC.
        offsets: First and next offset by topic.
        files: Staged files by table.
        state: Changed state keys, prefixed by job name; None removes.
        counters: Increments by name.
        messages: Derived messages; their ids are (task, n, index).
        code: Version of edgeloop and of each job.
        set_aside: What was left out of this commit because a job failed on it, and why.
        stopped: Jobs that stop with this commit, or go on; None: the job has caught up and runs again.
    """

    task: str
    n: int
    clock: str
    log: LogIdentity
    offsets: Mapping[str, tuple[int, int]]
    files: Mapping[str, tuple[StagedFile, ...]] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[Derived, ...] = ()
    code: Mapping[str, str] = field(default_factory=dict)
    set_aside: tuple[SetAside, ...] = ()
    stopped: Mapping[str, StoppedJob | None] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The record as JSON, with its digest.

        Raises:
            TypeError: State or messages of a job cannot be written as JSON.
        """
        return self._as_json

    @cached_property
    def _as_json(self) -> bytes:
        stopped = {job: stop and stop.to_json() for job, stop in self.stopped.items()}
        own = {"set_aside": [s.to_json() for s in self.set_aside], "stopped": stopped}
        raw = orjson.dumps(
            {
                "format": FORMAT,
                "task": self.task,
                "n": self.n,
                "clock": self.clock,
                "cluster_id": self.log.cluster_id,
                "topic_ids": dict(self.log.topic_ids),
                "offsets": {t: list(span) for t, span in self.offsets.items()},
                "files": {t: [f.to_json() for f in files] for t, files in self.files.items()},
                "state": dict(self.state),
                "counters": dict(self.counters),
                "messages": [_message_to_json(m) for m in self.messages],
                "code": dict(self.code),
            }
            | {name: value for name, value in own.items() if value}
        )
        return with_digest(raw)

    @classmethod
    def from_bytes(cls, data: bytes) -> CommitRecord:
        """Record from JSON.

        Raises:
            OperatorError: Not a record, or of a format this version does not know.
        """
        raw = _load(data, "commit record")
        return cls(
            task=raw["task"],
            n=raw["n"],
            clock=raw["clock"],
            log=LogIdentity(raw["cluster_id"], raw["topic_ids"]),
            offsets={t: (a, b) for t, (a, b) in raw["offsets"].items()},
            files={t: tuple(StagedFile.from_json(f) for f in files) for t, files in raw["files"].items()},
            state=raw["state"],
            counters=raw["counters"],
            messages=tuple(_message_from_json(m) for m in raw["messages"]),
            code=raw["code"],
            set_aside=tuple(SetAside.from_json(s) for s in raw.get("set_aside", ())),
            stopped={
                job: stop and StoppedJob.from_json(stop) for job, stop in raw.get("stopped", {}).items()
            },
        )


@dataclass(frozen=True)
class TaskState:
    """The whole state of a task after commit ``n``; n = -1: nothing is committed yet.

    Attributes:
        offsets: Next offset by topic.
        state: State keys of all jobs, prefixed by job name.
        counters: Totals by name.
        log: Identity of the log the offsets belong to; None before the first commit.
        named: Per table, the newest commit that names files of it; state of release 0.2.0 lacks it.
        stopped: Jobs that do not run, and from where they go on.
    """

    task: str
    n: int = -1
    offsets: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)
    counters: Mapping[str, int] = field(default_factory=dict)
    log: LogIdentity | None = None
    named: Mapping[str, int] = field(default_factory=dict)
    stopped: Mapping[str, StoppedJob] = field(default_factory=dict)

    def after(self, record: CommitRecord) -> TaskState:
        """State once the record is applied.

        Raises:
            ValueError: The record is not the next one of this task.
        """
        if (record.task, record.n) != (self.task, self.n + 1):
            raise ValueError(f"{record.task}/{record.n} does not follow {self.task}/{self.n}")
        counters = dict(self.counters)
        for name, count in record.counters.items():
            counters[name] = counters.get(name, 0) + count
        offsets = {**self.offsets, **{t: end for t, (_start, end) in record.offsets.items()}}
        named = {**self.named, **{table: record.n for table, files in record.files.items() if files}}
        stopped = {j: s for j, s in {**self.stopped, **record.stopped}.items() if s is not None}
        changed = self.changed_by(record.state)
        return replace(
            changed, offsets=offsets, counters=counters, log=record.log, named=named, stopped=stopped
        )

    def changed_by(self, changes: Mapping[str, Any]) -> TaskState:
        """State one commit later with these keys changed; None removes a key."""
        return replace(self, n=self.n + 1, state=JobKeys.of(self.state).changed(changes))

    def without(self, keys: Collection[str]) -> TaskState:
        """State without some keys."""
        return replace(self, state={k: v for k, v in self.state.items() if k not in keys})

    @property
    def number(self) -> int:
        """The task's partition."""
        return int(self.task.rpartition("-")[2])

    def of_job(self, job: str) -> dict[str, Any]:
        """The job's keys, without its prefix."""
        return dict(self.keys_of(job))

    def keys_of(self, job: str) -> Mapping[str, Any]:
        """The same without a copy, for a job that keeps to ``State``: it changes nothing in it."""
        return JobKeys.of(self.state).of_job(job)

    def to_bytes(self) -> bytes:
        """Full snapshot as JSON, with its digest."""
        raw = orjson.dumps(
            {
                "format": FORMAT,
                "task": self.task,
                "n": self.n,
                "offsets": dict(self.offsets),
                "state": dict(self.state),
                "counters": dict(self.counters),
                "cluster_id": self.log.cluster_id if self.log else None,
                "topic_ids": dict(self.log.topic_ids) if self.log else {},
                "named": dict(self.named),
            }
            | ({"stopped": {job: s.to_json() for job, s in self.stopped.items()}} if self.stopped else {})
        )
        return with_digest(raw)

    @classmethod
    def from_bytes(cls, data: bytes) -> TaskState:
        """State from a snapshot.

        Raises:
            OperatorError: Not a snapshot, or of a format this version does not know.
        """
        raw = _load(data, "snapshot")
        log = LogIdentity(raw["cluster_id"], raw["topic_ids"]) if raw["cluster_id"] else None
        named = raw.get("named", {})
        stopped = {job: StoppedJob.from_json(stop) for job, stop in raw.get("stopped", {}).items()}
        keys = JobKeys.of(raw["state"])
        return cls(raw["task"], raw["n"], raw["offsets"], keys, raw["counters"], log, named, stopped)


def event_id(task: str, n: int, index: int) -> str:
    """Deterministic id of a derived message."""
    return f"{task}/{n}/{index}"


def _load(data: bytes, what: str) -> dict[str, Any]:
    raw = checked(data, f"a {what}")
    if raw.get("format") != FORMAT:
        raise OperatorError(
            f"{what} has format {raw.get('format')}, this version reads {FORMAT}: "
            "run the version that wrote it, or migrate"
        )
    return raw


def _message_to_json(message: Derived) -> dict[str, Any]:
    return {
        "topic": message.topic,
        "key": message.key,
        **_content_to_json(message.value),
        "headers": [[k, base64.b64encode(v).decode()] for k, v in message.headers],
        "copy_of": message.copy_of,
    }


def _content_to_json(value: bytes) -> dict[str, str]:
    """The value as ``text``; in base64, as release 0.2.0 wrote every value, where it is no UTF-8."""
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode()}


def _message_from_json(raw: dict[str, Any]) -> Derived:
    copy_of = raw["copy_of"]
    return Derived(
        topic=raw["topic"],
        key=raw["key"],
        value=raw["text"].encode() if "text" in raw else base64.b64decode(raw["value"]),
        headers=tuple((k, base64.b64decode(v)) for k, v in raw["headers"]),
        copy_of=(copy_of[0], copy_of[1], copy_of[2]) if copy_of else None,
    )

"""What is set aside so that the rest can go on: its entry in the commit record, its rows, and its file.

A message becomes a row of ``quarantine`` and a dead letter, like one that ingest refuses. A state key and a
derived message keep their bytes in the commit record and, once the commit is applied, in
``<lake>/_poison/<task>/<n>.json``, because records are pruned.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from feature_store.copies import copy_of, read_sound, stating_path, with_copies
from schemas.durable import DISK
from schemas.errors import DamagedLakeError, PoisonError
from schemas.tables import QUARANTINE
from schemas.topics import DEVICE_TOPICS
from stream_processors.engine.letters import LARGEST_COPY_BYTES, Unpublished, content_of
from stream_processors.engine.poison import GuiltyMessage, JobFailure
from stream_processors.engine.records import CommitRecord, SetAside, event_id
from stream_processors.job import KEY_SHOWN, Derived, dead_letter

FORMAT = 1
LANDING_JOB = "ingest"
"""Job whose counters hold every message of the device topics."""
DERIVED = "derived"
"""Prefix of counters of derived messages; no job has this name."""
_DEVICE_TOPICS = frozenset(t.base for t in DEVICE_TOPICS)


@dataclass(frozen=True)
class Quarantined:
    """What a commit holds of the messages that it sets aside."""

    rows: pa.Table
    letters: tuple[Derived, ...]
    counters: Mapping[str, int]
    entries: tuple[SetAside, ...]


# ``empty_table`` would load pandas.
NOTHING = Quarantined(pa.Table.from_batches([], QUARANTINE.schema), (), {}, ())
"""Of no messages."""


def quarantine(guilty: Sequence[GuiltyMessage]) -> Quarantined:
    """Rows, dead letters, counters and entries of guilty messages."""
    counters: Counter[str] = Counter()
    for one in guilty:
        counters[f"{one.failure.job}/set_aside_messages"] += 1
        topic = one.message.topic
        if topic in _DEVICE_TOPICS:
            # received = landed + duplicate + quarantined holds for ingest's counters.
            rows = one.sender.rows if one.sender else 0
            for what in ("received", "quarantined"):
                counters[f"{LANDING_JOB}/{topic}/{what}_messages"] += 1
                counters[f"{LANDING_JOB}/{topic}/{what}_rows"] += rows
    return Quarantined(
        pa.Table.from_pylist([_row(one) for one in guilty], schema=QUARANTINE.schema),
        tuple(dead_letter(g.message, PoisonError.__name__, _why(g.failure)) for g in guilty),
        {name: n for name, n in counters.items() if n},
        tuple(_message_entry(one) for one in guilty),
    )


def _row(one: GuiltyMessage) -> dict[str, Any]:
    message = one.message
    return {
        "topic": message.topic,
        "producer": (message.key or b"")[: 4 * KEY_SHOWN].decode("utf-8", "replace")[:KEY_SHOWN] or None,
        "error": PoisonError.__name__,
        "reason": _why(one.failure)[:1000],
        "n_rows": one.sender.rows if one.sender else 0,
        "n_bytes": len(message.value),
        "known_at": message.appended_us,
        "_partition": message.partition,
        "_offset": message.offset,
        "_row": 0,
    }


def _why(failure: JobFailure) -> str:
    return f"job {failure.job} failed on it: {failure.error}: {failure.reason}"


def _message_entry(one: GuiltyMessage) -> SetAside:
    message, failure = one.message, one.failure
    place = f"{message.topic}[{message.partition}]@{message.offset}"
    detail = {
        "producer": one.sender.producer if one.sender else None,
        "digest": hashlib.sha256(message.value).hexdigest(),
        "bytes": len(message.value),
    }
    return SetAside("message", failure.job, place, failure.error, failure.reason, failure.how, detail)


def key_entries(keys: Iterable[str], state: Mapping[str, Any], failure: JobFailure) -> tuple[SetAside, ...]:
    """Entries of guilty state keys, with their values."""
    return tuple(
        SetAside(
            "state",
            key.partition("/")[0],
            key.partition("/")[2],
            failure.error,
            failure.reason,
            failure.how,
            {"value": state[key]},
        )
        for key in keys
    )


def key_counters(keys: Iterable[str]) -> dict[str, int]:
    """Counters of guilty state keys."""
    return dict(Counter(f"{key.partition('/')[0]}/set_aside_keys" for key in keys))


def split_publishable(
    messages: Sequence[Derived],
) -> tuple[tuple[Derived, ...], tuple[tuple[Derived, str], ...]]:
    """Derived messages, and those that no broker takes, each with the reason; known before any is sent."""
    good, large = [], []
    for derived in messages:
        size = content_of(derived, None).size
        if size <= LARGEST_COPY_BYTES:
            good.append(derived)
        else:
            large.append((derived, f"{size} bytes; at most {LARGEST_COPY_BYTES} can be published"))
    return tuple(good), tuple(large)


def derived_entry(derived: Derived, name: str, reason: str) -> SetAside:
    """Entry of a derived message that cannot be published.

    Args:
        derived: The message.
        name: Its event id, or what stands for it.
        reason: Why.
    """
    detail = {
        "topic": derived.topic,
        "key": derived.key,
        "value": base64.b64encode(derived.value).decode(),
        "headers": [[k, base64.b64encode(v).decode()] for k, v in derived.headers],
        "copy_of": list(derived.copy_of) if derived.copy_of else None,
    }
    return SetAside("derived", "", name, "UnpublishableError", reason, "refused", detail)


def unpublished_entries(record: CommitRecord, unpublished: Sequence[Unpublished]) -> tuple[SetAside, ...]:
    """Entries of a record's messages that the broker refused for good."""
    return tuple(
        derived_entry(record.messages[u.number], event_id(record.task, record.n, u.number), u.reason)
        for u in unpublished
    )


FOLDER = "_poison"


class PoisonStore:
    """Files of what was set aside and is nowhere else, one a commit.

    The id of an entry is ``<task>/<n>/<number>``.
    Messages have no file: their rows are in ``quarantine``, their bytes on the dead-letter topic.

    Args:
        root: The lake's folder.
    """

    def __init__(self, root: Path) -> None:
        self._lake, self._root = root, root / FOLDER

    def keep(self, record: CommitRecord, refused: Sequence[SetAside] = ()) -> None:
        """Write the file of an applied commit; may be repeated.

        Args:
            record: The commit.
            refused: Derived messages of it that the broker refused since.
        """
        entries = [e for e in (*record.set_aside, *refused) if e.kind != "message"]
        if not entries:
            return
        content = {
            "format": FORMAT,
            "task": record.task,
            "n": record.n,
            "at": record.clock,
            "code": dict(record.code),
            "entries": [e.to_json() for e in entries],
        }
        path = self._root / record.task / f"{record.n:012d}.json"
        data = stating_path(self._lake, path, orjson.dumps(content))
        DISK.write(copy_of(self._lake, path), data)
        DISK.write(path, data)

    def count(self) -> int:
        """How many commits set something aside."""
        return len(self._files())

    def entries(self) -> list[dict[str, Any]]:
        """All entries as JSON values with ``id``, ``task`` and ``at``, by task and commit.

        A file that is damaged is one entry of kind ``damaged``, which says what to do.
        """
        found = []
        for path in self._files():
            try:
                content = read_set_aside(self._lake, path)
                place = {"task": content["task"], "at": content["at"]}
                for number, entry in enumerate(content["entries"]):
                    found.append({"id": f"{content['task']}/{content['n']}/{number}", **place, **entry})
            except (DamagedLakeError, OSError, KeyError, TypeError) as exc:
                found.append(_damaged_entry(path, exc))
        return found

    def _files(self) -> list[Path]:
        tasks = {p.name for at in (self._root, copy_of(self._lake, self._root)) for p in at.glob("*")}
        return [p for t in sorted(tasks) for p in with_copies(self._lake, self._root / t, "*.json")]


def read_set_aside(lake: Path, path: Path) -> dict[str, Any]:
    """What a commit set aside, from its file, or from its copy where that is damaged.

    Raises:
        DamagedLakeError: Both are damaged.
        FileNotFoundError: There is neither.
    """
    if not path.exists() and not copy_of(lake, path).exists():
        raise FileNotFoundError(path)
    return read_sound(lake, path)


def _damaged_entry(path: Path, error: Exception) -> dict[str, Any]:
    reason = f"{path} cannot be read ({error}): what it held is lost; restore it, or move it away"
    return {
        "id": f"{path.parent.name}/{path.stem}",
        "task": path.parent.name,
        "at": "",
        "kind": "damaged",
        "job": "",
        "what": path.name,
        "error": type(error).__name__,
        "reason": reason,
        "how": "refused",
        "detail": {},
    }

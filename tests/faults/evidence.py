"""What really happened, read from spools, log, lake and device folders without a line of the product's code.

Only file formats and the Arrow schemas of `schemas/` are shared: SQLite, Kafka, Delta, Parquet and JSON are
read with their own libraries.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import confluent_kafka as ck
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from schemas.row_schemas import fingerprint

COUNTS = ("sensed", "acked", "filtered", "evicted", "refused")
KEY = ("device_id", "boot_id", "seq")
VALUES = ("event_time", "score", "reasons", "model_version")
"""Columns that are compared between log and lake, beside the features."""


@dataclass(frozen=True)
class SpoolEvidence:
    """One spool file.

    Attributes:
        counts: Rows by what became of them, over all its devices.
        earlier: Ids of spools that were set aside, and whose lines it took over: it counts their rows too.
    """

    spool_id: str
    counts: dict[str, int]
    earlier: frozenset[str] = frozenset()

    @property
    def balances(self) -> bool:
        """Whether every sensed row is somewhere (principle 5)."""
        c = self.counts
        return c["sensed"] == sum(c[name] for name in c if name != "sensed")


def read_spool(path: Path) -> SpoolEvidence | None:
    """Totals of a spool since it was made; None where the file cannot be read."""
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        [(spool_id,)] = db.execute("SELECT value FROM meta WHERE key = 'spool_id'")
        columns = {row[1] for row in db.execute("PRAGMA table_info(books)")}
        names = [n for n in (*COUNTS, "pending") if n in columns]
        # Settled lines move from books to totals: one statement, or one might be seen twice or not at all.
        sums = ", ".join(f"coalesce(sum({n}), 0)" for n in names)
        moved = ", ".join("0" if n == "pending" else n for n in names)
        both = f"SELECT {', '.join(names)} FROM books UNION ALL SELECT {moved} FROM totals"
        [found] = db.execute(f"SELECT {sums} FROM ({both})")
        counts = dict(zip(names, found, strict=True))
        taken_over = db.execute("SELECT value FROM meta WHERE key = 'earlier_spools'").fetchone()
        earlier = frozenset(json.loads(taken_over[0])) if taken_over else frozenset[str]()
        return SpoolEvidence(str(spool_id), counts, earlier)
    return None


@dataclass
class LogEvidence:
    """Telemetry of the log, read up to a moving end.

    Attributes:
        rows: Rows by identity as first seen; later copies of a message add nothing.
        undecoded: Places (partition, offset) of messages that are no rows of ours: noise of the campaign.
    """

    servers: str
    topic: str = "telemetry.v1"
    rows: list[pa.Table] = field(default_factory=list)
    undecoded: set[tuple[int, int]] = field(default_factory=set)
    acked_by_spool: dict[str, int] = field(default_factory=dict)
    schemas: dict[str, pa.Schema] = field(default_factory=dict)
    _next: dict[int, int] = field(default_factory=dict)
    _seen: set[tuple[Any, ...]] = field(default_factory=set)

    def read_to_end(self) -> dict[int, int]:
        """Read what was appended since; returns the ends by partition.

        Raises:
            AssertionError: The broker does not answer yet.
        """
        try:
            return self._read_to_end()
        except ck.KafkaException as exc:
            raise AssertionError(f"the log cannot be read: {exc}") from exc

    def _read_to_end(self) -> dict[int, int]:
        consumer = ck.Consumer(
            {"bootstrap.servers": self.servers, "group.id": "fault-checker", "enable.auto.commit": False}
        )
        try:
            found = consumer.list_topics(self.topic, 20).topics[self.topic]
            ends = {}
            for partition in found.partitions:
                low, high = consumer.get_watermark_offsets(ck.TopicPartition(self.topic, partition), 20)
                ends[partition] = high
                start = max(low, self._next.get(partition, 0))
                if start < high:
                    self._read(consumer, partition, start, high)
                self._next[partition] = high
            return ends
        finally:
            consumer.close()

    def _read(self, consumer: ck.Consumer, partition: int, start: int, end: int) -> None:
        consumer.assign([ck.TopicPartition(self.topic, partition, start)])
        position = start
        while position < end:
            message = consumer.poll(20)
            if message is None:
                raise AssertionError(f"the checker got no answer at {partition}@{position}")
            if message.error():
                raise AssertionError(f"the checker cannot read: {message.error()}")
            position = message.offset() + 1
            if position <= end:
                self._take(message)
        consumer.unassign()

    def _take(self, message: ck.Message) -> None:
        place = (message.partition(), message.offset())
        headers = dict(message.headers() or [])
        identity = (message.key(), *(headers.get(n) for n in ("spool_id", "lane", "msg_no", "digest")))
        table = self._decode(message.value() or b"", headers)
        if table is None:
            self.undecoded.add(place)
            return
        if identity in self._seen:
            return
        self._seen.add(identity)
        spool = (headers["spool_id"] or b"").decode()
        self.acked_by_spool[spool] = self.acked_by_spool.get(spool, 0) + table.num_rows
        n = table.num_rows
        where = {"partition": pa.array([place[0]] * n), "offset": pa.array([place[1]] * n)}
        self.rows.append(pa.table({c: table[c] for c in (*KEY, *VALUES)} | where))

    def _decode(self, value: bytes, headers: dict[str, bytes]) -> pa.Table | None:
        schema = self.schemas.get((headers.get("schema") or b"").decode("utf-8", "replace"))
        with suppress(Exception):
            size = int(headers["raw_bytes"])
            if schema is None or not 0 < size <= 16 * 1024**2:
                return None
            if hashlib.sha256(value).digest() != headers["digest"]:
                return None
            raw = pa.Codec("lz4_raw").decompress(value, size)
            return pa.Table.from_batches([pa.ipc.read_record_batch(pa.ipc.read_message(raw), schema)])
        return None


def lake_files(lake_root: Path, table: str) -> list[Path]:
    """Data files of a table in the newest cut that can be read: what queries see."""
    for path in sorted((lake_root / "_cuts").glob("*.json"), reverse=True):
        with suppress(ValueError, KeyError, TypeError):
            cut = json.loads(path.read_bytes())
            tables = cut.get("tables") or cut["cut"]["tables"]
            if table not in tables:
                return []
            return [lake_root / table / name for name in tables[table]["files"]]
    return []


def delta_files(lake_root: Path, table: str) -> list[Path]:
    """Data files of a table by its own log."""
    return [
        Path(unquote(uri.removeprefix("file://"))) for uri in DeltaTable(str(lake_root / table)).file_uris()
    ]


@dataclass(frozen=True)
class LakeEvidence:
    """Rows that queries see, and files that could not be read.

    Attributes:
        quarantined: (partition, offset) of refused telemetry messages.
    """

    rows: pa.Table
    damaged: tuple[Path, ...]
    quarantined: set[tuple[int, int]]


def read_lake(lake_root: Path, table: str = "telemetry_machine_demo") -> LakeEvidence:
    """The lake as queries see it, each page's checksum verified."""
    wanted = [*KEY, *VALUES, "device_time", "_partition", "_offset"]
    parts, damaged = [], []
    for path in lake_files(lake_root, table):
        try:
            file = pq.ParquetFile(path, page_checksum_verification=True)
            parts.append(file.read(columns=[c for c in wanted if c in file.schema_arrow.names]))
        except (OSError, pa.ArrowException):
            damaged.append(path)
    rows = pa.concat_tables(parts, promote_options="default") if parts else None
    places = set()
    for path in lake_files(lake_root, "quarantine"):
        with suppress(OSError, pa.ArrowException):
            found = pq.read_table(path, columns=["topic", "_partition", "_offset"]).to_pylist()
            places |= {(r["_partition"], r["_offset"]) for r in found if r["topic"] == "telemetry.v1"}
    empty = pa.table({c: pa.array([], pa.string()) for c in wanted})
    return LakeEvidence(rows if rows is not None else empty, tuple(damaged), places)


@dataclass(frozen=True)
class Comparison:
    """Log against lake, in rows.

    Attributes:
        missing: In the log and neither in the lake nor refused, with the places of a few.
        twice: In the lake more than once.
        foreign: In the lake and not in the log.
        differing: In both with other values.
    """

    missing: int
    twice: int
    foreign: int
    differing: int
    places: tuple[tuple[int, int], ...] = ()


def compare(sent: pa.Table | None, lake: LakeEvidence) -> Comparison:
    """Compare row by row what was sent with what is queryable."""
    if sent is None:
        return Comparison(0, 0, lake.rows.num_rows, 0)
    with closing(duckdb.connect()) as db:
        db.register("sent", sent)
        if not lake.rows.num_rows:
            return Comparison(sent.num_rows, 0, 0, 0)
        db.register("landed", lake.rows)
        refused = pa.table(
            {"p": [p for p, _ in lake.quarantined], "o": [o for _, o in lake.quarantined]},
            schema=pa.schema([("p", pa.int64()), ("o", pa.int64())]),
        )
        db.register("refused", refused)
        key = ", ".join(KEY)
        missing = db.execute(
            f'SELECT partition, "offset" FROM sent ANTI JOIN landed USING ({key}) '
            'WHERE (partition, "offset") NOT IN (SELECT (p, o) FROM refused) ORDER BY ALL'
        ).fetchall()
        [twice] = db.execute(f"SELECT count(*) - count(DISTINCT ({key})) FROM landed").fetchone() or (0,)
        [foreign] = db.execute(f"SELECT count(*) FROM landed ANTI JOIN sent USING ({key})").fetchone() or (0,)
        [differing] = db.execute(
            f"SELECT count(*) FROM sent s JOIN landed l USING ({key}) WHERE "
            "(s.score, s.reasons, s.model_version) IS DISTINCT FROM (l.score, l.reasons, l.model_version) "
            "OR (l.device_time IS NULL AND s.event_time IS DISTINCT FROM l.event_time)"
        ).fetchone() or (0,)
    return Comparison(len(missing), twice, foreign, differing, tuple(missing[:5]))


@dataclass(frozen=True)
class DeviceEvidence:
    """Models of one device on its disk.

    Attributes:
        version: That the pointer names; empty: the factory set.
        whole: The files of the named set are there with the digests of their manifest's artifact.
        state: Of the updater.
    """

    device: str
    version: str
    whole: bool
    state: str


def read_devices(edge_folder: Path) -> Iterator[DeviceEvidence]:
    """Evidence of each device of an edge process."""
    for folder in sorted((edge_folder / "updates").glob("*")):
        if not (folder / "slots").is_dir():
            continue
        version, whole = "", True
        with suppress(OSError, ValueError, KeyError):
            pointer = json.loads((folder / "current.json").read_bytes())
            [release] = pointer["active"]["releases"].values()
            if release.get("sha256"):  # the factory set has none, whether it was ever left or returned to
                version = release["version"]
                slots = [m for m in (folder / "slots").glob("*/*/manifest.json") if _version(m) == version]
                whole = any((m.parent / "model.onnx").stat().st_size > 0 for m in slots)
        state = ""
        with suppress(OSError, ValueError, KeyError):
            state = json.loads((folder / "state.json").read_bytes())["state"]
        yield DeviceEvidence(folder.name, version, whole, state)


def _version(manifest: Path) -> str:
    with suppress(OSError, ValueError):
        return str(json.loads(manifest.read_bytes()).get("version", ""))
    return ""


def wire_schemas(profile_schema: pa.Schema) -> dict[str, pa.Schema]:
    """Arrow schemas by the fingerprint in message headers."""
    return {fingerprint(profile_schema): profile_schema}

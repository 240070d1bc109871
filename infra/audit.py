"""The books, counted in three places that do not know of each other: spools, log, lake.

Nothing here asks a running process or reads its counters: spools are read by SQL, the log by its own
headers, the lake by DuckDB over the newest cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb

from edge_producer.spool.spool_file import reading
from feature_store import connect
from infra.kafka.kafka_admin import KafkaAdmin
from schemas.row_schemas import BOOK_COUNTS
from schemas.topics import TELEMETRY

_SPOOL_SQL = f"""
    SELECT {", ".join(f"coalesce(sum({c}), 0)" for c in BOOK_COUNTS)} FROM (
        SELECT {", ".join(BOOK_COUNTS)} FROM books
        UNION ALL SELECT {", ".join(c if c != "pending" else "0" for c in BOOK_COUNTS)} FROM totals)
"""  # noqa: S608  (column names of ours)


@dataclass(frozen=True)
class SpoolCount:
    """What devices say: ``sensed = acked + pending + filtered + evicted + refused``."""

    sensed: int
    acked: int
    filtered: int
    evicted: int
    refused: int
    pending: int

    @property
    def balances(self) -> bool:
        """Whether nothing that was sensed is unaccounted for."""
        return self.sensed == self.acked + self.pending + self.filtered + self.evicted + self.refused


@dataclass(frozen=True)
class LogCount:
    """What the broker's log holds of ``telemetry.v1``.

    Attributes:
        received: Rows in all messages, repeats included.
        distinct: Rows in distinct messages (producer, spool, lane, number, digest).
        bytes: Keys, headers and values.
    """

    messages: int
    received: int
    distinct: int
    bytes: int


@dataclass(frozen=True)
class LakeCount:
    """What queries see.

    Attributes:
        landed: Rows in all telemetry tables.
        distinct: Distinct (device, boot, seq) among them.
        quarantined: Rows of ``telemetry.v1`` that quarantine speaks of.
    """

    landed: int
    distinct: int
    quarantined: int


@dataclass(frozen=True)
class Books:
    """All books of one namespace, and whether they balance."""

    spool: SpoolCount
    log: LogCount
    lake: LakeCount

    @property
    def duplicate(self) -> int:
        """Rows that came again: in the log more than once."""
        return self.log.received - self.log.distinct

    @property
    def in_flight(self) -> int:
        """Rows in the log and neither landed, repeated nor quarantined."""
        return self.log.received - self.lake.landed - self.duplicate - self.lake.quarantined

    @property
    def lost(self) -> int:
        """Rows the broker acknowledged that no query can see and no quarantine names."""
        return max(0, self.spool.acked - self.lake.distinct - self.lake.quarantined)

    @property
    def balances(self) -> bool:
        """Both sides balance, nothing is on its way, nothing is lost, nothing is there twice."""
        return not self.complaints()

    def complaints(self) -> list[str]:
        """Each law that does not hold, with its numbers."""
        s, lake = self.spool, self.lake
        laws = {
            f"device: sensed {s.sensed} is not acked {s.acked} + pending {s.pending} + filtered {s.filtered} "
            f"+ evicted {s.evicted} + refused {s.refused}": s.balances,
            f"device: {s.pending} rows are still pending": s.pending == 0,
            f"cloud: {self.in_flight} rows are in flight": self.in_flight == 0,
            f"lake: {lake.landed - lake.distinct} rows landed twice": lake.landed == lake.distinct,
            f"{self.lost} acknowledged rows are lost": self.lost == 0,
        }
        return [law for law, holds in laws.items() if not holds]

    def rows(self) -> dict[str, int]:
        """Counts by name, as `edgeloop demo --json` writes them."""
        return {
            **asdict(self.spool),
            "received": self.log.received,
            "landed": self.lake.landed,
            "duplicate": self.duplicate,
            "quarantined": self.lake.quarantined,
            "in_flight": self.in_flight,
            "lost": self.lost,
        }


@dataclass(frozen=True)
class AuditScope:
    """Which part of a log and lake that have seen more belongs to some spools.

    Attributes:
        spools: Their files.
        spool_ids: Their ids, as message headers carry them.
        devices: Their devices.
        since: Nothing of theirs came before this instant.
    """

    spools: tuple[Path, ...]
    spool_ids: frozenset[bytes]
    devices: tuple[str, ...]
    since: datetime

    @classmethod
    def of(cls, spools: Iterable[Path], since: datetime) -> Self:
        """The run whose spools these are."""
        files = tuple(spools)
        ids: set[bytes] = set()
        devices: set[str] = set()
        for path in files:
            with reading(path) as connection:
                ids.add(
                    connection.execute("SELECT value FROM meta WHERE key = 'spool_id'").fetchone()[0].encode()
                )
                devices.update(d for (d,) in connection.execute("SELECT device_id FROM devices"))
        return cls(files, frozenset(ids), tuple(sorted(devices)), since)


def count_spools(spools: Iterable[Path]) -> SpoolCount:
    """Totals over spool files, read beside whoever writes them."""
    totals: Counter[str] = Counter()
    for path in spools:
        with reading(path) as connection:
            totals.update(dict(zip(BOOK_COUNTS, connection.execute(_SPOOL_SQL).fetchone(), strict=True)))
    return SpoolCount(**{name: totals[name] for name in BOOK_COUNTS})


def count_log(run: AuditScope, bootstrap_servers: str, namespace: str) -> LogCount:
    """Rows of the run in the log, up to its present end, by the messages' own headers."""
    seen: dict[tuple[bytes | None, ...], int] = {}
    messages = received = n_bytes = 0
    admin = KafkaAdmin(bootstrap_servers)
    for message in admin.read(admin.spans([TELEMETRY.named(namespace)])):
        headers = dict(message.headers)
        if headers.get("spool_id") not in run.spool_ids:
            continue
        claim = headers.get("n_rows", b"0")
        rows = int(claim) if claim.isdigit() and len(claim) < 10 else 0
        identity = ("spool_id", "lane", "msg_no", "digest")
        seen[(message.key, *(headers.get(name) for name in identity))] = rows
        messages += 1
        received += rows
        n_bytes += len(message.key or b"") + len(message.value or b"")
        n_bytes += sum(len(k) + len(v) for k, v in message.headers)
    return LogCount(messages, received, sum(seen.values()), n_bytes)


def count_lake(run: AuditScope, lake_root: Path) -> LakeCount:
    """Rows of the run that queries see in the newest cut."""
    with closing(connect(lake_root)) as con:
        landed, distinct = _one(
            con,
            "SELECT count(*), count(DISTINCT (device_id, boot_id, seq)) FROM telemetry "
            "WHERE list_contains($1, device_id) AND known_at >= $2",
            [list(run.devices), run.since],
        )
        [quarantined] = _one(
            con,
            "SELECT coalesce(sum(n_rows), 0) FROM quarantine WHERE topic = $1 AND known_at >= $2",
            [TELEMETRY.base, run.since],
        )
    return LakeCount(int(landed), int(distinct), int(quarantined))


def take_books(run: AuditScope, bootstrap_servers: str, namespace: str, lake_root: Path) -> Books:
    """All three counts, devices first: what they say acknowledged must be seen by the later ones."""
    return Books(
        count_spools(run.spools), count_log(run, bootstrap_servers, namespace), count_lake(run, lake_root)
    )


def _one(con: duckdb.DuckDBPyConnection, query: str, values: list[Any]) -> tuple[int, ...]:
    row = con.execute(query, values).fetchone()
    return tuple(row) if row is not None else ()

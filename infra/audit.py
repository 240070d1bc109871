"""Takes the books from three independent places: the devices' spools, the broker's log, the lake.

It asks no running process and reads no counter of one: spools are read by SQL, the log by its messages'
headers, the lake by DuckDB over the newest cut. Anybody may write to the log: only messages count whose
signature holds under a key of the lake's registry, here and in the lake's quarantine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import duckdb

from edge_producer.spool.spool_file import reading
from feature_store import connect
from infra.kafka.kafka_admin import KafkaAdmin, LogMessage
from schemas.envelope import Envelope, MessageVerifier, read_envelope, verify
from schemas.errors import MessageError
from schemas.row_schemas import BOOK_COUNTS
from schemas.topics import TELEMETRY

_SPOOL_SQL = f"""
    SELECT {", ".join(f"coalesce(sum({c}), 0)" for c in BOOK_COUNTS)} FROM (
        SELECT {", ".join(BOOK_COUNTS)} FROM books
        UNION ALL SELECT {", ".join(c if c != "pending" else "0" for c in BOOK_COUNTS)} FROM totals)
"""  # noqa: S608  (fixed column names)


@dataclass(frozen=True)
class SpoolCount:
    """What the devices' spools hold: ``sensed = acked + pending + filtered + evicted + refused``."""

    sensed: int
    acked: int
    filtered: int
    evicted: int
    refused: int
    pending: int

    @property
    def balances(self) -> bool:
        """Whether every sensed row is accounted for."""
        return self.sensed == self.acked + self.pending + self.filtered + self.evicted + self.refused


@dataclass(frozen=True)
class LogCount:
    """What the broker's log holds in ``telemetry.v1``.

    Attributes:
        received: Rows in all messages, repeats included.
        distinct: Rows in distinct messages (producer, spool, lane, number, digest).
        bytes: Of keys, headers and values.
        forged: Messages that name one of the spools and that none of its devices signed; in no other count.
    """

    messages: int
    received: int
    distinct: int
    bytes: int
    forged: int = 0


@dataclass(frozen=True)
class LakeCount:
    """What queries see.

    Attributes:
        landed: Rows in all telemetry tables.
        distinct: Distinct (device, boot, seq) among them.
        quarantined: Rows of ``telemetry.v1`` in messages of these devices that were refused.
        missing_messages: Numbers that these devices have used and that have not arrived.
    """

    landed: int
    distinct: int
    quarantined: int
    missing_messages: int = 0


@dataclass(frozen=True)
class Books:
    """All books of one namespace, and whether they balance."""

    spool: SpoolCount
    log: LogCount
    lake: LakeCount

    @property
    def duplicate(self) -> int:
        """Rows that are in the log more than once."""
        return self.log.received - self.log.distinct

    @property
    def in_flight(self) -> int:
        """Rows of the log that are neither landed, repeated nor quarantined."""
        return self.log.received - self.lake.landed - self.duplicate - self.lake.quarantined

    @property
    def lost(self) -> int:
        """Rows that the broker acknowledged but that neither queries nor the quarantine show."""
        return max(0, self.spool.acked - self.lake.distinct - self.lake.quarantined)

    @property
    def balances(self) -> bool:
        """Whether both sides balance: nothing is in flight, lost or landed twice."""
        return not self.violations()

    def violations(self) -> list[str]:
        """Each law of the books that does not hold, with its numbers."""
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
            "forged_messages": self.log.forged,
            "missing_messages": self.lake.missing_messages,
        }


@dataclass(frozen=True)
class AuditScope:
    """Selects, from a log and a lake that also hold other rows, those of some spools.

    Attributes:
        spools: The spool files.
        spool_ids: Their ids, as message headers carry them.
        devices: Their devices.
        since: None of their rows is older than this instant.
    """

    spools: tuple[Path, ...]
    spool_ids: frozenset[bytes]
    devices: tuple[str, ...]
    since: datetime

    @classmethod
    def of(cls, spools: Iterable[Path], since: datetime) -> Self:
        """The scope of these spools."""
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
    """Totals over spool files, which their processes may be writing."""
    totals: Counter[str] = Counter()
    for path in spools:
        with reading(path) as connection:
            totals.update(dict(zip(BOOK_COUNTS, connection.execute(_SPOOL_SQL).fetchone(), strict=True)))
    return SpoolCount(**{name: totals[name] for name in BOOK_COUNTS})


def count_log(scope: AuditScope, bootstrap_servers: str, namespace: str, lake_root: Path) -> LogCount:
    """Rows of the scope in the log, up to its present end, by the signed headers of its messages."""
    rows_of: dict[tuple[str | bytes | int, ...], int] = {}
    messages = received = n_bytes = forged = 0
    keys = _keys(scope, lake_root)
    admin = KafkaAdmin(bootstrap_servers)
    for message in admin.read(admin.spans([TELEMETRY.named(namespace)])):
        if dict(message.headers).get("spool_id") not in scope.spool_ids:
            continue
        envelope = _verified(message, keys)
        if envelope is None:
            forged += 1
            continue
        number = (envelope.producer, envelope.spool_id, envelope.lane, envelope.msg_no, envelope.digest)
        rows_of[number] = envelope.n_rows
        messages += 1
        received += envelope.n_rows
        n_bytes += len(message.key or b"") + len(message.value or b"")
        n_bytes += sum(len(k) + len(v) for k, v in message.headers)
    return LogCount(messages, received, sum(rows_of.values()), n_bytes, forged)


def _keys(scope: AuditScope, lake_root: Path) -> dict[tuple[str, str], MessageVerifier]:
    """Every key that was ever registered for a device of the scope, by device and key id."""
    with closing(connect(lake_root, comments=False)) as connection:
        found = connection.execute(
            "SELECT DISTINCT device_id, key_id, public_key FROM devices WHERE list_contains($1, device_id)",
            [list(scope.devices)],
        ).fetchall()
    return {(device, key_id): MessageVerifier(pem.encode()) for device, key_id, pem in found if pem}


def _verified(message: LogMessage, keys: Mapping[tuple[str, str], MessageVerifier]) -> Envelope | None:
    """Envelope of a message that its producer signed; None: somebody else wrote it."""
    try:
        envelope, proof = read_envelope(message.key, message.headers)
        verifier = keys.get((envelope.producer, envelope.signer))
        if verifier is None:
            return None
        content = (message.key or b"", message.headers, message.value or b"")
        verify(TELEMETRY.base, *content, envelope, proof, verifier)
    except MessageError:
        return None
    return envelope


def count_lake(scope: AuditScope, lake_root: Path) -> LakeCount:
    """Rows of the scope that queries see in the newest cut."""
    devices = list(scope.devices)
    with closing(connect(lake_root, comments=False)) as connection:
        landed, distinct = _one(
            connection,
            "SELECT count(*), count(DISTINCT (device_id, boot_id, seq)) FROM telemetry "
            "WHERE list_contains($1, device_id) AND known_at >= $2",
            [devices, scope.since],
        )
        [quarantined] = _one(
            connection,
            "SELECT coalesce(sum(n_rows), 0) FROM quarantine "
            "WHERE verified AND topic = $1 AND list_contains($2, producer) AND known_at >= $3",
            [TELEMETRY.base, devices, scope.since],
        )
        [missing] = _one(
            connection,
            "SELECT coalesce(sum(missing_messages), 0) FROM data_quality WHERE list_contains($1, device_id)",
            [devices],
        )
    return LakeCount(int(landed), int(distinct), int(quarantined), int(missing))


def take_books(scope: AuditScope, bootstrap_servers: str, namespace: str, lake_root: Path) -> Books:
    """All three counts, spools first: the later counts must then include every acknowledged row."""
    return Books(
        count_spools(scope.spools),
        count_log(scope, bootstrap_servers, namespace, lake_root),
        count_lake(scope, lake_root),
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str, values: list[Any]) -> tuple[int, ...]:
    row = connection.execute(query, values).fetchone()
    return tuple(row) if row is not None else ()

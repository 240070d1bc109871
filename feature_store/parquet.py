"""Parquet files of the lake: their encoding, and the statistics of them in the Delta log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.data_file import has_digest
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.text_dictionaries import TEXTS, as_they_come, held_as, without_dictionaries

LANDING = ("lz4", None)
"""For files of one batch: small and soon compacted, so CPU matters. At 500 rows 2.5 times cheaper than
zstd."""
COMPACTED = ("zstd", 3)
"""For files that stay."""
ROW_GROUP_ROWS = 256 * 1024
_BATCH_ROWS, _EARLIER_BATCH_ROWS = 32 * 1024, 1024
"""Rows of a column that are encoded at a time. At the library's 1,024 a file costs a tenth more."""
PRUNING = frozenset({"device_id", "event_time", "known_at", "period_start", "window_start", "cohort"})
"""Columns that queries select by, and whose bounds the Delta log therefore holds. The log is replayed at
every commit, and bounds of 30 columns instead of three made that 2.5 times as expensive (768 files: 56
against 22 ms CPU). DuckDB prunes by the files' own footers, which have bounds of every column."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROS_PER_DAY = 86_400_000_000
_LONGEST_TEXT = 64
"""Longer bounds are cut, a maximum upwards. They are never left out: deltalake 1.6.6 assumes that a file
without bounds of a column matches no condition on it, and its readers lose the rows."""
_LAST = "\U0010ffff"


Codec = tuple[str, int | None]


def encode(rows: pa.Table, codec: Codec) -> tuple[pa.Buffer, str]:
    """The rows as a Parquet file in memory, each page with its checksum; how texts are held changes no byte.

    Returns:
        The file's content, and its statistics as the Delta log wants them, JSON.
    """
    return _encoded(as_they_come(rows), codec, _BATCH_ROWS)


def forms(rows: pa.Table, codec: Codec) -> Iterator[pa.Buffer]:
    """The rows as a file of this release, and of earlier ones: if there are many, those are other bytes."""
    yield encode(rows, codec)[0]
    yield _encoded(without_dictionaries(rows), codec, _EARLIER_BATCH_ROWS)[0]


def _encoded(rows: pa.Table, codec: Codec, batch_rows: int) -> tuple[pa.Buffer, str]:
    sink, how = pa.BufferOutputStream(), options(rows.schema, codec) | {"write_batch_size": batch_rows}
    with pq.ParquetWriter(sink, rows.schema, **how) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    return sink.getvalue(), statistics(writer.writer.metadata)


def write(path: Path, content: pa.Buffer) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        DISK.sync(file.fileno(), path)


def check(rows: pa.Table, codec: Codec) -> None:
    """Return if the rows can be written, with their statistics; nothing is kept.

    Raises:
        ValueError: They cannot.
    """
    with pq.ParquetWriter(pa.BufferOutputStream(), rows.schema, **options(rows.schema, codec)) as writer:
        writer.write_table(rows, row_group_size=ROW_GROUP_ROWS)
    statistics(writer.writer.metadata)


@lru_cache(maxsize=256)
def options(schema: pa.Schema, codec: Codec) -> dict[str, Any]:
    """How a file with these columns is written."""
    kinds = {f.name: f.type for f in schema}
    encodings = {name: e for name, kind in kinds.items() if (e := _encoding(kind))}
    return {
        "compression": codec[0],
        "compression_level": codec[1],
        "use_dictionary": [n for n, kind in kinds.items() if kind == TEXTS or pa.types.is_string(kind)],
        "write_batch_size": _BATCH_ROWS,
        "column_encoding": encodings,
        "write_page_checksum": True,  # without them 93 of 100 single flipped bits read as other values
        "store_schema": False,  # Parquet's types are enough; an Arrow copy costs 12 bytes a row at 500 rows
    }


def _encoding(kind: pa.DataType) -> str | None:
    if pa.types.is_floating(kind):
        return "BYTE_STREAM_SPLIT"
    wide = pa.types.is_integer(kind) and kind.bit_width >= 32
    return "DELTA_BINARY_PACKED" if wide or pa.types.is_timestamp(kind) else None


def statistics(metadata: pq.FileMetaData) -> str:
    """Row count and bounds of the pruning columns, from the file's footer, as the Delta log wants them."""
    low: dict[str, str] = {}
    high: dict[str, str] = {}
    nulls: dict[str, int] = {}
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for i in range(metadata.num_columns if groups else 0):
        name = groups[0].column(i).path_in_schema
        if name in PRUNING:
            found = [g.column(i).statistics for g in groups]
            nulls[name] = sum(s.null_count for s in found)
            if all(s.has_min_max for s in found):
                low[name], high[name] = _bounds(min(s.min for s in found), max(s.max for s in found))
            else:
                low[name], high[name] = "", _LAST  # Parquet keeps no bounds of texts beyond 4 KiB
    stats = {"numRecords": metadata.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls}
    return orjson.dumps(stats).decode()


def _bounds(smallest: Any, largest: Any) -> tuple[str, str]:
    """Bounds in the log's own form; where it is less precise they move outwards."""
    if isinstance(smallest, datetime):
        return _iso_millis(_micros(smallest) // 1000), _iso_millis(-(-_micros(largest) // 1000))
    cut = len(largest) > _LONGEST_TEXT
    return smallest[:_LONGEST_TEXT], largest[:_LONGEST_TEXT] + _LAST * cut


def _micros(instant: datetime) -> int:
    return (instant - _EPOCH) // timedelta(microseconds=1)


def _iso_millis(millis: int) -> str:
    seconds, rest = divmod(millis, 1000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{rest:03d}Z"


def read(path: Path, columns: pa.Schema) -> pa.Table:
    """Rows of a file that is what its name and its page checksums state; a newer column is null in its rows.

    Raises:
        DamagedLakeError: The file is missing, altered or unreadable.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise DamagedLakeError("the file is missing") from exc
    except OSError as exc:
        raise DamagedLakeError(f"the file cannot be read ({exc.strerror or exc})") from exc
    if not has_digest(content, path.name):
        raise DamagedLakeError("the file's bytes are not those of its digest")
    try:
        found = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as exc:
        raise DamagedLakeError(f"the file cannot be read ({str(exc).splitlines()[0][:120]})") from exc
    return conform(found, columns)


def concat(parts: Sequence[pa.Table], columns: pa.Schema) -> pa.Table:
    """Rows of several files, one after the other."""
    return pa.concat_tables(parts) if parts else columns.empty_table()


def conform(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """The rows with exactly these columns in this order; texts that they hold as dictionaries stay so.

    Raises:
        ValueError: The rows have a column that is not among them, lack a required one, or one holds nulls.
    """
    wanted = held_as(rows.schema, columns)
    if rows.schema.equals(wanted):
        return rows
    given = set(rows.column_names)
    unknown = given - set(columns.names)
    if unknown:
        raise ValueError(f"columns {sorted(unknown)} are not in the table")
    absent = [f.name for f in columns if f.name not in given and not f.nullable]
    if absent:
        raise ValueError(f"columns {absent} must not be missing")
    arrays = [rows.column(f.name) if f.name in given else pa.nulls(rows.num_rows, f.type) for f in columns]
    return pa.table(arrays, names=columns.names).cast(wanted)


def by_day(rows: pa.Table, column: str) -> list[tuple[date, pa.Table]]:
    """The rows by UTC day of a time column; nearly always all are of one day."""
    micros = rows.column(column).cast(pa.int64()).to_numpy()
    if len(micros) and (first := micros.min() // _MICROS_PER_DAY) == micros.max() // _MICROS_PER_DAY:
        return [(_day(first), rows)]
    day = np.floor_divide(micros, _MICROS_PER_DAY)
    return [(_day(number), rows.filter(pa.array(day == number))) for number in np.unique(day)]


def _day(number: int) -> date:
    return datetime.fromtimestamp(int(number) * 86400, UTC).date()

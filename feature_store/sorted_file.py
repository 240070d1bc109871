"""Writes one sorted data file out of many files, in memory that does not grow with them.

Sorted inputs are read a piece at a time. The others are sorted as many at a time as fit into ``SORT_BYTES``;
what does not fit waits on the disk, sorted. The result is synced as it grows, so that no other writer of the
disk has to wait for all of it at once.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import parquet
from feature_store.data_file import Origin, is_sorted, sorted_file_name
from feature_store.sorted_runs import in_groups, in_order, merged, order_of
from schemas.durable import DISK, temporary
from schemas.errors import DamagedLakeError
from schemas.text_dictionaries import with_dictionaries

GROUP_ROWS = 64 * 1024
"""Rows of a row group: what a reader of one device reads at least."""
PIECE_ROWS, LARGE_PIECE_ROWS = 16 * 1024, 64 * 1024
"""Rows that are read at a time of a sorted file, of which all are open, and of another file."""
SORT_BYTES = 48 * 1024**2
_SYNC_BYTES = 8 * 1024**2


@dataclass(frozen=True)
class SortedFile:
    """A sorted file that has no name yet.

    Attributes:
        beside: Where it is; synced. Vacuum sweeps its folder.
        folder: Where it belongs.
        size: Bytes.
        stats: Delta statistics, JSON.
    """

    beside: Path
    folder: Path
    size: int
    digest: str
    stats: str

    def named(self, origin: Origin) -> Path:
        """The file under its new name, durably; a name that no other file has.

        Raises:
            FileNotFoundError: This process slept for hours, and vacuum has deleted the file.
        """
        path = self.folder / sorted_file_name(origin, self.digest)
        DISK.rename(self.beside, path)
        return path


def write_sorted(
    folder: Path,
    files: Sequence[str],
    columns: pa.Schema,
    day: str,
    progress: Callable[[], None] = lambda: None,
    sort_bytes: int = SORT_BYTES,
) -> SortedFile:
    """Merge data files of a table into one whose rows are ordered; the same files give the same bytes.

    Args:
        folder: The table's folder.
        files: Paths relative to it, verified by the caller.
        columns: Of the table, or the first of them.
        day: Folder to write to, ``day=…``.
        progress: Called now and then.
        sort_bytes: Rows that are sorted at a time; sorting takes twice as much again.

    Raises:
        DamagedLakeError: A file is gone or cannot be read.
    """
    order = order_of(columns)
    beside = temporary(folder / "sorted.parquet")
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".tmp-runs.", dir=folder) as waiting,
            beside.open("xb") as file,
        ):
            runs = _Runs(folder, with_dictionaries(columns), order, Path(waiting), sort_bytes).of(files)
            sink = _Sink(file, beside)
            metadata = _write(sink, columns, merged(runs, order), progress)
            file.flush()
            DISK.sync(file.fileno(), beside)
        return SortedFile(
            beside, folder / day, sink.size, sink.digest.hexdigest(), parquet.statistics(metadata)
        )
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _write(
    sink: _Sink, columns: pa.Schema, pieces: Iterator[pa.Table], progress: Callable[[], None]
) -> pq.FileMetaData:
    options = parquet.options(columns, parquet.COMPACTED)
    order = order_of(columns)
    sorting = [pq.SortingColumn(columns.names.index(name)) for name in order] or None
    schema = with_dictionaries(columns)
    with pq.ParquetWriter(sink, schema, sorting_columns=sorting, **options) as writer:
        for group in in_groups(pieces, GROUP_ROWS):
            writer.write_table(group, row_group_size=GROUP_ROWS)
            progress()
    return writer.writer.metadata


class _Sink:
    """A file for pyarrow to write to: it knows its digest, and is synced as it grows."""

    closed = False

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path, self._unsynced = file, path, 0
        self.digest, self.size = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Append."""
        self.digest.update(data)
        self.size += len(data)
        self._unsynced += len(data)
        if self._unsynced > _SYNC_BYTES:
            self._file.flush()
            DISK.sync(self._file.fileno(), self._path)
            self._unsynced = 0
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes written."""
        return self.size

    def flush(self) -> None:
        """Nothing: the caller flushes and closes."""

    close = flush


class _Runs:
    """Data files as sorted runs, in their sequence.

    Args:
        folder: The table's folder.
        columns: With texts as dictionaries.
        order: Columns to sort by.
        waiting: Folder for runs that do not fit into memory.
        sort_bytes: What fits.
    """

    def __init__(
        self, folder: Path, columns: pa.Schema, order: Sequence[str], waiting: Path, sort_bytes: int
    ) -> None:
        self._folder, self._columns, self._order = folder, columns, order
        self._waiting, self._sort_bytes = waiting, sort_bytes

    def of(self, files: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
        """A run for each sorted file, and for each span of other files that fit into memory together."""
        unsorted: list[str] = []
        for file in files:
            if is_sorted(file):
                yield from self._sorted_here(unsorted)
                unsorted = []
                yield self._pieces(file, PIECE_ROWS)
            else:
                unsorted.append(file)
        yield from self._sorted_here(unsorted)

    def _sorted_here(self, files: Sequence[str]) -> Iterator[Iterator[pa.Table]]:
        held: list[pa.Table] = []
        n_bytes = 0
        for piece in (piece for file in files for piece in self._pieces(file, LARGE_PIECE_ROWS)):
            n_bytes += piece.nbytes
            if held and n_bytes > self._sort_bytes:
                yield self._put_away(in_order(held, self._order))
                n_bytes = piece.nbytes
            held.append(piece)
        if held:
            yield iter([in_order(held, self._order)])

    def _put_away(self, run: pa.Table) -> Iterator[pa.Table]:
        path = self._waiting / uuid.uuid4().hex
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, run.schema) as out:
            out.write_table(run, max_chunksize=PIECE_ROWS)
        return _kept_pieces(path)

    def _pieces(self, path: str, rows: int) -> Iterator[pa.Table]:
        # Whatever keeps a file of this table from being read, the other tables do without it.
        try:
            yield from self._read(path, rows)
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError) as exc:
            why = f"{exc}".partition("\n")[0][:200] or type(exc).__name__
            raise DamagedLakeError(f"{self._folder.name}/{path} cannot be merged: {why}") from exc

    def _read(self, path: str, rows: int) -> Iterator[pa.Table]:
        footer = pq.read_metadata(self._folder / path)
        held = set(footer.schema.names)  # an older file lacks columns that were added since
        with pq.ParquetFile(
            self._folder / path,
            metadata=footer,
            read_dictionary=[
                f.name for f in self._columns if f.name in held and pa.types.is_dictionary(f.type)
            ],
            page_checksum_verification=True,
            pre_buffer=False,
        ) as file:
            for batch in file.iter_batches(rows, use_threads=False):
                yield parquet.conform(pa.Table.from_batches([batch]), self._columns)


def _kept_pieces(path: Path) -> Iterator[pa.Table]:
    with pa.OSFile(str(path), "rb") as file:
        kept = pa.ipc.open_file(file)
        for i in range(kept.num_record_batches):
            yield pa.Table.from_batches([kept.get_batch(i)])

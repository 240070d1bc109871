"""Reads a recording from disk in blocks: CSV or Parquet to columns of cells."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from schemas.errors import SourceError
from schemas.profile import Profile
from schemas.recording_section import Replay

BLOCK_BYTES = 1 << 20
BLOCK_ROWS = 8192
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order marks, tried in this order: the mark of UTF-32-LE begins with that of UTF-16-LE."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordingBlock:
    """Some consecutive rows.

    Attributes:
        times: Cells of the time column; None where the profile names none.
        cells: Cells of each channel, in the profile's order.
    """

    times: pa.Array | None
    cells: tuple[pa.Array, ...]


class Recording:
    """One file.

    Args:
        path: Parquet if it ends in ``.parquet`` or ``.pq``, else CSV.
        profile: Its ``[replay]`` defines how to read the file.

    Attributes:
        counts: ``malformed``: rows with another number of cells than the header.
    """

    def __init__(self, path: Path, profile: Profile) -> None:
        self._path = path
        self._replay = profile.replay
        if self._replay.time_columns or self._replay.device_column:
            raise SourceError(
                f"{path}: its times or devices take several columns: `edgeloop replay` reads it"
            )
        time = [self._replay.time_column] if self._replay.time_column else []
        self._wanted = [*time, *(self._replay.columns.get(c, c) for c in profile.channel_names)]
        self.counts: Counter[str] = Counter(malformed=0)

    def blocks(self) -> Iterator[RecordingBlock]:
        """All rows, in the order of the file.

        Raises:
            SourceError: The file is missing, empty, in another encoding or lacks a column.
        """
        read = self._parquet if self._path.suffix.lower() in (".parquet", ".pq") else self._csv
        with self._translated():
            for batch in read():
                columns = tuple(batch.columns)
                if self._replay.time_column:
                    yield RecordingBlock(columns[0], columns[1:])
                else:
                    yield RecordingBlock(None, columns)

    def _parquet(self) -> Iterator[pa.RecordBatch]:
        with pq.ParquetFile(self._path, pre_buffer=False) as file:
            positions = self._positions(file.schema_arrow.names)
            names = [file.schema_arrow.names[p] for p in positions]
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=sorted(set(names))):
                yield pa.RecordBatch.from_arrays([batch.column(n) for n in names], names=_numbered(names))

    def _csv(self) -> Iterator[pa.RecordBatch]:
        header = read_header(self._path, self._replay)
        # Columns are identified by their position: real headers repeat names and leave some out.
        every = _numbered(header)
        wanted = [every[p] for p in self._positions(header)]
        reader = pacsv.open_csv(
            self._path,
            read_options=pacsv.ReadOptions(
                use_threads=False,
                block_size=BLOCK_BYTES,
                column_names=every,
                skip_rows=1,
                encoding=self._replay.encoding,
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=self._replay.delimiter,
                newlines_in_values=False,
                ignore_empty_lines=True,
                invalid_row_handler=self._skip,
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(dict.fromkeys(wanted)),
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=False,
            ),
        )
        for batch in reader:
            yield batch.select(wanted)

    def _skip(self, row: pacsv.InvalidRow) -> str:
        self.counts["malformed"] += 1
        return "skip"

    def _positions(self, names: Sequence[str]) -> list[int]:
        """Position of each wanted column, by its exact name or else by its name without outer blanks."""
        bare = [n.strip() for n in names]
        numbered = {f"#{i + 1}": i for i in range(len(names))}
        missing = [w for w in self._wanted if w not in names and w.strip() not in bare and w not in numbered]
        if missing:
            there = ", ".join(repr(n) for n in names if n.strip()) or "none"
            raise SourceError(
                f"{self._path}: no column {', '.join(map(repr, missing))}; there are: {there}. "
                f"Check replay.columns, time_column, delimiter (now {self._replay.delimiter!r}) "
                f"and encoding (now {self._replay.encoding})"
            )
        return [
            list(names).index(w)
            if w in names
            else bare.index(w.strip())
            if w.strip() in bare
            else numbered[w]
            for w in self._wanted
        ]

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as exc:
            raise SourceError(f"{self._path}: no such file") from exc
        except UnicodeDecodeError as exc:
            raise self._wrong_encoding() from exc
        except csv.Error as exc:
            raise SourceError(f"{self._path}: its first line is no line of names: {exc}") from exc
        except pa.ArrowInvalid as exc:
            if "UTF8" in str(exc):
                raise self._wrong_encoding() from exc
            if "Empty CSV" in str(exc):
                raise SourceError(f"{self._path}: has a header but no rows") from exc
            raise SourceError(f"{self._path}: {exc}") from exc
        except (OSError, LookupError) as exc:
            raise SourceError(f"{self._path}: {exc}") from exc

    def _wrong_encoding(self) -> SourceError:
        guess = sniff_encoding(self._path)
        return SourceError(
            f'{self._path}: is not {self._replay.encoding} text; try replay.encoding = "{guess}"'
        )


def read_header(path: Path, replay: Replay) -> list[str]:
    """Column names of a CSV file.

    Raises:
        SourceError: The file is empty.
        UnicodeDecodeError: The first line is in another encoding.
        LookupError: Unknown encoding.
        OSError: The file cannot be read.
    """
    encoding = "utf-8-sig" if codecs.lookup(replay.encoding).name == "utf-8" else replay.encoding
    with path.open(encoding=encoding, newline="") as file:
        for row in csv.reader(file, delimiter=replay.delimiter):
            if row:
                return row
    raise SourceError(f"{path}: is empty: not even a header line")


def sniff_encoding(path: Path, max_bytes: int = 4 * BLOCK_BYTES) -> str:
    """The most likely encoding of a file: by its byte order mark, else UTF-8, else Windows-1252."""
    with path.open("rb") as file:
        head = file.read(max_bytes)
    for mark, encoding in BOMS.items():
        if head.startswith(mark):
            return encoding
    # Western text in UTF-16 without a mark has a zero in every second byte.
    if head[1:400:2].count(0) > len(head[1:400:2]) // 2:
        return "utf-16-le"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "cp1252"
    return "utf-8"


def _numbered(names: Sequence[str]) -> list[str]:
    return [f"c{i}" for i in range(len(names))]

"""The cells of one file as columns that are read one at a time: text by DuckDB, Parquet by pyarrow, .xlsx."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from python_calamine import CalamineError, CalamineWorkbook

from infra.reading.decoding import TextForm, is_workbook, lines, text_form
from infra.reading.dialect import BLANKS, COMMENTS, Dialect, blank_separated, cells, find_dialect
from infra.reading.header import Header, find_header
from schemas.absent_file import absent
from schemas.errors import NoSuchRecordingError, SourceError
from schemas.profile_file import TOML

HEAD_LINES = 2000
HEAD_CHARS = 1 << 20
MAX_LINE_BYTES = 64_000_000
_NULL = "\x01"
_BROKEN = 0.02
"""Share of rows that may be too short or too long in a text that was cut without quotes."""
_PARQUET = (".parquet", ".pq")
_SHOWN = {BLANKS: "blanks", "\t": "tab"}
_SHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")


@dataclass(frozen=True)
class CellTable:
    """One file's cells.

    Attributes:
        path: The file itself.
        header: Names and units.
        cells: Parquet file of the cells; text unless the file has types.
        names_in_cells: Names of the columns in that file.
        rows: Records below the header, malformed ones aside.
        malformed: Records with more cells than the header, or that could not be cut.
        form: How to read it, by name, for people.
        delimiter: Empty: the file is no text.
        excerpt: Malformed records.
    """

    path: Path
    header: Header
    cells: Path
    names_in_cells: tuple[str, ...]
    rows: int
    malformed: int = 0
    form: dict[str, str] = field(default_factory=dict)
    delimiter: str = ""
    excerpt: tuple[str, ...] = ()
    has_short: bool = False

    def column(self, index: int) -> pa.Array:
        """All cells of a column."""
        table = pq.read_table(self.cells, columns=[self.names_in_cells[index]])
        cells = _whole(table.column(0))
        return cells.dictionary_decode() if pa.types.is_dictionary(cells.type) else cells

    def short(self) -> pa.Array | None:
        """Which records have fewer cells than the header; None: none."""
        return _whole(pq.read_table(self.cells, columns=["short"]).column(0)) if self.has_short else None


def open_table(path: Path, folder: Path, said_encoding: str = "", said_delimiter: str = "") -> CellTable:
    """The cells of a file.

    Args:
        path: Text, Parquet or a workbook.
        folder: Where the cells are put.
        said_encoding: As the profile names it.
        said_delimiter: Likewise.

    Raises:
        SourceError: The file cannot be read, or is no table.
    """
    if not path.is_file():
        raise NoSuchRecordingError(f"{path}: {absent(path) if not path.exists() else 'is no file'}")
    if path.suffix.lower() == TOML:
        raise NoSuchRecordingError(f"{path}: is a profile, not the recording that it describes")
    try:
        if path.suffix.lower() in _PARQUET or _begins(path, b"PAR1"):
            return _from_parquet(path, folder)
        if path.suffix.lower() in _SHEETS or is_workbook(path):
            return _from_workbook(path, folder)
        return _from_text(path, folder, said_encoding, said_delimiter)
    except SourceError as exc:
        raise exc if str(exc).startswith(str(path)) else type(exc)(f"{path}: {exc}") from exc


def _from_text(path: Path, folder: Path, encoding: str, delimiter: str) -> CellTable:
    form = text_form(path, encoding)
    head = _head(path, form)
    dialect = find_dialect(head, delimiter)
    records = cells(head, dialect.delimiter)
    if len(records) < 2 and records and max(len(line) for line in head) > 1000:
        longest = max(len(line) for line in head)
        raise SourceError(f"is no table of rows: all of it is one line of {longest:,} characters")
    kept, names_in_remark = _without_remarks(records)
    header = find_header(kept, dialect.columns)
    plain, remarks = path, 0
    if form.noisy or dialect.delimiter == BLANKS:
        plain = folder / "plain.csv"
        remarks = _write_plain(path, form, dialect, plain)
    above = sum(_is_separator_line(r) for r in records)
    cut = _cut(plain, dialect, len(header.names), header.first_row + above - names_in_remark, folder)
    said = {"encoding": f"{form.encoding} ({form.evidence})", "header": header.evidence}
    said["delimiter"] = f"{_SHOWN.get(dialect.delimiter, dialect.delimiter)} ({dialect.evidence})"
    if form.compression:
        said["compression"] = form.compression
    if remarks:
        said["remarks"] = f"{remarks} lines that begin with # were left out"
    if cut.rows == 0:
        raise SourceError("has a header but no rows")
    names = tuple(f"c{i}" for i in range(len(header.names)))
    return CellTable(
        path,
        header,
        cut.path,
        names,
        cut.rows,
        cut.malformed,
        said,
        dialect.delimiter,
        cut.excerpt,
        bool(cut.short),
    )


def _head(path: Path, form: TextForm) -> list[str]:
    head, size = [], 0
    for line in itertools.islice(lines(path, form), HEAD_LINES):
        head.append(line)
        size += len(line)
        if size > HEAD_CHARS and len(head) > 20:
            break
    return head


def _is_separator_line(record: Sequence[str]) -> bool:
    return record[0].lower().startswith("sep=")


def _without_remarks(records: Sequence[Sequence[str]]) -> tuple[list[list[str]], int]:
    """Records without remarks; and 1 if the last remark above the rows was kept: it holds the names."""
    bare = [list(r) for r in records if not _is_separator_line(r)]
    remark = [bool(r) and r[0].lstrip().startswith(COMMENTS) for r in bare]
    first = remark.index(False) if False in remark else len(bare)
    names = -1
    if first and first < len(bare) and any(c.strip()[:1].isdigit() for c in bare[first]):
        wide = [i for i in range(first) if len(bare[i]) >= max(2, len(bare[first]))]
        names = wide[-1] if wide else -1
    kept = [r for i, r in enumerate(bare) if not remark[i] or i == names]
    return kept, int(names >= 0)


def _write_plain(path: Path, form: TextForm, dialect: Dialect, target: Path) -> int:
    """Write the text as UTF-8 without remarks, with tabs for blanks; returns the number of remarks."""
    remarks = 0
    with target.open("w", encoding="utf-8", newline="\n") as file:
        for line in lines(path, form):
            if line.startswith(COMMENTS):
                remarks += 1
            elif dialect.delimiter == BLANKS:
                file.write("\t".join(blank_separated(line)) + "\n")
            else:
                file.write(line + "\n")
    return remarks


@dataclass(frozen=True, slots=True)
class _Cut:
    path: Path
    rows: int
    malformed: int
    excerpt: tuple[str, ...]
    short: int


def _cut(path: Path, dialect: Dialect, width: int, skipped: int, folder: Path) -> _Cut:
    """Cut a text into cells, all of them text; records that are too long are counted and left out.

    A cell that begins with a quote which nobody closes swallows the lines after it. Where cells hold lines,
    the text is cut once more without quotes, and that counts if it gives more rows, nearly all of them whole.
    """
    quoted, lines_inside = _cut_with(path, dialect, width, skipped, folder, '"')
    if not lines_inside:
        return quoted
    plain, _ = _cut_with(path, dialect, width, skipped, folder, "")
    return (
        plain
        if plain.rows > quoted.rows and plain.short + plain.malformed <= _BROKEN * plain.rows
        else quoted
    )


def _cut_with(
    path: Path, dialect: Dialect, width: int, skipped: int, folder: Path, quote: str
) -> tuple[_Cut, int]:
    """The text cut with a quote or without, and how many of its cells hold line ends."""
    delimiter = "\t" if dialect.delimiter == BLANKS else dialect.delimiter
    columns = ", ".join(f"'c{i}': 'VARCHAR'" for i in range(width + 1))
    kept = ", ".join(f"c{i}" for i in range(width))
    name = "quoted" if quote else "plain"
    everything, target = folder / f"{name}-every.parquet", folder / f"{name}-cells.parquet"
    read = (
        f"SELECT * FROM read_csv($1, columns = {{{columns}}}, delim = $2,"  # noqa: S608
        f" quote = '{quote}', escape = '{quote}',"
        " header = false, auto_detect = false, null_padding = true, strict_mode = false, parallel = false,"
        f" nullstr = $3, store_rejects = true, rejects_limit = 0, max_line_size = {MAX_LINE_BYTES})"
        f" WHERE trim(concat({kept}, c{width})) <> '' OFFSET {skipped}"
    )
    flags = f"c{width - 1} IS NULL AS short, trim(coalesce(c{width}, '')) <> '' AS long"
    try:
        with duckdb.connect() as connection:
            connection.execute("SET threads = 2; SET memory_limit = '1GB'")
            connection.execute(
                f"COPY (SELECT {kept}, {flags} FROM ({read})) TO '{everything}' (FORMAT parquet)",  # noqa: S608
                [str(path), delimiter, _NULL],
            )
            rejected = _one(connection, "SELECT count(DISTINCT line) FROM reject_errors", [])
            source = [str(everything)]
            rows = _one(connection, "SELECT count(*) FROM read_parquet($1)", source)
            long = _one(connection, "SELECT count(*) FROM read_parquet($1) WHERE long", source)
            short = _one(connection, "SELECT count(*) FROM read_parquet($1) WHERE short", source)
            ends = " OR ".join(f"contains(c{i}, chr(10))" for i in range(width))
            inside = _one(connection, f"SELECT count(*) FROM read_parquet($1) WHERE {ends}", source)  # noqa: S608
            found = connection.execute(
                f"SELECT left(concat_ws(' | ', {kept}), 120) FROM read_parquet($1) WHERE long LIMIT 3",  # noqa: S608
                source,
            ).fetchall()
            if not long:
                return _Cut(everything, rows, rejected, (), short), inside
            connection.execute(
                f"COPY (SELECT * FROM read_parquet($1) WHERE NOT long) TO '{target}' (FORMAT parquet)",  # noqa: S608
                source,
            )
            excerpt = tuple(text for (text,) in found)
            return _Cut(target, rows - long, long + rejected, excerpt, short), inside
    except duckdb.Error as exc:
        raise SourceError(f"cannot be cut into cells: {str(exc).splitlines()[0]}") from exc


def _one(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[str]) -> int:
    row = connection.execute(sql, parameters).fetchone()
    return int(row[0]) if row else 0


def _from_parquet(path: Path, folder: Path) -> CellTable:
    """A Parquet file as it is, nested columns aside."""
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as exc:
        raise SourceError(f"is no Parquet file that can be read: {exc}") from exc
    flat = [f for f in schema if not pa.types.is_nested(f.type) and not pa.types.is_binary(f.type)]
    if not flat or not rows:
        raise SourceError("holds no columns of values" if rows else "has a header but no rows")
    names = tuple("" if f.name.startswith("__index_level_") else f.name for f in flat)
    header = Header(names, ("",) * len(names), 0, named=True, evidence="names and types of the Parquet file")
    said = {"format": "Parquet"}
    if nested := [f"{f.name} ({f.type})" for f in schema if f not in flat]:
        said["left out"] = f"columns that hold no single values: {', '.join(nested)}"[:200]
    cells, held = path, tuple(f.name for f in flat)
    if len(set(schema.names)) < len(schema.names):  # columns are read by name
        cells, held = folder / "cells.parquet", tuple(f"c{i}" for i in range(len(flat)))
        _write_renamed(path, [i for i, f in enumerate(schema) if f in flat], cells)
    return CellTable(path, header, cells, held, rows, form=said)


def _write_renamed(path: Path, places: Sequence[int], target: Path) -> None:
    """The columns at these places, named ``c0``, ``c1`` and so on."""
    with pq.ParquetFile(path) as file:
        table = file.read().select(list(places))
    pq.write_table(table.rename_columns([f"c{i}" for i in range(len(places))]), target)


def _from_workbook(path: Path, folder: Path) -> CellTable:
    """The fullest sheet of a workbook."""
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(path.read_bytes()))
        sheets = {name: book.get_sheet_by_name(name).to_python() for name in book.sheet_names}
    except (CalamineError, OSError, ValueError) as exc:
        raise SourceError(f"is no workbook that can be read: {exc}") from exc
    sheet = max(sheets, key=lambda name: sum(len(r) for r in sheets[name]), default="")
    records = [[_text(c) for c in row] for row in sheets.get(sheet, [])]
    records = [r for r in records if any(c.strip() for c in r)]
    if not records:
        raise SourceError("holds an empty workbook")
    dialect_columns = max(len(r) for r in records)
    header = find_header(records[:HEAD_LINES], dialect_columns)
    rows = [[*r, *[""] * len(header.names)][: len(header.names)] for r in records[header.first_row :]]
    names = [f"c{i}" for i in range(len(header.names))]
    table = pa.table([pa.array([r[i] for r in rows], pa.string()) for i in range(len(names))], names=names)
    target = folder / "cells.parquet"
    pq.write_table(table, target)
    said = {"format": f"workbook, sheet {sheet!r} of {len(sheets)}", "header": header.evidence}
    return CellTable(path, header, target, tuple(names), len(rows), form=said)


def _text(cell: Any) -> str:
    """A workbook's cell as text."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime):
        return cell.isoformat(" ")
    if isinstance(cell, (date, time)):
        return cell.isoformat()
    return str(cell.total_seconds()) if isinstance(cell, timedelta) else str(cell)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark

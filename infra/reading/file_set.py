"""Several files read as one: the same columns, one after the other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.reading.cell_table import CellTable, open_table
from infra.reading.time_forms import Bools
from infra.reading.unit_conversion import plain_unit
from schemas.errors import NoSuchRecordingError, SourceError

FILE_COLUMN = "@file"
"""What names the device where each file is one."""
_ENDINGS = (
    ".csv",
    ".tsv",
    ".txt",
    ".dat",
    ".log",
    ".asc",
    ".parquet",
    ".pq",
    ".xlsx",
    ".xlsm",
    ".xls",
    ".ods",
)
_PACKED = (".gz", ".bz2", ".xz", ".zip")
_FEW_VALUES = 2000
_PROBE = 20_000


@dataclass(frozen=True)
class FileSet:
    """Files with the same columns.

    Attributes:
        names: Of the columns, in the first file's order.
        places: For each file, where it has each of them.
    """

    tables: tuple[CellTable, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def rows(self) -> int:
        """Rows of all files, malformed ones aside."""
        return sum(t.rows for t in self.tables)

    @property
    def malformed(self) -> int:
        """Records that could not be cut into as many cells as there are names."""
        return sum(t.malformed for t in self.tables)

    @property
    def excerpt(self) -> tuple[str, ...]:
        """Some malformed records."""
        return tuple(e for t in self.tables for e in t.excerpt)[:3]

    @property
    def said(self) -> dict[str, str]:
        """How the first file is read, by name."""
        return dict(self.tables[0].form)

    @property
    def shown(self) -> str:
        """The files, for a message."""
        more = f" and {len(self.tables) - 1} more" if len(self.tables) > 1 else ""
        return f"{self.tables[0].path}{more}"

    @property
    def delimiter(self) -> str:
        """The first file's; empty: it is no text."""
        return self.tables[0].delimiter

    @property
    def encoding(self) -> str:
        """The first file's; empty: it is no text."""
        return self.tables[0].form.get("encoding", "").partition(" ")[0]

    def column(self, index: int) -> pa.Array:
        """All cells of a column; text if the files disagree."""
        parts = [t.column(places[index]) for t, places in zip(self.tables, self.places, strict=True)]
        if len({p.type for p in parts}) > 1:
            parts = [p.cast(pa.string()) for p in parts]
        return parts[0] if len(parts) == 1 else pa.concat_arrays(parts)

    def text(self, index: int) -> pa.Array:
        """All cells of a column as text."""
        cells = self.column(index)
        return cells if cells.type == pa.string() else cells.cast(pa.string())

    def index(self, name: str) -> int:
        """Index of a column by its name, blanks around it aside, or by its number as ``#2``.

        Raises:
            ValueError: There is none.
        """
        if name.startswith("#") and name[1:].isdigit() and 1 <= int(name[1:]) <= len(self.names):
            return int(name[1:]) - 1
        return [n.strip() for n in self.names].index(name.strip())

    def column_name(self, index: int) -> str:
        """A name by which a column can be found: its own, or its number where it has none."""
        name = self.names[index]
        return name if name.strip() and self.names.index(name) == index else f"#{index + 1}"

    def short(self) -> Bools | None:
        """Which rows have fewer cells than there are names; None: none."""
        if not any(t.has_short for t in self.tables):
            return None
        parts = []
        for table in self.tables:
            flags = table.short()
            none = np.zeros(table.rows, dtype=np.bool_)
            parts.append(none if flags is None else flags.to_numpy(zero_copy_only=False).astype(np.bool_))
        return np.concatenate(parts)

    def file_names(self) -> pa.Array:
        """Name of each row's file, without its ending."""
        return pa.concat_arrays(
            [pa.array([stem(t.path)]).take(pa.array(np.zeros(t.rows, np.int64))) for t in self.tables]
        )

    def short_texts(self, used: set[int], named: re.Pattern[str] | None = None) -> list[int]:
        """Columns that may name devices: a few different texts or whole numbers.

        Args:
            used: Columns that are something else.
            named: What their names must contain; None: anything.
        """
        found = []
        for i, name in enumerate(self.names):
            if named is not None and not named.search(name):
                continue
            cells = self.column(i)
            if i in used or not name.strip() or pa.types.is_nested(cells.type):
                continue
            probe = cells.slice(0, _PROBE).cast(pa.string())
            if pc.any(pc.match_substring_regex(probe, r"^[+-]?\d*[.,]\d*[1-9]")).as_py():
                continue
            if 2 <= len(cells.unique()) <= max(_FEW_VALUES, len(cells) // 100):
                found.append(i)
        return found


def open_files(paths: Sequence[Path], folder: Path, encoding: str = "", delimiter: str = "") -> FileSet:
    """Open files, or the files of a folder, as one.

    Raises:
        SourceError: One cannot be read, or has other columns than the first.
    """
    tables = []
    for i, path in enumerate(expanded(paths)):
        own = folder / str(i)
        own.mkdir()
        tables.append(open_table(path, own, encoding, delimiter))
    names = tables[0].header.names
    places = [tuple(range(len(names)))]
    for table in tables[1:]:
        theirs = table.header.names
        missing = [n for n in names if n.strip() and n not in theirs]
        more = [n for n in theirs if n.strip() and n not in names]
        if missing or more or len(theirs) != len(names):
            differs = ", ".join(map(repr, missing or more)) or "their number"
            raise SourceError(
                f"{table.path}: its columns are not those of {tables[0].path}: {differs}; "
                "read them one by one"
            )
        same = theirs == names or len(set(names)) != len(names)
        places.append(tuple(range(len(names))) if same else tuple(theirs.index(n) for n in names))
    held = [[t.header.units[place] for place in p] for t, p in zip(tables, places, strict=True)]
    units = tuple(next((u for u in stated if u), "") for stated in zip(*held, strict=True))
    _refuse_other_units(tables, names, units, held)
    return FileSet(tuple(tables), names, units, tuple(places))


def _refuse_other_units(
    tables: Sequence[CellTable], names: Sequence[str], units: Sequence[str], held: Sequence[Sequence[str]]
) -> None:
    """Refuse files that state different units for one column: both would land in one channel."""
    for table, stated in zip(tables, held, strict=True):
        for name, unit, other in zip(names, units, stated, strict=True):
            if other and plain_unit(other) != plain_unit(unit):
                raise SourceError(
                    f"{table.path}: states '{name}' in {other}, and another file in {unit}; "
                    "read them one by one"
                )


def expanded(paths: Sequence[Path]) -> list[Path]:
    """Files, and for a folder the files of measurements in it, by name.

    Raises:
        SourceError: A folder holds none.
    """
    files = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(
            p for p in path.iterdir() if p.is_file() and not p.name.startswith(".") and _measures(p)
        )
        if not inside:
            raise NoSuchRecordingError(f"{path}: holds no file of measurements ({', '.join(_ENDINGS)})")
        files += inside
    return files


def stem(path: Path) -> str:
    """A file's name without its endings."""
    bare = path.name[: -len(path.suffix)] if path.suffix.lower() in _PACKED else path.name
    return Path(bare).stem


def _measures(path: Path) -> bool:
    bare = Path(path.name[: -len(path.suffix)]) if path.suffix.lower() in _PACKED else path
    return bare.suffix.lower() in _ENDINGS or path.suffix.lower() in _PACKED

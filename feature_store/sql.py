"""Queries against one cut of the lake: for notebooks, and as text for the command line."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_store import duck
from feature_store.cuts import CutRef, Cuts, paths
from feature_store.lake import Lake
from feature_store.registry import ProfileRegistry
from feature_store.views import statements
from schemas.errors import QueryError

Format = Literal["table", "csv", "json"]
_WIDEST_CELL = 60


class LakeSettings(BaseSettings):
    """Where `connect()` finds the lake when nobody says: the same variables as the local stack's."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    state_dir: Path | None = Field(default=None, validation_alias="EDGELOOP_STATE_DIR")
    xdg_state_home: Path | None = Field(default=None, validation_alias="XDG_STATE_HOME")

    @property
    def lake_root(self) -> Path:
        """Folder of the lake of the stack that a plain `edgeloop up` runs."""
        home = self.xdg_state_home
        base = home if home and home.is_absolute() else Path.home() / ".local" / "state"
        return (self.state_dir or base / "edgeloop").expanduser().absolute() / "lake"


def connect(
    lake_root: Path | str | None = None, cut: CutRef = None, *, locked: bool = True
) -> duck.Connection:
    """A DuckDB connection in memory whose views read one cut of the lake; times are UTC.

    The cut does not move under the connection: connect again for newer rows.

    Args:
        lake_root: The lake's folder; None: that of the default stack (``EDGELOOP_STATE_DIR``).
        cut: Id, pin or instant (newest cut created at or before it); None: the newest cut.
        locked: True: it can read the cut's files and nothing else. False: also other files, and it can
            write, ``COPY … TO`` for instance.

    Raises:
        QueryError: No lake there, or no such cut.
    """
    root = Path(lake_root).expanduser().absolute() if lake_root is not None else LakeSettings().lake_root
    if not root.is_dir():
        raise QueryError(f"no lake at {root}; `edgeloop up` or `edgeloop demo` makes one")
    lake = Lake(root)
    chosen = Cuts(lake).resolve(cut)
    con = duck.build(statements(root, chosen, ProfileRegistry(lake).profiles()))
    if locked:
        duck.lock(con, list(paths(root, chosen)))
    return con


def query(lake_root: Path, sql: str, cut: CutRef = None) -> pa.Table:
    """Result of one reading statement against a cut.

    Raises:
        QueryError: No such cut, no reading statement, or DuckDB refuses it; names the views there are.
    """
    with connect(lake_root, cut) as con:
        try:
            return duck.query(con, sql)
        except QueryError as exc:
            raise QueryError(f"{exc}\n\nviews: {', '.join(views(con))}") from exc


def run(lake_root: Path, sql: str, cut: CutRef = None, fmt: Format = "table") -> str:
    """Result of one reading statement as text: a table, CSV with a header, or a JSON array of objects.

    Raises:
        QueryError: As ``query``.
    """
    result = query(lake_root, sql, cut)
    return {"table": as_table, "csv": as_csv, "json": as_json}[fmt](result)


def views(con: duck.Connection) -> list[str]:
    """Names of the views of a connection, sorted."""
    rows = con.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in rows]


def as_table(result: pa.Table) -> str:
    """Aligned columns; numbers to the right, long cells cut with an ellipsis."""
    if "explain_value" in result.column_names:
        return "\n".join(result.column("explain_value").to_pylist())
    numeric = [_is_number(f.type) for f in result.schema]
    header = result.column_names
    body = [[_cell(v) for v in row] for row in _rows(result)]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [header, ["-" * w for w in widths], *body]
    return "\n".join(_line(line, widths, numeric) for line in lines)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _line(cells: list[str], widths: list[int], numeric: list[bool]) -> str:
    padded = (c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True))
    return "  ".join(padded).rstrip()


def as_csv(result: pa.Table) -> str:
    """RFC 4180 with a header line; null is the empty cell."""
    sink = io.StringIO()
    writer = csv.writer(sink)
    writer.writerow(result.column_names)
    writer.writerows([["" if v is None else _plain(v) for v in row] for row in _rows(result)])
    return sink.getvalue()


def as_json(result: pa.Table) -> str:
    """A JSON array with one object per row; NaN and infinities are null, bytes are hex."""
    names = result.column_names
    objects = [dict(zip(names, map(_plain, row), strict=True)) for row in _rows(result)]
    return json.dumps(objects, indent=1, ensure_ascii=False)


def _rows(result: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in result.columns), strict=True))


def _cell(value: Any) -> str:
    plain = _plain(value)
    shown = "" if plain is None else f"{plain:.6g}" if isinstance(plain, float) else str(plain)
    shown = shown.replace("\n", " ")
    return shown if len(shown) <= _WIDEST_CELL else shown[: _WIDEST_CELL - 1] + "…"


def _plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)

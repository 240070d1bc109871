"""Queries against one cut of the lake: for notebooks, and as text for the command line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_store import duck
from feature_store.cut import paths
from feature_store.cut_store import CutRef, CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.result_text import FORMATS, Format
from feature_store.views import statements
from schemas.errors import QueryError


class LakeSettings(BaseSettings):
    """Where `connect()` finds the lake if no folder is given: variables that the local stack reads too."""

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

    The connection keeps reading that cut: connect again for newer rows.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from feature_store import connect
    >>> from feature_store.lake import Lake
    >>> from feature_store.lake_registry import DeviceRecord, DeviceRegistry
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lake = Lake.open(Path(folder))
    ...     device = DeviceRecord("m-1", "machine", "hall-2", "default", "x86", key_id="k", public_key="")
    ...     DeviceRegistry(lake).register([device])
    ...     con = connect(folder)
    ...     con.sql("SELECT device_id, site FROM fleet").fetchall()
    [('m-1', 'hall-2')]

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
    chosen = CutStore(lake).resolve(cut)
    connection = duck.build(statements(root, chosen, ProfileRegistry(lake).profiles()))
    if locked:
        duck.lock(connection, list(paths(root, chosen)))
    return connection


def query(lake_root: Path, sql: str, cut: CutRef = None) -> pa.Table:
    """Result of one reading statement against a cut.

    Raises:
        QueryError: No such cut, no reading statement, or DuckDB refuses it; the message lists the views.
    """
    with connect(lake_root, cut) as connection:
        try:
            return duck.query(connection, sql)
        except QueryError as exc:
            raise QueryError(f"{exc}\n\nviews: {', '.join(views(connection))}") from exc


def run(lake_root: Path, sql: str, cut: CutRef = None, fmt: Format = "table") -> str:
    """Result of one reading statement as text: a table, CSV with a header, or a JSON array of objects.

    Raises:
        QueryError: As ``query``.
    """
    result = query(lake_root, sql, cut)
    return FORMATS[fmt](result)


def views(connection: duck.Connection) -> list[str]:
    """Names of the views of a connection, sorted."""
    rows = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in rows]

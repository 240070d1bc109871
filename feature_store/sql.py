"""Queries against one cut of the lake: for notebooks, and as text for the command line."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from feature_store import duck
from feature_store.cut import Cut, paths, without_excerpts
from feature_store.cut_store import CutRef, CutStore
from feature_store.cut_views import ViewForm, open_views
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.result_text import FORMATS, Format
from feature_store.sound_cut import SoundCut
from schemas.errors import NoLakeError, QueryError, UnreadableDataError
from schemas.excerpt_table import holds_excerpts
from schemas.local_folder import LocalFolder
from schemas.tables import BOOKS
from schemas.view_specs import BOOKS_STATEMENTS

log = logging.getLogger(__name__)

_WORD = re.compile(r"\w+")
_INDIRECT = re.compile(r"\bquery(_table)?\s*\(", re.IGNORECASE)
"""Functions that take the name of a table, or a whole statement, as a text."""
_MEANING = re.compile(r"\b(duckdb_columns|duckdb_views|comment)\b", re.IGNORECASE)
"""A statement that may ask what views and columns mean."""


class LakeSettings(BaseSettings):
    """Where `connect()` finds the lake if no folder is given: variables that the local stack reads too."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    state_dir: LocalFolder | None = Field(default=None, validation_alias="EDGELOOP_STATE_DIR")
    xdg_state_home: Path | None = Field(default=None, validation_alias="XDG_STATE_HOME")

    @property
    def lake_root(self) -> Path:
        """Folder of the lake of the stack that a plain `edgeloop up` runs."""
        home = self.xdg_state_home
        base = home if home and home.is_absolute() else Path.home() / ".local" / "state"
        return (self.state_dir or base / "edgeloop").expanduser().absolute() / "lake"


def connect(
    lake_root: Path | str | None = None,
    cut: CutRef = None,
    *,
    locked: bool = True,
    verify: Iterable[str] = (),
    excerpts: bool = False,
    comments: bool = True,
) -> duck.Connection:
    """A DuckDB connection in memory whose views read one cut of the lake; times are UTC.

    The connection keeps reading that cut: connect again for newer rows. Files that are missing or were found
    altered are left out; a warning names them, and so does the view ``damaged_files``.

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
        verify: Tables whose files are read whole first, so that none of their rows can be of an altered
            file. DuckDB itself verifies no checksums.
        excerpts: Also show tables of raw samples, as of now; only their readers can (docs/excerpts.md).
        comments: Describe views and columns (`duckdb_columns()` shows it). This takes longer than everything
            else: a program that knows what it asks for does without.

    Raises:
        QueryError: No lake there, no such cut, or this user may not read excerpts.
    """
    root = Path(lake_root).expanduser().absolute() if lake_root is not None else LakeSettings().lake_root
    connection, sound = open_cut(
        root, cut, locked=locked, verify=verify, comments=comments, excerpts=excerpts
    )
    for line in sound.warnings():
        log.warning("%s", line)
    return connection


def open_cut(
    root: Path,
    cut: CutRef,
    *,
    locked: bool = True,
    verify: Iterable[str] = (),
    comments: bool = False,
    excerpts: bool = False,
) -> tuple[duck.Connection, SoundCut]:
    """As ``connect``, with the cut that the views read and the files that are left out; logs nothing.

    With ``comments`` views and columns are described, which takes as long as everything else.
    """
    if not root.is_dir():
        raise NoLakeError(f"no lake at {root}")
    lake = Lake(root)
    cuts = CutStore(lake)
    if excerpts:
        _require_reader(lake, cut)
    profiles = ProfileRegistry(lake).profiles()
    form = ViewForm(comments=comments, excerpts=excerpts)
    connection, sound = open_views(root, cuts.resolve(cut), cuts, profiles, verify=verify, form=form)
    if locked:
        duck.lock(connection, list(paths(root, sound.cut)))
    return connection, sound


def _log(line: str) -> None:
    log.warning("%s", line)


def _require_reader(lake: Lake, cut: CutRef) -> None:
    """Return if this user may read every table of raw samples.

    Raises:
        QueryError: It may not; or an older cut is asked for, which may name excerpts whose time is over.
    """
    if cut is not None:
        raise QueryError("excerpts are read as of now only: older cuts name what retention has deleted")
    for table in sorted(p.name for p in lake.root.iterdir() if holds_excerpts(p.name)):
        if not os.access(lake.root / table, os.R_OK | os.X_OK):
            raise QueryError(
                f"{table} holds raw samples, and this user is none of its readers: docs/excerpts.md#readers"
            )


def query(
    lake_root: Path,
    sql: str,
    cut: CutRef = None,
    warn: Callable[[str], None] = _log,
    *,
    excerpts: bool = False,
) -> pa.Table:
    """Result of one reading statement against a cut.

    Args:
        lake_root: The lake's folder.
        sql: The statement.
        cut: As in ``connect``.
        warn: Is given a line for each table that the statement touches and that lacks rows of damaged files.
        excerpts: As in ``connect``.

    Raises:
        QueryError: No such cut, no reading statement, or DuckDB refuses it; the message lists the views.
    """
    root = lake_root.absolute()
    try:
        return _query(root, sql, cut, warn, (), excerpts=excerpts)
    except UnreadableDataError:
        with open_cut(root, cut, excerpts=excerpts)[0] as connection:
            suspects = touched_tables(connection, sql)
        return _query(root, sql, cut, warn, suspects, excerpts=excerpts)


def _query(
    root: Path,
    sql: str,
    cut: CutRef,
    warn: Callable[[str], None],
    verify: Iterable[str],
    *,
    excerpts: bool,
) -> pa.Table:
    comments = _MEANING.search(sql) is not None
    connection, sound = open_cut(root, cut, verify=verify, comments=comments, excerpts=excerpts)
    with connection:
        try:
            result = duck.query(connection, sql)
        except UnreadableDataError:
            raise
        except QueryError as exc:
            raise QueryError(f"{exc}\n\nviews: {', '.join(views(connection))}") from exc
        for line in sound.warnings(touched_tables(connection, sql)) if sound.left_out else ():
            warn(line)
        return result


def row_counts(root: Path, cut: Cut) -> tuple[dict[str, int], SoundCut]:
    """Rows of each table of a cut, and the cut without the files that are left out.

    Raises:
        UnreadableDataError: DuckDB cannot read a file that is as it was written.
    """
    verify: set[str] = set()
    while True:
        connection, sound = open_cut(root, cut.id, verify=verify)
        with connection:
            counts = {table: _count(connection, table) for table in without_excerpts(cut).tables}
        unreadable = {table for table, rows in counts.items() if rows is None}
        if not unreadable:
            return {table: rows or 0 for table, rows in counts.items()}, sound
        if unreadable <= verify:
            raise UnreadableDataError(f"DuckDB cannot read {', '.join(sorted(unreadable))}")
        verify |= unreadable


def _count(connection: duck.Connection, table: str) -> int | None:
    view = BOOKS_STATEMENTS if table == BOOKS.name else table  # `books` shows the newest statements only
    try:
        counted = duck.query(connection, f"SELECT count(*) AS n FROM {duck.name(view)}")  # noqa: S608  (quoted)
    except UnreadableDataError:
        return None
    return int(counted.column("n")[0].as_py())


def run(
    lake_root: Path,
    sql: str,
    cut: CutRef = None,
    fmt: Format = "table",
    warn: Callable[[str], None] = _log,
    *,
    excerpts: bool = False,
) -> str:
    """Result of one reading statement as text: a table, CSV with a header, or a JSON array of objects.

    Raises:
        QueryError: As ``query``.
    """
    result = query(lake_root, sql, cut, warn, excerpts=excerpts)
    return FORMATS[fmt](result)


def touched_tables(connection: duck.Connection, sql: str) -> set[str]:
    """Tables that a statement may read, through whichever views; rather one too many than one too few."""
    found = connection.execute("SELECT view_name, sql FROM duckdb_views() WHERE NOT internal").fetchall()
    words = {view: _words(definition) for view, definition in found}
    todo = set(words) if _INDIRECT.search(sql) else _words(sql) & words.keys()
    touched: set[str] = set()
    while todo:
        view = todo.pop()
        touched.add(view)
        todo |= (words[view] & words.keys()) - touched
    return {BOOKS.name if view == BOOKS_STATEMENTS else view for view in touched}


def _words(sql: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(sql)}


def views(connection: duck.Connection) -> list[str]:
    """Names of the views of a connection, sorted."""
    rows = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()
    return [name for (name,) in rows]

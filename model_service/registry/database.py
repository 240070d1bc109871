"""The door to SQLAlchemy: opens and migrates the registry, and gives transactions on it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from feature_store.process_lock import exclusive
from model_service.registry.registry_moment import LARGEST, RegistryMoment, unreadable
from model_service.registry.registry_tables import metadata, outbox
from schemas.errors import ServiceUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_S = 15.0
_SCHEMA_OF = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Where Alembic keeps which revision a database has; it has one row."""


class Registry:
    """The registry as one process uses it.

    Args:
        url: SQLAlchemy URL; an SQLite file is created if it does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)
        self._moment = RegistryMoment.of(url)
        self._checked = False

    @classmethod
    def open(cls, url: str, root: Path) -> Registry:
        """Open the registry and migrate it to the newest schema.

        Args:
            url: SQLAlchemy URL.
            root: Folder of the lock file that lets one process at a time migrate.

        Raises:
            DamagedFileError: The file is missing though there was one, of an earlier moment, or altered.
        """
        root.mkdir(parents=True, exist_ok=True)
        moment = RegistryMoment.of(url)
        with exclusive(root / "migration.lock"), _translated(url):
            if moment is not None:
                moment.check()
                moment.opened()
            migrate(url)
        opened = cls(url)
        opened._checked = True
        return opened

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: all or nothing. SQLite's write lock is taken at its start, so its reads stay true.

        Raises:
            ServiceUnavailableError: The database stayed locked or cannot be reached.
            DamagedFileError: The file is damaged, or was removed or replaced.
        """
        number = None
        with self._used() as seen, self.engine.begin() as connection:
            begun = self._begin(connection, seen)
            yield connection
            if self._moment is not None and _changes(connection) > begun:
                number = min(_number(connection) + 1, LARGEST)
                connection.exec_driver_sql(f"PRAGMA user_version = {number}")
        if self._moment is not None and number is not None:
            self._moment.note(number)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction for reading one consistent state; it neither waits for writers nor blocks them.

        Raises:
            ServiceUnavailableError: The database cannot be reached.
            DamagedFileError: The file is damaged, or was removed or replaced.
        """
        with (
            self._used() as seen,
            self.engine.connect().execution_options(reading=True) as connection,
            connection.begin(),
        ):
            self._begin(connection, seen)
            yield connection

    def close(self) -> None:
        """Close all connections, and seal the file if nobody else has it open."""
        self.engine.dispose()
        if self._moment is not None and self._checked:
            self._moment.closed()

    @contextmanager
    def _used(self) -> Iterator[int]:
        """Check the file before its first use, and translate what SQLite raises; yields what was seen."""
        with _translated(self.url):
            if not self._checked and self._moment is not None:
                self._moment.check()
            self._checked = True
            yield 0 if self._moment is None else self._moment.seen

    def _begin(self, connection: Connection, seen: int) -> int:
        """Guard a transaction; returns how many changes its connection has made before."""
        if self._moment is None:
            return 0
        self._moment.guard(_number(connection), seen)
        return _changes(connection)


def note(
    connection: Connection,
    event_id: str,
    subject: str,
    step: str,
    detail: Mapping[str, object],
    at: float | None = None,
) -> None:
    """Put a lifecycle event into the outbox, once per ``event_id``, in the caller's transaction.

    Args:
        connection: The transaction.
        event_id: The same when the same step is repeated.
        subject: Id of a model version, run, rollout or device.
        step: What happened, in the past tense and snake_case.
        detail: Values are stored as text.
        at: UTC seconds; None: now.
    """
    values = {
        "event_id": event_id,
        "event_time": time.time() if at is None else at,
        "subject": subject,
        "step": step,
        "detail": {name: str(value) for name, value in detail.items()},
        "shipped_at": None,
    }
    try:
        with connection.begin_nested():
            connection.execute(insert(outbox).values(**values))
    except IntegrityError:
        return  # it is there already


def migrate(url: str) -> None:
    """Migrate the database to the newest schema; does nothing if it has it.

    Alembic takes longer to load than all the rest of a registry. So an empty database is made whole at once,
    as the first revision would, and one of the newest schema is left as it is.
    """
    if _is_newest(url):
        return
    from alembic import command  # noqa: PLC0415  (dear to load, and no reader migrates)
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")


def newest_revision() -> str:
    """The schema of this release: the last of the numbers that the migrations' files begin with."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def _is_newest(url: str) -> bool:
    """Whether the database has the newest schema, after making it if it is empty."""
    engine, newest = _engine(url), newest_revision()
    try:
        with engine.connect().execution_options(reading=True) as connection, connection.begin():
            tables = inspect(connection).get_table_names()
            if _SCHEMA_OF.name in tables:
                return list(connection.execute(select(_SCHEMA_OF.c.version_num)).scalars()) == [newest]
        if not tables:
            with engine.begin() as connection:
                metadata.create_all(connection)
                _SCHEMA_OF.create(connection)
                connection.execute(insert(_SCHEMA_OF).values(version_num=newest))
        return not tables
    finally:
        engine.dispose()


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Errors of the database as ours."""
    try:
        yield
    except OperationalError as exc:
        raise ServiceUnavailableError(f"the registry does not answer: {exc.orig}") from exc
    except DatabaseError as exc:
        if type(exc) is not DatabaseError:  # of the statement: a constraint, a value
            raise
        raise unreadable(url.rpartition(":///")[2], exc.orig) from exc
    except json.JSONDecodeError as exc:
        raise unreadable(url.rpartition(":///")[2], exc) from exc


def _number(connection: Connection) -> int:
    return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())


def _changes(connection: Connection) -> int:
    """Rows that the connection has changed so far."""
    return int(getattr(connection.connection.driver_connection, "total_changes", 0))


def _engine(url: str) -> Engine:
    engine = create_engine(url, pool_pre_ping=not url.startswith("sqlite"))
    if url.startswith("sqlite"):
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_immediate)
    return engine


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's documented way to issue BEGIN ourselves
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {round(_BUSY_S * 1e3)}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

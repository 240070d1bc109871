"""The door to SQLAlchemy: opens and migrates the registry, and gives transactions on it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event, insert
from sqlalchemy.exc import IntegrityError, OperationalError

from feature_store.process_lock import exclusive
from model_service.registry.registry_tables import outbox
from schemas.errors import ServiceUnavailableError

MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_S = 15.0


class Registry:
    """The registry as one process uses it.

    Args:
        url: SQLAlchemy URL; an SQLite file is created if it does not exist.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)

    @classmethod
    def open(cls, url: str, root: Path) -> Registry:
        """Open the registry and migrate it to the newest schema.

        Args:
            url: SQLAlchemy URL.
            root: Folder of the lock file that lets one process at a time migrate.
        """
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / "migration.lock"):
            migrate(url)
        return cls(url)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction: all or nothing. SQLite's write lock is taken at its start, so its reads stay true.

        Raises:
            ServiceUnavailableError: The database stayed locked or cannot be reached.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as exc:
            raise ServiceUnavailableError(f"the registry does not answer: {exc.orig}") from exc

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction for reading one consistent state; it neither waits for writers nor blocks them.

        Raises:
            ServiceUnavailableError: The database cannot be reached.
        """
        try:
            with self.engine.connect().execution_options(reading=True) as connection, connection.begin():
                yield connection
        except OperationalError as exc:
            raise ServiceUnavailableError(f"the registry does not answer: {exc.orig}") from exc

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


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
    """Migrate the database to the newest schema; does nothing if it has it."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    command.upgrade(config, "head")


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

"""The door to SQLAlchemy: an engine on a migrated registry, and transactions."""

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
    """One process's door to the registry.

    Args:
        url: SQLAlchemy URL; for SQLite the file is made where absent.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = _engine(url)

    @classmethod
    def open(cls, url: str, root: Path) -> Registry:
        """Open the registry and migrate it to the newest shape.

        Args:
            url: SQLAlchemy URL.
            root: Folder in which migrations of several processes lock each other out.
        """
        root.mkdir(parents=True, exist_ok=True)
        with exclusive(root / "migration.lock"):
            migrate(url)
        return cls(url)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All or nothing. On SQLite the write lock is taken at the start, so that reads within hold.

        Raises:
            ServiceUnavailableError: The database stayed locked or out of reach.
        """
        try:
            with self.engine.begin() as connection:
                yield connection
        except OperationalError as exc:
            raise ServiceUnavailableError(f"the registry does not answer: {exc.orig}") from exc

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One consistent look; never waits for a writer, never lets one wait.

        Raises:
            ServiceUnavailableError: The database stayed out of reach.
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
        event_id: The same for a repeat of the same step.
        subject: Model version, run or rollout.
        step: What happened, past tense, snake_case.
        detail: Becomes text to text.
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
        return  # said already


def migrate(url: str) -> None:
    """Bring the database to the newest shape; does nothing where it has it."""
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
    connection.isolation_level = None  # SQLAlchemy's documented way to say BEGIN ourselves
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", f"busy_timeout = {round(_BUSY_S * 1e3)}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

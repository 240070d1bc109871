"""A lake in memory: the tables that trainer and gate read, in DuckDB, filled as simulated time goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store import duck
from schemas.profile import Profile
from schemas.tables import (
    ALERTS,
    BOOKS,
    DEVICE_STATES,
    DEVICES,
    LABELS,
    SUMMARIES,
    TELEMETRY_COMMON,
    telemetry_table,
)
from schemas.view_specs import BOOKS_STATEMENTS


class MemoryLake:
    """Tables of one profile; what was added stands in them from the next query on.

    Attributes:
        connection: What ``read_shifts`` and ``training_rows`` query. Every row carries the instant at which
            it became known, so they see what was known and nothing else.
    """

    def __init__(self, profile: Profile) -> None:
        self._telemetry = telemetry_table(profile)
        self._schemas = {
            DEVICES.name: DEVICES.schema,
            SUMMARIES.name: SUMMARIES.schema,
            ALERTS.name: ALERTS.schema,
            DEVICE_STATES.name: DEVICE_STATES.schema,
            LABELS.name: LABELS.schema,
            BOOKS_STATEMENTS: BOOKS.schema,
            self._telemetry.name: self._telemetry.schema,
        }
        self._waiting: dict[str, list[pa.Table]] = {name: [] for name in self._schemas}
        self.connection = duck.build(())
        for name, schema in self._schemas.items():
            self._create(name, schema)
        shared = ", ".join(duck.name(f.name) for f in TELEMETRY_COMMON if f.name != "profile")
        self.connection.execute(
            f"CREATE VIEW telemetry AS SELECT {duck.text(profile.name)} AS profile, {shared} "
            f"FROM {duck.name(self._telemetry.name)}"
        )

    def _create(self, name: str, schema: pa.Schema) -> None:
        empty = schema.empty_table()
        self.connection.register("incoming", empty)
        self.connection.execute(f"CREATE TABLE {duck.name(name)} AS SELECT * FROM incoming")
        self.connection.unregister("incoming")

    def add(self, name: str, columns: Mapping[str, Any]) -> None:
        """Rows of a table; ``telemetry`` stands for the profile's. Columns that are not given are null."""
        name = self._telemetry.name if name == "telemetry" else name
        self._waiting[name].append(filled(self._schemas[name], columns))

    def read(self) -> duck.Connection:
        """The connection, with everything in it that was added."""
        for name, tables in self._waiting.items():
            if tables:
                self.connection.register("incoming", pa.concat_tables(tables))
                self.connection.execute(f"INSERT INTO {duck.name(name)} SELECT * FROM incoming")
                self.connection.unregister("incoming")
                tables.clear()
        return self.connection


def filled(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    """A table of the schema; a single value is repeated, a column that is not given is null.

    Raises:
        KeyError: The schema has no such column.
    """
    size = max(len(v) for v in columns.values() if isinstance(v, list | np.ndarray))
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise KeyError(f"no such columns: {sorted(unknown)}")
    arrays = []
    for f in schema:
        value = columns.get(f.name)
        if isinstance(value, np.ndarray | list):
            arrays.append(pa.array(value, f.type))
        elif value is None:
            arrays.append(pa.nulls(size, f.type))
        else:
            arrays.append(pa.repeat(pa.scalar(value, f.type), size))
    return pa.table(arrays, schema=schema)

"""Compares what a spool's file says about its own structure with what a new file would say.

One turned bit in that text can leave a file that opens, reads and passes SQLite's own check, and yet refuses
every write, or counts into another column. Sums, triggers and indexes are made again: the other tables hold
all that they say. One of those that is described otherwise is damage, and its file is set aside.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from functools import cache

from edge_producer.spool.spool_tables import create_tables
from edge_producer.spool.spool_tallies import TALLIES, add_indexes, add_tallies
from schemas.errors import SpoolDamagedError

log = logging.getLogger(__name__)

Described = Mapping[tuple[str, str], str]
"""SQL text of each table, trigger and index, by kind and name."""


def mend_structure(connection: sqlite3.Connection) -> None:
    """Make again what can be, before anything is written. Call it inside a transaction.

    Raises:
        SpoolDamagedError: A table is not described as it was made.
    """
    found, wanted = _described(connection), _of_new_file()
    if altered := _altered_tables(found, wanted):
        raise SpoolDamagedError(f"the description of its table {altered[0]} is damaged")
    _make_again(connection, found, wanted)


def _described(connection: sqlite3.Connection) -> Described:
    query = "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"
    return {(kind, name): sql for kind, name, sql in connection.execute(query)}


@cache
def _of_new_file() -> Described:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    try:
        create_tables(connection)
        add_tallies(connection)
        add_indexes(connection)
        return _described(connection)
    finally:
        connection.close()


def _altered_tables(found: Described, wanted: Described) -> list[str]:
    """Tables that a file lacks, or describes otherwise than they were made; sums are not among them."""
    tables = (key for key in wanted if key[0] == "table" and key[1] != TALLIES)
    return sorted(key[1] for key in tables if found.get(key) != wanted[key])


def _make_again(connection: sqlite3.Connection, found: Described, wanted: Described) -> None:
    """Replace sums, triggers and indexes that are not as they were made. Call it inside a transaction.

    Indexes that a new file does not have stay: those of other releases harm nothing. Triggers do not.
    """
    if _counting(found) != _counting(wanted):
        log.warning("the spool's sums are not kept as they should be: they are made and counted again")
        for kind, name in _counting(found):
            connection.execute(f"DROP {kind} IF EXISTS {_quoted(name)}")
        add_tallies(connection)
    for key, sql in wanted.items():
        if key[0] == "index" and found.get(key, sql) != sql:
            log.warning("the spool's index %s is not as it was made: it is made again", key[1])
            connection.execute(f"DROP INDEX {_quoted(key[1])}")
            connection.execute(sql)


def _counting(structure: Described) -> Described:
    return {key: sql for key, sql in structure.items() if key[0] == "trigger" or key == ("table", TALLIES)}


def _quoted(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))

"""What the spool remembers of each boot: the profile version that its rows name, its periods, its floor."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress

from edge_producer.device_update import BootTerms
from schemas.errors import DecodeError
from schemas.version_names import VersionHeader

PREFIX = "boot:"
"""Prefix of keys of ``meta``, before a boot's id."""
_IN_USE = "SELECT boot_id FROM devices UNION SELECT boot_id FROM summaries UNION SELECT boot_id FROM books"
"""Boots of which something is left; a row has a line of the books."""


class SpoolBoots:
    """Terms of every boot of which something is in the spool. Changes happen inside its transaction.

    Args:
        connection: The spool's.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        query = "SELECT key, value FROM meta WHERE key LIKE ? || '%'"
        self._known = terms_in(connection.execute(query, (PREFIX,)))

    def of(self, boot_id: int) -> BootTerms | None:
        """Terms of a boot; None: nothing is known, as of a boot of release 0.2.0."""
        return self._known.get(boot_id)

    def version(self, boot_id: int) -> VersionHeader | None:
        """Version that the boot's rows name; None: none."""
        found = self._known.get(boot_id)
        return None if found is None else found.version

    @property
    def floor(self) -> float:
        """Highest floor of thinning that any boot was promised; 0: none was promised one."""
        return max((terms.floor for terms in self._known.values()), default=0.0)

    def remember(self, boots: Mapping[int, BootTerms]) -> None:
        """Keep the terms of boots; those that are kept already stay."""
        for boot_id, terms in boots.items():
            values = (f"{PREFIX}{boot_id}", _text(terms))
            self._connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", values)
            self._known.setdefault(boot_id, terms)

    def forget_unused(self) -> None:
        """Remove the terms of boots of which nothing is left. Call it inside a transaction."""
        used = {boot_id for (boot_id,) in self._connection.execute(_IN_USE)}
        for boot_id in self._known.keys() - used:
            self._connection.execute("DELETE FROM meta WHERE key = ?", (f"{PREFIX}{boot_id}",))
            del self._known[boot_id]


def terms_in(meta: Iterable[tuple[str, str]]) -> dict[int, BootTerms]:
    """Terms by boot, from keys and values of ``meta``; what cannot be read is left out."""
    found: dict[int, BootTerms] = {}
    for key, text in meta:
        if key.startswith(PREFIX):
            with suppress(ValueError, KeyError, TypeError, AttributeError, DecodeError):
                raw = json.loads(text)
                version = VersionHeader.parse(raw["version"].encode()) if raw["version"] else None
                terms = BootTerms(version, float(raw["period_s"]), float(raw["floor"]))
                found[int(key.removeprefix(PREFIX))] = terms
    return found


def _text(terms: BootTerms) -> str:
    version = "" if terms.version is None else terms.version.encode().decode()
    return json.dumps({"version": version, "period_s": terms.period_s, "floor": terms.floor})

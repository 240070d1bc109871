"""Whether the registry's file is the newest one and whole: two small files beside it say so.

A registry that is set back, lost or altered would let revoked devices in and take decisions of rollouts a
second time. SQLite cannot tell: it makes a missing file anew, and has no checksums.

* ``<name>.moment`` holds the number of the newest change. The database holds it too (``user_version``), in
  the same transaction: a lower number there is that of an older copy, or of a log that was lost.
* ``<name>.seal`` holds the digest of the whole file. It is written when the last process has closed it in
  order, and removed when one opens it again.

Neither is needed: one that is missing or damaged says nothing. Other databases than SQLite have neither.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson

from feature_store.process_lock import exclusive
from schemas.durable import DISK
from schemas.errors import DamagedFileError, DamagedLakeError, ServiceUnavailableError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

LARGEST = 2**31 - 1
"""SQLite keeps the number in 32 bits; at this one, counting ends."""
_SCHEME = "sqlite:///"
_ADDRESS = "address.json"
"""Written once the service listens: where it is, there was a registry, also one of release 0.2.0."""
_CONSEQUENCE = "nothing of the model service starts, and devices keep what they run"
_REMEDY = (
    "restore the newest copy, or the whole state with `edgeloop restore`; `edgeloop trust catch-up` goes on "
    "with what is there (docs/runbook.md#damaged-model-service)"
)


class RegistryMoment:
    """The two files beside one registry.

    Args:
        path: The registry's file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._moment = path.with_name(f"{path.name}.moment")
        self._seal = path.with_name(f"{path.name}.seal")
        self._lock = path.with_name("migration.lock")
        self._inode: int | None = None
        self.seen = 0

    @classmethod
    def of(cls, url: str) -> RegistryMoment | None:
        """The files of a registry by its URL; None where it is no SQLite file."""
        name = url.removeprefix(_SCHEME)
        return cls(Path(name)) if name != url and name not in ("", ":memory:") else None

    def check(self) -> None:
        """Return if the file is the newest one and whole, as far as can be told.

        Raises:
            DamagedFileError: It is missing, of an earlier moment, or altered.
            ServiceUnavailableError: It stayed locked.
        """
        newest = self.newest()
        if not self.path.exists() or self.path.stat().st_size == 0:
            if newest or self.path.with_name(_ADDRESS).exists():
                raise self._damaged("is empty" if self.path.exists() else "is missing")
            return
        self._check_seal()
        with _opened(self) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != ("ok",):
                raise self._damaged(f"is damaged ({found[0] if found else 'no answer'})")
            number = _number(connection)
        if number < newest:
            raise self._damaged(
                f"is of an earlier moment: its newest change is number {number}, and {newest} were made",
                "it may let in what was revoked since, and decide on rollouts a second time: ",
            )

    def accept(self) -> bool:
        """Take the file as it is for the newest one; returns whether it was not.

        Raises:
            DamagedFileError: It cannot be read at all: it must be moved away first.
        """
        try:
            self.check()
        except DamagedFileError as exc:
            log.warning("%s", exc)
        else:
            return False
        self._seal.unlink(missing_ok=True)
        if self.path.exists() and self.path.stat().st_size:
            with _opened(self) as connection:
                if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                    raise self._damaged("is damaged, and cannot be used as it is: move it away")
                following = min(max(_number(connection), self.newest()) + 1, LARGEST)
                connection.execute(f"PRAGMA user_version = {following}")
                connection.commit()
            self.note(following)
        else:
            self._moment.unlink(missing_ok=True)
            self.path.with_name(_ADDRESS).unlink(missing_ok=True)
        return True

    def newest(self) -> int:
        """Number of the newest change that was ever noted; 0: nobody knows."""
        return int(self._read(self._moment).get("no", 0))

    # While it is open ------------------------------------------------------------------------------------

    def opened(self) -> None:
        """The file may change from now on: its seal is worth nothing any more."""
        self._seal.unlink(missing_ok=True)

    def guard(self, number: int, seen: int) -> None:
        """Return if the open file is still the one in the folder, and no earlier one.

        Args:
            number: Of the newest change, as a transaction sees it.
            seen: The highest number that this process had seen before the transaction began.

        Raises:
            DamagedFileError: It was removed or replaced while it was open.
        """
        inode = self.path.stat().st_ino if self.path.exists() else 0
        if self._inode is None:
            self._inode = inode
        if inode != self._inode or number < seen:
            raise self._damaged("was removed or replaced while it was in use")
        self.seen = max(number, self.seen)

    def note(self, number: int) -> None:
        """Note a change that was committed. It is not synced: after a power cut an older number is known."""
        self.seen = max(number, self.seen)
        with suppress(OSError):  # a full disk: an older number is known
            self._seal.unlink(missing_ok=True)
            DISK.write(self._moment, with_digest(orjson.dumps({"format": 1, "no": number})), sync=False)

    def closed(self) -> None:
        """Seal the file if nobody has it open."""
        with suppress(OSError), exclusive(self._lock):
            if not self.path.exists() or self._is_open():
                return
            before = self.path.stat()
            content = {"format": 1, "sha256": _digest(self.path)}
            DISK.write(self._seal, with_digest(orjson.dumps(content)))
            if self._is_open() or self.path.stat().st_mtime_ns != before.st_mtime_ns:
                self._seal.unlink(missing_ok=True)  # a command opened it meanwhile

    def _is_open(self) -> bool:
        return self.path.with_name(f"{self.path.name}-wal").exists()

    def _check_seal(self) -> None:
        stated = self._read(self._seal).get("sha256")
        if stated is not None and not self._is_open() and _digest(self.path) != stated:
            raise self._damaged(
                "is not the file that was closed: it is altered, or of another moment",
                "it may let in what was revoked, and decide on rollouts a second time: ",
            )

    def _read(self, path: Path) -> dict[str, Any]:
        data = DISK.read(path)
        try:
            return {} if data is None else checked(data, str(path))
        except DamagedLakeError as exc:
            log.warning("%s; it is written anew", exc)
            return {}

    def _damaged(self, problem: str, harm: str = "") -> DamagedFileError:
        return DamagedFileError(f"the model registry {self.path} {problem}: {harm}{_CONSEQUENCE}; {_REMEDY}")


def require_registry(url: str) -> None:
    """Return if there is a registry, or none was ever made.

    Raises:
        DamagedFileError: It is missing or damaged.
    """
    moment = RegistryMoment.of(url)
    if moment is not None:
        moment.check()


def unreadable(path: str, error: object) -> DamagedFileError:
    """The error for what SQLite, or a reader of a record, cannot read."""
    return DamagedFileError(f"the model registry {path} is damaged ({error}): {_CONSEQUENCE}; {_REMEDY}")


@contextmanager
def _opened(moment: RegistryMoment) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(moment.path, timeout=15.0)) as connection:
            yield connection
    except sqlite3.OperationalError as exc:
        raise ServiceUnavailableError(f"the registry does not answer: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise unreadable(str(moment.path), exc) from exc


def _number(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Keeps the spool of a process open: opens it again when it failed, and sets it aside when it is damaged.

Whatever happens here, the process goes on without a spool until it has one again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_producer.clock import Clock
from edge_producer.spool.salvage import CopyOrigin, Salvage
from edge_producer.spool.spool import Spool, SpoolAccess
from edge_producer.spool.spool_errors import as_spool_error
from edge_producer.spool.spool_file import Connect
from edge_producer.spool.spool_lock import SpoolLock
from edge_producer.spool.spool_reading import read_states
from edge_producer.spool.spool_recovery import SpoolRecovery, SpoolStep
from edge_producer.spool.spool_room import SpoolRoom
from edge_producer.spool.spool_set_aside import SalvageState, copies, finish, set_aside, trim
from schemas.durable import DISK, Disk
from schemas.envelope import MessageVerifier
from schemas.errors import SpoolDamagedError, SpoolError, SpoolInUseError, SpoolOwnerError
from schemas.profile import Profile

log = logging.getLogger(__name__)

SALVAGE_EVERY_S = 30.0
"""Time between two attempts to take over what did not find room, or could not be read then."""
_PROBE_BYTES = 64 * 1024


@dataclass(frozen=True)
class SpoolPlace:
    """Where a spool is and what it is for.

    Attributes:
        path: Its file.
        devices: Ids of the devices.
        profile: Their profile.
        max_bytes: Limit of all its files together.
        reserve_bytes: Free room of the disk that must remain; None: by the size of the disk.
        disk: Writes everything but the database.
        connect: Opens the database; None: as usual.
        gateway: Who sends for the devices; empty: each for itself.
    """

    path: Path
    devices: Sequence[str]
    profile: Profile
    max_bytes: int
    reserve_bytes: int | None = None
    disk: Disk = DISK
    connect: Connect | None = None
    gateway: str = ""


class SpoolKeeper:
    """One process's spool. First used by the thread that starts the process, then by the writer's alone.

    Args:
        place: Where it is and what it is for.
        verifiers: Returns the public key of each device whose key is known, by device id.
        clock: Steady seconds.

    Attributes:
        spool: The open spool; None while there is none.
        room: Measures it.
        error: Why there is none; empty while there is one.
        since: UTC time since when there is none.
    """

    def __init__(
        self, place: SpoolPlace, verifiers: Callable[[], Mapping[str, MessageVerifier]], clock: Clock
    ) -> None:
        self._place = place
        self._verifiers = verifiers
        self._clock = clock
        self._recovery = SpoolRecovery()
        self._lock: SpoolLock | None = None
        self._sensing = self._was_open = self._checked = self._stale = self._states_taken = False
        self._states: dict[str, str] = {}
        self._own_copies: set[str] = set()
        self._salvages: dict[str, Salvage] = {}
        self._hopeless: set[str] = set()
        self._commits: dict[str, int] = {}
        self._salvage_due_s = 0.0
        self.spool: Spool | None = None
        self.room = SpoolRoom(place.path, place.max_bytes, place.reserve_bytes, place.disk)
        self.error = ""
        self.since: datetime | None = None

    def open_first(self) -> Spool | None:
        """The spool, before the process senses; None where the disk gives none now.

        Raises:
            SpoolInUseError: Another process has it.
            SpoolOwnerError: It is of other devices, or holds what another profile has to send.
        """
        while self.spool is None and self._recovery.step(self._clock()) is not None:
            self._advance(first=True)
        self._sensing = True
        self._states = self._read_states()
        return self.spool

    def state(self, device_id: str) -> str | None:
        """JSON that a device of an earlier process left; None where there is none, or it cannot be read."""
        return self._states.get(device_id)

    def states_left(self) -> dict[str, str]:
        """States that no device could go on from, because the spool was opened too late; each only once.

        Rows that the filter held back are in them.
        """
        if self.spool is None or self._states_taken:
            return {}
        self._states_taken = True
        known = {name: self.spool.state(name) for name in self._place.devices}
        return {name: state for name, state in known.items() if state is not None}

    def commits_of(self, spool_id: str) -> int | None:
        """Transactions of a spool that was set aside; None where that cannot be read."""
        return self._commits.get(spool_id)

    def get(self) -> Spool | None:
        """The spool; opens it where that is due. None: go on without."""
        if self.spool is None and self._recovery.step(self._clock()) is not None:
            self._advance()
        if self.spool is not None and not self._checked:
            self._check()
        return self.spool

    @property
    def wants_no_rows(self) -> bool:
        """Whether what waits is itself suspected: only its counts should be written."""
        return self._recovery.step(self._clock()) is SpoolStep.OPEN_WITHOUT_ROWS

    def worked(self) -> None:
        """Take note that a transaction was committed."""
        if self.since is not None:
            log.warning("the spool works again, after %d failures", self._recovery.failures)
        self._recovery.worked()
        self.error, self.since = "", None

    def failed(self, error: Exception) -> None:
        """Close the spool after an error, and decide when to open it again and how."""
        error = as_spool_error(self._place.path, error)
        spool, self.spool = self.spool, None
        for salvage in self._salvages.values():
            salvage.close()
        self._salvages = {}
        if spool is not None:
            spool.close()
        self._stale = isinstance(error, SpoolDamagedError) and error.stale
        self._recovery.failed(error, self._clock())
        if str(error) != self.error:
            log.error("the spool cannot be used, sensing goes on: %s", error)
        self.error = str(error) or type(error).__name__
        self.since = self.since or datetime.now(UTC)

    def salvage(self) -> None:
        """Take over, as far as there is room, what copies that were set aside still hold.

        Raises:
            SpoolError: The spool cannot be written.
        """
        now_s = self._clock()
        if self.spool is None or now_s < self._salvage_due_s:
            return
        self._salvage_due_s = now_s + SALVAGE_EVERY_S
        self._open_salvages()
        for name, salvage in list(self._salvages.items()):
            with self._one_copy(name):
                use = self.room.use(self.spool)
                if salvage.take(max(use.left - use.margin // 2, 0), now_s):
                    salvage.close()
                    del self._salvages[name]
        with suppress(OSError):
            trim(self._place.path.parent, self._place.max_bytes, self._place.disk)

    def close(self) -> None:
        """Close the spool and release its lock."""
        for salvage in self._salvages.values():
            salvage.close()
        if self.spool is not None:
            self.spool.close()
            self.spool = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def to_status(self) -> dict[str, Any]:
        """For the status file: whether there is a spool, and if not, why and since when."""
        if self.spool is None or self.error:
            since = None if self.since is None else self.since.isoformat()
            return {
                "state": "failing",
                "error": self.error,
                "since": since,
                "failures": self._recovery.failures,
            }
        return {"state": "ok", **self.room.use(self.spool).to_status()}

    def _advance(self, *, first: bool = False) -> None:
        """Take the step that is due."""
        step = self._recovery.step(self._clock())
        try:
            if self._lock is None:
                self._lock = SpoolLock.take(self._place.path)
            if step is SpoolStep.SET_ASIDE_IF_DISK_WORKS:
                self._probe()
            if step in (SpoolStep.SET_ASIDE, SpoolStep.SET_ASIDE_IF_DISK_WORKS):
                self._set_aside()
            self._open()
            if step is SpoolStep.CHECK and self.spool is not None:
                self.spool.check_content()
                self._checked = True
        except (SpoolInUseError, SpoolOwnerError) as exc:
            if first:
                self.close()
                raise
            self.failed(exc)
        except Exception as exc:
            if not isinstance(exc, SpoolError | OSError):
                log.exception("%s cannot be opened", self._place.path)
            self.failed(exc)

    def _read_states(self) -> dict[str, str]:
        """States of the devices; also of a spool that can be read but not written now."""
        with suppress(SpoolError):
            if self.spool is not None:
                states = {name: self.spool.state(name) for name in self._place.devices}
            else:
                states = read_states(self._place.path)
            self._states_taken = True
            return {name: state for name, state in states.items() if state is not None}
        return {}

    def _open(self) -> None:
        place = self._place
        finish(place.path, place.disk)
        again, pages = self._was_open, self.room.wal_pages
        access = SpoolAccess(self._lock, place.connect, again, pages, place.gateway)
        self.spool = Spool.open(place.path, place.devices, place.profile, self._clock(), access)
        self._was_open = True
        if self._clock() >= self._salvage_due_s:
            # Set before: if it fails, the spool is opened again without.
            self._salvage_due_s = self._clock() + SALVAGE_EVERY_S
            self._open_salvages()
            self._salvage_due_s = 0.0

    def _check(self) -> None:
        """Check all of the file once, in the writer's thread: nothing is written to a damaged file."""
        assert self.spool is not None  # noqa: S101  (the caller has looked)
        try:
            self.spool.check_content()
            self._checked = True
        except SpoolError as exc:
            self.failed(exc)
            self.get()

    def _probe(self) -> None:
        """Find out whether the folder takes another file.

        Raises:
            OSError: It does not.
        """
        probe = self._place.path.with_name("spool.probe")
        self._place.disk.write(probe, bytes(_PROBE_BYTES))
        self._place.disk.remove(probe)

    def _set_aside(self) -> None:
        if self._place.path.exists():
            copy = set_aside(self._place.path, self.error, stale=self._stale, disk=self._place.disk)
            if self._sensing and (self._was_open or self._states_taken):
                self._own_copies.add(copy.path.name)
        self._salvage_due_s = 0.0
        self._recovery.set_aside(self._clock())
        self._was_open = self._sensing
        self._checked = True

    def _open_salvages(self) -> None:
        """Open the copies whose content was not taken over, the oldest first, and take over their state."""
        assert self.spool is not None  # noqa: S101  (the callers have looked)
        for copy in copies(self._place.path.parent):
            name = copy.path.name
            if name in self._salvages or name in self._hopeless or copy.report().state is SalvageState.DONE:
                continue
            own = CopyOrigin.THIS_PROCESS if name in self._own_copies else CopyOrigin.EARLIER
            origin = own if self._sensing else CopyOrigin.NEXT_START
            with self._one_copy(name):
                verifiers, disk = self._verifiers(), self._place.disk
                salvage = self._salvages[name] = Salvage(copy, self.spool, verifiers, origin, disk)
                if salvage.commits is not None:
                    self._commits[salvage.spool_id] = salvage.commits

    @contextmanager
    def _one_copy(self, name: str) -> Iterator[None]:
        """Work on one copy. A fault of its own must harm neither the spool nor other copies.

        Raises:
            SpoolError: The spool cannot be written.
        """
        try:
            yield
        except SpoolError:
            raise
        except OSError as exc:
            log.warning("%s is taken over later: %s", name, exc)
        except Exception:
            log.exception("%s cannot be taken over", name)
            self._hopeless.add(name)

"""The file in which a running stack describes itself, and the lock that allows one stack a folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from infra.printing import instant
from infra.process.child import same_process
from schemas.durable import DISK

DEMO_MARKER = "demo"
"""File whose presence means that only demos used this folder, so that the next one may begin afresh."""
RESTORING = "restore-incomplete"
"""File that marks a folder into which a restore was interrupted: no stack starts in it."""
FILE = "stack.json"
LOCK = "stack.lock"
_LOCK_TRIES = 25
_LOCK_PAUSE_S = 0.02


class ProcessEntry(BaseModel):
    """One child process of the stack.

    Attributes:
        name: ``kafka``, ``worker-1``, …
        pid: Process id; with ``created`` it names one process for ever.
        created: Start time, UTC seconds.
        log: Its log file.
        restarts: How often it was started again.
        failed: Why it is not started again; None: it is.
        ends: How often it ended since it last ran steadily; 0: nothing that a person should know.
        since: When the first of these ends was noticed.
        last_line: Last line of its log at the newest of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    pid: int
    created: float
    log: Path | None
    restarts: int = 0
    failed: str | None = None
    ends: int = 0
    since: AwareDatetime | None = None
    last_line: str = ""

    @property
    def trouble(self) -> str | None:
        """What keeps it from its work, with the last line of its log; None: it runs."""
        running = self.is_running
        if self.failed is not None or (running and not self.ends):
            return self.failed
        if not self.ends:
            return "ended, will be started again"
        times = "once" if self.ends == 1 else f"{self.ends} times"
        since = "" if self.since is None else f" since {instant(self.since)}"
        now = "has been started again" if running else "will be started again"
        return f"ended {times}{since}, {now}: {self.last_line}"

    @property
    def is_running(self) -> bool:
        """True while this very process lives."""
        return same_process(self.pid, self.created) is not None


class BrokerFront(BaseModel):
    """The broker's second listener: clients use ``front_port``, where a proxy leads to ``bind_port``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bind_port: int
    front_port: int


class DeviceAddress(BaseModel):
    """Where devices on other machines find the broker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str
    port: int

    @property
    def broker(self) -> str:
        """host:port for clients."""
        return f"{self.host}:{self.port}"


class StackFile(BaseModel):
    """Content of ``stack.json``.

    Attributes:
        owner: ``up`` for the background supervisor, else the command that holds the stack.
        pid: Process id of the owner.
        created: Start time of the owner, UTC seconds.
        own_broker: False: the broker is somebody else's cluster.
        site: None for somebody else's broker.
        devices: None: devices on other machines cannot reach the broker.
        error: Why the start failed.
        warnings: What does not work though the stack is ready.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    state: Literal["starting", "ready", "stopping", "failed"]
    owner: str
    pid: int
    created: float
    started_at: AwareDatetime
    bootstrap_servers: str | None = None
    own_broker: bool = True
    namespace: str = ""
    site: BrokerFront | None = None
    devices: DeviceAddress | None = None
    processes: tuple[ProcessEntry, ...] = ()
    error: str | None = None
    warnings: tuple[str, ...] = ()

    def troubles(self) -> list[str]:
        """One line for each process that does not do its work, with its log."""
        found = [(entry, entry.trouble) for entry in self.processes]
        return [f"{entry.name} {trouble} (log: {entry.log})" for entry, trouble in found if trouble]

    @property
    def owner_lives(self) -> bool:
        """True while the very process that wrote the file lives."""
        return same_process(self.pid, self.created) is not None


def read_stack(state_dir: Path) -> StackFile | None:
    """What the folder's stack last wrote, alive or not; None: there is no file that can be read."""
    try:
        return StackFile.model_validate_json((state_dir / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def stack_troubles(state_dir: Path) -> list[str]:
    """What stops the folder's stack: a line for each process that does not do its work; empty: nothing."""
    found = read_stack(state_dir)
    return found.troubles() if found is not None and is_held(state_dir) else []


@dataclass
class TroubleWatch:
    """For a command that waits: what stops the stack, each trouble once."""

    state_dir: Path
    _told: set[str] = field(default_factory=set)

    def news(self) -> list[str]:
        """Troubles that were not told before; a process that ends in the same way again is no news."""
        found = read_stack(self.state_dir)
        news = []
        for entry in found.processes if found is not None and is_held(self.state_dir) else ():
            key = f"{entry.name} {entry.failed is None} {entry.last_line}"
            if (trouble := entry.trouble) and key not in self._told:
                self._told.add(key)
                news.append(f"{entry.name} {trouble} (log: {entry.log})")
        return news


def write_stack(state_dir: Path, content: StackFile) -> None:
    """Replace ``stack.json`` atomically; not synced, because a power cut ends whatever it describes."""
    DISK.write(state_dir / FILE, (content.model_dump_json(indent=2) + "\n").encode(), sync=False)


def remove_stack(state_dir: Path) -> None:
    """Remove ``stack.json``: no stack is up."""
    (state_dir / FILE).unlink(missing_ok=True)


def unmark_demo(state_dir: Path) -> None:
    """Remove the demo marker: the folder is a user's from now on, and no demo begins afresh in it."""
    (state_dir / DEMO_MARKER).unlink(missing_ok=True)


class StackLock:
    """Held by the owner of a stack for as long as it lives; the kernel releases it when the owner dies."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK
        self._file: IO[str] | None = None

    def acquire(self) -> bool:
        """True if this process owns the folder's stack now."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._path.open("w")
        for _ in range(_LOCK_TRIES):  # `is_held` takes the lock for a moment
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file = handle
                return True
            time.sleep(_LOCK_PAUSE_S)
        handle.close()
        return False

    def keep(self) -> bool:
        """See that the lock's file is still the one that this process holds; False: another has taken it."""
        if self._file is None:
            return False
        held = os.fstat(self._file.fileno()).st_ino
        if self._path.exists() and self._path.stat().st_ino == held:
            return True
        before = self._file  # somebody removed the file: the lock on it keeps nobody out any more
        kept = self.acquire()
        before.close()
        return kept

    def release(self) -> None:
        """Release the folder. Releasing twice changes nothing."""
        if self._file is not None:
            self._file.close()
            self._file = None


def is_held(state_dir: Path) -> bool:
    """True while some process owns the folder's stack."""
    try:
        with (state_dir / LOCK).open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except BlockingIOError:
        return True
    return False

"""Requests of a person to learn devices anew: a file each in the folder of the edge process."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from schemas.durable import DISK, Disk

FOLDER = "relearn"


class RelearnRequests:
    """Requests to one edge process.

    Args:
        state_dir: The process's folder.
        devices: Its devices; requests for others are left alone.
        disk: Reads and writes.
    """

    def __init__(self, state_dir: Path, devices: Collection[str], disk: Disk = DISK) -> None:
        self._folder = state_dir / FOLDER
        self._devices = frozenset(devices)
        self._disk = disk
        self._carried_out: set[str] = set()

    def ask(self, device_id: str) -> None:
        """Ask for a device of the process; asking twice is asking once.

        Raises:
            ValueError: The process has no such device.
            OSError: The disk takes no change.
        """
        if device_id not in self._devices:
            raise ValueError(f"no device {device_id!r} here; there are: {', '.join(sorted(self._devices))}")
        self._disk.write(self._folder / device_id, b"")

    def take(self) -> list[str]:
        """Devices to learn anew now. Called once a commit: a request ends with the call after it was taken.

        So a crash between the two carries it out again, and loses nothing.
        """
        waiting = set()
        with suppress(OSError):
            waiting = {path.name for path in self._folder.iterdir()} & self._devices
        for device_id in self._carried_out & waiting:
            with suppress(OSError):
                self._disk.remove(self._folder / device_id)
        fresh = sorted(waiting - self._carried_out)
        self._carried_out = set(fresh)
        return fresh

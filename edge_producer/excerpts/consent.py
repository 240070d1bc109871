"""Consent of whoever a device's samples are about: one durable file a device, changed on the spot.

It works without a network, and nothing else changes it: no message, permit or profile. Without the file, or
where it cannot be read, there is no consent.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from schemas.durable import DISK, Disk
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

FOLDER = "consent"
KEPT_CHANGES = 200
"""Changes that are remembered one by one; all are counted."""


@dataclass(frozen=True)
class Consent:
    """What the file says.

    Attributes:
        given: Excerpts may leave.
        changes: How often it was changed.
        history: Instants (ISO 8601, by the machine's clock) and what was chosen, oldest first.
        problem: Why the file cannot be read; empty: it can, or there is none.
    """

    given: bool = False
    changes: int = 0
    history: tuple[Mapping[str, Any], ...] = ()
    problem: str = ""


class ConsentFile:
    """The switch of one device.

    Args:
        state_dir: Folder of the edge process.
        device_id: The device.
        disk: Reads and writes.
    """

    def __init__(self, state_dir: Path, device_id: str, disk: Disk = DISK) -> None:
        self.path = state_dir / FOLDER / f"{device_id}.json"
        self._device_id, self._disk = device_id, disk
        self._seen: tuple[tuple[int, int, int] | None, Consent] = (None, Consent())

    def read(self) -> Consent:
        """What holds now; the file is parsed only where it has changed."""
        try:
            found = self.path.stat()
            mark = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            mark = None
        if mark != self._seen[0]:
            self._seen = mark, self._parsed()
        return self._seen[1]

    def change(self, at: datetime, *, given: bool) -> Consent:
        """Switch; it is on the disk when this returns. The same again changes nothing.

        Raises:
            OSError: The disk does not take it; what held before holds.
        """
        before = self._parsed()
        if before.given == given and not before.problem and before.changes:
            return before
        entry = {"at": at.isoformat(timespec="seconds"), "given": given}
        history = (*before.history, entry)[-KEPT_CHANGES:]
        after = Consent(given, before.changes + 1, history)
        text = json.dumps({"given": given, "changes": after.changes, "history": [*history]})
        self._disk.write(self.path, with_digest(text.encode()), private=True)
        return after

    def _parsed(self) -> Consent:
        try:
            data = self._disk.read(self.path)
            if data is None:
                return Consent()
            raw = checked(data, self.path.name)
            if with_digest(json.dumps(raw).encode()) != data:  # older files of other kinds have no digest
                raise ValueError("it is not as it was written")  # noqa: TRY301
            # Anything but a plain ``true`` is no consent.
            return Consent(raw["given"] is True, int(raw["changes"]), tuple(raw["history"]))
        except (OSError, DamagedLakeError, KeyError, TypeError, ValueError) as exc:
            problem = f"{self.path} cannot be read, which counts as no consent: {exc}"
            log.error("%s", problem, extra={"device_id": self._device_id})  # noqa: TRY400  (it says all)
            return Consent(problem=problem)

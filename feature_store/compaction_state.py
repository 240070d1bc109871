"""``_compaction.json``: how the last compaction of a lake went, for `edgeloop status`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import orjson

from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

STATE = "_compaction.json"


@dataclass(frozen=True)
class CompactionState:
    """How the last compaction went.

    Attributes:
        at: ISO 8601 UTC.
        replaced: Files that it merged.
        seconds: How long it took.
        peak_mb: Most memory that its process has had, MiB.
        error: Why small files are not merged; empty: they are.
    """

    at: str
    replaced: int = 0
    seconds: float = 0.0
    peak_mb: int = 0
    error: str = ""

    def problem(self) -> str | None:
        """What is wrong, in a line; None: nothing."""
        if not self.error:
            return None
        at = datetime.fromisoformat(self.at)
        return f"small files of the lake are not merged since {at:%Y-%m-%d %H:%M} UTC: {self.error}"


def write_state(root: Path, state: CompactionState) -> None:
    """Keep it; it describes running processes, so it need not outlast a power cut."""
    DISK.write(root / STATE, with_digest(orjson.dumps(asdict(state))), sync=False)


def read_state(root: Path) -> CompactionState | None:
    """The state as it was kept; None: there is none that can be read."""
    try:
        return CompactionState(**checked((root / STATE).read_bytes(), STATE))
    except (OSError, DamagedLakeError, TypeError):
        return None

"""Reads every data file once a day, a few at a time; those not as written go on the damage list.

``_scrub.json`` keeps how far the present pass is. Of several workers one scrubs at a time.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import orjson

from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.data_file import content_problem
from feature_store.process_lock import if_free
from schemas.durable import DISK
from schemas.errors import DamagedLakeError
from schemas.self_digest import checked, with_digest

log = logging.getLogger(__name__)

STATE = "_scrub.json"
PERIOD = timedelta(days=1)


@dataclass(frozen=True)
class ScrubPass:
    """How far a pass over all data files is.

    Attributes:
        started: ISO 8601 UTC.
        after: ``<table>/<path>`` of the last file read.
        done: Every file was read.
    """

    started: str
    after: str = ""
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    done: bool = False


class Scrub:
    """Reads the lake's data files in turns.

    Args:
        root: The lake's folder.
        cuts: Of the same lake; files of the newest cut and of pins are read.
        turn_bytes: How much one turn reads; at least one file.
    """

    def __init__(self, root: Path, cuts: CutStore, turn_bytes: int) -> None:
        self._root, self._cuts, self._turn_bytes = root, cuts, turn_bytes

    def turn(self, now: datetime) -> ScrubPass | None:
        """Read the next files; None: another process does, or today's pass is done.

        Args:
            now: UTC; a pass begins a day after the one before began.
        """
        with if_free(self._root / "_scrub.lock") as held:
            if not held:
                return None
            before = self._load()
            if before is None or (before.done and now - datetime.fromisoformat(before.started) >= PERIOD):
                before = ScrubPass(now.isoformat())
            if before.done:
                return None
            after = self._read_some(before)
            DISK.write(self._root / STATE, with_digest(orjson.dumps(asdict(after))), sync=False)
        if after.done:
            log.info("scrub: %d files, %d bytes read, %d damaged", after.files, after.bytes, after.damaged)
            self._report_state()
        return after

    def _read_some(self, state: ScrubPass) -> ScrubPass:
        listed = DamageList(self._root)
        left = self._turn_bytes
        for name, (size, rows) in sorted(self._files().items()):
            if name <= state.after:
                continue
            if left <= 0:
                return state
            problem = content_problem(self._root / name, size)
            table, _, path = name.partition("/")
            if problem is not None:
                damaged = listed.add(table, path, rows, problem)
                log.error("%s (docs/runbook.md#damaged-data-files)", damaged.line())
            n_bytes = size or 0
            left -= n_bytes
            state = replace(
                state,
                after=name,
                files=state.files + 1,
                bytes=state.bytes + n_bytes,
                damaged=state.damaged + (problem is not None),
            )
        return replace(state, done=True)

    def _files(self) -> dict[str, tuple[int | None, int | None]]:
        """Bytes and rows of each file by ``<table>/<path>``."""
        newest = self._cuts.latest()
        kept = [*self._cuts.pins().values(), *([newest] if newest else [])]
        return {
            f"{table}/{path}": (size, rows)
            for cut in kept
            for table, files in cut.tables.items()
            for path, size, rows in files.sized()
        }

    def _report_state(self) -> None:
        for text in (*self._cuts.damaged().values(), *self._cuts.damaged_pins().values()):
            log.warning("scrub: %s (docs/runbook.md#damagedlakeerror)", text)

    def _load(self) -> ScrubPass | None:
        try:
            return ScrubPass(**checked((self._root / STATE).read_bytes(), STATE))
        except (OSError, DamagedLakeError, TypeError):
            return None

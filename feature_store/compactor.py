"""`python -m feature_store.compactor`: a process that compacts a lake when its worker asks it to.

A line on its standard input asks. On its standard output it says a line of JSON now and then: that it goes
on, and how it ended. It ends with its worker, when its input closes, or when it is killed: whatever it was
at, the lake is whole. Its memory is bounded, and it stands back when others want the CPU.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.process_lock import if_free
from feature_store.sorted_file import SORT_BYTES
from schemas.confined import confine
from schemas.errors import PipelineError
from schemas.folder_access import guard_folder
from schemas.kept_memory import keep_memory
from schemas.log_lines import log_to_stderr

log = logging.getLogger(__name__)

NICENESS = 5
ENVIRONMENT = {
    # Without arenas of their own freed memory goes back at once, and the bound counts what is in use.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKIO_WORKER_THREADS": "1",
}
"""Variables that its process is started with."""
MAPPED_BYTES, KEPT_BYTES = 32 * 1024**2, 64 * 1024**2
"""What glibc keeps for the next pieces."""
LOCK = "_compaction.lock"
ABANDONED_S = 600.0
"""A compaction that has not moved for so long holds up no other one: the table's log decides who wins."""
_BEAT_S = 1.0
_MEBIBYTE = 1024**2
_LEAST_SPARE_MB = 96
_SORTING_TAKES = 5
"""Memory that a merge takes, in multiples of what it sorts at a time."""
LEAST_FILES = 32
"""Unsorted files of a table at which a merge is worth its commit and its cut."""


class Compactor:
    """Compacts a lake, one process at a time, and says how it goes on.

    Args:
        lake: The lake.
        tell: Is given each report.
        policy: When and how.
    """

    def __init__(
        self,
        lake: Lake,
        tell: Callable[[dict[str, Any]], None],
        policy: CompactionPolicy | None = None,
    ) -> None:
        self._lake, self._cuts, self._tell, self._policy = lake, CutStore(lake), tell, policy
        self._lock = lake.root / LOCK
        self._told = 0.0

    def run(self) -> None:
        """Compact once, unless another process does; the last report has ``replaced`` or ``error``."""
        started = time.monotonic()
        replaced, error = 0, ""
        try:
            with if_free(self._lock) as held:
                if held or time.time() - self._lock.stat().st_mtime > ABANDONED_S:
                    self._progress()
                    replaced = compact(self._lake, self._cuts, self._policy, self._progress)
        except MemoryError:
            error = "out of memory (STREAM_COMPACT_MEMORY_MB)"
        except (PipelineError, OSError) as exc:
            error = str(exc)
        seconds = round(time.monotonic() - started, 3)
        # Not ``ru_maxrss``: that begins with what the worker had when it started this process.
        peak_mb = _held_mb("VmHWM")
        self._tell({"replaced": replaced, "error": error, "seconds": seconds, "peak_mb": peak_mb})

    def _progress(self) -> None:
        if time.monotonic() - self._told >= _BEAT_S:
            self._told = time.monotonic()
            os.utime(self._lock)
            self._tell({"busy": True})


def main(root: str, memory_mb: str, parent: str) -> None:
    """Compact at each line of standard input, until it ends."""
    log_to_stderr()
    keep_memory(MAPPED_BYTES, KEPT_BYTES)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    guard_folder(Path(root), None)
    lake = Lake.open(Path(root))
    with suppress(
        PipelineError
    ):  # starts the engine's threads: stacks that they reserve are no memory in use
        for table in lake.tables()[:1]:
            lake.log(table)
    held = _held_mb("VmRSS")
    spare_mb = int(memory_mb) - held
    if spare_mb < _LEAST_SPARE_MB:
        for _ in sys.stdin.buffer:
            _say(
                {"replaced": 0, "error": f"STREAM_COMPACT_MEMORY_MB must be {held + _LEAST_SPARE_MB} or more"}
            )
        return
    confine(int(parent), _held_mb("VmData") + spare_mb, NICENESS)
    sort_bytes = min(SORT_BYTES, int(spare_mb * _MEBIBYTE / _SORTING_TAKES))
    policy = CompactionPolicy(least_files=LEAST_FILES, sort_bytes=sort_bytes)
    compactor = Compactor(lake, _say, policy)
    for _ in sys.stdin.buffer:
        compactor.run()


def _held_mb(kind: str) -> int:
    """Memory of this process, MiB: in use (``VmRSS``), most (``VmHWM``), as its bound counts (``VmData``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{kind}:")).split()[1]) // 1024


def _say(report: dict[str, Any]) -> None:
    try:
        os.write(sys.stdout.fileno(), orjson.dumps(report) + b"\n")
    except OSError:
        os._exit(0)  # the worker is gone


if __name__ == "__main__":
    main(*sys.argv[1:])

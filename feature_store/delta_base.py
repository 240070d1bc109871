"""What a Delta log is opened from: a checkpoint and the entries after it, all examined before.

A hint (``_last_checkpoint``) that names no checkpoint is dropped, and so is a damaged checkpoint that the log
can do without. deltalake 1.6.6 by itself stops at the first, and reads an empty entry as one without actions
and some altered checkpoints as other files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store import log_digests
from feature_store.delta_entry import entry_problem
from feature_store.set_aside import set_aside
from schemas.errors import DamagedLakeError

HINT = "_last_checkpoint"
REMEDY = (
    "`edgeloop lake check --repair` makes it anew from cuts and commit records "
    "(docs/runbook.md#a-damaged-delta-log)"
)
_ENTRY, _CHECKPOINT = ".json", ".checkpoint.parquet"
_DIGITS = 20


def read_entry(path: Path) -> bytes | None:
    """A log entry; None: it does not exist.

    Raises:
        DamagedLakeError: It is not as it was written.
    """
    try:
        entry = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _damaged(path, f"cannot be read ({exc.strerror or exc})") from exc
    problem = entry_problem(entry, int(path.name[:_DIGITS]))
    if problem is None and not log_digests.agrees(path, entry):
        problem = "was altered: its bytes are not those of its digest"
    if problem is not None:
        raise _damaged(path, problem)
    return entry


def hinted_checkpoint(log: Path) -> int | None:
    """Version of the checkpoint that the hint names; None: there is no usable hint."""
    try:
        return int(orjson.loads((log / HINT).read_bytes())["version"])
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None


def sound_base(folder: Path) -> int:
    """Examine a table's log, and set aside what it can do without.

    Returns:
        Version of the checkpoint to start from; -1: of the first entry.

    Raises:
        DamagedLakeError: It lacks something, or what is damaged is needed.
    """
    log = folder / "_delta_log"
    names = _names(log)
    entries = {int(n[:_DIGITS]) for n in names if n[:_DIGITS].isdigit() and n[_DIGITS:] == _ENTRY}
    checkpoints = sorted(
        int(n[:_DIGITS]) for n in names if n[:_DIGITS].isdigit() and n[_DIGITS:] == _CHECKPOINT
    )
    if any(".checkpoint." in n and n[_DIGITS:] != _CHECKPOINT for n in names):
        return max(checkpoints, default=-1)  # another engine's, in parts: only deltalake can tell
    while checkpoints and (problem := checkpoint_problem(log / _checkpoint_name(checkpoints[-1]))):
        damaged = checkpoints.pop()
        base = checkpoints[-1] if checkpoints else -1
        if not set(range(base + 1, damaged + 1)) <= entries:
            raise _damaged(log / _checkpoint_name(damaged), problem)
        _drop(folder, log / _checkpoint_name(damaged))
    _drop_bad_hint(folder, checkpoints)
    base = checkpoints[-1] if checkpoints else -1
    newest = max([*entries, base], default=-1)
    for version in range(base + 1, newest + 1):
        path = log / f"{version:020d}{_ENTRY}"
        if read_entry(path) is None:
            raise _damaged(path, "is missing")
    return base


def checkpoint_problem(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None: nothing that shows."""
    try:
        content = path.read_bytes()
        pq.ParquetFile(pa.BufferReader(content))
    except FileNotFoundError:
        return "is missing"
    except (pa.ArrowException, OSError):
        return "is torn or altered"
    agrees = log_digests.agrees(path, content)
    return None if agrees else "was altered: its bytes are not those of its digest"


def _drop_bad_hint(folder: Path, checkpoints: Sequence[int]) -> None:
    hint = folder / "_delta_log" / HINT
    if hint.exists() and hinted_checkpoint(hint.parent) not in checkpoints:
        _drop(folder, hint)


def _drop(folder: Path, path: Path) -> None:
    try:
        set_aside(folder.parent, path)
    except FileNotFoundError:
        pass  # another process has done it
    except OSError as exc:
        raise _damaged(path, f"cannot be set aside ({exc.strerror or exc})") from exc


def _names(log: Path) -> list[str]:
    try:
        return [p.name for p in log.iterdir()]
    except FileNotFoundError:
        return []


def _checkpoint_name(version: int) -> str:
    return f"{version:020d}{_CHECKPOINT}"


def _damaged(path: Path, problem: str) -> DamagedLakeError:
    table = path.parent.parent.name
    return DamagedLakeError(f"table {table}: {path.name} of its Delta log {problem}; {REMEDY}")

"""Data files of the lake by name: which commit wrote one, and which bytes it must hold.

``<task>.<n>.<columns>.<random>-<digest>.parquet``. The digest is the first half of the file's SHA-256. So
wherever a file is named (commit record, Delta log, cut, pin), its content is named too. Files of release
0.2.0 have no digest; what can be read of them is believed. Where the rows of a file are ordered
(``sorted_runs``) the random part begins with ``sorted-``.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

COMPACTED = "compacted"
"""Takes the place of the task in the names of files that hold rows of many commits."""
_SORTED = "sorted-"
_DIGEST_LETTERS = 32
_DIGEST = re.compile(rf"-([0-9a-f]{{{_DIGEST_LETTERS}}})\.parquet\Z")
_CHUNK = 1024**2


class Origin(NamedTuple):
    """Parts of a data file's name: which commit wrote the file, and how many columns it has."""

    task: str
    n: int
    width: int


def origin(path: str) -> Origin | None:
    """Origin of a data file; None: the name is not of this form, so another engine wrote the file."""
    parts = path.rsplit("/", 1)[-1].split(".")
    if len(parts) != 5 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None
    return Origin(parts[0], int(parts[1]), int(parts[2]))


def file_name(origin: Origin, content: pa.Buffer) -> str:
    """A new name for a file of this content; no two calls return the same."""
    return _name(origin, "", hashlib.sha256(content).hexdigest())


def sorted_file_name(origin: Origin, digest: str) -> str:
    """A new name for a file of ordered rows; no two calls return the same.

    Args:
        origin: Of the file.
        digest: SHA-256 of its content, hexadecimal.
    """
    return _name(origin, _SORTED, digest)


def is_sorted(path: str) -> bool:
    """Whether the rows of a data file are ordered, by its name."""
    parts = path.rsplit("/", 1)[-1].split(".")
    return origin(path) is not None and parts[3].startswith(_SORTED)


def _name(origin: Origin, kind: str, digest: str) -> str:
    random = f"{kind}{uuid.uuid4().hex[:8]}"
    return f"{origin.task}.{origin.n:012d}.{origin.width}.{random}-{digest[:_DIGEST_LETTERS]}.parquet"


def digest_of(path: str) -> str | None:
    """The digest in a data file's name; None: release 0.2.0 or another engine wrote the file."""
    found = _DIGEST.search(path)
    return found[1] if found else None


def has_digest(content: bytes | pa.Buffer, path: str) -> bool:
    """Whether the content is the one that the name states; a name without a digest states none."""
    digest = digest_of(path)
    return digest is None or hashlib.sha256(content).hexdigest().startswith(digest)


def presence_problem(path: Path, size: int | None) -> str | None:
    """What is wrong with a file as far as its folder shows, in words; None: nothing.

    Args:
        path: The file.
        size: Bytes it must have; None: not known.
    """
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return "the file is missing"
    if size is not None and found != size:
        return f"the file holds {found} of {size} bytes"
    return None


def content_problem(path: Path, size: int | None) -> str | None:
    """What is wrong with a file's content, in words; reads all of it, a piece at a time. None: nothing."""
    problem = presence_problem(path, size)
    if problem is not None:
        return problem
    try:
        return _digest_problem(path) if digest_of(path.name) else _read_problem(path)
    except FileNotFoundError:
        return "the file is missing"
    except OSError as exc:
        return f"the file cannot be read ({exc.strerror or exc})"


def _digest_problem(path: Path) -> str | None:
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    stated = digest_of(path.name) or ""
    return None if state.hexdigest().startswith(stated) else "the file's bytes are not those of its digest"


def _read_problem(path: Path) -> str | None:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (pa.ArrowException, OSError) as exc:
        return f"the file cannot be read ({str(exc).splitlines()[0][:120]})"
    return None

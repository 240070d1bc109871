"""Hands back memory that only the start of a process needed.

A library's code is read from its file where it is first used. Half of what a start reads (relocation, tables
of operators, what an import runs once) is never used again, and stays resident as long as nobody else wants
the memory. Given back, it is read again where it is needed after all, from the same file.
"""

from __future__ import annotations

import ctypes
import logging
import re
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)

_SMAPS = Path("/proc/self/smaps")
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ \d+\s+(/\S.*)")
_DONTNEED = 4
_OWN = ("Anonymous:", "Private_Dirty:", "Swap:")


def release_code() -> int:
    """Give back the unchanged pages of libraries, where that can be done; returns the bytes."""
    try:
        clean = list(clean_mappings(_SMAPS.read_text(encoding="utf-8", errors="replace")))
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError) as exc:
        log.debug("no memory is given back: %s", exc)
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(end - start for start, end in clean if not madvise(start, end - start, _DONTNEED))


def clean_mappings(smaps: str) -> Iterator[tuple[int, int]]:
    """Spans of memory that hold a library as it is in its file: not writable, and no page ever written.

    A page that was written, as the loader does where it fills in addresses, exists nowhere else.

    Args:
        smaps: Text of ``/proc/<pid>/smaps``.
    """
    span: tuple[int, int] | None = None
    left = set(_OWN)
    for line in smaps.splitlines():
        name, _, rest = line.partition(" ")
        if "-" in name and not name.endswith(":"):
            found = _MAPPING.fullmatch(line)
            whole = found is not None and ".so" in found[3] and not found[3].endswith(" (deleted)")
            span = (int(found[1], 16), int(found[2], 16)) if found is not None and whole else None
            left = set(_OWN)
        elif name in left and rest.split() == ["0", "kB"]:
            left.discard(name)
            if span is not None and not left:
                yield span

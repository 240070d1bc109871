"""What to say of a file that is not there: what is missing, and which file beside it was probably meant."""

from __future__ import annotations

import difflib
from pathlib import Path

_ALIKE = 0.6
"""Least likeness of two names, from 0 to 1, at which one may be a slip of the other."""


def absent(path: Path) -> str:
    """What is missing, in words: the file, or already its folder; and a file there with a similar name."""
    parent = path.parent
    if not parent.is_dir():
        return f"no such file: there is no folder {parent}"
    try:
        names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))
    except OSError:
        names = []
    alike = difflib.get_close_matches(path.name, names, n=1, cutoff=_ALIKE)
    same = [n for n in names if Path(n).stem == path.stem]
    meant = next(iter([*alike, *same]), None)
    return "no such file" + (f"; did you mean {parent / meant}?" if meant else "")

"""Settings that name a folder or a file of this machine: no address of an object store, and not nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def _is_local(path: Path) -> Path:
    if _ADDRESS.match(str(path)):
        raise ValueError(
            f"{path} is an address, not a folder of this machine: object stores are not read yet"
        )
    return path


def _is_named(given: object) -> object:
    if isinstance(given, str) and not given.strip():
        raise ValueError("is empty: give a path ('.' for the folder you are in), or leave the setting out")
    return given


NamedPath = Annotated[Path, BeforeValidator(_is_named)]
"""Path of a file or a folder; an empty text, which would mean the folder one is in, is refused."""
LocalFolder = Annotated[NamedPath, AfterValidator(_is_local)]
"""Path of a folder; ``s3://…`` and the like are refused."""

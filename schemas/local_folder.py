"""A setting that names a folder of this machine: the address of an object store is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def _is_local(path: Path) -> Path:
    if _ADDRESS.match(str(path)):
        raise ValueError(
            f"{path} is an address, not a folder of this machine: object stores are not read yet"
        )
    return path


LocalFolder = Annotated[Path, AfterValidator(_is_local)]
"""Path of a folder; ``s3://…`` and the like are refused."""

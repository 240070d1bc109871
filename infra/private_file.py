"""Files that hold a secret: readable by their owner alone from the first byte."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.errors import StackError

_OWNER_ONLY = 0o600


def write_private(path: Path, text: str) -> None:
    """Write the text beside and name it when it is whole.

    Raises:
        StackError: The folder cannot be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
        with os.fdopen(handle, "w") as file:
            file.write(text)
        beside.replace(path)
    except OSError as exc:
        raise StackError(f"cannot write the secret file {path}: {exc}") from exc

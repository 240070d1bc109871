"""What a user job's process reports to its worker: one JSON object a line, checked before it is believed.

The user's code runs in that process and may write to the same descriptor, whatever it likes.
"""

from __future__ import annotations

from typing import Any

import orjson

LOADING, LOADED, REFUSED, CALLING, BUSY = "loading", "loaded", "refused", "calling", "busy"
"""What the process does: loads the job, has loaded it, cannot load it, calls it, or does our own work."""
_FIELDS: dict[str, dict[str, type]] = {
    LOADING: {},
    LOADED: {"job": str},
    REFUSED: {"error": str, "traceback": str},
    CALLING: {"task": int, "upto": int},
    BUSY: {},
}


def line_of(phase: str, **more: Any) -> bytes:
    """A report as one line."""
    return orjson.dumps({"phase": phase, **more}) + b"\n"


def report_of(line: bytes) -> dict[str, Any] | None:
    """The report in a line; None: the line is none."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(found, dict) or not isinstance(found.get("phase"), str):
        return None
    wanted = _FIELDS.get(found["phase"])
    if wanted is None or any(type(found.get(name)) is not kind for name, kind in wanted.items()):
        return None
    return found

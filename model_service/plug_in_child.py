"""``python -m model_service.plug_in_child``: calls functions of installed packages, in a process of its own.

It answers each request on its standard input with JSON. What the functions print goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import sys
from dataclasses import fields
from datetime import datetime
from typing import Any

from model_service.detectors.trainer_child import read_message, write_message
from schemas.confined import confine
from schemas.errors import DatasetError
from schemas.plug_ins import load_plug_in


def main() -> None:
    """Answer until the input ends. The first message has the bounds; each other one is a call."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = sys.stdin.buffer
    head = json.loads(read_message(asked) or b"{}")
    sys.path[:] = head["path"]
    confine(head["parent"], head["memory_mb"], 0)
    while (request := read_message(asked)) is not None:
        _allow_cpu(head["cpu_s"])
        write_message(answers, json.dumps(_answered(request)).encode())


def _allow_cpu(more_s: int) -> None:
    """Let this process use so much more CPU time; beyond it the kernel ends it."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + 1 + more_s
    resource.setrlimit(
        resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


def _answered(request: bytes) -> dict[str, Any]:
    try:
        # The parent's own request, through a pipe that nobody else writes to.
        group, name, what, gives, given, method = pickle.loads(request)  # noqa: S301
        function = _installed(group, name, what)
    except DatasetError as exc:
        return {"error": str(exc)}
    try:
        found = getattr(function(), method)(*given) if method else function(*given)
        if not isinstance(found, gives):
            return {"error": f"it gave {type(found).__name__}, no {gives.__name__}"}
        answer = {"fields": {f.name: getattr(found, f.name) for f in fields(gives)}}
        return json.loads(json.dumps(answer, default=_plain))  # type: ignore[no-any-return]
    except (Exception, SystemExit) as exc:  # noqa: BLE001  (a user's code: whatever it raises is the answer)
        return {"error": f"{type(exc).__name__}: {exc}"}


def _installed(group: str, name: str, what: str) -> Any:
    return load_plug_in(
        group,
        name,
        f"entry point of {group}",
        DatasetError,
        lambda there: (
            f"{what} names '{name}' of {group}, which is not installed here (there: {there}): install its "
            "package where the model service runs, or take the key out of the profile"
        ),
    )


def _plain(value: object) -> Any:
    """JSON for what ``json`` does not know: instants, numbers and arrays of numpy, mappings."""
    if isinstance(value, datetime):
        return value.isoformat()
    for way in ("tolist", "items"):
        if hasattr(value, way):
            found = getattr(value, way)()
            return dict(found) if way == "items" else found
    raise TypeError(f"{type(value).__name__} is no value of JSON")


if __name__ == "__main__":
    main()

"""``python -m model_service.detectors.trainer_child``: runs a user's trainer, in a process of its own.

It answers each request on its standard input with a graph or with what went wrong. What the trainer prints
goes to standard error.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from importlib.metadata import entry_points
from typing import Any, BinaryIO

import numpy as np

from model_service.detectors.trainer_interface import GROUP, TrainerInput

LENGTH = struct.Struct(">Q")


def main() -> None:
    """Answer until the input ends. The first message names the trainer; each other one is a request."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asked = sys.stdin.buffer
    head = json.loads(read_message(asked) or b"{}")
    sys.path[:] = head["path"]
    trainer: Any = None
    while (request := read_message(asked)) is not None:
        try:
            trainer = trainer or _trainer(head["name"])
            made = trainer.fit(_given(request))
            data = made if isinstance(made, bytes) else made.SerializeToString(deterministic=True)
        except Exception as exc:  # noqa: BLE001  (the code is a user's: whatever it raises is the answer)
            write_message(answers, b"!" + f"{type(exc).__name__}: {exc}".encode())
        else:
            write_message(answers, b"=" + data)


def read_message(file: BinaryIO) -> bytes | None:
    """The next message; None: the file ended."""
    head = file.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = file.read(length)
    return data if len(data) == length else None


def write_message(file: BinaryIO, data: bytes) -> None:
    """Write one message."""
    file.write(LENGTH.pack(len(data)) + data)
    file.flush()


def request_of(given: TrainerInput) -> bytes:
    """A request as bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(given.features, dtype=np.float32), allow_pickle=False)
    head = json.dumps({"names": given.names, "seed": given.seed}).encode()
    return LENGTH.pack(len(head)) + head + buffer.getvalue()


def _given(data: bytes) -> TrainerInput:
    (length,) = LENGTH.unpack(data[: LENGTH.size])
    head = json.loads(data[LENGTH.size : LENGTH.size + length])
    features = np.load(io.BytesIO(data[LENGTH.size + length :]), allow_pickle=False)
    return TrainerInput(features, tuple(head["names"]), head["seed"])


def _trainer(name: str) -> Any:
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if len(found) != 1:
        raise LookupError(f"{len(found)} installed packages have a trainer '{name}' among their entry points")
    return found[0].load()()


if __name__ == "__main__":
    main()

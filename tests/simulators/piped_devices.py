"""Devices as processes of their own, each joined by its bundle and fed through its standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

AHEAD = 240
"""Windows that a device may have unsensed before it is given more."""


class PipedDevice:
    """``edgeloop-edge run --join FILE --source -`` in a home of its own; ends with its input.

    Args:
        join: Its join bundle.
        home: Folder for its state and its log; made here.
        python: Interpreter of its environment.
        path: ``PYTHONPATH`` of the process; empty: the package is installed there.
        hop: Rows from one of its windows to the next.
    """

    def __init__(
        self, join: Path, home: Path, python: str = sys.executable, path: str | None = None, hop: int = 1
    ) -> None:
        home.mkdir(parents=True)
        self.device, self.home = join.stem, home
        self._given, self._hop = 0, hop
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("EDGE", "STREAM_", "MODEL_"))}
        if path is not None:
            kept["PYTHONPATH"] = path
        command = [python, "-m", "edge_producer", "run", "--join", str(join), "--source", "-"]
        more = ["--update-poll-s", "1", "--state-interval-s", "1", "--state-dir", str(home / "state")]
        with (home / "log").open("w") as log:
            self.process = subprocess.Popen(
                [*command, *more], env=kept, cwd=home, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def give(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write rows, once what came before is nearly sensed."""
        reached = self._given // self._hop - AHEAD
        wait_until(lambda: self.sensed > reached or self.ended, 60, f"{self.device} senses")
        assert not self.ended, (self.home / "log").read_text()
        lines = [json.dumps(row) for row in rows]
        self._given += len(lines)
        assert self.process.stdin is not None
        self.process.stdin.write(("\n".join(lines) + "\n").encode())
        self.process.stdin.flush()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def status(self) -> dict[str, Any]:
        """What it says of itself; empty before its first word."""
        try:
            return dict(json.loads((self.home / "state" / "status.json").read_text()))
        except FileNotFoundError:
            return {}

    @property
    def sensed(self) -> int:
        return int(self.status.get("books", {}).get("sensed", 0))

    def close(self) -> None:
        """End its input, and wait for it."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()


def give_all(devices: Sequence[PipedDevice], rows: dict[str, list[dict[str, Any]]], step: int) -> None:
    """Give each device its rows, all of them in the same steps."""
    length = max(map(len, rows.values()))
    for at in range(0, length, step):
        for device in devices:
            if part := rows[device.device][at : at + step]:
                device.give(part)

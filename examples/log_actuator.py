"""A resident actuator that writes down what it is told: python log_actuator.py SOCKET LOG [SAFE_ACTION].

It is told one line of JSON for each action and answers each with one line. A machine that is not told again
within ``hold_s`` takes SAFE_ACTION by itself. Replace ``carry_out`` by what moves your machine.
"""

from __future__ import annotations

import json
import socketserver
import sys
import threading
import time
from pathlib import Path
from typing import Any


class Machines:
    """What each device's machine does; every change is a line of the log."""

    def __init__(self, log: Path, safe: str) -> None:
        self._log, self._safe = log, safe
        self._holds: dict[str, threading.Timer] = {}
        self._lock = threading.Lock()

    def carry_out(self, order: dict[str, Any]) -> None:
        """Do what an order says."""
        with self._lock:
            if (earlier := self._holds.pop(order["device"], None)) is not None:
                earlier.cancel()
            self._write(order["device"], order["action"], order["numbers"], order["cause"])
            if order["hold_s"] and order["action"] != self._safe:
                timer = threading.Timer(order["hold_s"], self._fall_back, [order["device"]])
                timer.daemon = True
                self._holds[order["device"]] = timer
                timer.start()

    def _fall_back(self, device: str) -> None:
        with self._lock:
            self._write(device, self._safe, {}, "not told again")

    def _write(self, device: str, action: str, numbers: dict[str, float], why: str) -> None:
        with self._log.open("a") as log:
            log.write(json.dumps({"device": device, "action": action, "numbers": numbers, "why": why}) + "\n")


class Connection(socketserver.StreamRequestHandler):
    """One client: the edge process, or the watchdog beside it."""

    def handle(self) -> None:
        """Carry out each line, and answer it."""
        for line in self.rfile:
            received_ns = time.monotonic_ns()
            order = json.loads(line)
            try:
                self.server.machines.carry_out(order)  # type: ignore[attr-defined]
                answer = {"id": order["id"], "ok": True, "received_ns": received_ns}
            except OSError as exc:
                answer = {"id": order["id"], "ok": False, "error": str(exc)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class LogActuator(socketserver.ThreadingUnixStreamServer):
    """Serves all clients side by side."""

    daemon_threads = True


def main(path: str, log: str, safe: str = "none") -> None:
    """Serve until the process is ended."""
    Path(path).unlink(missing_ok=True)
    with LogActuator(path, Connection) as server:
        server.machines = Machines(Path(log), safe)  # type: ignore[attr-defined]
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])

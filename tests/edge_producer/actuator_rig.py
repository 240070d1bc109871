"""A real actuator behind a Unix socket, in a thread, that a test has answer, hang, lie or die."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

Answer = Callable[[dict[str, Any]], bytes | None]


def ok(order: dict[str, Any]) -> bytes:
    return json.dumps({"id": order["id"], "ok": True}).encode() + b"\n"


class SocketServer:
    """Answers each order as ``answer`` says; None: not at all.

    Args:
        path: Of its socket.
        reads: Whether it reads what it is sent.

    Attributes:
        orders: Everything that it was told, in order.
        connections: How often it was connected to.
    """

    def __init__(self, path: Path, answer: Answer = ok, *, reads: bool = True) -> None:
        self.path, self.answer = path, answer
        self.orders: list[dict[str, Any]] = []
        self.connections = 0
        self.may_read = threading.Event()
        if reads:
            self.may_read.set()
        self._links: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def said(self, *keys: str) -> list[tuple[Any, ...]]:
        """These keys of every order."""
        return [tuple(order[key] for key in keys) for order in self.orders]

    def send(self, data: bytes) -> None:
        """Say something on the newest connection."""
        self._links[-1].sendall(data)

    def heard(self, n: int) -> list[dict[str, Any]]:
        """The first n orders, once they have come."""
        wait_until(lambda: len(self.orders) >= n, 30, f"{n} orders, not only {self.said('device', 'action')}")
        return self.orders

    def die(self) -> None:
        """End, as a process that is killed: every connection is closed; the file of the socket stays."""
        self.may_read.set()
        for each in (self._listener, *self._links):
            with suppress(OSError):  # it has ended already
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            self._links.append(link)
            self.connections += 1
            threading.Thread(target=self._serve, args=(link,), daemon=True).start()

    def _serve(self, link: socket.socket) -> None:
        self.may_read.wait()
        try:
            for line in link.makefile("rb"):
                order = json.loads(line)
                self.orders.append(order)
                answer = self.answer(order)
                if answer is not None:
                    link.sendall(answer)
        except (OSError, ValueError):
            return

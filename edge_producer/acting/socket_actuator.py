"""An actuator behind a Unix socket: one line of JSON for each order, answered by one line.

The sensing thread writes to the socket itself, without ever waiting; a thread reads the answers. What the
socket does not take at once the thread sends. ``docs/writing-a-decision.md`` is the protocol's page.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

from edge_producer.acting.action_order import LONGEST_LINE, Receipt, order_line
from edge_producer.acting.resident_actuator import ActuatorTimeoutError, GarbledAnswerError, ResidentActuator

_READ_BYTES = 65536
_TICKS = 4
"""Looks at unanswered orders, and at the socket's path, within the time for an answer."""


class SocketActuator(ResidentActuator):
    """Orders over one connection.

    Args:
        path: Of the socket.
        timeout_s: Seconds within which an order is to be answered; then the connection is made anew.
        hold_s: Said in each order: seconds for which it holds; None: until another one.
    """

    def __init__(self, path: str, timeout_s: float, hold_s: float | None) -> None:
        super().__init__(path, timeout_s)
        self._path = path
        self._timeout_s = timeout_s
        self._hold_s = hold_s
        self._socket: socket.socket | None = None
        self._unsent = b""
        self._broken: OSError | None = None
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def _send_next(self) -> None:
        while self._socket is not None and not self._unsent and self._broken is None:
            sent = self._orders.take(self._now_ns())
            if sent is None:
                return
            self._unsent = order_line(sent.order, sent.number, self._hold_s)
            self._push()
            if self._unsent:
                self._wake()

    def _push(self) -> None:
        """Write what the socket takes at once; with the lock."""
        assert self._socket is not None  # noqa: S101  (whoever calls has looked)
        try:
            done = self._socket.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self._unsent = self._unsent[done:]
        except BlockingIOError:
            pass
        except OSError as exc:
            self._broken = exc

    def _wake(self) -> None:
        with suppress(OSError):  # it is full of wakes already
            os.write(self._waker, b".")

    def _serve(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            place = _identity(self._path)  # before: what replaces it from here on is noticed
            link.settimeout(self._timeout_s)
            link.connect(self._path)
            place = place or _identity(self._path)  # it came just now: it replaced nothing
            link.setblocking(False)
            with self._changed:
                self._socket, self._unsent, self._broken = link, b"", None
                self._reached()
                self._send_next()
            try:
                self._listen(link, place)
            finally:
                with self._changed:
                    self._socket, self._unsent = None, b""

    def _listen(self, link: socket.socket, place: tuple[int, int] | None) -> None:
        poller = select.poll()
        poller.register(self._woken, select.POLLIN)
        rest = b""
        while not self._closing:
            poller.register(link, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = dict(poller.poll(self._timeout_s * 1e3 / _TICKS))
            if ready.get(self._woken):
                os.read(self._woken, _READ_BYTES)
            if ready.get(link.fileno(), 0) & (select.POLLIN | select.POLLHUP | select.POLLERR):
                rest = self._take(rest + _read(link))
            with self._changed:
                if self._unsent:
                    self._push()
                self._send_next()
                if self._broken is not None:
                    raise self._broken
            self._look(place)

    def _take(self, data: bytes) -> bytes:
        """Take the answers in what came; returns the part of one that is not complete."""
        at_ns = self._now_ns()
        *lines, rest = data.split(b"\n")
        for line in lines:
            try:
                receipt = Receipt.from_line(line)
            except (ValueError, RecursionError) as exc:
                raise GarbledAnswerError(f"it answers {line[:60]!r}, which is no answer: {exc}") from exc
            with self._changed:
                self._answered(receipt.number, self._receipt_ns(receipt, at_ns), receipt.refused)
        if len(rest) > LONGEST_LINE:
            raise GarbledAnswerError(f"it answers without an end of line: {rest[:60]!r}…")
        return rest

    def _receipt_ns(self, receipt: Receipt, at_ns: int) -> int:
        """When the actuator had the order: by its word, where that lies between sending and answer."""
        sent_ns = self._orders.sent_ns(receipt.number)
        believed = sent_ns is not None and sent_ns <= receipt.received_ns <= at_ns
        return receipt.received_ns if believed else at_ns

    def _look(self, place: tuple[int, int] | None) -> None:
        """Leave a connection that hangs, or whose actuator has been replaced by another one.

        Raises:
            ActuatorTimeoutError: An order is unanswered for too long.
            OSError: Another socket stands at the path.
        """
        with self._changed:
            oldest_ns = self._orders.oldest_sent_ns()
        if oldest_ns is not None and self._now_ns() - oldest_ns > self._timeout_ns:
            raise ActuatorTimeoutError(f"no answer within {self._timeout_s} s")
        if _identity(self._path) not in (place, None):
            raise OSError("another socket stands at the path: connecting anew")


def _read(link: socket.socket) -> bytes:
    read = link.recv(_READ_BYTES)
    if not read:
        raise ConnectionResetError("it closed the connection")
    return read


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands at a path; None: none does."""
    try:
        found = os.stat(path)  # noqa: PTH116  (called several times a second)
    except OSError:
        return None
    return found.st_dev, found.st_ino

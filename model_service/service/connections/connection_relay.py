"""Accepts TCP connections, ends those that the bounds give up, and relays the others to gRPC.

gRPC accepts every connection and cannot bound them by address, so it listens on sockets that only this
process reaches. TLS stays end to end between client and gRPC: nothing here can read what it relays.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import selectors
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

from model_service.service.connections.connection_bounds import ConnectionBounds
from model_service.service.connections.relayed import LISTENING, Relayed
from schemas.errors import OperatorError

log = logging.getLogger(__name__)

_ACCEPT_AT_ONCE: Final = 64
"""Connections accepted in a row, before others get their turn."""
_BACKLOG: Final = 4096
_TICK_S: Final = 0.25
_LINGER_S: Final = 10.0
"""How long the rest of a connection may take once one side has ended."""
_RESET: Final = struct.pack("ii", 1, 0)
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_TRIES: Final = 10
_FREED: Final = 64
"""Silent strangers that are ended where descriptors run out all the same."""


class ConnectionRelay:
    """Relays TCP ports to gRPC's sockets, in a thread of its own.

    Args:
        bounds: Decides which connections are kept.
        folder: Of gRPC's sockets; for a moment each connection has a name there, by which gRPC's handlers
            know it again.
        monotonic: Seconds.
    """

    def __init__(
        self, bounds: ConnectionBounds, folder: Path, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds, self._folder, self._monotonic = bounds, folder, monotonic
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[socket.socket, Path] = {}
        self._connections: dict[int, Relayed] = {}
        self._numbers = count(1)
        self._lingering: dict[int, float] = {}
        self._identified: deque[tuple[int, str]] = deque()
        self._bound: deque[tuple[socket.socket, Path]] = deque()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        self._draining = self._stopping = False
        self._failure: BaseException | None = None
        self._resume_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def listen(self, host: str | Sequence[str], port: int, target: Path, tries: int = _TRIES) -> int:
        """Bind a port, and accept its connections as soon as the thread runs.

        Args:
            host: Name or address, or several.
            port: 0: any that all of them have free.
            target: gRPC's Unix socket.
            tries: How often any port may turn out to be taken on one of several hosts.

        Raises:
            OperatorError: The port is taken, or cannot be bound.
        """
        hosts = (host,) if isinstance(host, str) else host
        try:
            bound = _bind(hosts, port)
        except OSError as exc:
            taken = exc.errno == errno.EADDRINUSE
            if taken and not port and tries > 1:
                return self.listen(host, port, target, tries - 1)
            reason = "the port is taken" if taken else exc.strerror or exc
            where = ", ".join(f"{name}:{port}" for name in hosts)
            raise OperatorError(f"the model service cannot listen on {where}: {reason}") from exc
        at = int(bound[0].getsockname()[1])
        self._bound.extend((listener, target) for listener in bound)
        self._wake()
        return at

    def start(self) -> None:
        """Accept connections from now on."""
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()

    def check(self) -> None:
        """Do nothing while the thread runs.

        Raises:
            OperatorError: It has ended; without it nobody is served.
        """
        if self._failure is not None:
            raise OperatorError(f"the relay of connections ended: {self._failure}") from self._failure

    def identify(self, peer: str, caller: str) -> None:
        """The caller of a connection has shown who it is. From any thread.

        Args:
            peer: Name of the connection, as gRPC's handlers see it.
            caller: Who it is.
        """
        connection = self._named(peer)
        if connection is not None and not connection.identified:
            connection.identified = True
            self._identified.append((connection.number, caller))
            self._wake()

    def address(self, peer: str) -> str:
        """Network address of a connection; empty: it has ended. From any thread."""
        connection = self._named(peer)
        return "" if connection is None else connection.address

    def drain(self) -> None:
        """Accept no more connections; those that are open go on."""
        self._draining = True
        self._wake()

    def stop(self) -> None:
        """End everything."""
        self._stopping = True
        self._wake()
        if self._thread.is_alive():
            self._thread.join()
        for connection in list(self._connections.values()):
            self._close(connection)
        self._close_listeners()
        self._selector.close()
        self._woken.close()
        self._waker.close()

    def _named(self, peer: str) -> Relayed | None:
        name = peer.rpartition("/")[2]
        return self._connections.get(int(name)) if name.isdecimal() else None

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it is awake, or has ended
            self._waker.send(b"\0")

    # The thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_turn()
                for key, mask in self._selector.select(_TICK_S):
                    self._serve(key, mask)
        except BaseException as exc:
            log.exception("unexpected error in the relay of connections: nobody is served")
            self._failure = exc

    def _serve(self, key: selectors.SelectorKey, mask: int) -> None:
        found = key.data
        if found is None:
            self._woken.recv(4096)
        elif found is LISTENING:
            self._accept(key.fileobj)  # type: ignore[arg-type]  # only sockets are registered
        elif not found.closed:
            try:
                self._move(found, key.fileobj, mask)  # type: ignore[arg-type]
            except OSError:
                self._close(found)

    def _take_turn(self) -> None:
        """What is due before the next wait."""
        now = self._monotonic()
        while self._identified:
            self._end(self.bounds.identify(*self._identified.popleft()))
        self._end(self.bounds.overdue(now))
        while self._lingering and (first := next(iter(self._lingering.items())))[1] <= now:
            self._end((first[0],))
        while self._bound:
            listener, target = self._bound.popleft()
            self._listeners[listener] = target
            self._selector.register(listener, selectors.EVENT_READ, LISTENING)
        if self._draining and self._listeners:
            self._close_listeners()
        if self._resume_at is not None and now >= self._resume_at:
            self._accept_again()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                client, peer = listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _NO_DESCRIPTORS:
                    self._make_room()
                return
            number = next(self._numbers)
            self._end(self.bounds.arrive(number, peer[0], self._monotonic()))
            connection = Relayed(number, client, peer[0], self._listeners[listener], self._selector)
            self._connections[number] = connection

    def _make_room(self) -> None:
        """Descriptors ran out although connections are bounded: something else in this process has them."""
        self._end(self.bounds.oldest_silent(_FREED))
        for listener in self._listeners:
            self._selector.unregister(listener)
        self._resume_at = self._monotonic() + _TICK_S

    def _accept_again(self) -> None:
        self._resume_at = None
        for listener in self._listeners:
            self._selector.register(listener, selectors.EVENT_READ, LISTENING)

    def _move(self, connection: Relayed, ready: socket.socket, mask: int) -> None:
        """Move what can be moved; OSError: the connection is broken."""
        if connection.is_silent:
            self._greet(connection)
            return
        for answered in connection.move(ready, mask):
            if not connection.identified:
                self.bounds.turn(connection.number, answered=answered)
        if connection.settle():
            self._close(connection)
        elif connection.half_ended and connection.number not in self._lingering:
            self._lingering[connection.number] = self._monotonic() + _LINGER_S
            self.bounds.turn(connection.number, answered=True)  # gRPC does nothing more for it

    def _greet(self, connection: Relayed) -> None:
        """Read on in the ClientHello; once it is whole, connect to gRPC."""
        try:
            if not connection.read_hello():
                return
        except ValueError as exc:
            self.bounds.refuse(connection.number, str(exc))
            self._close(connection)
            return
        admission = self.bounds.greet(connection.number, self._monotonic())
        self._end(admission.ended)
        if admission.admitted:
            connection.connect(self._folder)
        else:
            self._close(connection)

    def _end(self, numbers: Sequence[int]) -> None:
        """Reset connections that the bounds have given up."""
        for number in numbers:
            if (connection := self._connections.get(number)) is not None:
                connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._close(connection)

    def _close(self, connection: Relayed) -> None:
        connection.close()
        self.bounds.leave(connection.number)
        self._connections.pop(connection.number, None)
        self._lingering.pop(connection.number, None)

    def _close_listeners(self) -> None:
        for listener in (*self._listeners, *(listener for listener, _ in self._bound)):
            if listener in self._selector.get_map():
                self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()
        self._bound.clear()


def _bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Listening sockets for every address of the hosts, all on one port."""
    found = [
        (name, family, address)
        for name in (host.strip("[]") for host in hosts)
        for family, *_, address in socket.getaddrinfo(
            name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    ]
    bound: list[socket.socket] = []
    try:
        for name, family, address in found:
            at = bound[0].getsockname()[1] if bound else port
            listener = socket.socket(family, socket.SOCK_STREAM)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(name != "::"))
            listener.bind((address[0], at, *address[2:]))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound

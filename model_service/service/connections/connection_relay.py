"""The TCP ports of the public process: accepts, bounds strangers, and passes bytes on to gRPC's private sockets.

gRPC accepts every connection and cannot bound them by address, so it listens on sockets that only this process
reaches. TLS stays end to end between client and gRPC; nothing here can read it.
"""

from __future__ import annotations

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

from model_service.service.connections import client_hello
from model_service.service.connections.connection_bounds import ConnectionBounds
from schemas.errors import OperatorError

log = logging.getLogger(__name__)

_CHUNK_BYTES: Final = 256 * 1024
_ACCEPT_AT_ONCE: Final = 64
"""Connections accepted in a row, before others get their turn."""
_BACKLOG: Final = 4096
_TICK_S: Final = 0.25
_LINGER_S: Final = 10.0
"""How long the rest of a connection may take once one side has ended."""
_RESET: Final = struct.pack("ii", 1, 0)
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FREED: Final = 64
"""Silent strangers that are ended when descriptors run out all the same."""


class _Flow:
    """One direction of a connection."""

    __slots__ = ("ended", "pending", "shut", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.pending: bytes = b""
        self.ended = self.shut = False


class _Connection:
    """A client's connection: alone until its ClientHello is whole, then with one to gRPC."""

    __slots__ = ("address", "client", "closed", "flows", "hello", "identified", "masks", "number", "server", "target")

    def __init__(self, number: int, client: socket.socket, address: str, target: Path) -> None:
        self.number, self.client, self.address, self.target = number, client, address, target
        self.hello = bytearray()
        self.server: socket.socket | None = None
        self.flows: tuple[_Flow, ...] = ()
        self.masks: dict[socket.socket, int] = {}
        self.closed = self.identified = False


class ConnectionRelay:
    """Relays TCP ports to Unix sockets in a thread of its own.

    Args:
        bounds: Decides which connections are kept.
        folder: Of the gRPC sockets; each relayed connection gets its name there for a moment, by which gRPC's
            handlers know it again.
        monotonic: Seconds.
    """

    def __init__(
        self, bounds: ConnectionBounds, folder: Path, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.bounds, self._folder, self._monotonic = bounds, folder, monotonic
        self._selector = selectors.DefaultSelector()
        self._listeners: dict[socket.socket, Path] = {}
        self._connections: dict[int, _Connection] = {}
        self._numbers = count(1)
        self._lingering: dict[int, float] = {}
        self._identified: deque[tuple[int, str]] = deque()
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self._woken, self._waker = socket.socketpair()
        self._state = "serving"
        self._failure: BaseException | None = None
        self._paused_until: float | None = None
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def listen(self, host: str, ports: Sequence[int], target: Path) -> int:
        """Bind the first of the ports that is free; call it before ``start``.

        Args:
            host: Name or address.
            ports: In the order of preference; 0: any.
            target: gRPC's Unix socket.

        Raises:
            OperatorError: None of them is free.
        """
        for port in ports:
            try:
                listeners = _bind(host, port)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise OperatorError(f"the model service cannot listen on {host}: {exc.strerror or exc}") from exc
                log.warning("port %d is taken by another program", port)
                continue
            self._listeners |= dict.fromkeys(listeners, target)
            return int(listeners[0].getsockname()[1])
        raise OperatorError(f"the model service cannot listen on {host}:{ports[0]}: the port is taken")

    def start(self) -> None:
        """Accept connections from now on."""
        self._woken.setblocking(False)  # noqa: FBT003
        self._waker.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        for listener in self._listeners:
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, listener)
        self._thread.start()

    def check(self) -> None:
        """Raise what ended the thread, if anything did: without it nobody is served."""
        if self._failure is not None:
            raise self._failure

    def identify(self, peer: str, caller: str) -> None:
        """The caller of a connection has shown who it is. From any thread.

        Args:
            peer: Name of the connection, as gRPC's handlers see it.
            caller: Who it is.
        """
        connection = self._connection(peer)
        if connection is not None and not connection.identified:
            connection.identified = True
            self._identified.append((connection.number, caller))
            self._wake()

    def address(self, peer: str) -> str:
        """Network address of a connection; empty: it has ended. From any thread."""
        connection = self._connection(peer)
        return "" if connection is None else connection.address

    def drain(self) -> None:
        """Accept no more connections; those that are open go on."""
        self._state = "draining"
        self._wake()

    def stop(self) -> None:
        """End everything."""
        self._state = "stopped"
        self._wake()
        if self._thread.is_alive():
            self._thread.join()

    def _connection(self, peer: str) -> _Connection | None:
        name = peer.rpartition("/")[2]
        return self._connections.get(int(name)) if name.isdecimal() else None

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except BlockingIOError:
            pass  # it is awake

    # The thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._state != "stopped":
                for key, mask in self._selector.select(_TICK_S):
                    self._serve(key, mask)
                self._take_turn()
        except BaseException as exc:
            log.exception("the relay ended: nobody is served")
            self._failure = exc
        finally:
            self._close_listeners()
            for connection in list(self._connections.values()):
                self._close(connection)
            self._selector.close()

    def _serve(self, key: selectors.SelectorKey, mask: int) -> None:
        data = key.data
        if data is None:
            self._woken.recv(4096)
        elif isinstance(data, socket.socket):
            self._accept(data)
        elif not data.closed:
            try:
                self._move(data, key.fileobj, mask)  # type: ignore[arg-type]
            except OSError:
                self._close(data)

    def _take_turn(self) -> None:
        """What is due between two waits."""
        now = self._monotonic()
        while self._identified:
            self._end(self.bounds.identify(*self._identified.popleft()))
        self._end(self.bounds.overdue(now))
        while self._lingering and (first := next(iter(self._lingering.items())))[1] <= now:
            self._end((first[0],))
        if self._state == "draining" and self._listeners:
            self._close_listeners()
        if self._paused_until is not None and now >= self._paused_until:
            self._paused_until = None
            for listener in self._listeners:
                self._selector.register(listener, selectors.EVENT_READ, listener)

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
            client.setblocking(False)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = next(self._numbers)
            self._end(self.bounds.arrive(number, peer[0], self._monotonic()).ended)
            connection = _Connection(number, client, peer[0], self._listeners[listener])
            self._connections[number] = connection
            self._watch(connection, client, selectors.EVENT_READ)

    def _make_room(self) -> None:
        """Descriptors ran out although connections are bounded: something else of this process has them."""
        self._end(self.bounds.oldest_silent(_FREED))
        for listener in self._listeners:
            self._selector.unregister(listener)
        self._paused_until = self._monotonic() + _TICK_S

    def _move(self, connection: _Connection, ready: socket.socket, mask: int) -> None:
        """Move what can be moved; OSError: the connection is broken."""
        if not connection.flows:
            self._greet(connection)
            return
        for flow in connection.flows:
            if flow.sink is ready and mask & selectors.EVENT_WRITE:
                flow.pending = flow.pending[_send(flow.sink, memoryview(flow.pending)) :]
            if flow.source is ready and mask & selectors.EVENT_READ and not flow.pending:
                self._pass_on(flow)
                if not connection.identified:
                    self.bounds.turn(connection.number, answered=flow.sink is connection.client)
        self._settle(connection)

    def _greet(self, connection: _Connection) -> None:
        """Read the ClientHello; once it is whole, connect to gRPC."""
        received = connection.client.recv(client_hello.LONGEST - len(connection.hello))
        connection.hello += received
        try:
            if not received:
                raise ValueError("ended")
            if not client_hello.is_whole(connection.hello):
                return
        except ValueError as exc:
            self.bounds.refuse(connection.number, str(exc)) if received else None
            self._close(connection)
            return
        admission = self.bounds.greet(connection.number, self._monotonic())
        self._end(admission.ended)
        if not admission.admitted:
            self._close(connection)
            return
        server = connection.server = self._connect(connection)
        up, down = _Flow(connection.client, server), _Flow(server, connection.client)
        connection.flows = (up, down)
        up.pending = bytes(connection.hello)
        connection.hello.clear()
        up.pending = up.pending[_send(server, memoryview(up.pending)) :]
        self._settle(connection)

    def _connect(self, connection: _Connection) -> socket.socket:
        """A connection to gRPC under a name of its own, which is all that gRPC gets to know of the client."""
        server = socket.socket(socket.AF_UNIX)
        name = self._folder / str(connection.number)
        try:
            server.setblocking(False)
            server.bind(str(name))
            server.connect(str(connection.target))
        except OSError:
            server.close()
            raise
        finally:
            name.unlink(missing_ok=True)
        return server

    def _pass_on(self, flow: _Flow) -> None:
        try:
            received = flow.source.recv_into(self._buffer)
        except BlockingIOError:
            return
        if not received:
            flow.ended = True
            return
        data = self._buffer[:received]
        sent = _send(flow.sink, data)
        if sent < received:
            flow.pending = bytes(data[sent:])

    def _settle(self, connection: _Connection) -> None:
        """Wait for what the connection needs next; close it once both sides have ended."""
        up, down = connection.flows
        if any(flow.ended for flow in connection.flows) and connection.number not in self._lingering:
            self._lingering[connection.number] = self._monotonic() + _LINGER_S
        for flow in connection.flows:
            if flow.ended and not flow.pending and not flow.shut:
                flow.shut = True
                flow.sink.shutdown(socket.SHUT_WR)
        if up.shut and down.shut:
            self._close(connection)
            return
        for end, outgoing, incoming in ((up.source, up, down), (down.source, down, up)):
            reads = not outgoing.ended and not outgoing.pending
            mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if incoming.pending else 0)
            self._watch(connection, end, mask)

    def _watch(self, connection: _Connection, end: socket.socket, mask: int) -> None:
        before = connection.masks.get(end, 0)
        if mask == before:
            return
        if not mask:
            self._selector.unregister(end)
        elif before:
            self._selector.modify(end, mask, connection)
        else:
            self._selector.register(end, mask, connection)
        connection.masks[end] = mask

    def _end(self, numbers: Sequence[int]) -> None:
        """Reset connections that the bounds have given up."""
        for number in numbers:
            if (connection := self._connections.get(number)) is not None:
                connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._close(connection)

    def _close(self, connection: _Connection) -> None:
        connection.closed = True
        for end, mask in connection.masks.items():
            if mask:
                self._selector.unregister(end)
        connection.client.close()
        if connection.server is not None:
            connection.server.close()
        self.bounds.leave(connection.number)
        self._connections.pop(connection.number, None)
        self._lingering.pop(connection.number, None)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if listener in self._selector.get_map():
                self._selector.unregister(listener)
            listener.close()
        self._listeners.clear()


def _send(sink: socket.socket, data: memoryview) -> int:
    """Bytes that the socket took."""
    try:
        return sink.send(data)
    except BlockingIOError:
        return 0


def _bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of the host, all on one port."""
    name = host.strip("[]")
    found = socket.getaddrinfo(name or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    try:
        for family, *_, address in found:
            at = bound[0].getsockname()[1] if bound else port
            listener = socket.socket(family, socket.SOCK_STREAM)
            bound.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(name != "::"))
            listener.bind((address[0], at, *address[2:]))
            listener.listen(_BACKLOG)
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound

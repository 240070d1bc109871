"""One relayed connection: alone until its ClientHello is whole, then with a connection to gRPC."""

from __future__ import annotations

import selectors
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from model_service.service.connections import client_hello

LISTENING: Final = object()
"""Marks listening sockets in the selector; connected ones have their ``Relayed``."""
_CHUNK_BYTES: Final = 256 * 1024


class _Flow:
    """One direction: what was read from the source waits here until the sink takes it."""

    __slots__ = ("ended", "pending", "shut", "sink", "source")

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.pending = b""
        self.ended = self.shut = False

    def push(self) -> None:
        if self.pending:
            self.pending = self.pending[_send(self.sink, self.pending) :]

    def pull(self) -> bool:
        """Read once and pass it on; whether anything came."""
        try:
            received = self.source.recv_into(_BUFFER)
        except BlockingIOError:
            return False
        if not received:
            self.ended = True
            return False
        data = _BUFFER[:received]
        sent = _send(self.sink, data)
        self.pending = bytes(data[sent:])
        return True


class Relayed:
    """A client's connection. Everything but ``identified`` belongs to one thread.

    Args:
        number: Its name in gRPC's handlers.
        client: The accepted socket.
        address: Network address of the client.
        target: gRPC's Unix socket.
        selector: Is told what to wait for.

    Attributes:
        identified: Whether its caller has shown who it is.
        closed: Whether it has been closed; events of before may still come.
    """

    __slots__ = (
        "_flows",
        "_hello",
        "_masks",
        "_selector",
        "_server",
        "_target",
        "address",
        "client",
        "closed",
        "identified",
        "number",
    )

    def __init__(
        self,
        number: int,
        client: socket.socket,
        address: str,
        target: Path,
        selector: selectors.BaseSelector,
    ) -> None:
        self.number, self.client, self.address = number, client, address
        self._target, self._selector = target, selector
        self._hello = bytearray()
        self._server: socket.socket | None = None
        self._flows: tuple[_Flow, ...] = ()
        self._masks: dict[socket.socket, int] = {}
        self.closed = self.identified = False
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._wait_for(client, selectors.EVENT_READ)

    @property
    def is_silent(self) -> bool:
        """Whether its ClientHello is not whole yet."""
        return not self._flows

    @property
    def half_ended(self) -> bool:
        """Whether one side has ended."""
        return any(flow.ended for flow in self._flows)

    def read_hello(self) -> bool:
        """Read once; whether the ClientHello is whole.

        Raises:
            OSError: The connection is broken, or has ended.
            ValueError: The bytes are something else.
        """
        received = self.client.recv(client_hello.LONGEST - len(self._hello))
        if not received:
            raise ConnectionResetError
        self._hello += received
        return client_hello.is_whole(self._hello)

    def connect(self, folder: Path) -> None:
        """Connect to gRPC under a name of its own: all that gRPC gets to know of the client.

        Raises:
            OSError: gRPC takes no more connections now.
        """
        server = self._server = socket.socket(socket.AF_UNIX)
        server.setblocking(False)
        name = folder / str(self.number)
        try:
            server.bind(str(name))
            server.connect(str(self._target))
        finally:
            name.unlink(missing_ok=True)
        self._flows = (_Flow(self.client, server), _Flow(server, self.client))
        self._flows[0].pending = bytes(self._hello)
        self._hello.clear()
        self._flows[0].push()
        self.settle()

    def move(self, ready: socket.socket, mask: int) -> Iterator[bool]:
        """Move what the ready end allows; yields, where bytes came, whether they went to the client.

        Raises:
            OSError: The connection is broken.
        """
        for flow in self._flows:
            if flow.sink is ready and mask & selectors.EVENT_WRITE:
                flow.push()
            reads = flow.source is ready and mask & selectors.EVENT_READ
            if reads and not flow.pending and not flow.ended and flow.pull():
                yield flow.sink is self.client

    def settle(self) -> bool:
        """Wait for what is needed next; whether both sides have ended, and all is delivered."""
        up, down = self._flows
        for flow in self._flows:
            if flow.ended and not flow.pending and not flow.shut:
                flow.shut = True
                flow.sink.shutdown(socket.SHUT_WR)
        if up.shut and down.shut:
            return True
        for end, outgoing, incoming in ((up.source, up, down), (down.source, down, up)):
            reads = not outgoing.ended and not outgoing.pending
            mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if incoming.pending else 0)
            self._wait_for(end, mask)
        return False

    def close(self) -> None:
        """Close both ends."""
        self.closed = True
        for end in list(self._masks):
            self._wait_for(end, 0)
        self.client.close()
        if self._server is not None:
            self._server.close()

    def _wait_for(self, end: socket.socket, mask: int) -> None:
        before = self._masks.get(end, 0)
        if mask == before:
            return
        if not mask:
            self._selector.unregister(end)
        elif before:
            self._selector.modify(end, mask, self)
        else:
            self._selector.register(end, mask, self)
        self._masks[end] = mask


_BUFFER: Final = memoryview(bytearray(_CHUNK_BYTES))
"""Shared by all connections, which one thread relays."""


def _send(sink: socket.socket, data: bytes | memoryview) -> int:
    """How many of the bytes the socket took."""
    try:
        return sink.send(data)
    except BlockingIOError:
        return 0

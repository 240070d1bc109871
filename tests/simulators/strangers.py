"""Connections of strangers to a model service, many at once, each of one kind."""

from __future__ import annotations

import selectors
import socket
import ssl

KINDS = {
    "silent": "plain TCP that sends nothing",
    "half": "handshakes that stop after the ClientHello",
    "idle": "TLS connections that send nothing",
    "slow": "ClientHellos that stop before their end",
}


def client_hello() -> bytes:
    """The first bytes of a TLS connection."""
    outgoing = ssl.MemoryBIO()
    try:
        _context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake ended before it began")


class Strangers:
    """Holds connections until the end of the ``with`` block.

    Args:
        port: Of a listener on the loopback interface.
        kind: Of ``KINDS``.
        count: How many to open.
        address: Where they come from.
    """

    def __init__(self, port: int, kind: str, count: int, address: str = "127.0.0.1") -> None:
        self._port, self._kind, self._count, self._address = port, kind, count, address
        self._hello = client_hello()
        self._open: list[socket.socket] = []

    def __enter__(self) -> Strangers:
        for _ in range(self._count):
            self._open.append(self._connect())
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._open:
            one.close()

    def held(self) -> int:
        """How many the service has not ended."""
        with selectors.PollSelector() as selector:
            alive = [one for one in self._open if one.fileno() >= 0]
            for one in alive:
                selector.register(one, selectors.EVENT_READ)
            readable = {key.fileobj for key, _ in selector.select(0)}
        return sum(one not in readable or not _ended(one) for one in alive)

    def _connect(self) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", self._port), 10, (self._address, 0))
        try:
            if self._kind == "half":
                one.sendall(self._hello)
            elif self._kind == "slow":
                one.sendall(self._hello[:-1])
            elif self._kind == "idle":
                one = _context().wrap_socket(one, server_hostname="localhost")
        except OSError:
            one.close()  # the service ended it meanwhile
        return one


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])  # gRPC ends others at once
    return context


def _ended(one: socket.socket) -> bool:
    """Whether the other side has closed; what it sent before is read."""
    one.setblocking(False)
    try:
        while data := one.recv(65536):
            del data
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        pass
    return True

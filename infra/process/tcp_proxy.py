"""A network link that can be cut: a TCP proxy between clients and one server."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Self

from infra.process.ports import LOOPBACK, free_ports
from schemas.errors import StackError

_CHUNK_BYTES = 256 * 1024


class TcpProxy:
    """Forwards a loopback port to a target, until it is cut.

    A cut link ends every live connection and refuses new ones; bytes in flight are lost. One thread
    accepts, one serves each connection.

    Args:
        target: Host and port of the server.
        listen_port: Loopback port to listen on; None takes a free one.
    """

    def __init__(self, target: tuple[str, int], listen_port: int | None = None) -> None:
        self.target = target
        self.listen_port = listen_port or free_ports(1)[0]
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._live: set[socket.socket] = set()
        self._relays: set[threading.Thread] = set()

    @property
    def is_cut(self) -> bool:
        """True while nothing passes."""
        return self._listener is None

    def start(self) -> Self:
        """Start to forward.

        Raises:
            StackError: The listening port is taken.
        """
        with self._lock:
            if self._listener is None:
                self._listener = self._listen()
                self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
                self._acceptor.start()
        return self

    def cut(self) -> None:
        """Drop every live connection and refuse new ones. Returns when nothing passes any more."""
        with self._lock:
            listener, self._listener = self._listener, None
            acceptor, self._acceptor = self._acceptor, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            listener.close()
        if acceptor is not None:
            acceptor.join()
        with self._lock:
            live, relays = list(self._live), list(self._relays)
        for each in live:
            _drop(each)
        for relay in relays:
            relay.join()

    restore = start
    stop = cut

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, self.listen_port))
            listener.listen(128)
        except OSError as exc:
            listener.close()
            raise StackError(f"port {self.listen_port} is taken by another program: {exc.strerror}") from exc
        return listener

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            relay = threading.Thread(target=self._relay, args=(client,), daemon=True)
            with self._lock:
                self._live.add(client)
                self._relays.add(relay)
            relay.start()

    def _relay(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            server = socket.create_connection(self.target, timeout=2.0)
            server.settimeout(None)
            with self._lock:
                self._live.add(server)
            _pump(client, server)
        except (OSError, ValueError):  # ValueError: the socket was closed during the wait
            pass
        finally:
            with self._lock:
                self._live.difference_update({client, server})
                self._relays.discard(threading.current_thread())
            for each in (client, server):
                if each is not None:
                    each.close()


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Copy both ways until one side closes."""
    with selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while True:
            for key, _ in selector.select():
                source: socket.socket = key.fileobj  # type: ignore[assignment]  # only sockets are registered
                data = source.recv(_CHUNK_BYTES)
                if not data:
                    return
                key.data.sendall(data)


def _drop(each: socket.socket) -> None:
    """End the connection; its relay wakes up and closes it."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)

"""A link that can be cut: live connections drop, new ones are refused, a restored one works again."""

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from infra.process.ports import LOOPBACK, answers
from infra.process.tcp_proxy import TcpProxy
from schemas.errors import StackError


@contextlib.contextmanager
def echo_server() -> Iterator[tuple[str, int]]:
    """A server that answers every connection with what it receives."""
    with socket.create_server((LOOPBACK, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        while data := connection.recv(4096):
                            connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[:2]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def echoed(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(4096)


def is_dropped(connection: socket.socket) -> bool:
    connection.settimeout(5.0)
    try:
        return connection.recv(10) == b""
    except ConnectionError:
        return True


def test_bytes_pass_both_ways():
    with (
        echo_server() as target,
        TcpProxy(target) as link,
        socket.create_connection((LOOPBACK, link.listen_port)) as connection,
    ):
        assert echoed(connection, b"hello") == b"hello"


def test_a_cut_drops_live_connections_and_refuses_new_ones():
    with echo_server() as target, TcpProxy(target) as link:
        with socket.create_connection((LOOPBACK, link.listen_port)) as connection:
            assert echoed(connection, b"hello") == b"hello"
            link.cut()
            assert link.is_cut
            assert not answers(LOOPBACK, link.listen_port)
            assert is_dropped(connection)
        assert answers(*target)


def test_a_restored_link_works_again_on_the_same_port():
    with echo_server() as target, TcpProxy(target) as link:
        port = link.listen_port
        link.cut()
        link.restore()
        with socket.create_connection((LOOPBACK, port)) as connection:
            assert echoed(connection, b"again") == b"again"


def test_cutting_twice_and_restoring_twice_changes_nothing():
    with echo_server() as target, TcpProxy(target) as link:
        link.cut()
        link.cut()
        link.restore()
        link.restore()
        with socket.create_connection((LOOPBACK, link.listen_port)) as connection:
            assert echoed(connection, b"x") == b"x"


def test_a_taken_listening_port_is_named():
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=f"port {port} is taken"):
            TcpProxy(("127.0.0.1", 1), port).start()

"""Laws of the relay: bytes arrive as they were sent, and only what has begun TLS reaches the server."""

import contextlib
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from model_service.service.connections.connection_bounds import ConnectionBounds, ConnectionLimits
from model_service.service.connections.connection_relay import ConnectionRelay
from model_service.service.connections.private_sockets import private_sockets
from schemas.errors import OperatorError
from tests.model_service.test_connection_bounds import hello
from tests.waiting import wait_until

HELLO = hello()


class Server:
    """What stands behind the relay: keeps what each connection sent, and does as the test says."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(64)
        self.accepted = []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                self.accepted.append(self.listener.accept())

    def take(self, number=0):
        """The connection of that number, and its name."""
        wait_until(lambda: len(self.accepted) > number, 10, "a connection")
        connection, name = self.accepted[number]
        connection.settimeout(10)
        return connection, name

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection, _ in self.accepted:
            connection.close()


class Rig:
    def __init__(self, folder, **limits):
        given = {"silent": 64, "silent_each": 64, "greeted": 64, "greeted_each": 64, "whole": 64, **limits}
        self.relay = ConnectionRelay(ConnectionBounds(ConnectionLimits(**given)), folder)
        self.server = Server(folder / "behind")
        self.port = self.relay.listen("127.0.0.1", 0, folder / "behind")
        self.relay.start()
        self.clients = []

    def client(self, data=HELLO):
        one = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        one.sendall(data)
        self.clients.append(one)
        return one

    def close(self):
        self.relay.stop()
        self.relay.check()
        self.server.close()
        for one in self.clients:
            one.close()


@pytest.fixture
def rig(tmp_path):
    with private_sockets(tmp_path) as folder:
        made = Rig(folder)
        yield made
        made.close()


def read(connection, size):
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def has_ended(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_what_one_side_sends_the_other_gets(rig):
    client = rig.client()
    server, _ = rig.server.take()
    assert read(server, len(HELLO)) == HELLO
    up, down = os.urandom(3_000_000), os.urandom(5_000_000)
    sending = [
        threading.Thread(target=one.sendall, args=(data,)) for one, data in ((client, up), (server, down))
    ]
    for thread in sending:
        thread.start()
    got = []
    reading = threading.Thread(target=lambda: got.append(read(server, len(up))))
    reading.start()
    assert read(client, len(down)) == down
    for thread in (*sending, reading):
        thread.join()
    assert got == [up]


def test_nothing_passes_before_the_client_hello_is_whole(rig):
    client = rig.client(HELLO[:-1])
    rig.client()
    server, _ = rig.server.take()  # the second one's: the first has waited for longer
    assert read(server, len(HELLO)) == HELLO
    assert len(rig.server.accepted) == 1
    client.sendall(HELLO[-1:] + b"more")
    server, _ = rig.server.take(1)
    assert read(server, len(HELLO) + 4) == HELLO + b"more"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\n", b"\x00"])
def test_what_is_no_tls_is_ended_at_once(rig, data):
    assert has_ended(rig.client(data))
    assert rig.server.accepted == []
    assert rig.relay.bounds.lost == {"not a TLS ClientHello": 1}


def test_the_last_bytes_of_the_server_arrive_before_the_end(rig):
    client = rig.client()
    server, _ = rig.server.take()
    read(server, len(HELLO))
    sender = threading.Thread(target=lambda: (server.sendall(b"x" * 2_000_000), server.close()))
    sender.start()
    assert len(read(client, 2_000_000)) == 2_000_000
    assert has_ended(client)
    sender.join()


def test_a_client_that_leaves_leaves_the_server_too(rig):
    rig.client().close()
    server, _ = rig.server.take()
    assert read(server, len(HELLO) + 1) == HELLO
    server.close()
    wait_until(lambda: len(rig.relay.bounds) == 0, 10, "the connection to be forgotten")


def test_a_reader_that_stops_stops_its_writer(rig):
    rig.client()
    server, _ = rig.server.take()
    server.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += server.send(b"x" * 65_536)
    wait_until(lambda: _is_stuck(server), 10, "the writer to wait")
    assert sent < 64 * 2**20  # kernels buffer some megabytes; the relay holds one chunk


def _is_stuck(server):
    try:
        server.send(b"x" * 65_536)
    except BlockingIOError:
        return True
    return False


def test_the_server_knows_each_connection_by_a_name_and_its_address(rig):
    rig.client()
    _, name = rig.server.take()
    peer = f"unix:{name}"
    assert rig.relay.address(peer) == "127.0.0.1"
    rig.relay.identify(peer, "m-1")
    wait_until(lambda: rig.relay.bounds.strangers == 0, 10, "the caller to be known")
    assert rig.relay.address("unix:") == rig.relay.address("ipv4:127.0.0.1:9") == ""


def test_a_displaced_stranger_is_ended_and_the_newcomer_served(tmp_path):
    with private_sockets(tmp_path) as folder:
        rig = Rig(folder, silent=2, silent_each=2)
        crowd = [rig.client(b"") for _ in range(5)]
        assert all(has_ended(one) for one in crowd[:3])
        rig.client()
        server, _ = rig.server.take()
        assert read(server, len(HELLO)) == HELLO
        rig.close()


def test_a_stranger_that_takes_its_time_is_ended(tmp_path):
    with private_sockets(tmp_path) as folder:
        rig = Rig(folder, stranger_s=0.3)
        silent, greeted, known = rig.client(b""), rig.client(), rig.client()
        peers = [f"unix:{rig.server.take(n)[1]}" for n in range(2)]
        [number] = [n for n, peer in enumerate(peers) if peer.endswith(f"/{len(rig.clients)}")]
        rig.relay.identify(peers[number], "m-1")
        assert has_ended(silent)
        assert has_ended(greeted)
        server, _ = rig.server.take(number)
        server.sendall(b"still here")
        assert read(known, 10) == b"still here"
        rig.close()


def test_a_taken_port_is_named_and_another_can_be_added_while_it_runs(rig):
    target = Path(rig.server.listener.getsockname())
    with pytest.raises(OperatorError, match=f"127.0.0.1:{rig.port}: the port is taken"):
        rig.relay.listen("127.0.0.1", rig.port, target)
    rig.port = rig.relay.listen("127.0.0.1", 0, target)
    rig.client()
    server, _ = rig.server.take()
    assert read(server, len(HELLO)) == HELLO


def test_a_draining_relay_accepts_nothing_and_ends_nothing(rig):
    client = rig.client()
    server, _ = rig.server.take()
    read(server, len(HELLO))
    rig.relay.drain()
    wait_until(lambda: _refused(rig.port), 10, "the port to close")
    server.sendall(b"goes on")
    assert read(client, 7) == b"goes on"


def _refused(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_only_the_owner_reaches_the_private_sockets(tmp_path):
    with private_sockets(tmp_path) as folder:
        [real] = tmp_path.iterdir()
        assert folder.resolve() == real
        assert stat.S_IMODE(real.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == []


def test_a_long_path_is_no_obstacle(tmp_path):
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with private_sockets(deep) as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "behind"))


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_has_is_not(tmp_path):
    (tmp_path / "sockets-left").mkdir()
    (tmp_path / "sockets-left" / "behind").touch()
    with private_sockets(tmp_path) as mine:
        assert not (tmp_path / "sockets-left").exists()
        kept = mine.resolve()
        with private_sockets(tmp_path):
            assert kept.exists()

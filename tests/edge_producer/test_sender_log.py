"""A broker that is away is one line in a device's log, however long it stays away."""

import socket

from edge_producer.clock import SteadyClock
from edge_producer.sending.sender import Sender
from tests.waiting import wait_until


def test_a_broker_that_is_not_there_is_said_once(caplog, capfd):
    with socket.socket() as taken:  # bound, and listens to nobody
        taken.bind(("127.0.0.1", 0))
        servers = f"127.0.0.1:{taken.getsockname()[1]}"
        sender = Sender(servers, "", "edge", SteadyClock())
        wait_until(lambda: sender.poll(0.05) is not None and sender.counts["connections_lost"] >= 2)
        sender.close()
    said = [r.getMessage() for r in caplog.records if servers in r.getMessage()]
    assert len(said) == 1, said
    assert said[0].startswith(f"the broker at {servers}: ")
    assert said[0].endswith("rows wait in the spool")
    assert "FAIL" not in capfd.readouterr().err

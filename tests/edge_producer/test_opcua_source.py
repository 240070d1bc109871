"""Laws of OPC UA sources, on a real server. What all sources share is in test_source_contract.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.settings import EdgeSettings
from edge_producer.sources import opcua_session, open_source
from edge_producer.sources.opcua_address import OpcUaAddress, channel_nodes
from edge_producer.sources.opcua_source import OpcUaSource
from edge_producer.sources.reading_queue import ChannelReading, ReadingQueue
from edge_producer.sources.reported_channels import MOST_READINGS
from edge_producer.sources.source_access import SourceAccess
from edge_producer.sources.standing_values import StandingValues
from schemas.errors import SourceError
from schemas.instants import from_us
from tests.edge_producer.source_rigs import Watched, device_command, ms, opened_live, profile, writes_of
from tests.simulators.opcua_server import BAD, GOOD, OVERFLOWED, PASSWORD, UNCERTAIN, USER, certify
from tests.simulators.tcp_relay import TcpRelay
from tests.waiting import wait_until

QUICK = {"sampling": {"rate_hz": 50.0, "window_samples": 1, "hop_samples": 1}, "align": {"max_age_s": 0.06}}
Open = Callable[..., Watched]


@pytest.fixture
def opened(tmp_path) -> Iterator[Open]:
    """Opens sources as the settings do, and reads them in a thread until the test ends."""
    made: list[Watched] = []

    def open_(address: str, used=None, **given: object) -> Watched:
        made.append(Watched(opened_live(address, used or profile(), tmp_path, **given)))
        return made[-1]

    yield open_
    for each in made:
        each.stop()


@pytest.fixture
def relayed(opcua_places) -> Iterator[tuple]:
    """A server, a prefix of its nodes, and a wire to it."""
    server, prefix = opcua_places()
    relay = TcpRelay(server.port)
    yield server, prefix, relay
    relay.cut()


@pytest.fixture
def own(tmp_path) -> dict[str, Path]:
    """Settings of a device with a certificate of its own."""
    certify(tmp_path, "own", "urn:edgeloop:d1")
    return {"source_cert": tmp_path / "own.pem", "source_key": tmp_path / "own.key"}


def now_us() -> int:
    return time.time_ns() // 1000


def shown(watched: Watched) -> list[list[float | None]]:
    return [[None if math.isnan(v) else float(v) for v in w.samples[-1]] for w in watched.windows]


@pytest.mark.parametrize(("status", "count"), [(BAD, "bad"), (UNCERTAIN, "uncertain")])
def test_a_value_that_is_not_good_is_missing_at_once_however_old_a_value_may_be(
    status, count, opcua_places, opened
):
    server, prefix = opcua_places()
    watched = opened(server.address(prefix), profile(window=1, align={"max_age_s": 1000.0}))
    watched.until("bad", 2)  # no value yet
    before = watched.count(count)
    for step in (0, 1):
        server.write(*writes_of(prefix, (step, 20 + step, step)))
    server.write((f"{prefix}.heat", 22, 1000 * ms(2), status))
    server.write(*((f"{prefix}.load", step, 1000 * ms(step), GOOD) for step in (2, 3, 4)))
    wait_until(lambda: [None, 3] in shown(watched), what="windows without heat")
    assert shown(watched)[-4:] == [[20, 0], [21, 1], [None, 2], [None, 3]]
    assert watched.count(count) == before + 1


def test_what_is_not_reported_again_stands_while_the_server_answers_and_no_longer(relayed, opened):
    server, prefix, relay = relayed
    hour_ago = now_us() - 3600 * 10**6
    server.write((f"{prefix}.heat", 20, hour_ago, GOOD), (f"{prefix}.load", 2, hour_ago, GOOD))
    watched = opened(server.address(prefix, relay.port), profile(**QUICK))
    wait_until(lambda: shown(watched)[-30:] == [[20, 2]] * 30, what="what stands")
    assert abs(watched.windows[-1].end.timestamp() - time.time()) < 30
    assert watched.count("repeated") >= 60
    server.write((f"{prefix}.heat", 21, now_us(), GOOD))
    wait_until(lambda: watched.newest() == [21, 2], what="the change")
    relay.cut()
    wait_until(lambda: shown(watched)[-1] == [None, None], what="windows without samples")


def test_a_server_that_falls_silent_is_lost(relayed, opened, monkeypatch):
    monkeypatch.setattr(opcua_session, "LOST_AFTER_S", 0.3)
    monkeypatch.setattr(opcua_session, "LOOK_S", 0.05)
    server, prefix, relay = relayed
    watched = opened(server.address(prefix, relay.port))
    watched.until("subscribed")
    relay.hold()
    watched.until_error("the server has reported nothing for 0 s")


def test_times_of_the_server_are_taken_where_the_address_says_so(opcua_places, opened):
    server, prefix = opcua_places()
    watched = opened(server.address(prefix, time="server"), profile(**QUICK))
    watched.until("subscribed")
    server.write((f"{prefix}.heat", True, None, GOOD), (f"{prefix}.load", 2.5, None, GOOD))
    wait_until(lambda: watched.newest() == [1, 2.5], what="both values")
    assert watched.count("unreadable_time") == 0


def test_values_that_the_server_dropped_are_known_by_their_status(opcua_places, opened):
    server, prefix = opcua_places()
    watched = opened(server.address(prefix))
    watched.until("subscribed")
    server.write((f"{prefix}.heat", 20, 1000 * ms(0), OVERFLOWED))
    watched.until("server_overrun")
    assert watched.count("records") == 1


def test_a_node_that_the_server_does_not_have_is_said_and_the_others_go_on(opcua_places, opened):
    server, prefix = opcua_places()
    mapped = {
        "heat": {"node": f"nsu=urn:plant;s={prefix}.heat", "scale": 2.0},
        "load": {"node": "ns=2;s=gone"},
    }
    watched = opened(server.address(prefix), profile(window=1, source={"channels": mapped}))
    watched.until("unknown_node")
    server.write(*((f"{prefix}.heat", 20 + k, 1000 * ms(k), GOOD) for k in range(3)))
    wait_until(lambda: [40, None] in shown(watched), what="heat")
    neither = opened(server.address("gone"))
    neither.until_error("no node ns=2;s=gone.heat for heat: BadNodeIdUnknown; no node ns=2;s=gone.load")


def test_a_node_that_floods_is_bounded_and_counted_and_starves_no_other(opcua_places, tmp_path):
    server, prefix = opcua_places()
    address, used = OpcUaAddress.parse(server.address(prefix)), profile()
    settings = EdgeSettings(state_dir=tmp_path, profile="plant", devices=("d1",))
    nodes = channel_nodes(address, used, ("d1",))
    source = OpcUaSource(address, nodes, used, SourceAccess.of(settings), lambda: from_us(now_us()))
    samples = source.samples()
    next(samples)  # a void one; nothing is read from now on
    received = source.counts["payloads"]
    for first in range(0, MOST_READINGS + 400, 200):
        server.write(*((f"{prefix}.heat", n, 1000 * ms(n), GOOD) for n in range(first, first + 200)))
        server.write((f"{prefix}.load", first // 200, 1000 * ms(first), GOOD))
        received += 201
        wait_until(lambda least=received: source.counts["payloads"] >= least, what="all of them")
    dropped = source.counts["overrun"]
    assert dropped >= 400
    found = {}
    while not found or len(found["load"]) * 200 < MOST_READINGS + 400:
        for name, value in next(samples).values.items():
            found.setdefault(name, []).append(value)
    samples.close()
    assert found["load"] == list(range(len(found["load"])))
    assert found["heat"][0] >= dropped - 2


def test_a_secure_channel_with_user_and_password_is_read_and_a_wrong_password_refused(
    opcua_places, own, tmp_path, opened
):
    server, prefix = opcua_places()
    (tmp_path / "password").write_text(PASSWORD)
    address = server.address(prefix, security="Basic256Sha256")
    for ca in ("server.pem", "authority.pem"):  # its own certificate, or whoever vouches for it
        given = {**own, "source_ca": server.folder / ca, "source_username": USER}
        watched = opened(address, **given, source_password_file=tmp_path / "password")
        watched.until("subscribed")
    server.write(*writes_of(prefix, (0, 20, 1)), *writes_of(prefix, (1, 21, 2)))
    wait_until(lambda: watched.newest() == [21, 2], what="a window")
    wrong = opened(address, **given, source_password="guess")
    wrong.until_error("the server refuses: Bad")
    assert "guess" not in str(wrong.source.state)
    assert wrong.count("subscribed") == 0


def test_a_server_with_a_wrong_certificate_is_not_spoken_to(opcua_places, own, tmp_path, opened):
    server, prefix = opcua_places()
    certify(tmp_path, "authority", "urn:plant:authority")  # of the same name, with another key
    address = server.address(prefix, security="Basic256Sha256")
    stranger = opened(address, **own, source_ca=tmp_path / "authority.pem", source_username=USER)
    stranger.until_error("nor issued by an authority in it")
    named = address.replace("127.0.0.1", "localhost")
    elsewhere = opened(named, **own, source_ca=server.folder / "authority.pem")
    elsewhere.until_error("it names 127.0.0.1, and not localhost")
    unoffered = server.address(prefix, security="Aes256Sha256RsaPss")
    opened(unoffered, **own, source_ca=server.folder / "server.pem").until_error(
        "does not offer Aes256Sha256RsaPss"
    )
    assert stranger.count("subscribed") == elsewhere.count("subscribed") == 0


def test_a_certificate_of_ones_own_that_names_no_application_is_said(opcua_places, tmp_path, opened):
    server, prefix = opcua_places()
    certify(tmp_path, "bare", "")
    given = {"source_cert": tmp_path / "bare.pem", "source_key": tmp_path / "bare.key"}
    address = server.address(prefix, security="Basic256Sha256")
    opened(address, **given, source_ca=server.folder / "server.pem").until_error("names no application")


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        ("opcua://", {}, "write opcua://host:4840/path"),
        ("opcua://user:secret@h", {}, "by the settings"),
        ("opcua://h?policy=1", {}, "unknown options policy"),
        ("opcua://h?security=Basic128Rsa15", {}, "security has to be one of Basic256Sha256"),
        ("opcua://h?publish_ms=1", {}, "publish_ms has to be a number from 10 to 60000"),
        ("opcua://h", {}, "no node for heat, load: name it in"),
        ("opcua://h?node=Pump", {}, "'Pump' is no NodeId; write ns=2;s="),
        ("opcua://h?node=ns=2;s=x", {}, "several channels have the node ns=2;s=x"),
        ("opcua://h?node=ns=2;s={channel}", {}, "needs EDGE_SOURCE_CA, EDGE_SOURCE_CERT, EDGE_SOURCE_KEY"),
        (
            "opcua://h?node=ns=2;s={channel}&security=none",
            {"source_username": "pump"},
            "a password could be read without a secure channel",
        ),
    ],
)
def test_what_can_never_work_is_refused_at_the_start(text, given, message, tmp_path):
    settings = EdgeSettings(state_dir=tmp_path, profile="plant", devices=("d1",), source=text, **given)
    with pytest.raises(SourceError, match=message) as error:
        open_source(settings, profile(), ("d1",))
    assert "secret" not in str(error.value)


def test_devices_are_told_apart_by_their_nodes():
    address = OpcUaAddress.parse("opc.tcp://[::1]:99/a?node=ns=2;s={device}.{channel}")
    assert address.url == "opc.tcp://[::1]:99/a"
    found = channel_nodes(address, profile(), ("p1", "p2"))
    assert [(n.device_id, n.channel, n.node) for n in found][:2] == [
        ("p1", "heat", "ns=2;s=p1.heat"),
        ("p2", "heat", "ns=2;s=p2.heat"),
    ]
    with pytest.raises(SourceError, match="2 devices at node"):
        channel_nodes(OpcUaAddress.parse("opcua://h?node=ns=2;s={channel}"), profile(), ("p1", "p2"))


def test_a_device_reads_a_server_by_its_own_command(opcua_places, tmp_path):
    server, prefix = opcua_places()
    server.write((f"{prefix}.heat", 20, now_us(), GOOD))
    mapped = f'source.channels.heat.node = "ns=2;s={prefix}.heat"'
    with device_command(tmp_path, server.address(prefix), mapped) as counted:
        wait_until(lambda: counted("repeated") > 20, 60, "what stands")
        assert counted("subscribed") == 1


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=40))
def test_readings_keep_their_order_by_channel_and_the_oldest_measured_comes_first(given_readings):
    queue = ReadingQueue(1000)
    for n, (channel, us) in enumerate(given_readings):
        assert queue.put(ChannelReading("", channel, n, us)) == 0
    firsts = {c: [r for r in given_readings if r[0] == c] for c in "abc"}
    while queue:
        group = queue.get()
        heads = {c: rest[0][1] for c, rest in firsts.items() if rest}
        oldest = min(heads.values())
        assert sorted(r.channel for r in group) == [c for c, us in sorted(heads.items()) if us == oldest]
        for reading in group:
            assert firsts[reading.channel].pop(0) == (reading.channel, oldest)
    assert not any(firsts.values())


@given(st.lists(st.floats(0, 2.0), min_size=1, max_size=30))
def test_what_stands_is_repeated_once_for_each_step_however_often_it_is_asked_for(waits):
    standing = StandingValues(1.0)
    standing.report("d", "heat", 20.0, 0, 0.0)
    now_s, found = 0.0, []
    for wait_s in waits:
        now_s += wait_s
        found += [s.us for s in standing.due(now_s, 0)]
    assert found == [10**6 * k for k in range(1, int(now_s + 0.5 + 1e-9) + 1)][: len(found)]
    assert abs(len(found) - now_s) <= 0.5 + 1e-6
    standing.void("d", ["heat"])
    assert standing.due(now_s + 10, 0) == []

"""Laws of Sparkplug B sources, on a real broker. What all sources share is in test_source_contract.py."""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Callable, Iterator

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_producer.settings import EdgeSettings
from edge_producer.sources import open_source, sparkplug_source
from edge_producer.sources.reported_channels import MOST_READINGS
from edge_producer.sources.source_access import SourceAccess
from edge_producer.sources.sparkplug_address import EdgeNodePlace, SparkplugAddress, edge_nodes
from edge_producer.sources.sparkplug_node import EdgeNode, value_of
from edge_producer.sources.sparkplug_source import SparkplugSource
from schemas.errors import SourceError
from schemas.instants import from_us
from schemas.proto import sparkplug_subset_pb2 as sparkplug
from tests.edge_producer.source_rigs import Watched, device_command, ms, opened_live, profile
from tests.simulators.sparkplug_edge import SparkplugEdge
from tests.waiting import wait_until

QUICK = {"sampling": {"rate_hz": 50.0, "window_samples": 1, "hop_samples": 1}, "align": {"max_age_s": 0.06}}
HELD = {"window": 1, "align": {"max_age_s": 1000.0}}
TAHU = bytes.fromhex(
    "08809494caca331214100118fb9494caca33200a690000000000803540120c0a026938200150fdffffff0f120b0a036931362002"
    "50d4fd0312120a03693634200458fbffffffffffffffff01120d0a0375333220075080d0acf30e120a0a01662009650000003f12"
    "070a0162200b7001120a0a0173200c7a03342e3512070a016e200a380112100a0168200a280169000000000000f03f120d0a0164"
    "20108a0105080112016312100a017420134a030a01719201030a01311807"
)
"""A payload as the code writes that Eclipse Tahu's definition gives (pysparkplug 0.6.1)."""
Open = Callable[..., tuple[SparkplugEdge, Watched]]


def now_ms() -> int:
    return time.time_ns() // 10**6


@pytest.fixture
def opened(mqtt_brokers, tmp_path) -> Iterator[Open]:
    """Opens a source of an edge node of its own, and gives both once the births were heard."""
    broker = mqtt_brokers("3.1.1")
    made: list[tuple[SparkplugEdge, Watched]] = []

    def open_(used=None, clock_ms: int = 0, *, answers: bool = True, **options: object):
        edge = SparkplugEdge(broker, secrets.token_hex(4), clock_ms or ms(0))
        edge.answers = answers
        watched = Watched(opened_live(edge.address(broker, **options), used or profile(**HELD), tmp_path))
        made.append((edge, watched))
        watched.until("births" if answers else "subscribed", 2 if answers else 1)
        return edge, watched

    yield open_
    for edge, watched in made:
        watched.stop()
        edge.close()


def shown(watched: Watched) -> list[list[float | None]]:
    return [[None if math.isnan(v) else float(v) for v in w.samples[-1]] for w in watched.windows]


def tell(edge: SparkplugEdge, *rows: tuple[int, float | None, float | None]) -> None:
    for step, heat, load in rows:
        given = {"heat": heat, "load": load}
        edge.data(*((name, value, ms(step)) for name, value in given.items() if value is not None))


def test_what_stands_is_repeated_until_the_node_dies(opened):
    edge, watched = opened(profile(**QUICK), now_ms() - 3600_000)
    edge.now_ms = now_ms()
    edge.data(("heat", 20.0, now_ms()), ("load", 2.0, now_ms()))
    wait_until(lambda: shown(watched)[-30:] == [[20, 2]] * 30, what="what stands")
    edge.dies()
    watched.until("deaths")
    wait_until(lambda: shown(watched)[-1] == [None, None], what="windows without samples")
    assert watched.count("stale") >= 2
    assert watched.source.state["phase"] == "running"


@pytest.mark.parametrize("way", ["device_dies", "null"])
def test_what_is_no_longer_known_is_missing_at_once_however_old_a_value_may_be(way, opened):
    edge, watched = opened()
    tell(edge, (0, 20, 0), (1, 21, 1))
    wait_until(lambda: watched.newest() == [21, 1], what="a window")
    if way == "null":
        edge.data(("heat", None, ms(2)), ("load", None, ms(2)))
        watched.until("null", 4)
    else:
        edge.device_dies()
        watched.until("deaths")
        edge.birth()
        watched.until("births", 4)
    tell(edge, (3, None, 3), (4, None, 4), (5, None, 5))
    wait_until(lambda: [None, 4] in shown(watched), what="windows without heat")
    assert [21, 3] not in shown(watched)


def test_lost_messages_are_counted_and_a_birth_is_asked_for(opened, monkeypatch):
    monkeypatch.setattr(sparkplug_source, "REBIRTH_S", 0.0)
    edge, watched = opened()
    tell(edge, (0, 20, 0), (1, 21, 1))
    wait_until(lambda: watched.newest() == [21, 1], what="a window")
    edge.lose(3)
    edge.aliases = {"heat": 2, "load": 1}  # and nobody knows but those who get the birth
    edge.data(("heat", 45.0, ms(2)), ("load", 5.0, ms(2)))
    watched.until("births", 4)
    assert (watched.count("gaps"), watched.count("rebirths")) == (1, 2)
    tell(edge, (3, 23, 3), (4, 24, 4))
    wait_until(lambda: watched.newest() == [24, 4], what="a window after")
    assert not any(heat == 5 or load == 45 for heat, load in shown(watched))


def test_data_of_a_node_whose_birth_is_not_known_are_not_used(opened, monkeypatch):
    monkeypatch.setattr(sparkplug_source, "REBIRTH_S", 0.0)
    edge, watched = opened(answers=False)
    tell(edge, (0, 99, 9))
    watched.until("unborn")
    watched.until("rebirths", 2)
    edge.answers = True
    tell(edge, (1, 99, 9))
    watched.until("births", 2)
    tell(edge, (2, 22, 2), (3, 23, 3))
    wait_until(lambda: watched.newest() == [23, 3], what="a window")
    assert 99 not in {heat for heat, _ in shown(watched)}


def test_what_was_is_not_taken_for_what_is(opened):
    edge, watched = opened()
    edge.data(("heat", 99.0, ms(1)), historical=True)
    edge.data(("heat", b"\x08\x01", ms(1)))  # a data set
    tell(edge, (1, 21, 1), (2, 22, 2))
    wait_until(lambda: watched.newest() == [22, 2], what="a window")
    assert (watched.count("historical"), watched.count("malformed")) == (1, 1)
    assert 99 not in {heat for heat, _ in shown(watched)}


def test_a_host_says_that_it_is_there_and_that_it_is_gone(mqtt_brokers, opened):
    broker, said = mqtt_brokers("3.1.1"), []
    client = mqtt.Client(CallbackAPIVersion.VERSION2, "onlooker")
    client.on_message = lambda _c, _d, message: said.append(json.loads(message.payload)["online"])
    client.connect("127.0.0.1", broker.port)
    client.subscribe("spBv1.0/STATE/loop")
    client.loop_start()
    _, watched = opened(host_id="loop")
    wait_until(lambda: said == [True], what="its birth")
    watched.stop()
    wait_until(lambda: said == [True, False], what="its death")
    client.on_message = None
    client.publish("spBv1.0/STATE/loop", b"", 1, retain=True).wait_for_publish(20)  # amqtt keeps it no longer
    client.disconnect()
    client.loop_stop()


def test_a_metric_that_floods_is_bounded_and_counted_and_starves_no_other(mqtt_brokers, tmp_path):
    broker = mqtt_brokers("3.1.1")
    edge = SparkplugEdge(broker, secrets.token_hex(4), ms(0))
    address, used = SparkplugAddress.parse(edge.address(broker)), profile()
    access = SourceAccess.of(EdgeSettings(state_dir=tmp_path, profile="plant", devices=("d1",)))
    nodes = edge_nodes(address, used, ("d1",))
    source = SparkplugSource(address, nodes, used, access, lambda: from_us(1000 * now_ms()))
    samples = source.samples()
    next(samples)  # a void one; nothing is read from now on
    wait_until(lambda: source.counts["births"] == 2, what="births")
    messages = (MOST_READINGS + 400) // 200
    for n in range(messages):
        heat = [("heat", float(k % 100), ms(k)) for k in range(200 * n, 200 * n + 200)]
        edge.data(("load", float(n), ms(200 * n)), *heat)
    too_many = 201 * messages - MOST_READINGS
    wait_until(lambda: source.counts["overrun"] >= too_many, what="all of them")
    load: list[float] = []
    while len(load) < messages:
        load += [value for name, value in next(samples).values.items() if name == "load"]
    samples.close()
    edge.close()
    assert load == list(range(messages))


def test_a_device_reads_an_edge_node_by_its_own_command(mqtt_brokers, tmp_path):
    broker = mqtt_brokers("3.1.1")
    edge = SparkplugEdge(broker, secrets.token_hex(4), now_ms())
    edge.aliases = {"Motor/T 1": 9}
    edge.values = {"Motor/T 1": ("Motor/T 1", 20.0, now_ms())}
    with device_command(
        tmp_path, edge.address(broker), 'source.channels.heat.metric = "Motor/T 1"'
    ) as counted:
        wait_until(lambda: counted("repeated") > 20, 60, "what stands")
        assert counted("births") == 2
    edge.close()


def test_values_are_read_as_another_implementation_writes_them():
    payload = sparkplug.Payload.FromString(TAHU)
    found = [value_of(metric, metric.datatype) for metric in payload.metrics]
    assert found[:10] == [21.5, -3, -300, -5, 4_000_000_000, 0.5, True, "4.5", None, 1.0]
    assert all(isinstance(value, bytes) for value in found[10:])
    assert (payload.timestamp, payload.seq, payload.metrics[0].alias) == (1772366400000, 7, 1)
    assert payload.metrics[9].is_historical


def test_a_death_of_an_earlier_session_changes_nothing():
    node = EdgeNode({("", "heat"): (("", "heat"),)})

    def say(kind: str, session: int):
        number = sparkplug.Metric(name="bdSeq", long_value=session)
        return node.hear(kind, "", sparkplug.Payload(seq=0, timestamp=1, metrics=[number])).readings

    say("NBIRTH", 8)
    assert say("NDEATH", 7) == []
    assert node.counts["outdated"] == 1
    assert [r.flaw for r in say("NDEATH", 8)] == ["stale"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sparkplug://h/group", "names no edge node: write sparkplug://host"),
        ("sparkplug://h/g/+", "without wildcards"),
        ("sparkplug://user:secret@h/g/n", "by the settings"),
        ("sparkplug://h/g/n?primary=x", "unknown options primary"),
        ("sparkplug://h/g/n?version=4", "version has to be one of 3.1.1, 5"),
        ("sparkplug://h/g/n?host_id=a/b", "host_id has to be one level"),
    ],
)
def test_what_can_never_work_is_refused_at_the_start(text, message, tmp_path):
    settings = EdgeSettings(state_dir=tmp_path, profile="plant", devices=("d1",), source=text)
    with pytest.raises(SourceError, match=message) as error:
        open_source(settings, profile(), ("d1",))
    assert "secret" not in str(error.value)


def test_devices_are_told_apart_by_their_ids_in_the_address():
    used = profile(source={"channels": {"load": {"metric": "Motor/I"}}})
    found = edge_nodes(SparkplugAddress.parse("sparkplugs://h/g/line/{device}"), used, ("p1", "p2"))
    assert found == {
        EdgeNodePlace("g", "line"): {
            ("p1", "heat"): (("p1", "heat"),),
            ("p1", "Motor/I"): (("p1", "load"),),
            ("p2", "heat"): (("p2", "heat"),),
            ("p2", "Motor/I"): (("p2", "load"),),
        }
    }
    with pytest.raises(SourceError, match="2 devices at g/line/"):
        edge_nodes(SparkplugAddress.parse("sparkplug://h/g/line"), used, ("p1", "p2"))

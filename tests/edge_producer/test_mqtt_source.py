"""Laws of MQTT sources, on real brokers. What they share with all sources is in test_source_contract.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from edge_producer.settings import EdgeSettings
from edge_producer.sources import open_source
from edge_producer.sources.live_windows import LiveWindows
from edge_producer.sources.mqtt_address import MqttAddress, Route, routes
from schemas.errors import SourceError
from schemas.profile import Profile
from tests.edge_producer.source_rigs import Watched, json_of, profile
from tests.simulators.mqtt_broker import PASSWORD, USER, MqttBroker, make_certificate
from tests.waiting import wait_until

UNSTAMPED = {
    "source": {"time_field": ""},
    "sampling": {"rate_hz": 50.0, "window_samples": 1, "hop_samples": 1},
}
"""Samples are of the time at which they come, and kept for a minute."""
HELD = {**UNSTAMPED, "align": {"max_age_s": 60.0}}
LEVELS = st.lists(st.sampled_from(["a", "b", "", "$x"]), min_size=1, max_size=4).map("/".join)
FILTERS = st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4).map("/".join)
Open = Callable[..., Watched]
paho_drops_sockets = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning"
)
"""paho leaves a socket whose handshake failed to the garbage collector, which closes it."""


@pytest.fixture
def opened(tmp_path) -> Iterator[Open]:
    """Opens sources as the settings do, and reads them in a thread until the test ends."""
    made: list[Watched] = []

    def open_(source: str, used: Profile, devices: tuple[str, ...] = ("d1",), **given: object) -> Watched:
        settings = EdgeSettings(
            state_dir=tmp_path, profile="plant", devices=devices, source=source, source_retry_s=0.2, **given
        )
        found = open_source(settings, used, devices)
        assert isinstance(found, LiveWindows)
        made.append(Watched(found))
        return made[-1]

    yield open_
    for each in made:
        each.stop()


@pytest.fixture
def secure(tmp_path) -> Iterator[MqttBroker]:
    broker = MqttBroker(tmp_path, secure=True)
    broker.start()
    yield broker
    broker.stop()


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_plain_numbers_are_of_the_channel_that_ends_their_topic_or_is_declared(version, mqtt_brokers, opened):
    broker = mqtt_brokers(version)
    mapped = {
        **HELD,
        "source": {"time_field": "", "channels": {"load": {"topic": "hall/amps", "scale": 0.001}}},
    }
    watched = opened(f"{broker.address}/hall/+?version={version}", profile(**mapped))
    watched.until("subscribed")
    with broker.publisher() as publisher:
        publisher.give("hall/heat", "21.5")
        publisher.give("hall/amps", b" 4500\n")
        publisher.give("hall/door", "1")
    wait_until(lambda: watched.newest() == [21.5, 4.5], what="both numbers")
    watched.until("unmapped")


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_devices_are_told_apart_by_their_level_of_the_topic(version, mqtt_brokers, opened):
    broker = mqtt_brokers(version)
    watched = opened(f"{broker.address}/site/{{device}}/up?version={version}", profile(**HELD), ("p1", "p2"))
    watched.until("subscribed")
    with broker.publisher() as publisher:
        for device, heat in (("p1", 11), ("p2", 22), ("p3", 33)):
            publisher.give(f"site/{device}/up", f'{{"heat": {heat}, "load": 1}}')
    wait_until(
        lambda: {(w.device_id, w.samples[-1, 0]) for w in watched.windows} >= {("p1", 11), ("p2", 22)},
        what="both devices",
    )
    assert watched.count("payloads") == 2


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_a_retained_message_without_a_time_is_not_taken_for_news(version, mqtt_brokers, opened):
    broker, topic = mqtt_brokers(version), f"kept/{version}"
    with broker.publisher() as publisher:
        publisher.give(topic, '{"heat": 99, "load": 9}', retain=True)
        watched = opened(f"{broker.address}/{topic}?version={version}", profile(**HELD))
        watched.until("retained")
        publisher.give(topic, '{"heat": 20, "load": 2}')
        wait_until(lambda: watched.newest() == [20, 2], what="the news")
    assert 99 not in {w.samples[-1, 0] for w in watched.windows}


def test_a_broker_that_comes_back_is_connected_to_again_and_its_absence_is_said(tmp_path, opened):
    broker = MqttBroker(tmp_path)
    broker.start()
    watched = opened(f"{broker.address}/t", profile(**UNSTAMPED))
    watched.until("subscribed")
    broker.stop()
    watched.until_error("SourceLostError")
    assert watched.source.state["phase"] in ("failed", "opening", "running")
    broker.start()
    watched.until("subscribed", 2)
    with broker.publisher() as publisher:
        publisher.give("t", '{"heat": 20, "load": 2}')
        wait_until(lambda: [20, 2] in [w.samples[-1].tolist() for w in watched.windows], what="a sample")
    broker.stop()
    assert watched.source.state["restarts"] >= 1


def test_tls_and_password_let_in_and_are_asked_for(secure, tmp_path, opened):
    (tmp_path / "password").write_text(PASSWORD + "\nanother line\n")
    given = {"source_ca": secure.ca, "source_username": USER, "source_password_file": tmp_path / "password"}
    watched = opened(f"{secure.address}/t", profile(**HELD), **given)
    watched.until("subscribed")
    with secure.publisher() as publisher:
        publisher.give("t", '{"heat": 20, "load": 2}')
    wait_until(lambda: watched.newest() == [20, 2], what="the sample")
    refused = opened(f"{secure.address}/t", profile(), **{**given, "source_password_file": None})
    refused.until_error("Not authorized")
    wrong = opened(
        f"{secure.address}/t", profile(), source_ca=secure.ca, source_username=USER, source_password="guess"
    )
    wrong.until_error("Not authorized")
    assert "guess" not in str(wrong.source.state)


@paho_drops_sockets
def test_a_certificate_of_the_devices_own_lets_in_where_it_is_asked_for(tmp_path, opened):
    broker = MqttBroker(tmp_path, "5", secure=True)
    broker.start()
    pair = {"source_ca": broker.ca, "source_cert": broker.ca, "source_key": broker.key}
    watched = opened(f"{broker.address}/t?version=5", profile(**HELD), **pair)
    watched.until("subscribed")
    with broker.publisher() as publisher:
        publisher.give("t", '{"heat": 20, "load": 2}')
        wait_until(lambda: watched.newest() == [20, 2], what="the sample")
    refused = opened(f"{broker.address}/t?version=5", profile(), source_ca=broker.ca)
    refused.until_error("SourceLostError")
    assert refused.count("subscribed") == 0
    broker.stop()


@paho_drops_sockets
def test_a_broker_whose_certificate_nobody_vouches_for_is_not_spoken_to(secure, tmp_path, opened):
    (tmp_path / "other").mkdir()
    make_certificate(tmp_path / "other", "127.0.0.1")
    for ca in (tmp_path / "other" / "ca.pem", None):
        watched = opened(f"{secure.address}/t", profile(), source_ca=ca)
        watched.until_error("CERTIFICATE_VERIFY_FAILED")
        assert watched.count("subscribed") == 0


@paho_drops_sockets
def test_a_broker_under_another_name_than_its_certificates_is_not_spoken_to(secure, opened):
    named = secure.address.replace("127.0.0.1", "localhost")
    watched = opened(f"{named}/t", profile(), source_ca=secure.ca)
    watched.until_error("CERTIFICATE_VERIFY_FAILED")


def test_certificates_that_cannot_be_read_are_said_and_tried_again(tmp_path, opened):
    (tmp_path / "bad.pem").write_text("no certificate")
    watched = opened("mqtts://127.0.0.1:1/t", profile(), source_ca=tmp_path / "bad.pem")
    watched.until_error("certificates of the source cannot be read")
    wait_until(lambda: watched.source.state["restarts"] > 1, what="another try")


def test_a_topic_that_floods_costs_the_oldest_messages_and_they_are_counted(mqtt_brokers, tmp_path):
    """The device reads nothing at all meanwhile: what it has then is bounded, and accounted for."""
    broker = mqtt_brokers("3.1.1")
    settings = EdgeSettings(
        state_dir=tmp_path, profile="plant", devices=("d1",), source=f"{broker.address}/flood?qos=0"
    )
    source = open_source(settings, profile(), ("d1",))
    items = source.windows()
    next(items)
    wait_until(lambda: source.counts["subscribed"], what="the subscription")
    big = json_of((0, 20, 1))[:-1] + f', "more": "{"x" * 250_000}"}}'
    with broker.publisher() as publisher:
        for _ in range(4_200):  # more than may wait for the sensing loop
            publisher.give("flood", json_of((0, 20, 1)))
        for _ in range(60):  # and more bytes than may wait to be read
            publisher.give("flood", big)
    wait_until(lambda: source.counts["overrun"] > 0, what="an overrun")
    items.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mqtt://", "write mqtt://host"),
        ("mqtt://user:secret@h/t", "in the settings|by the settings"),
        ("mqtt://h/t?tls=1", "unknown options tls"),
        ("mqtt://h/t?version=4", "MQTT 4 is not spoken"),
        ("mqtt://h:x/t", "port has to be a number"),
        ("mqtt://h/t?qos=3", "qos has to be a number up to 2"),
    ],
)
def test_an_address_that_is_none_says_what_is_wrong(text, message):
    with pytest.raises(SourceError, match=message) as error:
        MqttAddress.parse(text)
    assert "secret" not in str(error.value)


def test_an_address_may_hold_wildcards_and_a_number_in_brackets():
    found = MqttAddress.parse("mqtts://[::1]:99/a/+/#?version=5&keepalive=7")
    assert (found.host, found.port, found.secure, found.topic) == ("::1", 99, True, "a/+/#")
    assert (found.version, found.keepalive_s) == ("5", 7)
    assert MqttAddress.parse("mqtt://h").port == 1883


def test_a_channel_without_a_topic_and_devices_that_cannot_be_told_apart_are_refused():
    with pytest.raises(SourceError, match="no topic for heat, load"):
        routes(MqttAddress.parse("mqtt://h"), profile(), ("d1",))
    with pytest.raises(SourceError, match="2 devices on topic 't'"):
        routes(MqttAddress.parse("mqtt://h/t"), profile(), ("d1", "d2"))


@given(FILTERS, LEVELS, st.booleans())
def test_a_filter_takes_the_topics_that_the_specification_says(wanted, topic, more):
    wanted = f"{wanted}/#" if more else wanted
    assert Route(wanted, "", ()).matches(topic) == topic_matches_sub(wanted, topic)

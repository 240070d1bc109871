"""Laws of the listener for devices on other machines: who may connect there, and what they may do."""

import ssl
from datetime import UTC, datetime, timedelta

import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from infra.kafka.client_quotas import DeviceQuota, device_quota, limit_devices
from infra.kafka.denied_requests import newest_denied
from infra.settings import DEVICE_BYTES_PER_S, StackSettings, load_settings
from infra.stack.device_access import DeviceAccess, kept_address
from model_service import authority
from schemas.errors import StackError
from schemas.topics import ALL_TOPICS, DEVICE_TOPICS, WIRE_READ
from schemas.updates import Role
from tests.simulators.device_listener import DeviceListener, own_address
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka
OF_OTHERS = sorted({t.base for t in ALL_TOPICS} - {t.base for t in DEVICE_TOPICS})


@pytest.fixture(scope="module")
def address():
    found = own_address()
    if found is None:
        pytest.skip("this machine has no address but loopback")
    return found


@pytest.fixture(scope="module")
def listener(tmp_path_factory, address):
    with DeviceListener(tmp_path_factory.mktemp("listener"), address) as running:
        yield running


def answer(client, topic, wait_s=5.0):
    """What became of one message: ``ok``, the broker's refusal, or ``unsent`` without a connection."""
    said = []
    producer = ck.Producer({**client, "acks": "all", "enable.idempotence": True, "log_level": 0})
    producer.produce(topic, b"x", b"k", on_delivery=lambda e, _: said.append("ok" if e is None else e.name()))
    producer.flush(wait_s)
    producer.purge(blocking=False)
    return said[0] if said else "unsent"


def test_a_device_writes_every_device_topic_and_no_other(listener):
    client = listener.client("pump-7")
    assert {t.base: answer(client, t.base) for t in DEVICE_TOPICS} == {t.base: "ok" for t in DEVICE_TOPICS}
    refused = {name: answer(client, name) for name in (*OF_OTHERS, WIRE_READ.base, "nosuch")}
    assert set(refused.values()) == {"TOPIC_AUTHORIZATION_FAILED"}, refused


def test_a_device_reads_nothing_and_makes_no_topic(listener):
    client = {**listener.client("pump-7"), "log_level": 0}
    assert answer(client, "telemetry.v1") == "ok"
    consumer = ck.Consumer({**client, "group.id": "thief", "auto.offset.reset": "earliest"})
    consumer.assign([ck.TopicPartition("telemetry.v1", p, 0) for p in range(8)])
    seen = [m for _ in range(4) if (m := consumer.poll(2.0)) is not None]
    consumer.close()
    assert {m.error().name() for m in seen if m.error()} >= {"TOPIC_AUTHORIZATION_FAILED"}
    assert [m for m in seen if not m.error()] == []
    admin = AdminClient(client)
    [made] = admin.create_topics([NewTopic("mine", 1, 1)]).values()
    assert made.exception().args[0].name() == "TOPIC_AUTHORIZATION_FAILED"
    for operation in ("READ", "CREATE"):  # and the operator can see it
        line = f"User:device pump-7 is Denied operation = {operation}"
        wait_until(lambda line=line: line in listener.broker.log_path.read_text(), 30, line)
    assert newest_denied(listener.broker.log_path)["pump-7: CREATE Topic mine"] >= 1


def test_a_device_is_told_what_a_topic_takes_and_that_a_later_wire_is_not_there(listener):
    admin = AdminClient({**listener.client("pump-7"), "log_level": 0})
    asked = [ConfigResource(ResourceType.TOPIC, n) for n in ("telemetry.v1", WIRE_READ.base, "wire.v99")]
    known, wire, later = (admin.describe_configs([one])[one] for one in asked)
    assert int(known.result()["max.message.bytes"].value) >= 1_000_000
    assert wire.exception() is None
    assert later.exception().args[0].name() == "UNKNOWN_TOPIC_OR_PART"


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.VIEWER])
def test_a_certificate_of_another_role_gets_no_connection(listener, role):
    assert answer(listener.client("operator", role), "telemetry.v1", 2.0) == "unsent"


def test_a_device_called_as_those_are_on_loopback_has_no_more_rights(listener):
    assert answer(listener.client("ANONYMOUS"), "drift.v1") == "TOPIC_AUTHORIZATION_FAILED"


def test_an_expired_certificate_and_none_at_all_get_no_connection(listener):
    expired = listener.client("pump-7", ago=timedelta(hours=2))
    assert answer(expired, "telemetry.v1", 2.0) == "unsent"
    bare = {"bootstrap.servers": listener.address, "security.protocol": "ssl"}
    assert answer({**bare, "ssl.ca.pem": expired["ssl.ca.pem"]}, "telemetry.v1", 2.0) == "unsent"
    assert answer({"bootstrap.servers": listener.address}, "telemetry.v1", 2.0) == "unsent"


def test_a_revoked_device_is_shut_out_of_a_connection_that_is_open(listener):
    said = []
    producer = ck.Producer({**listener.client("lost-1"), "acks": "all", "log_level": 0})

    def send():
        producer.produce("telemetry.v1", b"x", on_delivery=lambda e, _: said.append(e and e.name()))
        producer.flush(10)

    send()
    listener.revoked.add("lost-1")
    listener.access.update(listener.broker.bootstrap_servers)
    send()
    assert said == [None, "TOPIC_AUTHORIZATION_FAILED"]
    assert answer(listener.client("pump-7"), "telemetry.v1") == "ok"


def test_the_broker_shows_a_renewed_certificate_without_a_restart(listener, address):
    shown = ssl.get_server_certificate((address, listener.listener.port))
    authority.init_pki(listener.models, datetime.now(UTC) + timedelta(days=300))
    listener.access.update(listener.broker.bootstrap_servers)
    expected = authority.server_paths(listener.models)[1].read_text().strip()

    def now_shown():
        return ssl.get_server_certificate((address, listener.listener.port)).strip()

    wait_until(lambda: now_shown() == expected, 30, "the renewed certificate")
    assert shown.strip() != expected
    assert answer(listener.client("pump-7"), "telemetry.v1") == "ok"


def test_a_device_that_floods_the_broker_waits_and_no_other_does(listener):
    """A principal's rate is the broker's to hold: whatever the device's own software does."""
    servers = listener.broker.bootstrap_servers
    in_force = DeviceQuota(DEVICE_BYTES_PER_S, 50.0)
    wait_until(lambda: device_quota(servers) == in_force, what="the quota that devices start with")
    waits = {"flood-1": [], "pump-7": [], "": []}
    slow = DeviceQuota(25_000.0, 50.0)
    limit_devices(servers, slow)
    wait_until(lambda: device_quota(servers) == slow, what="the quota of this test")
    try:
        for name, waited in waits.items():
            client = listener.client(name) if name else {"bootstrap.servers": servers}
            producer = ck.Producer(
                {**client, "acks": "all", "log_level": 0, "throttle_cb": lambda e, w=waited: w.append(e)}
            )
            for _ in range(1 if name == "pump-7" else 10):
                producer.produce("telemetry.v1", b"x" * 40_000, b"k")
            assert producer.flush(60) == 0
    finally:
        limit_devices(servers, in_force)
    assert waits["flood-1"]  # and all of it has arrived
    assert waits["pump-7"] == waits[""] == []


def test_the_port_is_kept_and_a_foreign_address_is_refused(listener, tmp_path):
    models = listener.models.model_copy(update={"root": tmp_path / "models"})
    models.root.mkdir()
    first = DeviceAccess(tmp_path, listener.listener.host, models, set).prepare(set())
    again = DeviceAccess(tmp_path, listener.listener.host, models, set).prepare(set())
    assert (again.port, kept_address(tmp_path).port) == (first.port, first.port)
    with pytest.raises(StackError, match=r"--listen 198\.51\.100\.7: cannot listen there"):
        DeviceAccess(tmp_path, "198.51.100.7", models, set).prepare(set())


@pytest.mark.parametrize(
    ("listen", "more", "message"),
    [
        ("0.0.0.0", {}, "name one address"),
        ("10.0.0.1:9092", {}, "no IPv4 address"),
        ("10.0.0.1", {"broker": "h:1"}, "the stack's own broker"),
        ("10.0.0.1", {"models": False}, "needs the model service"),
    ],
)
def test_what_cannot_be_listened_on_is_refused_with_the_reason(listen, more, message):
    with pytest.raises(StackError, match=message):
        load_settings({}, listen=listen, **more)
    assert StackSettings().listen is None

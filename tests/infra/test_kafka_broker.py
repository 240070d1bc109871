"""The local broker: a real Kafka that keeps its data and never outlives its owner."""

import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from infra.kafka.kafka_admin import KafkaAdmin
from infra.kafka.kafka_broker import KafkaBroker
from infra.kafka.kafka_config import ExtraListener, server_properties
from infra.kafka.kafka_jars import are_resolved, resolve_jars
from infra.process.ports import LOOPBACK, free_ports
from infra.process.tcp_proxy import TcpProxy
from schemas.errors import BrokerUnavailableError, StackError
from schemas.topics import PROVISIONED_TOPICS, TELEMETRY, Topic
from tests.waiting import wait_until

pytestmark = pytest.mark.kafka


def test_topics_are_created_once_with_their_settings(admin: KafkaAdmin, namespace: str):
    assert admin.create_topics(namespace) == []
    made = {n: c for n, c in admin.topics().items() if n.startswith(f"{namespace}.")}
    assert made == {t.named(namespace): t.partitions for t in PROVISIONED_TOPICS}


def test_topic_with_another_partition_count_is_refused(admin: KafkaAdmin, namespace: str):
    with pytest.raises(StackError, match=r"telemetry\.v1 has 8 partitions, this version needs 9"):
        admin.create_topics(namespace, [Topic(TELEMETRY.base, 9)])


def test_what_is_sent_is_read_with_its_headers(admin: KafkaAdmin, namespace: str):
    topic = TELEMETRY.named(namespace)
    admin.send(topic, b"dev-1", [("lane", b"live")], b"bytes")
    [message] = admin.read(admin.spans([topic]))
    assert (message.key, message.headers, message.value) == (b"dev-1", [("lane", b"live")], b"bytes")
    assert message.topic == topic


def test_a_message_as_large_as_a_device_may_send_fits(admin: KafkaAdmin, namespace: str):
    topic = TELEMETRY.named(namespace)
    admin.send(topic, b"dev-1", [("h", b"x" * 500)], b"x" * 999_000)
    assert sum(admin.end_offsets([topic]).values()) == 1


@pytest.mark.long
@pytest.mark.faults
def test_data_survives_kill_and_restart(tmp_path: Path, cache_dir: Path):
    with KafkaBroker(tmp_path, cache_dir) as broker:
        admin = KafkaAdmin(broker.bootstrap_servers)
        admin.create_topics("", [TELEMETRY])
        admin.send(TELEMETRY.base, b"dev-1", [], b"before")
        broker.kill()
        broker.start()
        admin.send(TELEMETRY.base, b"dev-1", [], b"after")
        assert [m.value for m in admin.read(admin.spans([TELEMETRY.base]))] == [b"before", b"after"]


OWNER = """
import sys, time
from pathlib import Path
from infra.kafka.kafka_broker import KafkaBroker
broker = KafkaBroker(Path(sys.argv[1]), Path(sys.argv[2])).start()
print(broker.child.pid, flush=True)
time.sleep(300)
"""


@pytest.mark.faults
def test_broker_dies_with_an_owner_that_is_killed(tmp_path: Path, cache_dir: Path):
    command = [sys.executable, "-c", OWNER, str(tmp_path), str(cache_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert psutil.Process(pid).name() == "java"
        owner.kill()
    wait_until(lambda: not psutil.pid_exists(pid), 20, "the broker's end")


def test_a_taken_port_is_named(tmp_path: Path, cache_dir: Path):
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StackError, match=rf"^port {port} is taken .*EDGELOOP_KAFKA_PORT"):
            KafkaBroker(tmp_path, cache_dir, port=port).start()


def test_missing_java_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"^java is not installed: apt-get install openjdk-17-jre-headless$"):
        KafkaBroker(tmp_path, tmp_path).start()


def test_missing_maven_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "java").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StackError, match=r"^mvn is not installed: apt-get install maven$"):
        KafkaBroker(tmp_path, tmp_path / "cache").start()


def test_jars_are_resolved_once(broker: KafkaBroker, cache_dir: Path):
    lines: list[str] = []
    assert are_resolved(cache_dir)
    assert list(resolve_jars(cache_dir, lines.append).glob("kafka-clients-*.jar"))
    assert lines == []


def test_a_changed_pom_is_resolved_again(cache_dir: Path, tmp_path: Path):
    pom = tmp_path / "pom.xml"
    pom.write_text("<p><kafka.version>4.1.1</kafka.version><!-- changed --></p>")
    assert not are_resolved(cache_dir, pom)


def test_a_listener_behind_a_proxy_advertises_the_proxy(tmp_path: Path):
    text = server_properties(tmp_path, 9092, 9093, [ExtraListener("SITE_A", 9094, 9095)])
    assert "advertised.listeners=PLAINTEXT://127.0.0.1:9092,SITE_A://127.0.0.1:9095\n" in text
    assert "SITE_A://127.0.0.1:9094" in text


@pytest.mark.faults
def test_a_site_behind_a_cut_link_loses_the_broker_and_gets_it_back(tmp_path: Path, cache_dir: Path):
    bind, front = free_ports(2)
    extra = [ExtraListener("SITE_A", bind, front)]
    with KafkaBroker(tmp_path, cache_dir, extra=extra) as broker, TcpProxy((LOOPBACK, bind), front) as link:
        KafkaAdmin(broker.bootstrap_servers).create_topics("", [TELEMETRY])
        site = KafkaAdmin(f"{LOOPBACK}:{front}", timeout_s=2.0)
        site.send(TELEMETRY.base, b"k", [], b"1")
        link.cut()
        with pytest.raises(BrokerUnavailableError):
            site.send(TELEMETRY.base, b"k", [], b"2")
        link.restore()
        site.send(TELEMETRY.base, b"k", [], b"3")
        assert [m.value for m in site.read(site.spans([TELEMETRY.base]))] == [b"1", b"3"]

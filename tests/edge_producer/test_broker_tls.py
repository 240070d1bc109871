"""Laws of the way to a broker with mutual TLS: whom a device trusts, and how certificates change."""

import socket
import threading
from datetime import UTC, datetime, timedelta

import confluent_kafka as ck
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_producer.clock import SteadyClock
from edge_producer.sending.broker_check import check_broker
from edge_producer.sending.broker_problem import broker_problem
from edge_producer.sending.sender import DeliveryReports, Sender
from model_service import authority
from schemas.envelope import SealedMessage
from tests.simulators.device_listener import DeviceListener, own_address
from tests.waiting import wait_until

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def listener(tmp_path_factory):
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    with DeviceListener(tmp_path_factory.mktemp("listener"), address) as running:
        yield running


def sender_of(device, clock=None):
    clock = clock or SteadyClock()
    return Sender(device.settings.bootstrap_servers, "", "test", clock, device.watch(clock))


def turn(sender, outcomes):
    """One turn of the writer's thread, as far as the network is concerned."""
    sender.connect()
    outcomes.add(sender.poll(0.02))
    return sender


def message(number):
    return SealedMessage("telemetry.v1", b"pump-7", [], b"%d" % number)


def landed(listener):
    spans = listener.admin.spans(["telemetry.v1"])
    return [int(m.value) for m in listener.admin.read(spans)]


@pytest.mark.kafka
def test_a_device_waits_for_its_certificate_and_says_so(listener, tmp_path):
    device = listener.device(tmp_path, "pump-7")
    sender, outcomes = sender_of(device), DeliveryReports()
    turn(sender, outcomes)
    assert (sender.online, sender.send(1, message(1))) == (False, False)
    assert sender.broker_problem == "pump-7 has no certificate yet: it has not joined"
    device.renew()
    wait_until(lambda: turn(sender, outcomes).online, 30, "a connection")
    assert sender.send(1, message(1))
    wait_until(lambda: turn(sender, outcomes) and outcomes.acked == [1], 30, "an acknowledgement")
    assert (sender.broker_problem, sender.certificate_until > datetime.now(UTC)) == ("", True)
    sender.close()


@pytest.mark.kafka
def test_certificates_that_change_under_load_lose_nothing(listener, tmp_path):
    device = listener.device(tmp_path, "pump-8")
    device.renew()
    sender, outcomes, waiting, ends = sender_of(device), DeliveryReports(), list(range(3000)), set()
    before = set(landed(listener))

    def go_on():
        for number in waiting[:20]:
            if not sender.send(number, message(10_000 + number)):
                break
            waiting.remove(number)
        turn(sender, outcomes)
        waiting.extend(outcomes.returned)
        outcomes.returned.clear()
        ends.add(sender.certificate_until)
        if len(outcomes.acked) // 1000 >= len(ends):  # renewed twice on the way
            device.renew(life=timedelta(hours=1 + len(ends)))
        return len(set(outcomes.acked)) == 3000 and len(ends) >= 3

    wait_until(go_on, 120, "all acknowledgements, and two renewals")
    sender.close()
    assert (outcomes.rejected, set(landed(listener)) - before) == ([], set(range(10_000, 13_000)))


@pytest.mark.kafka
def test_an_expired_certificate_is_named_and_a_renewed_one_goes_on(listener, tmp_path):
    device = listener.device(tmp_path, "pump-9")
    device.renew(ago=timedelta(hours=5))
    sender, outcomes = sender_of(device), DeliveryReports()
    turn(sender, outcomes)
    assert sender.send(1, message(1))
    wait_until(lambda: turn(sender, outcomes).broker_problem, 30, "the refusal")
    assert "does not accept the device's certificate, which ended at" in sender.broker_problem
    device.renew()
    wait_until(lambda: turn(sender, outcomes) and outcomes.returned == [1], 60, "another client")
    assert sender.send(1, message(1))
    wait_until(lambda: turn(sender, outcomes) and outcomes.acked == [1], 30, "an acknowledgement")
    assert sender.broker_problem == ""
    sender.close()


@pytest.mark.kafka
def test_a_server_of_another_authority_gets_nothing_and_is_named(listener, tmp_path):
    other = listener.models.model_copy(update={"root": tmp_path / "other"})
    other.root.mkdir()
    authority.init_pki(other)
    device = listener.device(tmp_path / "edge", "pump-10", authority.read_ca(other))
    device.renew()
    sender, outcomes = sender_of(device), DeliveryReports()
    turn(sender, outcomes)
    assert sender.send(1, message(99_999))
    wait_until(lambda: turn(sender, outcomes).broker_problem, 30, "the refusal")
    assert "shows a certificate that is not the broker's" in sender.broker_problem
    assert sender.stalled(0.0)
    sender.close()
    assert 99_999 not in landed(listener)


@pytest.mark.kafka
def test_a_server_of_another_name_gets_nothing(listener, tmp_path):
    """The certificate is real, but the device was told another address."""
    device = listener.device(tmp_path, "pump-11")
    device.renew()
    shown = device.watch(SteadyClock()).current()
    assert check_broker(listener.address, shown) == ""
    with Relay(listener.listener.host, listener.listener.port) as relay:
        said = check_broker(f"127.0.0.2:{relay.port}", shown)
    assert "shows a certificate that is not the broker's" in said


@pytest.mark.kafka
def test_a_revoked_device_keeps_its_messages_and_says_that_they_are_refused(listener, tmp_path):
    device = listener.device(tmp_path, "pump-12")
    device.renew()
    listener.revoked.add("pump-12")
    listener.access.update(listener.broker.bootstrap_servers)
    sender, outcomes = sender_of(device), DeliveryReports()
    turn(sender, outcomes)
    assert sender.send(1, message(88_888))
    wait_until(lambda: turn(sender, outcomes) and (outcomes.rejected or outcomes.returned), 30, "the refusal")
    assert "does not let this device write" in sender.broker_problem or "authoriz" in str(outcomes.rejected)
    connected = sender.counts["producers_failed"]
    for _ in range(20):
        turn(sender, outcomes)
    assert sender.counts["producers_failed"] == connected  # it does not storm a broker that refuses it
    sender.close()
    assert 88_888 not in landed(listener)


def test_the_certificate_that_is_valid_longest_is_shown_and_a_damaged_or_foreign_one_never(tmp_path):
    address = own_address() or "127.0.0.1"
    rig = DeviceListener(tmp_path / "stack", address)
    device = rig.device(tmp_path / "edge", "pump-7")
    now_s = [0.0]
    watch = device.watch(lambda: now_s[0])
    assert watch.current() is None
    later = device.renew(life=timedelta(hours=3))
    now_s[0] += 10
    assert watch.current().certificate_pem.encode() == later
    folder = device.settings.updates_dir / "pump-7"
    (folder / "certificate.copy.pem").write_bytes(rig.certify("pump-7", device.key.public_key()))
    (folder / "certificate.pem").write_bytes(later[:100])
    now_s[0] += 10
    assert watch.current().until < datetime.now(UTC) + timedelta(hours=2)
    foreign = rig.certify("pump-7", ec.generate_private_key(ec.SECP256R1()).public_key())
    for name in ("certificate.pem", "certificate.copy.pem"):
        (folder / name).write_bytes(foreign)
    now_s[0] += 10
    assert watch.current() is None


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (ck.KafkaError._SSL, "certificate verify failed: self-signed certificate", "not the broker's"),
        (ck.KafkaError._SSL, "hostname mismatch", "not the broker's"),
        (ck.KafkaError._TRANSPORT, "ssl/tls alert certificate unknown: SSL alert 46", "does not accept"),
        (ck.KafkaError._SSL, "wrong version number", "does not speak TLS"),
        (ck.KafkaError._SSL, "something new", "something new"),
        (ck.KafkaError._TRANSPORT, "Connection refused", ""),
    ],
)
def test_an_error_of_tls_is_said_for_a_person_and_any_other_is_not_one(code, text, said):
    found = broker_problem(ck.KafkaError(code, text), "h:1", NOW + timedelta(hours=1), NOW)
    assert (said in found) if said else (found == "")


class Relay:
    """Passes bytes on to a server under another address."""

    def __init__(self, host, port):
        self._to = host, port
        self._listener = socket.create_server(("127.0.0.2", 0))
        self.port = self._listener.getsockname()[1]
        self._ends = [self._listener]

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        for one in self._ends:
            one.close()

    def _accept(self):
        while True:
            try:
                inner, _ = self._listener.accept()
            except OSError:
                return
            outer = socket.create_connection(self._to)
            self._ends += [inner, outer]
            for one, other in ((inner, outer), (outer, inner)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one, other):
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            pass
        finally:
            other.close()

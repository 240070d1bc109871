"""What leaves the device when: nothing of a device that the cloud does not know yet, and all of it later."""

from __future__ import annotations

from edge_producer.sending.outbox import Outbox
from edge_producer.sending.sealing import LARGEST_PATH_BYTES
from edge_producer.sending.topic_limits import wire_size
from edge_producer.settings import EdgeSettings
from schemas.envelope import MessageVerifier, SealedMessage, read_envelope, verify
from schemas.message_tree import leaf_of, tree_of
from schemas.sealed_together import FEWEST_SHARING, MOST_SHARING
from tests.edge_producer.spool_rig import SpoolRig


class Limits:
    """Limits that the test sets; the broker tells them, unless ``told`` is False."""

    answers = 1
    told = known = True

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def limit(self, topic: str) -> int:
        return self.of.get(topic, 1_000_000)

    def is_assumed(self, _topic: str) -> bool:
        return not self.told

    def ask_again(self, _within_s: float = 0.0) -> None:
        pass

    def refused(self, topic: str, size: int) -> None:
        if not self.told:
            self.of[topic] = min(self.limit(topic), size // 2)

    def taken(self, topic: str, size: int) -> None:
        if not self.told:
            self.of[topic] = max(self.limit(topic), size)


class Broker:
    """Takes whatever it is handed, as a reachable broker would."""

    online = True
    in_flight = judging = 0

    def __init__(self) -> None:
        self.taken: list[SealedMessage] = []
        self.ids: list[int] = []
        self.limits = Limits()

    def stalled(self, _stall_s: float) -> bool:
        return False

    def send(self, id_: int, message: SealedMessage) -> bool:
        self.taken.append(message)
        self.ids.append(id_)
        return True

    def producers(self) -> set[str]:
        return {m.key.decode() for m in self.taken}


def outbox(rig: SpoolRig, broker: Broker, joined: set[str], **settings) -> Outbox:
    settings = EdgeSettings(state_dir=rig.folder, profile="bench", devices=rig.names, **settings)
    return Outbox(rig.spool, rig.sealer, broker, settings, joined.__contains__)


def turn(rig: SpoolRig, box: Outbox) -> None:
    """Seal what is due, then send it."""
    states = dict.fromkeys(rig.spool.names, b"{}")
    with rig.spool.transaction():
        box.seal(rig.now, states, draining=True)
    box.send()


def sensed(rigs, tmp_path) -> SpoolRig:
    rig = rigs(tmp_path, devices=("known", "new"))
    for name in rig.names:
        rig.sense([0.1, 0.9, 0.95, 0.2] * 5, name)
    rig.flush()
    return rig


def test_nothing_of_a_device_leaves_before_it_has_joined(rigs, tmp_path):
    rig, broker = sensed(rigs, tmp_path), Broker()
    box = outbox(rig, broker, {"known"})
    with rig.spool.transaction():
        for no in rig.spool.names:
            box.seal_alert(no, b"{}")
    turn(rig, box)
    assert broker.producers() == {"known"}
    assert rig.books("new").pending > 0


def test_what_waited_leaves_once_the_device_has_joined_and_the_books_balance(rigs, tmp_path):
    rig, broker, joined = sensed(rigs, tmp_path), Broker(), {"known"}
    box = outbox(rig, broker, joined)
    with rig.spool.transaction():
        box.seal_alert(rig.spool.devices["new"], b"{}")
    turn(rig, box)
    joined.add("new")
    turn(rig, box)
    assert {m.topic for m in broker.taken if m.key == b"new"} >= {"alert.v1", "telemetry.v1", "summary.v1"}
    assert all(rig.books(name).balanced for name in rig.names)


def test_an_alert_that_waited_leaves_after_a_restart_too(rigs, tmp_path):
    rig, broker = sensed(rigs, tmp_path), Broker()
    box = outbox(rig, broker, {"known"})
    with rig.spool.transaction():
        box.seal_alert(rig.spool.devices["new"], b"{}")
    rig.crash()
    box = outbox(rig, broker, {"known", "new"})
    turn(rig, box)
    assert [m.topic for m in broker.taken if m.key == b"new"].count("alert.v1") == 1


def backlog(rigs, tmp_path, messages: int, limit: int = 1_000_000) -> tuple[SpoolRig, Broker]:
    """What a device sends in one turn that seals so many messages of one row, states and statements aside."""
    rig, broker = rigs(tmp_path, devices=("d-1",)), Broker()
    rig.sense([0.9] * messages, "d-1")
    rig.flush()
    broker.limits.of["telemetry.v1"] = limit
    box = outbox(rig, broker, {"d-1"}, message_rows=1)
    with rig.spool.transaction():
        box.seal_alert(rig.spool.devices["d-1"], b"{}")
    turn(rig, box)
    return rig, broker


def holds(rig: SpoolRig, message: SealedMessage) -> bool:
    verifier = MessageVerifier(rig.identities["d-1"].signer.public_pem())
    verify(message.topic, message.key, message.headers, message.value,
           *read_envelope(message.key, message.headers), verifier)  # fmt: skip
    return True


def in_tree(message: SealedMessage) -> bool:
    return "path" in dict(message.headers)


def test_what_a_turn_seals_of_a_backlog_shares_a_signature_and_alerts_keep_theirs(rigs, tmp_path):
    rig, broker = backlog(rigs, tmp_path, 40)
    rows = [m for m in broker.taken if m.topic == "telemetry.v1"]
    assert len(rows) == 40
    assert len({dict(m.headers)["signature"] for m in rows}) <= 40 // MOST_SHARING + 1
    assert all(map(in_tree, rows))
    assert not any(in_tree(m) for m in broker.taken if m.topic == "alert.v1")
    assert all(holds(rig, m) for m in broker.taken)


def test_a_few_messages_are_each_signed_alone_for_a_path_costs_more_than_it_saves(rigs, tmp_path):
    _, broker = backlog(rigs, tmp_path, 2)
    assert 1 < len(broker.taken) < FEWEST_SHARING
    assert not any(map(in_tree, broker.taken))


def test_the_spool_counts_the_bytes_of_what_it_holds(rigs, tmp_path):
    rig, broker = backlog(rigs, tmp_path, 40)
    assert any(map(in_tree, broker.taken))
    held = sum(m.size for m in broker.taken)
    assert rig.spool.messages.bytes == held
    rig.spool.messages.measure()
    assert rig.spool.messages.bytes == held


def test_a_resend_after_a_crash_is_byte_for_byte_the_same(rigs, tmp_path):
    rig, first = backlog(rigs, tmp_path, 40)
    rig.crash()
    again = Broker()
    box = outbox(rig, again, {"d-1"}, message_rows=1)
    turn(rig, box)
    turn(rig, box)
    seen = {(m.topic, str(dict(m.headers)["lane"]), dict(m.headers)["msg_no"]): m for m in again.taken}
    for message in first.taken:
        assert (
            seen[message.topic, str(dict(message.headers)["lane"]), dict(message.headers)["msg_no"]]
            == message
        )


def test_a_message_that_its_topic_takes_without_a_path_alone_goes_without(rigs, tmp_path):
    _, roomy = backlog(rigs, tmp_path / "roomy", 40)
    largest = max(wire_size(m) for m in roomy.taken if m.topic == "telemetry.v1")
    rig, tight = backlog(rigs, tmp_path / "tight", 40, limit=largest)
    rows = [m for m in tight.taken if m.topic == "telemetry.v1"]
    assert len(rows) == 40
    assert all(wire_size(m) <= largest for m in rows)
    assert all(holds(rig, m) for m in tight.taken)


def test_room_is_kept_for_the_longest_path():
    bare = SealedMessage("telemetry.v1", b"d", [("signature", bytes(64))] * 11, bytes(100_000))
    [path, *_] = tree_of([leaf_of(bytes([n % 256])) for n in range(MOST_SHARING)])[1]
    with_path = SealedMessage(bare.topic, bare.key, [*bare.headers, ("path", path)], bare.value)
    assert wire_size(with_path) - wire_size(bare) <= LARGEST_PATH_BYTES

"""What leaves the device when: nothing of a device that the cloud does not know yet, and all of it later."""

from __future__ import annotations

from edge_producer.sending.outbox import Outbox
from edge_producer.settings import EdgeSettings
from schemas.envelope import SealedMessage
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


def outbox(rig: SpoolRig, broker: Broker, joined: set[str]) -> Outbox:
    settings = EdgeSettings(state_dir=rig.folder, profile="bench", devices=rig.names)
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

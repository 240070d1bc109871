"""Laws of an edge process that is a gateway: one producer for its devices, and books by device as ever."""

from __future__ import annotations

import json
import random
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from edge_producer.sending.outbox import Outbox
from edge_producer.settings import EdgeSettings
from edge_producer.spool.spool_keeper import SpoolKeeper, SpoolPlace
from schemas.boot_ids import boot_tag, gateway_tag
from schemas.envelope import MessageVerifier, read_envelope, verify
from schemas.errors import SpoolOwnerError
from schemas.events import decode_events
from schemas.topics import Lane
from tests.edge_producer.spool_rig import SpoolRig, statements, summary_rows
from tests.edge_producer.test_outbox import Broker

DEVICES = ("d-1", "d-2", "d-3")
GATE = "g-1"


def sensed(rig: SpoolRig, n: int = 20) -> SpoolRig:
    for name in rig.names:
        rig.sense([0.1, 0.9, 0.95, 0.2] * (n // 4), name)
    rig.flush()
    return rig


@pytest.fixture
def rig(rigs, tmp_path):
    return sensed(rigs(tmp_path, devices=DEVICES, gateway=GATE))


def drained(rig: SpoolRig, rounds: int = 4) -> Broker:
    """What leaves until nothing is left, everything acknowledged."""
    broker = Broker()
    settings = EdgeSettings(state_dir=rig.folder, profile="bench", devices=rig.names, gateway=rig.gateway)
    box = Outbox(rig.spool, rig.sealer, broker, settings)
    for _ in range(rounds):
        with rig.spool.transaction():
            box.seal(rig.now, {}, draining=True)
        box.send()
        with rig.spool.transaction():
            rig.spool.messages.settle(broker.ids, "acked", rig.now)
        box.arrived(broker.ids)
    return broker


def test_rows_summaries_and_books_of_all_devices_leave_in_messages_of_the_gateway(rig):
    waiting = {(r.boot_id, r.seq) for r in rig.unsealed()}
    broker = drained(rig)
    assert {m.key for m in broker.taken} == {GATE.encode()}
    lanes = Counter(read_envelope(m.key, m.headers)[0].lane for m in broker.taken)
    assert (lanes[Lane.LIVE], lanes[Lane.BACKLOG]) == (1, 1)
    rows = rig.rows_of(broker.taken)
    assert {(r["boot_id"], r["seq"]) for r in rows} == waiting
    assert {r["device_id"] for r in rows} == set(DEVICES)
    assert {boot_tag(r["boot_id"]) for r in rows} == {gateway_tag(GATE)}
    for found in (statements(broker.taken), summary_rows(broker.taken)):
        assert {line["device_id"] for line in found} == set(DEVICES)
    assert rig.spool.drained()


def test_a_gateway_signs_with_its_own_key_and_numbers_its_lanes_densely(rig):
    broker = drained(rig)
    key = MessageVerifier(rig.identities[GATE].public_pem.encode())
    numbers = Counter()
    for message in broker.taken:
        envelope, signature = read_envelope(message.key, message.headers)
        verify(message.topic, message.key, message.headers, message.value, envelope, signature, key)
        assert envelope.msg_no == numbers[envelope.lane]
        numbers[envelope.lane] += 1
    assert set(numbers) == {Lane.LIVE, Lane.BACKLOG, Lane.SUMMARY, Lane.BOOKS}


def test_the_books_of_each_device_balance_whatever_the_gateway_has_sealed(rig):
    before = {name: rig.books(name) for name in DEVICES}
    ids = rig.seal(limit=3)
    for name in DEVICES:
        assert rig.books(name).balanced
        assert rig.books(name).pending == before[name].pending > 0
        assert rig.books(name).pending_bytes > 0
    assert GATE not in rig.spool.totals()
    rig.settle(ids)
    assert all(rig.books(name).balanced for name in DEVICES)
    assert {name: rig.spool.totals()[name] for name in DEVICES} == {n: rig.books(n) for n in DEVICES}


def test_each_statement_of_a_device_says_what_became_of_its_own_rows(rig):
    broker = drained(rig)
    newest = {}
    for line in statements(broker.taken):
        key = line["device_id"], line["boot_id"], line["period_start"], line["stratum"]
        if key not in newest or newest[key]["revision"] < line["revision"]:
            newest[key] = line
    acked = Counter()
    for (device, *_), line in newest.items():
        acked[device] += line["acked"]
    assert acked == Counter(r["device_id"] for r in rig.rows_of(broker.taken))


def test_a_message_of_a_gateway_that_is_too_large_is_sealed_anew_with_the_lines_of_each_device(
    rigs, tmp_path
):
    limits = {}
    limit = lambda topic: limits.get(topic, 10**6)  # noqa: E731
    rig = sensed(rigs(tmp_path, devices=DEVICES, gateway=GATE, limit=limit))
    rows = {no: found for no in rig.spool.names if (found := rig.spool.rows.read(no, -1.0, 1e12, 500))}
    lines = Counter(row.book for found in rows.values() for row in found)
    with rig.spool.transaction():
        [stored] = rig.sealer.rows_of(rows, Lane.LIVE)
    limits["telemetry.v1"] = 1500
    with rig.spool.transaction():
        parts = rig.sealer.reseal(stored.id)
    assert len(parts) > 1
    assert sum((Counter(rig.spool.messages.books(p.id)) for p in parts), Counter()) == lines
    assert all(rig.books(name).balanced for name in DEVICES)


def test_what_devices_sensed_before_they_had_a_gateway_they_seal_themselves(rigs, tmp_path):
    rig = sensed(rigs(tmp_path, devices=DEVICES))
    before = {(r.boot_id, r.seq) for r in rig.unsealed()}
    assert before
    rig.gateway = GATE
    rig.crash()
    sensed(rig)
    broker = drained(rig)
    own = rig.rows_of([m for m in broker.taken if m.key != GATE.encode()])
    assert {(r["boot_id"], r["seq"]) for r in own} == before
    assert all(
        line["boot_id"] > 0 for line in statements([m for m in broker.taken if m.key != GATE.encode()])
    )
    rest = rig.rows_of([m for m in broker.taken if m.key == GATE.encode()])
    assert {r["device_id"] for r in rest} == set(DEVICES)
    assert all(boot_tag(r["boot_id"]) == gateway_tag(GATE) for r in rest)
    assert rig.spool.drained()
    assert all(rig.books(name).balanced for name in DEVICES)


def test_a_gateway_takes_on_devices_and_sends_what_those_that_went_have_left(rigs, tmp_path):
    rig = sensed(rigs(tmp_path, devices=DEVICES[:2], gateway=GATE))
    left = {(r.boot_id, r.seq) for r in rig.unsealed()}
    rig.names = DEVICES[1:]
    rig.crash()
    sensed(rig)
    rows = rig.rows_of(drained(rig).taken)
    assert left < {(r["boot_id"], r["seq"]) for r in rows}
    assert {r["device_id"] for r in rows} == set(DEVICES)
    rig.spool.check_content()
    assert "tallies_corrected" not in rig.spool.counters()


def test_the_spool_of_a_gateway_is_no_other_gateways_and_no_lone_devices(rigs, tmp_path):
    rig = sensed(rigs(tmp_path, devices=DEVICES, gateway=GATE))
    rig.close()
    for other in ("", "g-2"):
        rig.gateway = other
        with pytest.raises(SpoolOwnerError):
            rig.open()
    rig.is_open = False


def test_a_crash_resends_the_same_bytes(rig):
    ids = rig.seal(limit=7)
    sent = [rig.spool.messages.read(i) for i in ids]
    rig.crash()
    assert [rig.spool.messages.read(m.id) for m in rig.spool.messages.stored()] == sent


def test_a_damaged_spool_of_a_gateway_is_salvaged_with_its_messages_and_books(rig):
    ids = rig.seal(limit=5)
    sensed(rig)
    sent = {(m.key, tuple(m.headers)): m for m in (rig.spool.messages.read(i) for i in ids)}
    waiting = {(r.boot_id, r.seq) for r in rig.unsealed()}
    total = rig.spool.totals()
    rig.close()
    with closing(sqlite3.connect(rig.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with rig.path.open("r+b") as file:
        file.write(bytes(100))
    verifiers = {n: MessageVerifier(k.public_pem.encode()) for n, k in rig.identities.items()}
    place = SpoolPlace(rig.path, DEVICES, rig.profile, 256 * 1024**2, gateway=GATE)
    keeper = SpoolKeeper(place, lambda: verifiers, lambda: rig.now)
    assert keeper.open_first() is not None
    assert keeper.get() is not None
    keeper.salvage()
    spool = keeper.spool
    found = [spool.messages.read(m.id) for m in spool.messages.stored()]
    assert {(m.key, tuple(m.headers)): m for m in found} == sent
    rows = [r for no in spool.names for r in spool.rows.read(no, -1.0, 1e12, 10**6)]
    assert {(r.boot_id, r.seq) for r in rows} == waiting
    assert {n: b.sensed for n, b in spool.totals().items()} == {n: b.sensed for n, b in total.items()}
    assert all(books.balanced for books in spool.totals().values())
    keeper.close()


def test_a_gateway_cannot_be_one_of_its_devices(tmp_path):
    with pytest.raises(ValueError, match="cannot be one of the devices"):
        EdgeSettings(state_dir=tmp_path, profile="bench", devices=("a", "b"), gateway="a")


def test_states_of_a_gateways_devices_leave_together_and_those_of_a_lone_device_as_ever(rigs, tmp_path):
    states = {name: f'{{"device_id":"{name}"}}'.encode() for name in DEVICES}
    for gateway, schema, n in ((GATE, "json-lines", 1), ("", "json", len(DEVICES))):
        rig = rigs(tmp_path / schema, devices=DEVICES, gateway=gateway)
        with rig.spool.transaction():
            stored = rig.sealer.device_states({rig.spool.devices[d]: s for d, s in states.items()})
        sealed = [rig.spool.messages.read(one.id) for one in stored]
        envelopes = [read_envelope(m.key, m.headers)[0] for m in sealed]
        assert [e.schema for e in envelopes] == [schema] * n
        assert [s for e, m in zip(envelopes, sealed, strict=True) for s in events_in(e, m)] == [
            *states.values()
        ]


def test_states_are_cut_to_what_their_topic_takes_and_cut_again_where_it_takes_less(rigs, tmp_path):
    limits = {}
    rig = rigs(tmp_path, devices=DEVICES, gateway=GATE, limit=lambda topic: limits.get(topic, 10**6))
    states = {n: random_state(n) for n in range(20)}
    limits["device-state.v1"] = 6000
    with rig.spool.transaction():
        stored = rig.sealer.device_states(states)
    assert 1 < len(stored) < len(states)
    limits["device-state.v1"] = 3000
    with rig.spool.transaction():
        parts = [part for one in stored for part in rig.sealer.reseal(one.id) or [one]]
    sealed = [rig.spool.messages.read(one.id) for one in parts]
    assert max(m.size for m in sealed) <= 3000
    envelopes = [read_envelope(m.key, m.headers)[0] for m in sealed]
    sent = [s for e, m in zip(envelopes, sealed, strict=True) for s in events_in(e, m)]
    assert sorted(sent) == sorted(states.values())


def random_state(n: int) -> bytes:
    """Text that does not pack."""
    return json.dumps({"device_id": random.Random(n).randbytes(500).hex()}).encode()


def events_in(envelope, message) -> list[bytes]:
    if envelope.schema == "json":
        return [message.value]
    return decode_events(message.value, envelope.raw_bytes, envelope.n_rows)

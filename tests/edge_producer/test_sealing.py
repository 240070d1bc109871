"""Laws of sealed messages."""

import json

import pytest

from edge_producer.sending.topic_limits import wire_size
from schemas.envelope import MessageVerifier, read_envelope, verify
from schemas.profile_file import find_profile
from schemas.topics import Lane
from tests.edge_producer.spool_rig import bench_profile, statements, summary_rows


def envelope(message):
    return read_envelope(message.key, message.headers)[0]


def test_a_resend_is_byte_for_byte_the_same(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.9] * 5)
    rig.commit()
    (id_,) = rig.seal()
    first = rig.spool.messages.read(id_)
    rig.crash()
    assert rig.spool.messages.read(id_) == first == rig.sealed[id_]


def test_numbers_are_dense_within_a_lane_across_restarts(rigs, tmp_path):
    rig = rigs(tmp_path, devices=("d-1", "d-2"))
    for turn in range(6):
        rig.sense([0.9] * 3, "d-1")
        rig.sense([0.9] * 2, "d-2")
        rig.commit()
        rig.settle(rig.seal(Lane.LIVE if turn % 2 else Lane.BACKLOG))
        rig.crash()
    numbers = {}
    for message in rig.delivered:
        header = envelope(message)
        numbers.setdefault((header.producer, header.lane), []).append(header.msg_no)
    assert set(map(tuple, numbers.values())) == {(0, 1, 2)}
    assert len(numbers) == 4


def test_a_number_taken_in_a_failed_transaction_is_not_lost(rigs, tmp_path):
    rig = rigs(tmp_path)

    def take_and_fail():
        with rig.spool.transaction():
            rig.spool.messages.next_no(1, Lane.LIVE)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        take_and_fail()
    with rig.spool.transaction():
        assert rig.spool.messages.next_no(1, Lane.LIVE) == 0


def test_the_signature_holds_for_the_device_key(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.9] * 3)
    rig.commit()
    rig.seal()
    (message,) = rig.sealed.values()
    header, signature = read_envelope(message.key, message.headers)
    verifier = MessageVerifier(rig.identities["d-1"].public_pem.encode())
    verify(message.topic, message.key, message.headers, message.value, header, signature, verifier)
    assert header.signer == verifier.key_id


def test_rows_arrive_as_they_were_sensed(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0))
    rig.sense([0.25, float("nan"), 0.75])
    rig.flush()
    rig.seal()
    rows = rig.rows_of(rig.sealed.values())
    assert [r["load_last"] for r in rows] == [0.25, None, 0.75]
    assert [r["score"] for r in rows] == [0.25, None, 0.75]
    assert [r["decision"] for r in rows] == ["none", "hold", "inspect"]
    assert [r["mono_ns"] for r in rows] == [0, 10**9, 2 * 10**9]


@pytest.mark.parametrize("limit", [1200, 1500, 4000, 20_000])
def test_messages_of_every_topic_are_cut_to_what_the_broker_takes(rigs, tmp_path, limit):
    rig = rigs(tmp_path, bench_profile(p=1.0), limit=lambda _topic: limit)
    rig.sense([0.1, 0.9] * 150)
    rig.flush()
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())
    assert len(rig.rows_of(rig.delivered)) == 300
    assert sum(line["sensed"] for line in statements(rig.delivered)) == 300
    assert sum(r["n"] for r in summary_rows(rig.delivered) if r["feature"] == "score") == 300
    telemetry = [m for m in rig.delivered if m.topic == "telemetry.v1"]
    assert len(telemetry) > 1 or limit > 10_000
    too_large = [m.topic for m in rig.delivered if wire_size(m) > limit]
    assert set(too_large) <= {"summary.v1"}  # one feature's sketch alone is larger: it waits, see the outbox


def test_a_row_that_never_fits_is_sealed_and_kept(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=1.0), limit=lambda _topic: 10)
    rig.sense([0.1] * 3)
    rig.flush()
    assert len(rig.seal()) == 3
    assert (rig.books().refused, rig.books().pending) == (0, 3)


@pytest.mark.parametrize("name", ["bench", "machine"])
def test_five_rows_are_no_larger_than_their_json(rigs, tmp_path, name):
    profile = bench_profile() if name == "bench" else find_profile("machine")
    rig = rigs(tmp_path, profile)
    rig.sense([0.91, 0.9321, 0.95, 0.97, 0.9912])
    rig.flush()
    rig.seal()
    rows = rig.rows_of(rig.sealed.values())
    assert len(rows) == 5
    as_json = json.dumps(rows, default=str, separators=(",", ":"))
    assert sum(m.size for m in rig.sealed.values()) <= len(as_json)


def test_summaries_and_books_agree_on_what_was_sensed(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.1, 0.9, float("nan")] * 20)
    rig.flush()
    rig.settle(rig.seal_statements())
    devices_with_summaries = [r for r in summary_rows(rig.delivered) if r["feature"] == "score"]
    assert sum(r["n"] + r["n_missing"] for r in devices_with_summaries) == 60
    assert sum(r["n_missing"] for r in devices_with_summaries) == 20
    assert sum(line["sensed"] for line in statements(rig.delivered)) == 60


def test_an_alert_copies_its_row_and_is_not_in_the_books(rigs, tmp_path):
    rig = rigs(tmp_path)
    rig.sense([0.95, 0.95])
    update = rig.devices["d-1"].take_update()
    with rig.spool.transaction():
        rig.spool.apply(update, rig.now)
        ids = [rig.sealer.alert(1, event).id for event in update.alerts]
    assert len(ids) == 2
    event = json.loads(rig.spool.messages.read(ids[1]).value)
    assert (event["action"], event["seq"], event["boot_id"]) == ("stop", 1, update.boot_id)
    with rig.spool.transaction():
        rig.spool.messages.settle(ids, "acked", rig.now)
    assert (rig.books().sensed, rig.books().acked) == (2, 0)

"""Ingest: each row lands once; whatever is refused is counted and keeps nothing else back."""

import json
import random
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.envelope import encode_rows
from schemas.events import Alert
from schemas.lz4_block import pack
from schemas.profile_file import find_profile
from schemas.row_schemas import BOOKS_ROWS, fingerprint
from schemas.sealed_together import sealed_together
from schemas.topics import ALERT, BOOKS, DEVICE_TOPICS, LANES_OF, TELEMETRY, Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from tests.schemas.golden_rows import GOLDEN
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog, telemetry_batch

NOW = T0 + timedelta(minutes=2)
ROWS = "telemetry_machine"


P = find_profile("machine").filter.p


def ingest(directory, *batches):
    """Outcomes of batches handed over one after the other."""
    state, outcomes = TaskState("task-00"), []
    for messages in batches:
        outcome = run_jobs([Ingest(directory)], messages, state, NOW)
        outcomes.append(outcome)
        counters = {k: state.counters.get(k, 0) + v for k, v in outcome.counters.items()}
        state = TaskState(
            "task-00", state.n + 1, {}, {**state.state, **outcome.state}, {**state.counters, **counters}
        )
    return outcomes, state


def counts(state):
    prefix = "ingest/telemetry.v1/"
    return {k.removeprefix(prefix): v for k, v in state.counters.items() if k.startswith(prefix)}


def landed_seqs(outcomes):
    return [s for o in outcomes if ROWS in o.rows for s in o.rows[ROWS]["seq"].to_pylist()]


def assert_balanced(state):
    c = counts(state)
    assert c["received_rows"] == sum(c.get(f"{k}_rows", 0) for k in ("landed", "duplicate", "quarantined"))


def test_every_row_of_a_message_lands_with_its_place_in_the_log():
    device, log = SimDevice(), SimLog()
    messages = [log.append(device.rows(0, 3)), log.append(device.rows(3, 2))]
    [outcome], state = ingest(SimDirectory(device), messages)
    rows = outcome.rows[ROWS]
    assert rows["seq"].to_pylist() == [0, 1, 2, 3, 4]
    assert list(zip(rows["_offset"].to_pylist(), rows["_row"].to_pylist(), strict=True)) == [
        (0, 0), (0, 1), (0, 2), (1, 0), (1, 1),
    ]  # fmt: skip
    assert_balanced(state)


def test_a_resent_message_lands_once_whether_in_one_batch_or_two():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 4)
    first, second, third = (log.append(sealed) for _ in range(3))
    outcomes, state = ingest(SimDirectory(device), [first, second], [third])
    assert landed_seqs(outcomes) == [0, 1, 2, 3]
    assert counts(state)["duplicate_rows"] == 8
    assert_balanced(state)


@pytest.mark.parametrize("rows", [1, 5])
def test_messages_that_share_a_signature_land_and_only_the_altered_ones_of_them_do_not(rows):
    device, log = SimDevice(), SimLog()
    sealed = sealed_together([device.rows(i * rows, rows) for i in range(9)], device.signer)
    messages = [log.append(m) for m in sealed]
    path, other = (dict(messages[i].headers)["path"] for i in (3, 4))
    messages[2] = messages[2]._replace(value=messages[5].value)
    messages[3] = messages[3]._replace(
        headers=[(k, other if k == "path" else v) for k, v in messages[3].headers]
    )
    messages[6] = messages[6]._replace(
        headers=[(k, path if k == "path" else v) for k, v in messages[6].headers]
    )
    messages[7] = messages[7]._replace(headers=[h for h in messages[7].headers if h[0] != "path"])
    outcomes, state = ingest(SimDirectory(device), messages[:5], messages[5:])
    kept = [i * rows + n for i in (0, 1, 4, 5, 8) for n in range(rows)]
    assert landed_seqs(outcomes) == kept
    assert counts(state)["unverified_messages"] == 4
    assert_balanced(state)


def test_a_known_number_with_other_bytes_is_a_cloned_identity():
    device, log = SimDevice(), SimLog()
    clone = SimDevice(signer=device.signer)
    messages = [log.append(device.rows(0, 2)), log.append(clone.rows(50, 2))]
    [outcome], state = ingest(SimDirectory(device), messages)
    assert outcome.rows["quarantine"]["error"].to_pylist() == ["ClonedIdentityError"]
    assert landed_seqs([outcome]) == [0, 1]
    assert_balanced(state)


def test_a_hole_in_the_numbers_is_reported_and_heals():
    device, log = SimDevice(), SimLog()
    a, b, c = (log.append(device.rows(i * 2, 2)) for i in range(3))
    _, holed = ingest(SimDirectory(device), [a, c])
    assert counts(holed)["missing_messages"] == 1
    _, healed = ingest(SimDirectory(device), [a, c], [b])
    assert counts(healed)["missing_messages"] == 0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"value": b"\x00garbage"}, "SignatureError"),
        ({"key": b"machine-99"}, "SignatureError"),
        ({"key": None}, "DecodeError"),
        ({"headers": []}, "DecodeError"),
        ({"value": b"x" * 1_000_000}, "SignatureError"),
    ],
)
def test_an_altered_message_is_dead_lettered_and_loses_nothing_else(change, error):
    device, log = SimDevice(), SimLog()
    messages = [
        log.append(device.rows(0, 2)),
        log.append(device.rows(2, 2), **change),
        log.append(device.rows(4, 2)),
    ]
    [outcome], state = ingest(SimDirectory(device), messages)
    assert outcome.rows["quarantine"]["error"].to_pylist() == [error]
    assert landed_seqs([outcome]) == [0, 1, 4, 5]
    [letter] = outcome.messages
    assert letter.copy_of == (messages[1].topic, messages[1].partition, messages[1].offset)
    assert_balanced(state)


def test_a_header_changed_after_sealing_breaks_the_signature():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 2)
    forged = [(k, b"live" if k == "lane" else b"9" if k == "msg_no" else v) for k, v in sealed.headers]
    [outcome], _ = ingest(SimDirectory(device), [log.append(sealed, headers=forged)])
    assert outcome.rows["quarantine"]["error"].to_pylist() == ["SignatureError"]


def test_a_forged_signer_and_a_revoked_one_are_refused():
    device, stranger, log = SimDevice(), SimDevice(), SimLog()
    [forged], _ = ingest(SimDirectory(device), [log.append(stranger.rows(0, 2))])
    [revoked], _ = ingest(SimDirectory(device, revoked=("machine-00",)), [log.append(device.rows(0, 2))])
    assert forged.rows["quarantine"]["error"].to_pylist() == ["SignatureError"]
    assert "revoked" in revoked.rows["quarantine"]["reason"].to_pylist()[0]


def test_rows_of_a_device_that_the_producer_may_not_send_for_are_refused():
    device, log = SimDevice(), SimLog()
    message = log.append(device.telemetry(telemetry_batch("machine-77", 0, 2)))
    [outcome], _ = ingest(SimDirectory(device), [message])
    assert outcome.rows["quarantine"]["reason"].to_pylist() == ["machine-00 may not send for machine-77"]


def test_an_unknown_schema_is_refused_and_can_be_replayed_once_registered():
    device, log = SimDevice(), SimLog()
    message = log.append(device.rows(0, 2))
    unknown = SimDirectory(device, profiles=())
    outcomes, state = ingest(unknown, [message])
    assert outcomes[0].rows["quarantine"]["error"].to_pylist() == ["UnknownSchemaError"]
    again = run_jobs([Ingest(SimDirectory(device))], [log.append(device.rows(2, 1)), message], state, NOW)
    assert sorted(landed_seqs([again])) == [0, 1, 2]


def test_nan_becomes_null_and_infinity_refuses_only_its_row():
    device, log = SimDevice(), SimLog()
    rms = np.array([1.0, np.nan, np.inf, 2.0], dtype="float32")
    [outcome], state = ingest(SimDirectory(device), [log.append(device.rows(0, 4, vibration_rms=rms))])
    assert outcome.rows[ROWS]["vibration_rms"].to_pylist() == [1.0, None, 2.0]
    assert outcome.rows["quarantine"]["reason"].to_pylist() == ["vibration_rms is infinite"]
    assert len(outcome.messages) == 1
    assert_balanced(state)


@pytest.mark.parametrize("at", [T0.replace(year=1970), T0.replace(year=2030)])
def test_an_implausible_time_lands_under_append_time_and_is_kept_beside_it(at):
    device, log = SimDevice(), SimLog()
    [outcome], _ = ingest(SimDirectory(device), [log.append(device.rows(0, 1, event_time=[at]))])
    [row] = outcome.rows[ROWS].select(["event_time", "device_time", "time_suspect", "known_at"]).to_pylist()
    assert (row["event_time"], row["device_time"], row["time_suspect"]) == (row["known_at"], at, True)


@pytest.mark.parametrize(
    ("q", "allowed"),
    [(P, True), (P / 2, True), (0.6 * P, False), (0.9, False), (0.0, False), (P / 128, False)],
)
def test_only_probabilities_that_the_policy_allows_land(q, allowed):
    device, log = SimDevice(), SimLog()
    [outcome], state = ingest(
        SimDirectory(device), [log.append(device.rows(0, 1, inclusion_probability=[q]))]
    )
    assert (ROWS in outcome.rows) is allowed
    assert_balanced(state)


def test_a_score_outside_the_unit_interval_is_refused():
    device, log = SimDevice(), SimLog()
    [outcome], _ = ingest(SimDirectory(device), [log.append(device.rows(0, 2, score=[1.5, 0.5]))])
    assert landed_seqs([outcome]) == [1]


def test_an_alert_lands_with_its_features():
    device, log = SimDevice(), SimLog()
    alert = Alert(
        device_id="machine-00", boot_id=7, seq=3, event_time=T0, action="stop", score=0.9,
        model_version="machine-0", features={"vibration_rms": 9.0},
    )  # fmt: skip
    value = alert.model_dump_json().encode()
    message = log.append(device.seal_value(ALERT.base, Lane.ALERT, "json", value, 1, len(value)))
    [outcome], _ = ingest(SimDirectory(device), [message])
    [row] = outcome.rows["alerts"].to_pylist()
    assert (row["action"], json.loads(row["features"])) == ("stop", {"vibration_rms": 9.0})


def test_a_lane_on_the_wrong_topic_is_refused():
    device, log = SimDevice(), SimLog()
    batch = telemetry_batch("machine-00", 0, 1)
    message = log.append(device.telemetry(batch, Lane.SUMMARY))
    [outcome], _ = ingest(SimDirectory(device), [message])
    assert outcome.rows["quarantine"]["topic"].to_pylist() == [TELEMETRY.base]


def event_of(device_id="machine-00", boot_id=7):
    return (
        b'{"device_id":"%s","boot_id":%d,"seq":3,"event_time":"2026-01-01T00:00:00Z","action":"stop",'
        b'"score":0.9,"model_version":"m","features":{}}' % (device_id.encode(), boot_id)
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (event_of(device_id="machine-01"), "may not send for machine-01"),
        (event_of(boot_id=2**70), "boot_id"),
        (b"[1", "not a Alert"),
        (b"{}", "device_id"),
    ],
)
def test_a_signed_event_that_does_not_hold_is_refused(value, words):
    device, log = SimDevice(), SimLog()
    message = log.append(device.seal_value(ALERT.base, Lane.ALERT, "json", value, 1, len(value)))
    [outcome], _ = ingest(SimDirectory(device), [message])
    assert words in outcome.rows["quarantine"]["reason"].to_pylist()[0]
    assert "alerts" not in outcome.rows


@pytest.mark.parametrize("topic", [t.base for t in DEVICE_TOPICS])
def test_signed_content_of_another_topic_is_refused_and_stops_nothing(topic):
    device, log = SimDevice(), SimLog()
    batch = telemetry_batch("machine-00", 0, 1)
    value, raw = encode_rows(batch)
    lane = LANES_OF[topic][0]
    schema = fingerprint(BOOKS_ROWS) if topic == TELEMETRY.base else fingerprint(batch.schema)
    wrong = log.append(device.seal_value(topic, lane, schema, value, 1, raw))
    as_json = log.append(device.seal_value(topic, lane, "json", b"{", 1, 1))
    [outcome], _ = ingest(SimDirectory(device), [wrong, as_json, log.append(device.rows(5, 1))])
    assert outcome.rows["quarantine"]["error"].to_pylist() == ["DecodeError", "DecodeError"]
    assert landed_seqs([outcome]) == [5]


@given(seed=st.integers(0, 2**32))
def test_signed_rows_with_flipped_bits_land_or_are_refused_but_stop_nothing(seed):
    device, log, rng = SimDevice(), SimLog(), random.Random(seed)
    batch = telemetry_batch("machine-00", 0, 4)
    raw = bytearray(batch.serialize().to_pybytes())
    for _ in range(rng.choice([1, 2, 8])):
        raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    value = pack(bytes(raw))
    sealed = device.seal_value(TELEMETRY.base, Lane.LIVE, fingerprint(batch.schema), value, 4, len(raw))
    _, state = ingest(SimDirectory(device), [log.append(sealed)])
    assert_balanced(state)


def test_a_header_without_a_value_is_refused_and_stops_nothing():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 1)
    for name in ("n_rows", "signature", "lane", "extra"):
        headers = [(k, v) for k, v in sealed.headers if k != name] + [(name, None)]
        [outcome], _ = ingest(SimDirectory(device), [log.append(sealed, headers=headers)])
        assert outcome.rows["quarantine"]["error"].to_pylist() == ["DecodeError"]


@pytest.mark.parametrize("column", ["device_id", "reasons", "event_time", "sample_p"])
def test_a_null_where_none_may_be_is_refused(column):
    device, log = SimDevice(), SimLog()
    batch = telemetry_batch("machine-00", 0, 2)
    at = batch.schema.get_field_index(column)
    columns = list(batch.columns)
    columns[at] = pa.array([None, columns[at][1].as_py()], columns[at].type)
    holed = pa.record_batch(columns, schema=batch.schema)
    [outcome], _ = ingest(SimDirectory(device), [log.append(device.telemetry(holed))])
    assert "may not be null" in outcome.rows["quarantine"]["reason"].to_pylist()[0]


@pytest.mark.parametrize("us", [-(2**63) + 1, 2**63 - 1])
def test_a_time_that_no_calendar_holds_is_not_kept(us):
    device, log = SimDevice(), SimLog()
    device_time = pa.array([us]).cast(pa.timestamp("us", tz="UTC"))
    [outcome], _ = ingest(SimDirectory(device), [log.append(device.rows(0, 1, event_time=device_time))])
    rows = outcome.rows[ROWS]
    assert rows["time_suspect"].to_pylist() == [True]
    assert rows["device_time"].null_count == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sensed": [2**62]}, "absurdly large"),
        ({"model_version": ["a\x1fb"]}, "no name"),
        ({"period_start": pa.array([2**63 - 1]).cast(pa.timestamp("us", tz="UTC"))}, "no calendar"),
    ],
)
def test_a_statement_that_would_break_queries_or_keys_is_refused(change, words):
    device, log = SimDevice(), SimLog()
    batch = GOLDEN["books.v1"]
    columns = {f.name: batch.column(f.name) for f in batch.schema} | {"device_id": ["machine-00"]} | change
    changed = pa.record_batch([pa.array(columns[f.name], f.type) for f in batch.schema], schema=batch.schema)
    value, raw = encode_rows(changed)
    sealed = device.seal_value(BOOKS.base, Lane.BOOKS, fingerprint(batch.schema), value, 1, raw)
    [outcome], _ = ingest(SimDirectory(device), [log.append(sealed)])
    assert words in outcome.rows["quarantine"]["reason"].to_pylist()[0]

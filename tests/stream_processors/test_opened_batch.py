"""Messages that come together are judged as each is by itself."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pytest

from schemas.envelope import encode_rows
from schemas.errors import SignatureError
from schemas.lz4_block import pack, unpack
from schemas.row_schemas import fingerprint
from schemas.topics import ALERT, TELEMETRY, Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import VERIFIED_DUPLICATES, Ingest
from stream_processors.ingest.lanes import Lanes
from stream_processors.ingest.opened_batch import ReaderCaches, opened
from tests.simulators.messages import (
    T0,
    SimDevice,
    SimDirectory,
    SimLog,
    gateway_batch,
    gateway_boot,
    telemetry_batch,
)

ROWS = "telemetry_machine"
EXPECTED = {
    ("ClonedIdentityError", True): 1,
    ("DecodeError", True): 10,
    ("MessageError", True): 3,
    ("PolicyError", True): 2,
    ("SignatureError", False): 4,
    ("UnknownSchemaError", True): 2,
}
"""Refusals of ``mixed`` and its first seven again, by error and whether the signature holds."""


def outcome(directory, *calls):
    """Rows, refusals and counters of batches handed over one after the other to one job."""
    job, state, seen = Ingest(directory), TaskState("task-00"), Counter()
    rows, refused = [], []
    for messages in calls:
        made = run_jobs([job], messages, state, T0)
        rows += made.rows[ROWS].to_pylist() if ROWS in made.rows else []
        refused += made.rows["quarantine"].to_pylist() if "quarantine" in made.rows else []
        seen.update(made.counters)
        state = state.changed_by(made.state)
    return rows, [(r["_offset"], r["error"], r["reason"], r["verified"]) for r in refused], +seen


def sealed_wrongly(device: SimDevice, boot: int = 7):
    """Messages that the device's key signs, and that are refused or known, each in another way."""
    batch = telemetry_batch(device.device_id, 90, 2, boot_id=[boot] * 2)
    value, raw = encode_rows(batch)
    schema = fingerprint(batch.schema)
    cut = unpack(value, raw)[:-8]
    telemetry, live = TELEMETRY.base, Lane.LIVE
    known = device.rows(80, 1, boot_id=[boot])
    return [
        device.telemetry(telemetry_batch("machine-77", 91, 2)),
        device.seal_value(telemetry, live, schema, value, 3, raw),
        device.seal_value(telemetry, live, "0123456789abcdef", value, 2, raw),
        device.seal_value(telemetry, live, "json", b"{}", 1, 2),
        device.seal_value(telemetry, live, schema, pack(cut), 2, raw - 8),
        device.seal_value(telemetry, live, schema, value, 2, 2**40),
        device.seal_value(ALERT.base, Lane.ALERT, "json", b"{}", 1, 2),
        device.telemetry(telemetry_batch(device.device_id, 92, 2, score=[0.5, 7.0], boot_id=[boot] * 2)),
        known,
        known,
    ]


@pytest.fixture
def mixed():
    """A directory, and messages of all kinds among good ones of equal and of other sizes."""
    one, two, gateway = SimDevice("machine-00"), SimDevice("machine-01"), SimDevice("gateway-1")
    revoked, stranger, clone = SimDevice("machine-02"), SimDevice("machine-00"), SimDevice(signer=one.signer)
    directory = SimDirectory(
        one,
        two,
        gateway,
        revoked,
        revoked=("machine-02",),
        behind={"gateway-1": ("machine-08", "machine-09")},
    )
    log = SimLog()
    bad = [
        *sealed_wrongly(one),
        *sealed_wrongly(gateway, boot=gateway_boot("gateway-1")),
        revoked.rows(0, 1),
        stranger.rows(0, 1),
    ]
    for i, refused in enumerate(bad):
        log.append(one.rows(100 + i, 1 + i % 3))
        log.append(two.rows(100 + i, 1))
        log.append(gateway.telemetry(gateway_batch("gateway-1", f"machine-0{8 + i % 2}", i, 1)))
        log.append(refused)
    log.append(clone.rows(5000, 1))
    forged = two.rows(300, 1)
    log.append(forged, headers=[(k, b"\x00" * 64 if k == "signature" else v) for k, v in forged.headers])
    log.append(two.rows(301, 1), value=b"other bytes")
    return directory, log.messages


def test_one_call_has_the_outcome_of_a_call_a_message(mixed):
    directory, messages = mixed
    together = outcome(directory, messages, messages[:7])
    apart = outcome(directory, *[[m] for m in messages], *[[m] for m in messages[:7]])
    assert together[2] == apart[2]
    assert sorted(together[1]) == sorted(apart[1])
    assert sorted(together[0], key=str) == sorted(apart[0], key=str)
    assert Counter((error, verified) for _, error, _, verified in together[1]) == EXPECTED


def test_rows_of_messages_that_were_opened_together_land_in_the_order_of_the_log(mixed):
    directory, messages = mixed
    rows, _, _ = outcome(directory, messages)
    places = [(r["_offset"], r["_row"]) for r in rows]
    assert places == sorted(places)
    devices = {m.offset: m.key.decode() for m in messages if m.topic == TELEMETRY.base}
    assert all(r["device_id"] == devices[r["_offset"]] or devices[r["_offset"]] == "gateway-1" for r in rows)


def test_a_gateway_sends_for_the_devices_behind_it_and_for_no_other():
    gateway, log = SimDevice("gateway-1"), SimLog()
    directory = SimDirectory(gateway, behind={"gateway-1": ("machine-08",)})
    names = ["machine-08", "machine-08", "machine-99", "gateway-1", "machine-08", "machine-08"] * 3
    batches = [gateway_batch("gateway-1", name, i, 1) for i, name in enumerate(names)]
    batches.append(pa.concat_batches([gateway_batch("gateway-1", n, 50, 1) for n in names[1:3]]))
    messages = [log.append(gateway.telemetry(b)) for b in batches]
    rows, refused, _ = outcome(directory, messages)
    assert Counter(r["device_id"] for r in rows) == {"machine-08": 13, "gateway-1": 3}
    assert sorted(offset for offset, *_ in refused) == [2, 8, 14, 18]
    assert {reason for _, _, reason, _ in refused} == {"gateway-1 may not send for machine-99"}


class CountingDirectory(SimDirectory):
    """Counts the signatures that are checked."""

    checked = 0

    def signer(self, key_id):
        device = super().signer(key_id)
        return None if device is None else replace(device, verifier=self)

    def verify(self, signature, data):
        self.checked += 1


def test_copies_of_one_number_are_not_all_checked():
    device, log = SimDevice(), SimLog()
    sealed, directory = device.rows(0, 1), CountingDirectory(device)
    messages = [log.append(sealed) for _ in range(VERIFIED_DUPLICATES + 3)]
    _, _, seen = outcome(directory, messages)
    assert seen["ingest/telemetry.v1/unchecked_messages"] == 2
    assert seen["ingest/telemetry.v1/landed_messages"] == 1
    assert directory.checked == VERIFIED_DUPLICATES + 1


def test_headers_are_learnt_from_messages_that_hold_and_from_no_others():
    device, log = SimDevice(), SimLog()
    forged = [log.append(device.rows(i, 1))._replace(value=b"?") for i in range(3)]
    good = log.append(device.rows(9, 1))
    caches, lanes = ReaderCaches(), Lanes({})
    for one in opened(forged, SimDirectory(device), lanes, caches):
        with pytest.raises(SignatureError):
            one.verify(one.claimed)
    assert caches.headers.read(good) is None
    [one] = opened([good], SimDirectory(device), lanes, caches)
    one.verify(one.claimed)
    assert caches.headers.read(good) is not None

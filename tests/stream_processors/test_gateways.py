"""Laws of gateways: whoever sends a row, it lands once, and only from the producer that its boot belongs to.

Each producer's messages go to a worker of their own, with its own directory and state: device and gateway
share nothing but the lake's registry.
"""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.device_registry import DeviceRecord, DeviceRegistry
from feature_store.lake_registry import ProfileRegistry
from schemas.boot_ids import GATEWAY, boot_tag, boot_tags, gateway_boot_ids, gateway_tag, random_boot_id
from schemas.envelope import encode_rows
from schemas.events import Alert, DeviceState, encode_events
from schemas.row_schemas import BOOKS_ROWS, fingerprint
from schemas.topics import ALERT, BOOKS, DEVICE_STATE, Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.lake_directory import MAX_AGE_S, LakeDirectory
from tests.feature_store.fleets import machine_lake
from tests.schemas.golden_rows import GOLDEN
from tests.simulators.messages import (
    MACHINE,
    T0,
    SimDevice,
    SimLog,
    gateway_batch,
    gateway_boot,
    telemetry_batch,
)

ROWS = "telemetry_machine"
DEVICE, OTHER, GATE, NEXT = "machine-08", "machine-09", "gateway-1", "gateway-2"
HOUR = timedelta(hours=1)


class Worker:
    """One worker: its own look-ups with a clock that stands still, and its own state."""

    def __init__(self, fleet: Fleet):
        self.now_s = 0.0
        profiles, devices = ProfileRegistry(fleet.lake), DeviceRegistry(fleet.lake)
        self._job = Ingest(LakeDirectory(profiles, devices, monotonic=lambda: self.now_s))
        self._state, self._log = TaskState("task-00"), SimLog()
        self.rows: list[tuple[str, int, int]] = []
        self.refused: list[tuple[str, str, bool]] = []
        self.letters = 0
        self.counters: dict[str, int] = {}
        self.tables: dict[str, list[pa.Table]] = {}

    def take(self, *sealed) -> Worker:
        """Give the worker messages in one call."""
        messages = [self._log.append(m) for m in sealed]
        made = run_jobs([self._job], messages, self._state, T0)
        self._state = self._state.changed_by(made.state)
        for name, table in made.rows.items():
            self.tables.setdefault(name, []).append(table)
        rows = made.rows[ROWS].to_pylist() if ROWS in made.rows else []
        self.rows += [(r["device_id"], r["boot_id"], r["seq"]) for r in rows]
        refused = made.rows["quarantine"].to_pylist() if "quarantine" in made.rows else []
        self.refused += [(r["error"], r["reason"], r["verified"]) for r in refused]
        self.letters += sum(m.copy_of is not None for m in made.messages)
        for name, n in made.counters.items():
            self.counters[name] = self.counters.get(name, 0) + n
        return self


class Fleet:
    """A lake that knows two devices and two gateways, and the keys of all."""

    def __init__(self, root):
        self.lake = machine_lake(root)
        ProfileRegistry(self.lake).register(MACHINE)
        self.at = T0
        self.registry = DeviceRegistry(self.lake, clock=lambda: self.at)
        names = {DEVICE: "sim", OTHER: "sim", GATE: GATEWAY, NEXT: GATEWAY}
        self.keys = {name: SimDevice(name) for name in names}
        self.registry.register([self._record(name, hardware) for name, hardware in names.items()])

    def _record(self, name: str, hardware: str) -> DeviceRecord:
        signer = self.keys[name].signer
        pem = signer.public_pem().decode()
        return DeviceRecord(name, "machine", "hall", "default", hardware, signer.key_id, pem)

    def assign(self, device: str, gateway: str | None, at=T0) -> None:
        self.at = at
        self.registry.assign([device], gateway)

    def own(self, first_seq: int, n: int, boot: int = 7, device: str = DEVICE, lane: Lane = Lane.LIVE):
        """What a device seals itself."""
        return self.keys[device].telemetry(telemetry_batch(device, first_seq, n, boot_id=[boot] * n), lane)

    def through(self, gateway: str, *rows: pa.RecordBatch):
        """What a gateway seals."""
        return self.keys[gateway].telemetry(pa.concat_batches(rows))


@pytest.fixture
def fleet(lake_root):
    return Fleet(lake_root)


@given(st.integers(0, 2**53 - 1), st.sampled_from([GATE, NEXT, "g", "halle 3"]))
def test_the_id_of_a_boot_says_who_made_it(own, gateway):
    made = gateway_boot_ids(gateway)()
    assert -(2**53) <= made < 0
    assert boot_tag(made) == gateway_tag(gateway)
    assert boot_tag(own) is None
    assert boot_tag(random_boot_id()) is None
    assert boot_tag(-(2**53) - 1) is None
    ids = pa.array([made, own, -(2**63), -(2**53), -1]).to_numpy()
    assert boot_tags(ids).tolist() == [-1 if (t := boot_tag(int(i))) is None else t for i in ids]


def test_rows_of_many_devices_come_in_one_message_of_their_gateway(fleet):
    for device in (DEVICE, OTHER):
        fleet.assign(device, GATE)
    both = fleet.through(GATE, gateway_batch(GATE, DEVICE, 0, 2), gateway_batch(GATE, OTHER, 0, 3))
    worker = Worker(fleet).take(both, both)
    boot = gateway_boot(GATE)
    assert worker.rows == [(DEVICE, boot, 0), (DEVICE, boot, 1), *((OTHER, boot, n) for n in range(3))]
    assert worker.refused == []
    assert worker.counters["ingest/telemetry.v1/duplicate_rows"] == 5


@pytest.mark.parametrize("device_first", [True, False])
@pytest.mark.parametrize("assigned", [True, False])
@pytest.mark.parametrize("of_gateway", [True, False])
def test_the_same_rows_from_device_and_gateway_land_once(fleet, device_first, assigned, of_gateway):
    if assigned:
        fleet.assign(DEVICE, GATE, T0 + HOUR)
    boot = gateway_boot(GATE) if of_gateway else 7
    by_device = fleet.own(0, 3, boot)
    by_gateway = fleet.through(GATE, telemetry_batch(DEVICE, 0, 3, boot_id=[boot] * 3))
    workers = [Worker(fleet), Worker(fleet)]
    for worker, message in list(zip(workers, (by_device, by_gateway), strict=True))[
        :: 1 if device_first else -1
    ]:
        worker.take(message)
    landed = [row for worker in workers for row in worker.rows]
    assert landed == ([] if of_gateway and not assigned else [(DEVICE, boot, n) for n in range(3)])
    wrong = workers[0] if of_gateway else workers[1]
    owner, other = (GATE, DEVICE) if of_gateway else (DEVICE, GATE)
    error, reason, verified = wrong.refused[0]
    assert verified
    assert wrong.letters == 1
    if assigned or of_gateway:
        assert (error, reason) == (
            "ForeignBootError",
            f"boot {boot} of {DEVICE} belongs to {owner}, not to {other}",
        )
    else:
        assert (error, reason) == ("MessageError", f"{GATE} may not send for {DEVICE}")


def test_a_device_that_was_moved_with_a_full_spool_sends_its_earlier_boots_itself(fleet):
    fleet.assign(DEVICE, GATE, T0 + HOUR)
    earlier = [fleet.own(0, 5, boot, lane=Lane.BACKLOG) for boot in (5, 6)]
    # This boot began before the move and goes on after it, and what is new leaves first.
    running = [fleet.own(4000, 2), fleet.own(100, 2, lane=Lane.BACKLOG), fleet.own(9000, 1)]
    worker = Worker(fleet).take(*earlier, *running)
    assert worker.refused == []
    assert len(worker.rows) == 15
    by_gateway = Worker(fleet).take(fleet.through(GATE, gateway_batch(GATE, DEVICE, 0, 4)))
    assert (len(by_gateway.rows), by_gateway.refused) == (4, [])


def test_a_boot_that_began_after_a_device_was_moved_is_not_its_own_any_more(fleet):
    fleet.assign(DEVICE, GATE, T0 + HOUR)
    late = telemetry_batch(DEVICE, 0, 2, event_time=[T0 + HOUR, T0 + 2 * HOUR])
    worker = Worker(fleet).take(fleet.keys[DEVICE].telemetry(late))
    assert worker.rows == []
    [(error, reason, verified)] = worker.refused
    assert (error, verified) == ("ForeignBootError", True)
    assert reason == (
        f"boot 7 of {DEVICE} belongs to {GATE}, not to {DEVICE}: "
        f"{DEVICE} was assigned to it at 2026-01-01 01:00:00 UTC, before it began"
    )


def test_a_device_goes_from_gateway_to_gateway_and_back_to_itself(fleet):
    for hours, producer in enumerate((GATE, NEXT, None), start=1):
        fleet.assign(DEVICE, producer, T0 + hours * HOUR)
    workers = {name: Worker(fleet) for name in (DEVICE, GATE, NEXT)}
    workers[DEVICE].take(fleet.own(0, 2, 5), fleet.own(20_000, 2, 9))
    for hours, gateway in ((1, GATE), (2, NEXT)):
        during, after = T0 + hours * HOUR + HOUR / 2, T0 + (hours + 1) * HOUR
        for n, at in enumerate((during, after)):
            boots = [gateway_boot(gateway, n)]
            one = telemetry_batch(DEVICE, 0, 1, boot_id=boots, event_time=[at])
            workers[gateway].take(fleet.through(gateway, one))
    assert [len(w.rows) for w in workers.values()] == [4, 1, 1]
    assert [e for w in workers.values() for e, _, _ in w.refused] == ["ForeignBootError"] * 2


def test_whoever_was_assigned_a_device_just_now_is_not_refused_because_of_a_cache(fleet):
    worker = Worker(fleet).take(fleet.own(0, 1))
    fleet.assign(DEVICE, GATE, T0 + HOUR)
    worker.take(fleet.through(GATE, gateway_batch(GATE, DEVICE, 0, 2)))
    fleet.assign(DEVICE, NEXT, T0 + 2 * HOUR)
    worker.take(fleet.through(NEXT, gateway_batch(NEXT, DEVICE, 0, 2)))
    assert worker.refused == []
    assert len(worker.rows) == 5


@pytest.mark.parametrize("age_s", [0.0, MAX_AGE_S])
def test_within_the_age_of_a_cache_no_row_lands_from_two_producers(fleet, age_s):
    worker = Worker(fleet).take(fleet.own(0, 1))
    fleet.assign(DEVICE, GATE, T0)
    worker.now_s = age_s
    begun_later = telemetry_batch(DEVICE, 0, 3, boot_id=[8] * 3)
    worker.take(fleet.keys[DEVICE].telemetry(begun_later))
    fresh = Worker(fleet).take(fleet.through(GATE, begun_later))
    assert fresh.rows == []
    assert len(worker.rows) == (4 if age_s < MAX_AGE_S else 1)


def test_a_gateway_does_not_speak_for_a_device_that_is_not_assigned_to_it(fleet):
    fleet.assign(DEVICE, GATE)
    other = fleet.through(GATE, gateway_batch(GATE, OTHER, 0, 1))
    foreign = fleet.through(NEXT, gateway_batch(NEXT, DEVICE, 0, 2))
    worker = Worker(fleet).take(other, foreign)
    assert worker.rows == []
    reasons = [f"{GATE} may not send for {OTHER}", f"{NEXT} may not send for {DEVICE}"]
    assert worker.refused == [("MessageError", reason, True) for reason in reasons]
    assert worker.letters == 2


def test_what_a_gateway_may_not_send_takes_nothing_of_its_other_devices_with_it(fleet):
    """A device that is revoked, or assigned elsewhere, must not silence the site."""
    fleet.assign(DEVICE, GATE)
    parts = [
        gateway_batch(GATE, OTHER, 0, 1),
        gateway_batch(GATE, DEVICE, 0, 2),
        telemetry_batch(DEVICE, 5, 1),
        gateway_batch(GATE, DEVICE, 2, 1, score=[7.0]),
        gateway_batch(GATE, DEVICE, 3, 1),
    ]
    worker = Worker(fleet).take(fleet.through(GATE, *parts))
    assert [seq for _, _, seq in worker.rows] == [0, 1, 3]
    assert worker.tables[ROWS][0]["_row"].to_pylist() == [1, 2, 5]
    assert sorted(worker.refused) == [
        ("ForeignBootError", f"boot 7 of {DEVICE} belongs to {DEVICE}, not to {GATE}", True),
        ("MessageError", f"{GATE} may not send for {OTHER}", True),
        ("PolicyError", "score is outside [0, 1]", True),
    ]
    assert worker.letters == 1
    counted = {what: worker.counters[f"ingest/telemetry.v1/{what}_rows"] for what in ("received", "landed")}
    assert counted == {"received": 6, "landed": 3}
    assert worker.counters["ingest/telemetry.v1/quarantined_rows"] == 3


def test_a_device_that_is_no_gateway_speaks_for_itself_alone_whatever_the_registry_says(fleet):
    record = fleet.registry.keys()[fleet.keys[DEVICE].signer.key_id]
    fleet.registry.register([DeviceRecord(**{**record.__dict__, "gateway": OTHER})])
    worker = Worker(fleet).take(fleet.through(OTHER, telemetry_batch(DEVICE, 0, 1)))
    assert worker.rows == []
    with pytest.raises(ValueError, match="is no gateway"):
        fleet.registry.assign([DEVICE], OTHER)


def test_nothing_lands_from_a_revoked_gateway_or_for_a_revoked_device(fleet):
    for device in (DEVICE, OTHER):
        fleet.assign(device, GATE)
    fleet.registry.revoke([OTHER])
    worker = Worker(fleet).take(fleet.through(GATE, gateway_batch(GATE, OTHER, 0, 1)))
    assert [reason for _, reason, _ in worker.refused] == [f"{GATE} may not send for {OTHER}"]
    fleet.registry.revoke([GATE])
    after = Worker(fleet).take(fleet.through(GATE, gateway_batch(GATE, DEVICE, 0, 1)))
    assert [reason for _, reason, _ in after.refused] == [f"the key of {GATE} is revoked"]
    assert worker.rows == after.rows == []
    fleet.assign(DEVICE, NEXT, T0 + HOUR)
    assert len(Worker(fleet).take(fleet.through(NEXT, gateway_batch(NEXT, DEVICE, 0, 1))).rows) == 1


def test_events_and_books_follow_the_boot_as_rows_do(fleet):
    fleet.assign(DEVICE, GATE, T0 + HOUR)
    own = fleet.keys[DEVICE]
    alerts = [alert_of(own, boot, T0 + at) for boot, at in ((7, HOUR / 2), (8, 2 * HOUR))]
    worker = Worker(fleet).take(*alerts, books_of(own, 7, T0 + 2 * HOUR), books_of(own, 8, T0 + 2 * HOUR))
    assert sum(t.num_rows for t in worker.tables["alerts"]) == 1
    assert sum(t.num_rows for t in worker.tables["books"]) == 1
    assert [error for error, _, _ in worker.refused] == ["ForeignBootError"] * 2
    gateway = Worker(fleet).take(books_of(fleet.keys[GATE], gateway_boot(GATE), T0 + 2 * HOUR))
    assert sum(t.num_rows for t in gateway.tables["books"]) == 1


def test_rows_of_the_same_call_show_that_a_boot_began_before_what_is_stated_about_it(fleet):
    """Statements and rows come from different topics, in any order."""
    fleet.assign(DEVICE, GATE, T0 + HOUR)
    running = telemetry_batch(DEVICE, 7200, 1, boot_id=[9])  # it began at T0
    own = fleet.keys[DEVICE]
    worker = Worker(fleet).take(books_of(own, 9, T0 + 2 * HOUR), own.telemetry(running))
    assert worker.refused == []
    assert sum(t.num_rows for t in worker.tables["books"]) == 1


def test_states_that_a_gateway_sends_together_land_each_and_a_foreign_one_is_refused_alone(fleet):
    fleet.assign(DEVICE, GATE)
    gate = fleet.keys[GATE]
    mine = [state_of(DEVICE, gateway_boot(GATE), T0 + n * HOUR) for n in range(3)]
    foreign = state_of(OTHER, gateway_boot(GATE), T0)
    worker = Worker(fleet).take(states_of(gate, *mine[:2], foreign, mine[2]))
    landed = [row for t in worker.tables["device_states"] for row in t.to_pylist()]
    assert [(r["device_id"], r["event_time"], r["_row"]) for r in landed] == [
        (DEVICE, T0, 0), (DEVICE, T0 + HOUR, 1), (DEVICE, T0 + 2 * HOUR, 3)
    ]  # fmt: skip
    assert [(error, reason[:30]) for error, reason, _ in worker.refused] == [
        ("MessageError", f"{GATE} may not send for {OTHER}"[:30])
    ]
    assert worker.letters == 1
    of_topic = {n.rpartition("/")[2]: c for n, c in worker.counters.items() if "device-state" in n}
    assert (of_topic["received_rows"], of_topic["landed_rows"], of_topic["quarantined_rows"]) == (4, 3, 1)


@pytest.mark.parametrize("n", [1, 3, 4097])
def test_states_are_refused_where_their_number_is_not_the_stated_one(fleet, n):
    fleet.assign(DEVICE, GATE)
    two = [state_of(DEVICE, gateway_boot(GATE), T0)] * 2
    worker = Worker(fleet).take(states_of(fleet.keys[GATE], *two, n=n))
    assert [error for error, _, _ in worker.refused] == ["DecodeError"]
    assert "device_states" not in worker.tables


def test_only_states_come_several_in_a_message(fleet):
    fleet.assign(DEVICE, GATE)
    value, raw = encode_events([b"{}", b"{}"])
    sealed = fleet.keys[GATE].seal_value(ALERT.base, Lane.ALERT, "json-lines", value, 2, raw)
    assert [error for error, _, _ in Worker(fleet).take(sealed).refused] == ["DecodeError"]


def state_of(device_id: str, boot: int, at) -> bytes:
    state = DeviceState(
        device_id=device_id, boot_id=boot, event_time=at, profile="machine", model_version="machine-0",
        decision="normal", spool_bytes=0, pending_rows=0, oldest_pending_s=0.0,
    )  # fmt: skip
    return state.model_dump_json(exclude_none=True).encode()


def states_of(device: SimDevice, *states: bytes, n: int | None = None):
    value, raw = encode_events(states)
    number = len(states) if n is None else n
    return device.seal_value(DEVICE_STATE.base, Lane.STATE, "json-lines", value, number, raw)


def alert_of(device: SimDevice, boot: int, at):
    event = Alert(
        device_id=DEVICE, boot_id=boot, seq=0, event_time=at, action="stop", score=0.9,
        model_version="machine-0", features={},
    )  # fmt: skip
    value = event.model_dump_json().encode()
    return device.seal_value(ALERT.base, Lane.ALERT, "json", value, 1, len(value))


def books_of(device: SimDevice, boot: int, period_start):
    row = GOLDEN["books.v1"].to_pylist()[0]
    row |= {"device_id": DEVICE, "boot_id": boot, "period_start": period_start}
    value, raw = encode_rows(pa.RecordBatch.from_pylist([row], schema=BOOKS_ROWS))
    return device.seal_value(BOOKS.base, Lane.BOOKS, fingerprint(BOOKS_ROWS), value, 1, raw)

"""Lanes of producers: whatever numbers and spools a device uses, what it makes us remember is bounded."""

import json
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import Envelope
from schemas.errors import LimitError
from schemas.topics import Lane
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.lanes import DAY_MS, LIVE_SPOOLS, RETIRED_SPOOLS, Lanes
from stream_processors.ingest.marks import LARGEST_JUMP, MOST_RANGES
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog

LANE_BYTES = 7_000
"""Bound on the JSON of one lane's marks."""
PRODUCER_BYTES = LIVE_SPOOLS * len(Lane) * LANE_BYTES + RETIRED_SPOOLS * 24 + 1_000


def envelope(number, spool="aa", lane=Lane.LIVE, producer="m-1"):
    digest = number.to_bytes(32, "big")
    return Envelope("s", "machine", producer, spool, lane, number, 1, 1, digest, "key")


def sent(state, *envelopes, day=1):
    """State after these messages; those that are refused change nothing. Also returns the refused ones."""
    lanes, refused = Lanes(state), []
    for one in envelopes:
        try:
            lanes.check(one)
        except LimitError:
            refused.append(one)
            continue
        if one.msg_no not in lanes.marks(one):
            lanes.add(one, day * DAY_MS)
    return {k: v for k, v in {**state, **lanes.changes()}.items() if v is not None}, refused


def size(state):
    return len(json.dumps(state))


def test_months_offline_with_gaps_below_the_bound_lose_nothing():
    gaps = [n for n in range(3 * MOST_RANGES) if n % 3 == 1]  # evicted on the device, or still on their way
    state, refused = sent({}, *(envelope(n) for n in range(3 * MOST_RANGES) if n not in gaps))
    assert refused == []
    late, refused = sent(state, *(envelope(n) for n in gaps))
    assert refused == []
    assert late["marks/m-1/aa/live"]["above"] == []
    assert late["marks/m-1/aa/live"]["mark"] == 3 * MOST_RANGES


def test_gaps_without_end_give_up_the_oldest_and_the_newest_heal():
    state, refused = sent({}, *(envelope(2 * n) for n in range(5_000)))
    assert refused == []
    assert size(state) < LANE_BYTES
    healed, refused = sent(state, envelope(9_997), envelope(1))
    assert [e.msg_no for e in refused] == [1]
    assert Lanes(healed).marks(envelope(0)).gap == 4_998


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from(list(Lane)), st.integers(0, 2**59)), max_size=300
    )
)
def test_what_one_producer_makes_us_remember_is_bounded(steps):
    state = {}
    for spool, lane, number in steps:
        state, _ = sent(state, *(envelope(number + 2 * i, f"{spool:016x}", lane) for i in range(3)))
    assert size(state) < PRODUCER_BYTES
    assert len({k.split("/")[2] for k in state if k.startswith("marks/")}) <= LIVE_SPOOLS


def test_a_commit_of_one_message_writes_its_own_lane_and_little():
    state, _ = sent({}, *(envelope(2 * n, lane=lane) for n in range(400) for lane in Lane))
    lanes = Lanes(state)
    lanes.add(envelope(100_000), DAY_MS)
    changes = lanes.changes()
    assert list(changes) == ["marks/m-1/aa/live"]
    assert size(dict(changes)) < LANE_BYTES


def test_another_spool_retires_the_one_unused_for_longest_and_its_messages_are_refused():
    state = {}
    for number in range(LIVE_SPOOLS):
        state, _ = sent(state, envelope(0, f"s{number}"), day=number + 1)
    state, _ = sent(state, envelope(1, "s0"), day=50)
    state, refused = sent(state, envelope(0, "new"), day=51)
    assert refused == []
    state, refused = sent(state, envelope(1, "s0"), envelope(1, "s1"), envelope(0, "s1"), day=52)
    assert {e.spool_id for e in refused} == {"s1"}
    assert "marks/m-1/s1/live" not in state


def test_a_producer_that_has_used_up_its_spools_keeps_those_it_has():
    state, spools = {}, LIVE_SPOOLS + RETIRED_SPOOLS
    state, refused = sent(state, *(envelope(0, f"{n:016x}") for n in range(spools + 5)))
    assert len(refused) == 5
    _, refused = sent(state, envelope(1, f"{spools - 1:016x}"), envelope(0, producer="m-2"))
    assert refused == []


def test_a_number_far_beyond_is_refused_and_no_counter_leaves_64_bits():
    device, log = SimDevice(), SimLog()
    messages = []
    for number in (10**18 - 1, LARGEST_JUMP, LARGEST_JUMP - 1, 2 * LARGEST_JUMP - 1):
        device.next_no = {Lane.LIVE: number}
        messages.append(log.append(device.rows(number % 1000, 1)))
    outcome = run_jobs(
        [Ingest(SimDirectory(device))], messages, TaskState("task-00"), T0 + timedelta(minutes=2)
    )
    quarantined = outcome.rows["quarantine"].to_pylist()
    assert [(r["error"], r["verified"], r["_offset"]) for r in quarantined] == [
        ("LimitError", True, 0),
        ("LimitError", True, 1),
    ]
    assert [m.copy_of[2] for m in outcome.messages] == [0, 1]
    assert outcome.counters["ingest/telemetry.v1/missing_messages"] == 2 * LARGEST_JUMP - 2
    assert len(outcome.rows["telemetry_machine"]) == 2


def test_lanes_of_0_2_0_are_listed_and_shrunk_at_the_next_message_of_their_producer():
    ranges = [[3 * n + 1, 3 * n + 2] for n in range(5_000)]
    old = {"mark": 0, "above": ranges, "digests": {"14998": "00000000"}}
    state = {f"marks/m/1/s{n:02d}/live": old for n in range(LIVE_SPOOLS + 3)}
    found, refused = sent(state, envelope(20_000, "s00", producer="m/1"))
    assert refused == []
    assert len([k for k in found if k.startswith("marks/")]) == LIVE_SPOOLS
    assert size(found["marks/m/1/s00/live"]) < LANE_BYTES
    _, refused = sent(found, envelope(14_998, "s00", producer="m/1"), envelope(0, "s00", producer="m/1"))
    assert [e.msg_no for e in refused] == [0]


@pytest.mark.parametrize("spool", ["", "a/b", "x" * 65])
def test_a_spool_id_that_is_no_name_is_refused(spool):
    device, log = SimDevice(spool_id=spool), SimLog()
    outcome = run_jobs(
        [Ingest(SimDirectory(device))], [log.append(device.rows(0, 1))], TaskState("task-00"), T0
    )
    assert outcome.rows["quarantine"]["error"].to_pylist() == ["DecodeError"]

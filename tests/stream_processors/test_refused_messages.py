"""Refused messages: what is signed keeps its bytes, what nobody signed is one pool, kept within a budget."""

import hashlib
import json
import struct
from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError, SignatureError, UnknownSchemaError
from schemas.topics import TELEMETRY
from stream_processors.engine.pipeline import run_jobs
from stream_processors.engine.records import TaskState
from stream_processors.ingest.admission import KnownDevice
from stream_processors.ingest.ingest_job import VERIFIED_DUPLICATES, Ingest
from stream_processors.job import RawMessage
from stream_processors.refused_messages import (
    MINUTE_MS,
    MOST_RANGES,
    SUMMED,
    LetterLimits,
    Refusals,
    joined,
    message_digest,
)
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog

NOW = T0 + timedelta(minutes=2)
AT_MS = int(T0.timestamp() * 1000)
LIMITS = LetterLimits(messages=3, bytes=1000)


def unsigned(offset, *, at_ms=AT_MS, value=b"x", key=b"machine-00", headers=()):
    return RawMessage(TELEMETRY.base, 3, offset, at_ms, key, list(headers), value)


def ingest(directory, messages, state=None):
    outcome = run_jobs([Ingest(directory)], messages, state or TaskState("task-03"), NOW)
    before = state or TaskState("task-03")
    counters = {k: before.counters.get(k, 0) + n for k, n in outcome.counters.items()}
    kept = {k: v for k, v in {**before.state, **outcome.state}.items() if v is not None}
    return outcome, TaskState("task-03", before.n + 1, {}, kept, {**before.counters, **counters})


def quarantine(*outcomes):
    return [row for o in outcomes if "quarantine" in o.rows for row in o.rows["quarantine"].to_pylist()]


def copied(outcome):
    return [m for m in outcome.messages if m.copy_of is not None]


def offsets_of(letter):
    """Offsets of the messages that a letter stands for."""
    if letter.copy_of is not None:
        return [letter.copy_of[2]]
    spans = [span.split("-") for span in headers_of(letter)["offsets"].split(",")]
    return [offset for a, b in spans for offset in range(int(a), int(b) + 1)]


def headers_of(letter):
    return {k: v.decode() for k, v in letter.headers}


@given(
    counts=st.lists(st.integers(1, 5), max_size=6),
    minutes=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_every_refused_message_has_one_letter_however_the_batches_fall(counts, minutes):
    times = sorted(minutes)
    messages = [unsigned(i, at_ms=AT_MS + times[i] * MINUTE_MS) for i in range(sum(counts))]
    state, rows, letters = {}, [], []
    for count in counts:
        refusals = Refusals(LIMITS, state)
        for message in messages[:count]:
            refusals.stranger(message, DecodeError("no"))
        messages = messages[count:]
        rows += refusals.table().to_pylist()
        letters += refusals.letters()
        state |= refusals.changes()
    assert sum(r["n_messages"] for r in rows) == sum(counts)
    covered = [offset for letter in letters for offset in offsets_of(letter)]
    assert sorted(covered) == list(range(sum(counts)))
    distinct = {times[i] for i in range(sum(counts))}
    assert sum(letter.copy_of is not None for letter in letters) <= LIMITS.messages * len(distinct)


def test_the_first_of_a_minute_keep_their_bytes_and_the_next_minute_begins_anew():
    refusals = Refusals(LIMITS, {})
    for offset in range(5):
        refusals.stranger(unsigned(offset), DecodeError("no"))
    refusals.stranger(unsigned(5, at_ms=AT_MS + MINUTE_MS), DecodeError("no"))
    assert [m.copy_of[2] for m in refusals.letters() if m.copy_of] == [0, 1, 2, 5]


def test_a_clock_that_steps_back_opens_no_new_budget():
    refusals = Refusals(LIMITS, {})
    for offset in range(20):
        refusals.stranger(unsigned(offset, at_ms=AT_MS - (offset % 2) * MINUTE_MS), DecodeError("no"))
    assert sum(m.copy_of is not None for m in refusals.letters()) == LIMITS.messages


@given(sizes=st.lists(st.integers(0, 700), max_size=20))
def test_the_bytes_that_are_copied_stay_within_the_budget_of_the_minute(sizes):
    refusals = Refusals(LetterLimits(messages=100, bytes=1000), {})
    for offset, size in enumerate(sizes):
        refusals.stranger(unsigned(offset, value=b"x" * size, headers=[("h", b"y" * 30)]), DecodeError("no"))
    kept = [m.copy_of[2] for m in refusals.letters() if m.copy_of]
    assert sum(sizes[o] + len(b"machine-00") + 31 for o in kept) <= 1000
    assert len(refusals.letters()) == len(sizes)


def test_a_flood_makes_one_row_and_one_letter_a_topic_and_error():
    messages = [unsigned(i, headers=[] if i % 2 else [("signer", b"nobody")]) for i in range(2000)]
    outcome, state = ingest(SimDirectory(SimDevice()), messages)
    limit = SimDirectory.letters.messages
    assert [r["n_messages"] for r in quarantine(outcome)] == [1] * limit + [1000 - limit // 2] * 2
    assert [(r["error"], r["verified"]) for r in quarantine(outcome)[-2:]] == [
        ("SignatureError", False),
        ("DecodeError", False),
    ]
    assert (len(outcome.messages), len(copied(outcome))) == (limit + 2, limit)
    assert state.counters["ingest/telemetry.v1/unverified_messages"] == 2000


def test_a_sum_says_where_its_messages_are_and_how_many_bytes_they_have():
    refusals = Refusals(LetterLimits(messages=0), {})
    messages = [unsigned(o, value=b"v" * o) for o in (4, 5, 6, 9, 11)]
    for message in messages:
        refusals.stranger(message, SignatureError("no"))
    [row], [letter] = refusals.table().to_pylist(), refusals.letters()
    found = headers_of(letter)
    assert (found[SUMMED], found["offsets"], found["n_bytes"]) == ("5", "4-6,9-9,11-11", "85")
    assert (letter.value, letter.copy_of, found["signed"]) == (b"", None, "false")
    assert (row["_offset"], row["last_offset"], row["n_bytes"], row["producer"]) == (4, 11, 85, None)
    over = b"".join(message_digest(m) for m in messages)
    assert row["digest"] == found["original_digest"] == hashlib.sha256(over).hexdigest()


def test_the_digest_of_a_message_can_be_computed_by_anybody():
    message = unsigned(1, key=None, headers=[("a", b"bc"), ("d", None)], value=b"ef")
    sizes = struct.pack(">6I", 2**32 - 1, 1, 2, 1, 2**32 - 1, 2)
    assert message_digest(message) == hashlib.sha256(sizes + b"abcdef").digest()
    assert message_digest(message) != message_digest(message._replace(key=b""))


def test_what_a_registered_device_signed_keeps_its_bytes_amid_a_flood():
    device, log = SimDevice(), SimLog()
    signed = log.append(device.rows(0, 2))._replace(offset=500)
    messages = [*(unsigned(i) for i in range(500)), signed, *(unsigned(501 + i) for i in range(500))]
    outcome, _ = ingest(SimDirectory(device, profiles=()), messages)
    assert copied(outcome)[-1].copy_of == (TELEMETRY.base, 3, 500)
    [row] = [r for r in quarantine(outcome) if r["verified"]]
    assert (row["producer"], row["error"], row["n_rows"]) == ("machine-00", "UnknownSchemaError", 2)


def test_a_refused_message_that_comes_again_is_counted_and_not_copied_again():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 2)
    first = [log.append(sealed) for _ in range(3)]
    unknown = SimDirectory(device, profiles=())
    outcome, state = ingest(unknown, first)
    again, state = ingest(unknown, [log.append(sealed) for _ in range(4)], state)
    assert (len(copied(outcome)), len(copied(again))) == (1, 0)
    assert [r["n_messages"] for r in quarantine(outcome, again)] == [1, 2, 4]
    landed, _ = ingest(SimDirectory(device), [log.append(sealed)], state)
    assert landed.rows["telemetry_machine"]["seq"].to_pylist() == [0, 1]


def test_what_nobody_signed_never_counts_against_the_device_whose_id_it_bears():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 2)
    claims = [(k, b"60000" if k == "n_rows" else v) for k, v in sealed.headers]
    messages = [
        log.append(sealed, headers=claims),  # n_rows is not what was signed
        log.append(sealed, headers=[("n_rows", b"65536")]),
        log.append(SimDevice().rows(0, 5)),  # the device's id under a stranger's key
        log.append(sealed),
    ]
    outcome, state = ingest(SimDirectory(device), messages)
    counts = {k.removeprefix("ingest/telemetry.v1/"): n for k, n in state.counters.items()}
    assert counts == {
        "received_messages": 4, "quarantined_messages": 3, "unverified_messages": 3,
        "landed_messages": 1, "received_rows": 2, "landed_rows": 2,
    }  # fmt: skip
    assert [(r["n_rows"], r["verified"]) for r in quarantine(outcome)] == [(0, False)] * 3


def test_every_message_is_landed_a_duplicate_or_quarantined():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 2)
    messages = [
        log.append(sealed), log.append(sealed), log.append(sealed, value=b"other"),
        log.append(SimDevice(signer=device.signer).rows(7, 3)), log.append(device.rows(2, 1, score=[7.0])),
    ]  # fmt: skip
    _, state = ingest(SimDirectory(device), messages)
    c = {k.removeprefix("ingest/telemetry.v1/"): n for k, n in state.counters.items()}
    for what in ("messages", "rows"):
        parts = sum(c.get(f"{part}_{what}", 0) for part in ("landed", "duplicate", "quarantined"))
        assert c[f"received_{what}"] == parts


class _CountingVerifier:
    """Counts the signatures that it was asked to check."""

    def __init__(self, verifier):
        self._verifier, self.asked = verifier, 0

    def verify(self, signature, data):
        self.asked += 1
        self._verifier.verify(signature, data)


class CountingDirectory(SimDirectory):
    """A directory that knows how many signatures were checked."""

    def __init__(self, *devices, **kwargs):
        super().__init__(*devices, **kwargs)
        self.verifiers = {}

    def signer(self, key_id):
        device = super().signer(key_id)
        if device is None:
            return None
        verifier = self.verifiers.setdefault(key_id, _CountingVerifier(device.verifier))
        return KnownDevice(device.producer, device.active, verifier, device.sends_for)

    @property
    def checked(self):
        return sum(v.asked for v in self.verifiers.values())


def test_a_message_that_names_no_registered_signer_is_refused_before_any_signature_is_checked():
    device, log = SimDevice(), SimLog()
    sealed = device.rows(0, 1)
    without = [h for h in sealed.headers if h[0] != "signer"]
    strange = [
        log.append(SimDevice().rows(0, 1)),
        log.append(sealed, key=b"machine-99"),
        log.append(sealed, key=None),
        log.append(sealed, key=b"k" * 1_000_000),
        log.append(sealed, headers=[]),
        log.append(sealed, headers=without),
        log.append(sealed, headers=[*sealed.headers, *(("h", b"") for _ in range(10_000))]),
        log.append(sealed, headers=[*without, ("signer", b"\xff" * 9)]),
        log.append(sealed, headers=[("lane", b"y" * 100_000), *sealed.headers]),
        log.append(sealed, headers=[(k, v) for k, v in sealed.headers if k != "msg_no"]),
    ]
    directory = CountingDirectory(device, revoked=())
    outcome, _ = ingest(directory, strange)
    assert directory.checked == 0
    assert [r["verified"] for r in quarantine(outcome)] == [False] * len(strange)
    revoked = CountingDirectory(device, revoked=("machine-00",))
    ingest(revoked, [log.append(sealed)])
    assert revoked.checked == 0


def test_repeats_without_end_cost_a_bounded_number_of_signature_checks():
    device, log = SimDevice(), SimLog()
    sealed, more = device.rows(0, 1), 50
    first = log.append(sealed)
    repeats = [first._replace(offset=1 + i) for i in range(VERIFIED_DUPLICATES + more)]
    directory = CountingDirectory(device)
    outcome, state = ingest(directory, [first, *repeats, log.append(device.rows(1, 1))])
    assert directory.checked == VERIFIED_DUPLICATES + 2
    assert state.counters["ingest/telemetry.v1/unchecked_messages"] == more
    assert state.counters["ingest/telemetry.v1/duplicate_messages"] == len(repeats)
    assert outcome.rows["telemetry_machine"]["seq"].to_pylist() == [0, 1]


def test_a_flood_leaves_next_to_no_state():
    outcome, _ = ingest(SimDirectory(SimDevice()), [unsigned(i) for i in range(5000)])
    assert len(json.dumps(dict(outcome.state))) < 100


def test_a_key_that_is_longer_than_any_producers_is_kept_as_a_place():
    refusals = Refusals(LetterLimits(), {})
    for offset, key in enumerate((b"\xff\xfe", b"k" * 5000, None, b"machine-00")):
        refusals.stranger(unsigned(offset, key=key), DecodeError("no"))
    assert [m.copy_of and m.copy_of[2] for m in refusals.letters()] == [0, None, 2, 3]
    names = [r["producer"] for r in refusals.table().to_pylist()]
    assert names == ["\ufffd\ufffd", "k" * 256, None, "machine-00"]


def test_the_commits_clock_counts_where_timestamps_are_the_producers():
    refusals = Refusals(LIMITS, {}, now_ms=AT_MS)
    for offset in range(20):
        refusals.stranger(unsigned(offset, at_ms=AT_MS + offset * MINUTE_MS), DecodeError("no"))
    assert sum(m.copy_of is not None for m in refusals.letters()) == LIMITS.messages


def test_rows_refused_out_of_a_message_that_landed_keep_its_bytes():
    refusals = Refusals(LetterLimits(messages=0), {})
    refusals.some_rows(unsigned(1), UnknownSchemaError("no"))
    assert [m.copy_of for m in refusals.letters()] == [(TELEMETRY.base, 3, 1)]
    assert refusals.table().num_rows == 0


@given(
    starts=st.lists(st.integers(0, 5000), unique=True, max_size=600),
    most=st.integers(1, MOST_RANGES),
)
def test_joined_ranges_are_few_and_cover_all_that_they_join(starts, most):
    ranges = [[s * 3, s * 3 + 1] for s in sorted(starts)]
    found = joined(ranges, most)
    assert len(found) <= most
    assert all(any(a <= r[0] < b for a, b in found) for r in ranges)
    assert all(after[0] > before[1] for before, after in pairwise(found))

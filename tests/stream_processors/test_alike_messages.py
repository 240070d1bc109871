"""Whatever comes together, each message has the rows or the refusal that it has by itself."""

from functools import cache

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.envelope import decode_rows, encode_rows
from schemas.errors import DecodeError
from schemas.lz4_block import pack, unpack
from schemas.message_tree import leaf_of, root_of, tree_of
from schemas.row_schemas import CONTEXT, RULES, Reason
from schemas.text_dictionaries import without_dictionaries
from stream_processors.ingest import landing
from stream_processors.ingest.admission import Admitted
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.known_headers import KnownHeaders, repeated_of
from stream_processors.ingest.lanes import Lanes
from stream_processors.ingest.opened_batch import ReaderCaches, opened
from stream_processors.ingest.sealed_rows import RowReader, RowSpan, SealedValue
from stream_processors.job import Batch
from tests.simulators.messages import T0, SimDevice, SimDirectory, SimLog, telemetry_batch

SCHEMA = telemetry_batch("machine-00", 0, 1).schema


@cache
def sealed(device: str, first: int, n: int) -> SealedValue:
    return SealedValue(*encode_rows(telemetry_batch(device, first, n)))


def compact(rows: pa.Table) -> bytes:
    """The rows' bytes, texts as themselves, every buffer as long as its column needs."""
    batches = (
        without_dictionaries(rows)
        .take(pa.array(range(rows.num_rows), pa.int64()))
        .combine_chunks()
        .to_batches()
    )
    return b"".join(b.serialize().to_pybytes() for b in batches)  # one, or none without rows


def outcome(value: SealedValue) -> str | bytes:
    try:
        batch = decode_rows(value.value, value.raw_bytes, SCHEMA)
    except DecodeError as exc:
        return str(exc)
    return compact(pa.Table.from_batches([batch]))


def together(span: RowSpan | DecodeError) -> str | bytes:
    return str(span) if isinstance(span, DecodeError) else compact(span.rows())


def damaged(value: SealedValue, where: float, bit: int, packed: bool) -> SealedValue:
    """One bit flipped: in the value as it came, or in what it unpacks to."""
    content = bytearray(value.value if packed else unpack(value.value, value.raw_bytes))
    content[int(where * len(content))] ^= 1 << bit
    return SealedValue(bytes(content) if packed else pack(bytes(content)), value.raw_bytes)


message = st.builds(
    sealed,
    st.sampled_from(["machine-00", "machine-01", "m", "a-machine-of-another-length"]),
    st.integers(0, 3),
    st.sampled_from([1, 1, 1, 2, 7]),
)
damage = st.builds(damaged, message, st.floats(0, 0.999), st.integers(0, 7), st.booleans())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(message, message, message, damage), min_size=4, max_size=40))
def test_rows_and_refusals_are_byte_for_byte_those_of_each_message_alone(values):
    reader = RowReader(SCHEMA)
    for _ in range(2):  # with layouts that are new, and with known ones
        assert [together(s) for s in reader.read(values)] == [outcome(v) for v in values]


def test_messages_of_several_layouts_are_one_table_in_their_order():
    names = ["m", "machine-00", "a-machine-of-another-length"]
    values = [sealed(names[i % 3], i, 1 + i % 2) for i in range(60)]
    spans = RowReader(SCHEMA).read(values)
    assert len({id(s.table) for s in spans}) == 1
    assert [s.start for s in spans] == [i // 2 * 3 + i % 2 for i in range(60)]


def test_an_unsound_first_message_does_not_make_the_others_be_read_alone():
    values = [sealed("machine-00", i, 1) for i in range(40)]
    raw = bytearray(unpack(values[0].value, values[0].raw_bytes))
    raw[raw.rindex(b"machine-00")] = 0xFF  # no UTF-8; its metadata is sound
    spans = RowReader(SCHEMA).read([SealedValue(pack(bytes(raw)), len(raw)), *values])
    assert isinstance(spans[0], DecodeError)
    assert len({id(s.table) for s in spans[1:]}) < 10  # halves are tried, until few are left


class AskedDirectory(SimDirectory):
    """Counts how often it is asked for a signer."""

    asked = 0

    def signer(self, key_id):
        self.asked += 1
        return super().signer(key_id)


def test_headers_are_read_in_full_once_a_producer_in_a_call():
    device, log = SimDevice(), SimLog()
    directory = AskedDirectory(device)
    found = opened([log.append(device.rows(i, 1)) for i in range(9)], directory, Lanes({}), ReaderCaches())
    assert all(one.claimed is not None for one in found)
    assert directory.asked == 1


def test_headers_that_nobody_was_seen_to_sign_count_for_their_call_only():
    device, log = SimDevice(), SimLog()
    forged = [log.append(device.rows(i, 1))._replace(value=b"?") for i in range(3)]
    good, caches = [log.append(device.rows(9 + i, 1)) for i in range(5)], ReaderCaches()
    opened(forged, SimDirectory(device), Lanes({}), caches)
    assert caches.headers.read(good[0]) is None
    out = Ingest(SimDirectory(device)).process(Batch("task-00", 0, (*forged, *good)), {}, T0)
    assert out.counters["telemetry.v1/landed_messages"] == 5
    assert out.counters["telemetry.v1/unverified_messages"] == 3


def test_an_unproved_part_says_who_a_message_claims_to_be_from_as_the_full_reading_does():
    device, log = SimDevice(), SimLog()
    first, second = (log.append(device.rows(i, 1)) for i in range(2))
    [one] = opened([first], SimDirectory(device), Lanes({}), ReaderCaches())
    learnt = repeated_of(first, one.claimed.envelope)
    known = KnownHeaders()
    known.keep(learnt)
    assert KnownHeaders().look(second, dict([learnt])) == (known.read(second), learnt)
    longest = second._replace(headers=[*second.headers, ("path", b"x" * 1024)])
    assert known.read(longest) is not None
    longer = second._replace(headers=[*second.headers, ("path", b"x" * 1025)])
    assert known.read(longer) is None  # the full reading refuses it


def by_formula(reasons: int, p: float, q: float, policy) -> bool:
    """Whether a row's probability is one that the policy allows, by the whole formula."""
    if reasons & CONTEXT:
        return not np.isfinite(q) and not reasons & (RULES | int(Reason.SAMPLE))
    pi = 1.0 if reasons & RULES else p
    with np.errstate(all="ignore"):
        halvings = -np.log2(np.float64(q) / pi)
        whole = abs(halvings - np.round(halvings)) < 1e-9
        floor = -np.log2(policy.thinning_floor) + 1e-9
        return bool(0 < q <= 1 and whole and -1e-9 <= halvings <= floor)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([int(Reason.SAMPLE), int(RULES), int(CONTEXT), 0]),
            st.sampled_from([0.05, 0.1, 1.0]),
            st.sampled_from([None, 0.0, -1.0, 0.05, 0.025, 0.05 / 64, 0.05 / 128, 0.03, 0.1, 0.5, 1.0, 2.0]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_a_probability_that_nothing_halved_is_judged_as_by_the_whole_formula(rows):
    device = SimDevice()
    reasons, p, q = (list(column) for column in zip(*rows, strict=True))
    batch = telemetry_batch(
        device.device_id, 0, len(rows), reasons=reasons, sample_p=p, inclusion_probability=q
    )
    profile = SimDirectory(device).profile_of("machine")
    value = SealedValue(*encode_rows(batch))
    [span] = RowReader(batch.schema).read([value])
    raw = SimLog().append(device.telemetry(batch))
    envelope = opened([raw], SimDirectory(device), Lanes({}), ReaderCaches())[0].claimed.envelope
    landed = landing.land_telemetry([Admitted(raw, envelope, span)], profile)
    policy = profile.filter
    expected = [
        policy.p_min - 1e-9 <= p1 <= policy.p + 1e-9
        and by_formula(r, p1, np.nan if q1 is None else q1, policy)
        for r, p1, q1 in rows
    ]
    assert landed.rows.num_rows == sum(expected)


@pytest.mark.parametrize("size", [2, 3, 16, 17])
def test_a_way_through_a_tree_leads_to_its_root_whatever_was_hashed_before(size):
    leaves = [leaf_of(b"%d" % n) for n in range(size)]
    root, paths = tree_of(leaves)
    assert [root_of(leaf, path) for leaf, path in zip(leaves, paths, strict=True)] == [root] * size
    assert root_of(leaf_of(b"other"), paths[0]) != root

"""A spool of release 0.2.0, whose rows all have a probability, goes on under this release."""

from dataclasses import replace

import pyarrow as pa
import pytest

from edge_producer.books import Ledger
from schemas.envelope import read_envelope
from schemas.errors import SpoolOwnerError
from schemas.row_schemas import Reason, fingerprint, telemetry_rows, telemetry_rows_of_wire_1
from tests.edge_producer.spool_rig import bench_profile, row, sealed_by_0_2_0

PRETRIGGER = int(Reason.PRETRIGGER)


@pytest.fixture
def older(rigs, tmp_path):
    """A rig whose spool says that it is of wire 1, with a row that a trigger had selected before it came."""
    rig = rigs(tmp_path, bench_profile(p=1.0, pretrigger=0))
    rig.sense([0.1] * 6)
    rig.flush()
    update = rig.devices["d-1"].take_update()
    early = row(99, 0.1, boot_id=1)
    early.reasons, early.u = PRETRIGGER, 0.99
    ledger = Ledger()
    ledger.release(early)
    with rig.spool.transaction():
        rig.spool.apply(replace(update, rows=[early], books=ledger.take()), rig.now)
        older = f"bench/{fingerprint(telemetry_rows_of_wire_1(rig.profile))}/10.0"
        rig.spool.set_meta("wire", older)
    return rig


def wires(messages):
    return {read_envelope(m.key, m.headers)[0].schema for m in messages}


def test_rows_that_wait_in_it_leave_under_the_wire_of_this_release(older):
    older.crash()
    assert older.spool.meta("wire") == f"bench/{fingerprint(telemetry_rows(older.profile))}/10.0"
    older.settle(older.seal())
    assert wires(older.delivered) == {fingerprint(telemetry_rows(older.profile))}
    rows = older.rows_of(older.delivered)
    assert [r["inclusion_probability"] for r in rows] == [1.0] * 7
    assert [r["reasons"] for r in rows if r["seq"] == 99] == [PRETRIGGER]
    assert older.books().balanced


def test_a_message_that_it_sealed_is_sent_as_it_is(older):
    id_ = sealed_by_0_2_0(older)
    before = older.spool.messages.read(id_)
    older.crash()
    assert older.spool.messages.read(id_) == before
    assert wires([before]) == {fingerprint(telemetry_rows_of_wire_1(older.profile))}


def test_a_message_that_it_sealed_too_large_is_sealed_anew_with_every_row(older):
    id_ = sealed_by_0_2_0(older)
    older.crash()
    with older.spool.transaction():
        resealed = older.sealer.reseal(id_)
    messages = [older.spool.messages.read(m.id) for m in resealed]
    assert sorted(r["seq"] for r in older.rows_of(messages)) == [0, 1, 2, 3, 4, 5, 99]
    assert wires(messages) == {fingerprint(telemetry_rows(older.profile))}
    assert older.books().balanced


def test_a_spool_of_another_profile_is_refused_as_before(older):
    with older.spool.transaction():
        older.spool.set_meta("wire", "bench/0123456789abcdef/10.0")
    with pytest.raises(SpoolOwnerError, match="another profile or feature set"):
        older.crash()


def test_the_wires_differ_in_one_column_that_may_be_null():
    profile = bench_profile()
    older, newer = telemetry_rows_of_wire_1(profile), telemetry_rows(profile)
    differing = [(a, b) for a, b in zip(older, newer, strict=True) if a != b]
    assert [(a.name, a.nullable, b.nullable) for a, b in differing] == [
        ("inclusion_probability", False, True)
    ]
    assert fingerprint(older) != fingerprint(newer)
    assert older.metadata == newer.metadata
    assert pa.schema([f.with_nullable(True) for f in older]) == pa.schema(
        [f.with_nullable(True) for f in newer]
    )

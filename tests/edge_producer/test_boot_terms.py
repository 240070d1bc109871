"""Rows say which version of the profile their boot ran, however late they are sealed.

The rig: `SpoolRig` with a device whose boots name versions; `sealed` says of each message which it names.
"""

import pytest

from edge_producer.sending.sealing import Sealer
from edge_producer.sending.topic_limits import wire_size
from schemas.envelope import read_envelope
from schemas.version_names import VersionHeader
from tests.edge_producer.spool_rig import SpoolRig, bench_profile, statements

TWO, THREE = VersionHeader(2, "2" * 16), VersionHeader(3, "3" * 16)
ALL = bench_profile(p=1.0)


@pytest.fixture
def rig(tmp_path):
    made = SpoolRig(tmp_path, ALL)
    yield made
    made.close()


def sealed(rig, ids):
    """Version and number of rows of each message."""
    found = []
    for message in (rig.sealed[i] for i in ids):
        envelope, _ = read_envelope(message.key, message.headers)
        found.append((envelope.version, envelope.n_rows))
    return found


def test_each_boots_rows_name_its_own_version_whenever_they_are_sealed(rig):
    rig.sense([0.1] * 3)
    rig.follow(ALL, TWO)
    rig.sense([0.1] * 4)
    rig.follow(ALL, THREE)
    rig.sense([0.1] * 5)
    rig.flush()
    assert sealed(rig, rig.seal()) == [(None, 3), (TWO, 4), (THREE, 5)]


def test_a_restart_forgets_no_version_of_what_waits(rig):
    rig.follow(ALL, TWO)
    rig.sense([0.1] * 4)
    rig.flush()
    rig.version = THREE
    rig.crash()
    rig.sense([0.1] * 2)
    rig.flush()
    assert sealed(rig, rig.seal()) == [(TWO, 4), (THREE, 2)]


def test_what_was_promised_to_a_boot_is_forgotten_once_nothing_of_it_is_left(rig):
    rig.follow(ALL, TWO)
    rig.sense([0.1] * 4)
    rig.flush()
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())
    rig.version = THREE
    for _ in range(2):
        rig.sense([0.1])
        rig.flush()
        rig.settle(rig.seal())
        rig.settle(rig.seal_statements())
        with rig.spool.transaction():
            rig.spool.books.forget_settled(0)
        rig.crash()
    assert rig.spool.boots.version(2) is None
    assert rig.spool.boots.version(3) == THREE


def test_a_message_that_is_sealed_anew_in_smaller_ones_still_names_its_version(rig):
    rig.follow(ALL, TWO)
    rig.sense([k / 100 for k in range(40)])
    rig.flush()
    [first] = rig.seal()
    signers, less = {n: i.signer for n, i in rig.identities.items()}, wire_size(rig.sealed[first]) - 100
    rig.sealer = Sealer(rig.spool, signers, ALL, lambda _: less)
    with rig.spool.transaction():
        smaller = rig.sealer.reseal(first)
    assert smaller is not None
    assert len(smaller) > 1
    assert {version for version, _ in sealed(rig, rig._remember([m.id for m in smaller]))} == {TWO}


def test_books_keep_the_period_of_the_boot_that_they_count(rig):
    longer = ALL.model_copy(update={"summaries": ALL.summaries.model_copy(update={"period_s": 20.0})})
    rig.sense([0.1] * 15)
    rig.follow(longer, TWO)
    rig.sense([0.1] * 25)
    rig.flush()
    rig.seal()
    lines = statements(rig.sealed[i] for i in rig.seal_statements())
    lengths = {(line["boot_id"], line["period_s"]) for line in lines}
    assert lengths == {(1, 10.0), (2, 20.0)}
    assert sum(line["sensed"] for line in lines) == 40


def test_rows_are_never_thinned_below_the_floor_that_their_boot_was_promised(rig):
    rig.follow(bench_profile(p=1.0, thinning_floor=0.5), TWO)
    rig.sense([0.1] * 60)
    rig.follow(bench_profile(p=1.0, thinning_floor=0.001), THREE)
    rig.flush()
    for _ in range(6):
        rig.evict(rig.spool.rows.bytes // 2)
    assert all(rig.spool.rows.tau(block) in {0.0, 0.5, 1.0} for block in rig.spool.rows.blocks())
    assert rig.spool.boots.floor == 0.5


def test_a_damaged_promise_is_none_and_stops_nothing(rig):
    rig.follow(ALL, TWO)
    rig.sense([0.1])
    rig.flush()
    with rig.spool.transaction():
        rig.spool.set_meta("boot:2", '{"version": 7}')
    rig.crash()
    assert sealed(rig, rig.seal()) == [(None, 1)]

"""Cuts: in each of them, every table agrees on every commit."""

from datetime import timedelta

import pytest

from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut import NEWEST_KEPT, dispensable, paths
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.maintenance import vacuum
from schemas.errors import QueryError
from schemas.instants import utc_now
from tests.feature_store.lakes import (
    HOUR,
    LEFT,
    RIGHT,
    SECOND,
    SPAWN,
    T0,
    commit,
    keys_in,
    outnumber,
    staged,
    two_tables,
)
from tests.waiting import wait_until

ALL_SMALL = CompactionPolicy(least_files=2)


class SettableClock:
    def __init__(self, now=T0):
        self.now = now

    def __call__(self):
        return self.now


def test_a_commit_that_only_one_table_holds_is_in_no_cut(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [1])
    lake.apply(LEFT.name, [staged(lake, LEFT.name, "a", 1, [2])])  # dies before it reaches the other
    commit(lake, cuts, "b", 0, [10])  # another worker records a cut meanwhile
    assert keys_in(lake_root, LEFT.name) == keys_in(lake_root, RIGHT.name) == [1, 10]


def test_compaction_leaves_unfinished_commits_out_of_every_cut(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(5):
        commit(lake, cuts, "a", n, [n])
    half = staged(lake, LEFT.name, "a", 5, [5])
    lake.apply(LEFT.name, [half])
    assert compact(lake, cuts, ALL_SMALL) == 10
    assert keys_in(lake_root, LEFT.name) == keys_in(lake_root, RIGHT.name) == list(range(5))
    lake.apply(LEFT.name, [half])
    lake.apply(RIGHT.name, [staged(lake, RIGHT.name, "a", 5, [5])])
    cuts.record({"a": 5})
    assert keys_in(lake_root, LEFT.name) == keys_in(lake_root, RIGHT.name) == list(range(6))


def test_every_cut_stays_as_it_was_through_commits_and_compactions(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    promised = {}
    for n in range(12):
        commit(lake, cuts, "a", n, [n])
        promised[cuts.latest().id] = list(range(n + 1))
        if n % 4 == 3:
            compact(lake, cuts, ALL_SMALL)
            promised[cuts.latest().id] = list(range(n + 1))
    for cut, keys in promised.items():
        assert keys_in(lake_root, LEFT.name, cut) == keys_in(lake_root, RIGHT.name, cut) == keys


def write_for(root, task, commits):
    lake = Lake.open(root)
    cuts = CutStore(lake)
    for n in range(commits):
        commit(lake, cuts, task, n, [1000 * int(task) + n])


def compact_until(root, stop):
    lake = Lake.open(root)
    while not stop.is_set():
        compact(lake, CutStore(lake), ALL_SMALL)


@pytest.mark.long
@pytest.mark.faults
def test_tables_agree_in_every_cut_while_two_write_and_two_compact(lake_root):
    two_tables(lake_root)
    stop = SPAWN.Event()
    writers = [SPAWN.Process(target=write_for, args=(lake_root, str(i), 25)) for i in (1, 2)]
    compactors = [SPAWN.Process(target=compact_until, args=(lake_root, stop)) for _ in range(2)]
    for process in writers + compactors:
        process.start()
    wait_until(lambda: not any(w.is_alive() for w in writers), 120, "both writers done")
    stop.set()
    for process in writers + compactors:
        process.join()
        assert process.exitcode == 0
    cuts = CutStore(Lake.open(lake_root))
    assert keys_in(lake_root) == [1000 * task + n for task in (1, 2) for n in range(25)]
    for cut in cuts.ids()[::5]:
        assert keys_in(lake_root, LEFT.name, cut) == keys_in(lake_root, RIGHT.name, cut)


def test_marks_and_ids_only_grow_and_nothing_new_makes_no_cut(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 4, [4])
    before = cuts.latest()
    assert cuts.record({"a": 2}) == before
    commit(lake, cuts, "b", 0, [5])
    after = CutStore(lake).latest()
    assert (after.id, after.marks) == (before.id + 1, {"a": 4, "b": 0})


def test_an_instant_reads_the_newest_cut_created_until_then(lake_root):
    lake, clock = two_tables(lake_root), SettableClock()
    cuts = CutStore(lake, clock)
    for n in range(3):
        clock.now = T0 + n * SECOND
        commit(lake, cuts, "a", n, [n])
    assert keys_in(lake_root, cut=T0 + 1.5 * SECOND) == [0, 1]
    assert keys_in(lake_root, cut=(T0 + SECOND).isoformat()) == [0, 1]
    assert keys_in(lake_root, cut=(T0 + HOUR).replace(tzinfo=None)) == [0, 1, 2]
    with pytest.raises(QueryError, match="no cut was created at or before"):
        cuts.resolve(T0 - SECOND)


def test_a_clock_that_steps_back_does_not_reorder_cuts(lake_root):
    lake, clock = two_tables(lake_root), SettableClock()
    cuts = CutStore(lake, clock)
    commit(lake, cuts, "a", 0, [0])
    clock.now = T0 - HOUR
    commit(lake, cuts, "a", 1, [1])
    assert cuts.latest().created == T0
    assert cuts.as_of(T0).marks == {"a": 1}


def test_a_pinned_cut_outlives_thinning_compaction_and_vacuum(lake_root):
    lake, clock = two_tables(lake_root), SettableClock()
    cuts = CutStore(lake, clock)
    commit(lake, cuts, "a", 0, [0])
    commit(lake, cuts, "a", 1, [1])
    pinned = cuts.pin("train-7")
    commit(lake, cuts, "a", 2, [2])
    compact(lake, cuts, ALL_SMALL)
    outnumber(cuts)
    assert vacuum(lake, cuts, later(days=30)) == 2  # commit 2's: compacted, and in no pin
    assert pinned.id not in cuts.ids()
    assert keys_in(lake_root, cut="train-7") == [0, 1]
    assert cuts.as_of(T0).id == cuts.latest().id
    cuts.unpin("train-7")
    with pytest.raises(QueryError, match="no cut or pin 'train-7'"):
        cuts.resolve("train-7")


def later(**span):
    """An instant after the files on this disk were written."""
    return utc_now() + timedelta(**span)


@pytest.mark.parametrize("name", ["", "7", "a/b", ".hidden"])
def test_a_pin_cannot_take_a_name_that_means_something_else(lake_root, name):
    with pytest.raises(QueryError, match="cannot name a pin"):
        CutStore(two_tables(lake_root)).pin(name)


def test_unknown_cuts_say_which_there_are(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [0])
    with pytest.raises(QueryError, match="no cut 99; cuts 1 to 1 are on record, pins: none"):
        cuts.resolve("99")


def test_thinning_keeps_the_newest_and_one_cut_a_minute_of_the_last_hour():
    cuts = [(i, T0 + i * SECOND) for i in range(4000)]
    now = T0 + 4000 * SECOND
    gone = set(dispensable(cuts, now))
    kept = [i for i, _ in cuts if i not in gone]
    assert kept[-NEWEST_KEPT:] == list(range(4000 - NEWEST_KEPT, 4000))
    minutes = {i // 60 for i, at in cuts if now - at <= HOUR}
    assert {i // 60 for i in kept} >= minutes
    assert len(kept) <= NEWEST_KEPT + len(minutes) + 2


def test_a_sleeping_recorder_cannot_take_a_number_that_was_thinned_out(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(NEWEST_KEPT + 3):
        cuts.record({"a": n})
    newest = cuts.latest()
    assert cuts.thin(later(days=30)) == 3
    stale = CutStore(lake)
    stale._cache = None
    assert not stale._put(type(newest)(1, T0))
    assert cuts.ids()[-1] == newest.id
    assert 1 not in cuts.ids()


def test_a_cut_whose_files_are_gone_cannot_be_pinned(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [0])
    next(iter(paths(lake_root, cuts.latest()))).unlink()
    with pytest.raises(QueryError, match="cannot be pinned"):
        cuts.pin("train")
    assert cuts.pins() == {}

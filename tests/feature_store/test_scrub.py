"""The scrub: every file once a day, a bounded piece at a time; what is altered is left out from then on."""

from datetime import timedelta
from itertools import pairwise

from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.scrub import Scrub
from tests.feature_store.lakes import LEFT, RIGHT, T0, commit, keys_in, two_tables

DAY = timedelta(days=1)


def lake_of(root, commits):
    lake = two_tables(root)
    cuts = CutStore(lake)
    for n in range(commits):
        commit(lake, cuts, "a", n, range(10 * n, 10 * n + 10))
    return cuts


def a_pass(scrub, now):
    """States after each turn of a pass."""
    states = []
    while (state := scrub.turn(now)) is not None:
        states.append(state)
    return states


def alter(root, n):
    path = next((root / LEFT.name).glob(f"day=*/a.{n:012d}.*"))
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)
    return path


def test_a_pass_reads_every_file_once_in_bounded_turns(lake_root):
    cuts = lake_of(lake_root, 6)
    size = sum(cuts.latest().tables[LEFT.name].sizes) // 6
    states = a_pass(Scrub(lake_root, cuts, turn_bytes=2 * size), T0)
    assert states[-1].done
    assert states[-1].files == 12
    read = [0, *(s.files for s in states)]
    assert max(b - a for a, b in pairwise(read)) <= 3


def test_a_pass_begins_a_day_after_the_one_before(lake_root):
    cuts = lake_of(lake_root, 2)
    scrub = Scrub(lake_root, cuts, turn_bytes=10**9)
    assert len(a_pass(scrub, T0)) == 1
    assert a_pass(scrub, T0 + DAY - timedelta(seconds=1)) == []
    assert len(a_pass(Scrub(lake_root, cuts, 10**9), T0 + DAY)) == 1


def test_an_altered_file_is_left_out_of_queries_once_it_is_found(lake_root):
    cuts = lake_of(lake_root, 4)
    path = alter(lake_root, 2)
    [state] = a_pass(Scrub(lake_root, cuts, 10**9), T0)
    assert state.damaged == 1
    [found] = DamageList(lake_root).all()
    assert (found.table, found.rows, found.path) == (LEFT.name, 10, f"day=2026-01-01/{path.name}")
    assert keys_in(lake_root) == [*range(20), *range(30, 40)]
    assert keys_in(lake_root, RIGHT.name) == list(range(40))


def test_a_pinned_cut_is_read_too(lake_root):
    cuts = lake_of(lake_root, 3)
    cuts.pin("kept")
    commit(two_tables(lake_root), cuts, "a", 3, [99])
    assert a_pass(Scrub(lake_root, cuts, 10**9), T0)[-1].files == 8


def test_of_two_scrubs_one_reads(lake_root):
    cuts = lake_of(lake_root, 2)
    scrub, other = (Scrub(lake_root, cuts, turn_bytes=1) for _ in range(2))
    states = []
    while (state := (scrub if len(states) % 2 else other).turn(T0)) is not None:
        states.append(state)
    assert [s.files for s in states] == [1, 2, 3, 4]

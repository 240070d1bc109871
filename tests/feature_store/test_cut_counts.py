"""What a cut states of its rows is what DuckDB counts; where it cannot say, DuckDB has to count."""

from dataclasses import replace

import pytest

from feature_store.cut_counts import stated_counts
from feature_store.sql import row_counts
from tests.feature_store.seen_lakes import SEEN, land, seen_lake


@pytest.fixture
def landed(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(3):
        land(lake, cuts, n, range(n * 10, n * 10 + 10))
    return lake_root, cuts


def test_what_the_cut_states_is_what_duckdb_counts(landed):
    root, cuts = landed
    cut = cuts.latest()
    assert stated_counts(root, cut, cuts) == row_counts(root, cut)
    assert stated_counts(root, cut, cuts)[0] == {SEEN.name: 30}


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1]])
def test_a_file_that_is_gone_or_short_is_left_out_and_named(landed, damage):
    root, cuts = landed
    cut = cuts.latest()
    path = root / SEEN.name / cut.tables[SEEN.name].files[0]
    path.write_bytes(damage(path.read_bytes()))
    counts, sound = stated_counts(root, cut, cuts)
    assert counts == {SEEN.name: 20}
    assert [d.path for d in sound.left_out] == [cut.tables[SEEN.name].files[0]]
    assert (counts, sound) == row_counts(root, cut)


@pytest.mark.parametrize("place", [0, -1])
def test_a_file_that_does_not_look_like_one_is_duckdbs_to_judge(landed, place):
    root, cuts = landed
    path = root / SEEN.name / cuts.latest().tables[SEEN.name].files[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert stated_counts(root, cuts.latest(), cuts) is None


def test_a_cut_of_0_2_0_states_no_rows(landed):
    root, cuts = landed
    cut = cuts.latest()
    old = replace(cut, tables={n: replace(t, rows=(), sizes=()) for n, t in cut.tables.items()})
    assert stated_counts(root, old, cuts) is None

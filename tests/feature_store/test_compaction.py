"""Compaction: large sorted files, the same rows in every cut, whoever else is at work, whatever ends it."""

import random
from contextlib import suppress
from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from feature_store import parquet
from feature_store.compaction import CompactionPolicy, MergePlan, compact, plan
from feature_store.cut_store import CutStore
from feature_store.data_file import COMPACTED, Origin, content_problem, is_sorted
from feature_store.delta_entry import COMPACTOR, INPUTS, LogFile
from feature_store.file_repair import restore
from feature_store.lake import Lake
from feature_store.maintenance import vacuum
from feature_store.sorted_file import GROUP_ROWS, write_sorted
from feature_store.sql import connect
from schemas.errors import DamagedLakeError
from schemas.instants import utc_now
from tests.feature_store.lakes import outnumber
from tests.feature_store.seen_lakes import SEEN, keys_in, land, seen_lake

SOON = CompactionPolicy(least_files=2)
MEBIBYTE = 1024**2


def test_rows_of_a_compacted_file_are_ordered_by_device_and_time_in_small_groups(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(4):
        land(lake, cuts, n, range(n * 24_000, (n + 1) * 24_000))
    assert compact(lake, cuts, SOON) == 4
    [path] = cuts.latest().tables[SEEN.name].files
    assert is_sorted(path)
    with pq.ParquetFile(lake_root / SEEN.name / path) as file:
        found = [tuple(r.values()) for r in file.read(["device_id", "event_time"]).to_pylist()]
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
    assert found == sorted(found)
    assert [g.num_rows for g in groups] == [GROUP_ROWS, 96_000 - GROUP_ROWS]
    assert [(s.column_index, s.descending) for s in groups[0].sorting_columns] == [(0, False), (1, False)]
    devices = [groups[i].column(0).statistics for i in range(2)]
    assert [(s.min, s.max) for s in devices] == [("m-0", "m-2"), ("m-2", "m-2")]
    with connect(lake_root, comments=False) as con:
        assert con.execute(f"SELECT count(*), count(DISTINCT k) FROM {SEEN.name}").fetchall() == [
            (96_000, 96_000)
        ]


def test_the_same_files_give_the_same_bytes_whatever_fits_into_memory(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(6):
        land(lake, cuts, n, range(n * 20_000, (n + 1) * 20_000))
    files = list(cuts.latest().tables[SEEN.name].files)
    folder, day = lake_root / SEEN.name, files[0].split("/")[0]
    whole = write_sorted(folder, files, SEEN.schema, day)
    in_parts = write_sorted(folder, files, SEEN.schema, day, sort_bytes=MEBIBYTE)
    halves = [write_sorted(folder, half, SEEN.schema, day) for half in (files[:3], files[3:])]
    named = [f"{day}/{half.named(Origin(COMPACTED, 1, len(SEEN.schema))).name}" for half in halves]
    of_halves = write_sorted(folder, named, SEEN.schema, day)
    assert whole.digest == in_parts.digest == of_halves.digest
    assert not list(folder.glob(".tmp-runs*"))


@pytest.mark.parametrize("is_last", [False, True])
def test_a_file_damaged_after_its_check_is_the_lakes_damage_whatever_is_wrong_with_it(lake_root, is_last):
    lake, cuts = seen_lake(lake_root)
    for n in range(2):
        land(lake, cuts, n, range(n * 500, n * 500 + 500))
    folder, files = lake_root / SEEN.name, sorted(cuts.latest().tables[SEEN.name].files)
    day, hit = files[0].split("/")[0], folder / files[-1 if is_last else 0]
    good, draw, unnoticed = hit.read_bytes(), random.Random(7), 0
    for _ in range(60):
        place = draw.randrange(len(good))
        turned = good[:place] + bytes([good[place] ^ 1 << draw.randrange(8)]) + good[place + 1 :]
        hit.write_bytes(draw.choice([turned, good[:place], good[:place] + bytes(len(good) - place)]))
        with suppress(DamagedLakeError):
            write_sorted(folder, files, SEEN.schema, day).beside.unlink()
            unnoticed += 1
    assert unnoticed < 20  # such as a bit in the name of who wrote the file
    assert not list(folder.glob(".tmp*"))


def test_a_sorted_file_damaged_later_is_restored_byte_for_byte(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(5):
        land(lake, cuts, n, range(n * 10, n * 10 + 10))
    compact(lake, cuts, SOON)
    [path] = cuts.latest().tables[SEEN.name].files
    (lake_root / SEEN.name / path).write_bytes(b"torn")
    assert restore(lake, SEEN.name, path) == "restored byte for byte from the 5 files that it merged"
    assert content_problem(lake_root / SEEN.name / path, None) is None
    assert keys_in(lake) == list(range(50))


def test_a_file_that_an_earlier_release_compacted_is_restored_and_sorted(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(3):
        land(lake, cuts, n, [n])
    path = compact_as_before(lake, cuts)
    (lake_root / SEEN.name / path).write_bytes(b"torn")
    assert restore(lake, SEEN.name, path) == "restored byte for byte from the 3 files that it merged"
    land(lake, cuts, 3, [3])
    assert compact(lake, cuts, SOON) == 2
    assert [is_sorted(f) for f in cuts.latest().tables[SEEN.name].files] == [True]
    assert keys_in(lake) == [0, 1, 2, 3]


def compact_as_before(lake, cuts) -> str:
    files = list(cuts.latest().tables[SEEN.name].files)
    parts = [parquet.read(lake.root / SEEN.name / f, SEEN.schema) for f in files]
    day = files[0].split("/")[0].partition("=")[2]
    name = Origin(COMPACTED, cuts.latest().id, len(SEEN.schema))
    made = lake.write(SEEN.name, parquet.concat(parts, SEEN.schema), day, name, parquet.COMPACTED)
    new = LogFile(made.path, made.size, day, made.stats)
    old = [LogFile(f, 1, day) for f in files]
    assert lake.log(SEEN.name).commit([new], old, {COMPACTOR: 1}, {INPUTS: {made.path: files}})
    cuts.record({})
    return made.path


def test_a_commit_in_the_middle_of_a_compaction_lands_and_both_count(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(3):
        land(lake, cuts, n, [n])
    other, others = Lake.open(lake_root), []

    def commit_meanwhile():
        others.append(land(other, CutStore(other), 3, [3]))

    assert compact(lake, cuts, SOON, commit_meanwhile) == 3
    assert len(others) == 1
    assert keys_in(lake) == [0, 1, 2, 3]


def test_of_two_compactions_one_within_the_other_one_wins_and_each_row_stays_once_in_every_cut(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(4):
        land(lake, cuts, n, [n])
    other, replaced = Lake.open(lake_root), []

    def compact_meanwhile():
        replaced.append(compact(other, CutStore(other), SOON))

    assert (compact(lake, cuts, SOON, compact_meanwhile), replaced) == (0, [4])
    land(lake, cuts, 4, [4])
    assert keys_in(lake) == [0, 1, 2, 3, 4]
    for cut in cuts.ids():
        assert keys_in(lake, cut) == list(range(len(keys_in(lake, cut))))


def test_a_compaction_that_slept_gives_up_whatever_vacuum_deleted_meanwhile(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(4):
        land(lake, cuts, n, [n])
    other = Lake.open(lake_root)

    def a_month_passes():
        compact(other, CutStore(other), SOON)
        outnumber(CutStore(other))
        vacuum(other, CutStore(other), utc_now() + timedelta(days=30))

    assert compact(lake, cuts, SOON, a_month_passes) == 0
    assert keys_in(lake) == [0, 1, 2, 3]


class Ended(BaseException):
    """The process ends here."""


def test_a_compaction_that_ends_before_its_commit_changes_nothing(lake_root):
    lake, cuts = seen_lake(lake_root)
    for n in range(4):
        land(lake, cuts, n, [n])
    before = cuts.latest()

    def end():
        """A kill leaves what an exception removes."""
        for path in (lake_root / SEEN.name).rglob(".tmp-*.parquet.*"):
            path.with_name(path.name + "0").hardlink_to(path)
        raise Ended

    with pytest.raises(Ended):
        compact(lake, cuts, SOON, end)
    assert list((lake_root / SEEN.name).rglob(".tmp-*0"))
    vacuum(lake, cuts, utc_now() + timedelta(hours=2))
    assert not [p for p in (lake_root / SEEN.name).rglob("*") if p.name.startswith(".tmp")]
    fresh = Lake.open(lake_root)
    assert CutStore(fresh).latest().tables == before.tables
    assert compact(fresh, CutStore(fresh), SOON) == 4
    assert keys_in(lake) == [0, 1, 2, 3]


def day(number, file):
    return f"day=2026-01-0{number}/{file}"


def landed(number, n):
    return day(number, f"a.{n:012d}.5.{n:08x}-0.parquet")


def sorted_file(number, n):
    return day(number, f"compacted.{n:012d}.5.sorted-{n:08x}-0.parquet")


def test_files_of_one_day_are_merged_and_no_more_than_the_target_at_a_time():
    sizes = {landed(d, n): 10 for d in (1, 2) for n in range(5)} | {"foreign": 10}
    merges = plan(sizes, CompactionPolicy(target_bytes=50, least_files=2))
    assert merges == [MergePlan(f"2026-01-0{d}", [landed(d, n) for n in range(5)]) for d in (1, 2)]
    two = plan({landed(1, n): 10 for n in range(5)}, CompactionPolicy(target_bytes=41, least_files=2))
    assert [m.files for m in two] == [[landed(1, n) for n in range(4)], [landed(1, 4)]]
    assert plan(sizes, CompactionPolicy(least_files=11)) == []


def test_a_large_unsorted_file_is_sorted_alone_the_newest_first_one_at_a_time():
    sizes = {landed(1, n): 30 for n in range(3)}
    assert plan(sizes, CompactionPolicy(target_bytes=100)) == [MergePlan("2026-01-01", [landed(1, 2)])]


def test_a_sorted_file_is_rewritten_once_it_is_small_beside_the_rest_and_no_more_once_it_is_large():
    policy = CompactionPolicy(target_bytes=1000, fan_in=4, least_files=2)
    fresh = {landed(1, n): 10 for n in range(3)}
    assert [m.files for m in plan({sorted_file(1, 9): 11, **fresh}, policy)] == [list(fresh)]
    assert [m.files for m in plan({sorted_file(1, 9): 10, **fresh}, policy)] == [[sorted_file(1, 9), *fresh]]
    three = {sorted_file(1, n): 30 for n in (7, 8, 9)}
    assert [m.files for m in plan({**three, **fresh}, policy)] == [[*three, *fresh]]
    assert plan({sorted_file(1, 1): 251, sorted_file(1, 2): 251}, policy) == []


def test_a_day_of_small_commits_has_few_files_and_each_row_is_rewritten_a_few_times():
    policy = CompactionPolicy(target_bytes=64 * MEBIBYTE)
    sizes: dict[str, int] = {}
    rewritten = most = 0
    for n in range(4000):
        sizes[landed(1, n)] = 4096
        if n % 16 == 15:
            for merge in plan(sizes, policy):
                size = sum(sizes.pop(f) for f in merge.files)
                rewritten += size
                sizes[sorted_file(1, n)] = size
            most = max(most, len(sizes))
    assert most <= 16
    assert rewritten <= 6 * 4096 * 4000

"""Compaction and vacuum: fewer files, the same rows, and nothing gone that anybody may still read."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest

from feature_store.append import finish
from feature_store.commit_log import CommitLog
from feature_store.compaction import CompactionPolicy, compact
from feature_store.cut import paths
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.delta import LogFile, superfluous
from feature_store.file_repair import restore
from feature_store.lake import COMPACTED, Lake, Origin
from feature_store.maintenance import GRACE, unfinished, vacuum
from tests.feature_store.lakes import LEFT, RIGHT, commit, keys_in, outnumber, rows, staged, two_tables

ALL_SMALL = CompactionPolicy(least_files=2)


def later(**span):
    return datetime.now(UTC) + timedelta(**span)


def files(root):
    return set(root.glob("*_rows/day=*/*.parquet"))


def test_compaction_replaces_many_files_by_one_with_the_same_rows(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(10):
        commit(lake, cuts, "a", n, range(3 * n, 3 * n + 3))
    assert compact(lake, cuts, ALL_SMALL) == 20
    assert [len(t.files) for t in cuts.latest().tables.values()] == [1, 1]
    assert keys_in(lake_root) == list(range(30))
    assert compact(lake, cuts, ALL_SMALL) == 0


@pytest.mark.parametrize("damage", ["altered", "torn", "missing"])
def test_compaction_merges_no_damaged_file(lake_root, damage):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(5):
        commit(lake, cuts, "a", n, [n])
    path = next((lake_root / LEFT.name).glob("day=*/a.000000000002.*"))
    data = path.read_bytes()
    path.write_bytes(data[:50] if damage == "torn" else bytes([*data[:90], data[90] ^ 1, *data[91:]]))
    if damage == "missing":
        path.unlink()
    assert compact(lake, cuts, ALL_SMALL) == 9
    assert keys_in(lake_root) == [0, 1, 3, 4]
    assert keys_in(lake_root, RIGHT.name) == list(range(5))
    [listed] = DamageList(lake_root).all()
    assert (listed.path.rsplit("/")[-1], listed.rows) == (path.name, 1)
    assert compact(lake, cuts, ALL_SMALL) == 0


def test_vacuum_leaves_a_table_with_a_damaged_file_alone(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(3):
        commit(lake, cuts, "a", n, [n])
    compact(lake, cuts, ALL_SMALL)
    merged = cuts.latest().tables[LEFT.name].files[0]
    outnumber(cuts)
    (lake_root / LEFT.name / merged).write_bytes(b"torn")
    assert keys_in(lake_root) == []
    assert vacuum(lake, cuts, later(days=30)) == 3  # what the other table merged
    assert restore(lake, LEFT.name, merged) == "restored byte for byte from the 3 files that it merged"
    assert keys_in(lake_root) == list(range(3))


def test_vacuum_deletes_nothing_while_a_pin_cannot_be_read(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(3):
        commit(lake, cuts, "a", n, [n])
    cuts.pin("kept")
    compact(lake, cuts, ALL_SMALL)
    outnumber(cuts)
    for folder in (lake_root, lake_root / "_copies"):
        (folder / "_pins" / "kept.json").write_bytes(b"{")
    assert vacuum(lake, cuts, later(days=30)) == 0
    cuts.unpin("kept")
    assert vacuum(lake, cuts, later(days=30)) == 6


def test_of_two_compactors_that_planned_on_the_same_files_one_loses(lake_root):
    lake, other = two_tables(lake_root), Lake.open(lake_root)
    cuts = CutStore(lake)
    for n in range(3):
        commit(lake, cuts, "a", n, [n])
    old = [LogFile(f, 1, "2026-01-01") for f in cuts.latest().tables[LEFT.name].files]
    merged = [_as_log(other.write(LEFT.name, rows(range(3)), "2026-01-01", _name(9)))]
    assert compact(lake, cuts, ALL_SMALL) == 6
    assert not other.log(LEFT.name).commit(merged, old, {"compactor": 2})
    assert keys_in(lake_root) == [0, 1, 2]


def _as_log(file):
    return LogFile(file.path, file.size, file.day, file.stats)


def _name(n):
    return Origin(COMPACTED, n, 5)


def test_vacuum_deletes_what_compaction_replaced_and_nothing_a_kept_cut_names(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(9):
        commit(lake, cuts, "a", n, [n])
    compact(lake, cuts, ALL_SMALL)
    outnumber(cuts)
    commit(lake, cuts, "a", 9, [9])
    before = files(lake_root)
    assert vacuum(lake, cuts, later(days=30)) > 0
    assert before - files(lake_root) == {p for p in before if p.name < "a.000000000009"}
    for cut in cuts.kept():
        assert all(p.exists() for p in paths(lake_root, cut))
    assert keys_in(lake_root) == list(range(10))


def test_vacuum_spares_files_younger_than_the_grace(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [0])
    lake.stage(LEFT.name, rows([1]), "a", 0)  # of a worker that lost the race for commit 0
    assert vacuum(lake, cuts, later()) == 0
    assert vacuum(lake, cuts, later() + GRACE) == 1
    assert keys_in(lake_root) == [0]


@pytest.mark.parametrize("folder", [".", "_cuts", "_commits/a", "_profiles/machine", LEFT.name])
def test_vacuum_sweeps_what_crashed_writers_left_once_it_is_an_hour_old(lake_root, folder):
    """Release 0.2.0 named them the same way, and swept them in two of the folders."""
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    commit(lake, cuts, "a", 0, [0])
    left = lake_root / folder / (".tmp-000000000001.json." + 32 * "a")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.write_bytes(b"half a rec")
    vacuum(lake, cuts, later())
    assert left.exists()
    vacuum(lake, cuts, later(minutes=1) + GRACE)
    assert not left.exists()
    assert (CommitLog(lake_root).applied("a"), keys_in(lake_root)) == (0, [0])


def test_vacuum_spares_files_of_commits_that_are_decided_but_not_applied(lake_root):
    lake = two_tables(lake_root)
    cuts, log = CutStore(lake), CommitLog(lake_root)
    record = {t: [f.to_json() for f in staged(lake, t, "a", 0, [7]).files] for t in (LEFT.name, RIGHT.name)}
    log.put_if_absent("a", 0, orjson.dumps(record))  # dies here; nobody recovers for a month
    assert vacuum(lake, cuts, later(days=30)) == 0
    finish(lake, cuts, "a")
    assert keys_in(lake_root, LEFT.name) == keys_in(lake_root, RIGHT.name) == [7]


@pytest.mark.parametrize(
    ("file", "verdict"),
    [
        ("task-1.000000000003.5.ab.parquet", False),
        ("task-1.000000000004.5.ab.parquet", True),
        ("task-2.000000000000.5.ab.parquet", True),
        ("compacted.000000000009.5.ab.parquet", False),
        ("part-00000-from-spark.snappy.parquet", True),
    ],
)
def test_a_file_is_unfinished_until_its_commit_is_marked_applied(file, verdict):
    assert unfinished(file, {"task-1": 3}) is verdict


def test_log_files_needed_to_open_the_oldest_kept_version_stay():
    log = [f"{v:020d}.json" for v in range(120)]
    checkpoints = [f"{v:020d}.checkpoint.parquet" for v in (50, 100)]
    gone = superfluous([*log, *checkpoints, "_last_checkpoint"], oldest=99)
    assert gone == log[:50]
    assert superfluous(log, oldest=99) == []


def test_a_lake_opens_after_its_log_was_cleaned(lake_root):
    lake = two_tables(lake_root)
    cuts = CutStore(lake)
    for n in range(60):
        commit(lake, cuts, "a", n, [n])
    compact(lake, cuts, ALL_SMALL)
    outnumber(cuts)
    vacuum(lake, cuts, later(days=30))
    assert not (lake_root / LEFT.name / "_delta_log" / f"{0:020d}.json").exists()
    fresh = Lake.open(lake_root)
    assert fresh.applied(LEFT.name, "a") == 59
    fresh.apply(LEFT.name, [staged(fresh, LEFT.name, "a", 60, [60])])
    fresh.apply(RIGHT.name, [staged(fresh, RIGHT.name, "a", 60, [60])])
    CutStore(fresh).record({"a": 60})
    assert keys_in(lake_root) == list(range(61))

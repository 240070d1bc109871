"""Parts of one lake come from one moment, or whoever would write to it is refused."""

import shutil

import orjson
import pytest

from feature_store.append import SNAPSHOT_EVERY, append, finish
from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_check import check_lake
from feature_store.start_up import heal
from feature_store.table_rebuild import mend_tables
from schemas.errors import DamagedLakeError
from schemas.self_digest import with_digest
from tests.feature_store.lakes import LEFT, RIGHT, keys_in, rows, two_tables


def left(n):
    return {LEFT.name: rows([n])}


def both(n):
    return {LEFT.name: rows([n]), RIGHT.name: rows([n])}


def fresh(root):
    lake = Lake.open(root)
    return lake, CutStore(lake)


def add(root, *contents):
    lake, cuts = fresh(root)
    for rows_of in contents:
        append(lake, cuts, "t", rows_of)


@pytest.fixture
def root(lake_root):
    two_tables(lake_root)
    add(lake_root, *[both] * 4)
    return lake_root


@pytest.mark.parametrize("part", ["_commits", LEFT.name])
def test_an_append_to_a_lake_of_two_moments_is_refused(root, tmp_path, part):
    shutil.copytree(root / part, tmp_path / "then")
    add(root, *[both] * 3)
    shutil.rmtree(root / part)
    shutil.copytree(tmp_path / "then", root / part)
    with pytest.raises(DamagedLakeError, match="earlier moment"):
        add(root, both)
    assert keys_in(root, RIGHT.name) == list(range(7))


def test_a_missing_commit_log_is_no_new_beginning(root):
    shutil.rmtree(root / "_commits")
    with pytest.raises(DamagedLakeError, match="its newest commit is -1"):
        add(root, both)


def test_a_table_that_few_commits_name_is_not_taken_for_an_older_one(root):
    add(root, *[left] * (2 * SNAPSHOT_EVERY + 3))
    log = CommitLog(root)
    assert log.numbers("t")[0] > 4, "the records that name the other table are pruned"
    lake, cuts = fresh(root)
    assert log.put_if_absent("t", log.newest("t") + 1, record(lake, both, log.newest("t") + 1))  # dies here
    finish(lake, cuts, "t")
    assert len(keys_in(root, RIGHT.name)) == 5


def record(lake, content, n):
    staged = {t: lake.stage(t, part, "t", n) for t, part in content(n).items()}
    return with_digest(orjson.dumps({t: [f.to_json() for f in files] for t, files in staged.items()}))


def test_repair_goes_on_without_the_rows_that_are_gone_and_names_them(root, tmp_path):
    shutil.copytree(root / LEFT.name, tmp_path / "then")
    add(root, *[both] * 3)
    shutil.rmtree(root / LEFT.name)
    shutil.copytree(tmp_path / "then", root / LEFT.name)
    list(check_lake(root, lambda _: None, repair=True))
    add(root, both)
    assert keys_in(root) == [0, 1, 2, 3, 7]
    assert keys_in(root, RIGHT.name) == list(range(8))
    lost = [f for f in check_lake(root, lambda _: None) if not f.healed]
    assert sum(f.rows for f in lost) == 3


def test_missing_cuts_show_every_row_at_once(root):
    shutil.rmtree(root / "_cuts")
    assert keys_in(root) == list(range(4))
    shutil.rmtree(root / "_cuts")
    lake, cuts = fresh(root)
    heal(lake, cuts)
    assert cuts.latest().marks == {"t": 3}


def test_a_writer_that_has_the_table_open_goes_on_after_its_log_was_made_anew(root):
    writer, cuts = fresh(root)
    assert writer.applied(LEFT.name, "t") == 3
    newest = sorted((root / LEFT.name / "_delta_log").glob("*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:40])
    [broken] = mend_tables(*fresh(root))
    assert (broken.table, broken.healed) == (LEFT.name, True)
    append(writer, cuts, "t", both)
    add(root, both)
    append(writer, cuts, "t", both)
    assert keys_in(root) == keys_in(root, RIGHT.name) == list(range(7))


def test_a_table_is_never_made_afresh_where_one_was(root):
    shutil.rmtree(root / LEFT.name)
    lake, cuts = fresh(root)
    heal(lake, cuts)
    with pytest.raises(DamagedLakeError, match="has lost its Delta log"):
        lake.ensure_table(LEFT)

"""A lake that nothing has harmed is found whole, whatever its tasks did last."""

from feature_store.commit_log import CommitLog
from feature_store.cut_store import CutStore
from feature_store.decided_files import read_files
from feature_store.lake_check import check_lake
from tests.simulators.line import make_checkpoint, make_lake
from tests.simulators.messages import SimDevice, SimDirectory, SimLog


def landed(tmp_path, *messages):
    """A lake after one task has taken these messages, each in a commit of its own."""
    lake, device, log = make_lake(tmp_path), SimDevice("machine-00"), SimLog()
    checkpoint = make_checkpoint(lake, SimDirectory(device))
    checkpoint.open(0)
    sealed = {n: device.rows(n, 1) for n in set(messages)}
    for n in messages:
        checkpoint.process({0: [log.append(sealed[n])]})
    return lake


def test_a_commit_that_only_says_how_far_its_task_has_read_needs_no_cut(tmp_path):
    lake = landed(tmp_path, 0, 0)  # the second is a repetition: nothing lands
    assert not any((read_files(CommitLog(lake.root), "task-00", 1) or {}).values())
    assert list(check_lake(lake.root, lambda _: None)) == []


def test_rows_that_the_newest_cut_does_not_show_are_found(tmp_path):
    lake = landed(tmp_path, 0, 1)
    newest = max(CutStore(lake).ids())
    (lake.root / "_cuts" / f"{newest:012d}.json").unlink()
    assert "lacks commits of task-00" in " ".join(f.problem for f in check_lake(lake.root, lambda _: None))

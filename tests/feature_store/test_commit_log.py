"""The commit log: one winner for each number, whichever process is suspended or dies."""

import pytest

from feature_store.commit_log import CommitLog
from tests.feature_store.lakes import in_processes


def put_all(root, writer, numbers):
    log = CommitLog(root)
    return [log.put_if_absent("task-00", n, b"%d" % writer) for n in range(numbers)]


def test_exactly_one_process_wins_each_number(lake_root):
    numbers = 60
    won = in_processes(put_all, *((lake_root, writer, numbers) for writer in range(3)))
    log = CommitLog(lake_root)
    for n in range(numbers):
        owner = int(log.read("task-00", n))
        assert [w[n] for w in won].count(True) <= 1
        assert not any(won[other][n] for other in range(3) if other != owner)


def test_a_taken_number_keeps_its_first_record(lake_root):
    log = CommitLog(lake_root)
    assert log.put_if_absent("t", 0, b"first")
    assert not log.put_if_absent("t", 0, b"second")
    assert log.read("t", 0) == b"first"
    assert log.latest("t") == 0


def test_records_come_in_order_from_a_number_on(lake_root):
    log = CommitLog(lake_root)
    for n in range(12):
        assert log.put_if_absent("t", n, b"%d" % n)
    assert log.records_from("t", 9) == [b"9", b"10", b"11"]
    assert log.records_from("t", 12) == []
    assert log.records_from("nobody", 0) == []


def test_two_snapshots_and_the_records_after_the_older_one_stay(lake_root):
    log = CommitLog(lake_root)
    for n in range(10):
        log.put_if_absent("t", n, b"%d" % n)
        if n in (2, 5, 8):
            log.write_snapshot("t", n, b"state %d" % n)
    assert log.latest_snapshot("t") == b"state 8"
    assert log.numbers("t") == [6, 7, 8, 9]


def test_a_sleeper_does_not_win_a_number_that_was_pruned(lake_root):
    log = CommitLog(lake_root)
    for n in range(6):
        log.put_if_absent("t", n, b"")
    log.write_snapshot("t", 3, b"")
    log.write_snapshot("t", 5, b"")
    with pytest.raises(FileNotFoundError):
        log.read("t", 2)
    assert not log.put_if_absent("t", 2, b"zombie")
    assert log.latest("t") == 5


def test_the_applied_mark_survives_a_new_log_and_an_empty_file(lake_root):
    log = CommitLog(lake_root)
    assert log.applied("t") is None
    log.mark_applied("t", 41)
    assert CommitLog(lake_root).applied("t") == 41
    (lake_root / "_commits" / "t" / "applied").write_bytes(b"")  # what a power cut may leave
    assert log.applied("t") is None
    assert log.tasks() == ["t"]

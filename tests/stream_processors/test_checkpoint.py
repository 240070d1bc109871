"""The checkpoint: whatever step a crash follows, every row is in the lake exactly once, in every cut."""

import orjson
import pytest

from feature_store import connect
from feature_store.commit_log import CommitLog
from feature_store.lake import Lake
from schemas.errors import DamagedLakeError, OperatorError, TaskLostError, TasksStoppedError
from schemas.self_digest import checked, with_digest
from stream_processors.engine.checkpoint import SNAPSHOT_EVERY, Checkpoint
from stream_processors.engine.records import CommitRecord, LogIdentity, TaskState
from stream_processors.engine.task_loading import task_name
from tests.simulators.line import IDENTITY, TASK, Recorder, make_checkpoint, make_lake, on_task
from tests.simulators.messages import SimDevice, SimDirectory, SimLog


class CrashError(Exception):
    pass


def dying_after(step):
    """A checkpoint that crashes right after the named step has done its work."""

    def method(self, *args, **kwargs):
        getattr(Checkpoint, step)(self, *args, **kwargs)
        raise CrashError(step)

    return type("Dying", (Checkpoint,), {step: method})


def line(tmp_path):
    device, log = SimDevice(), SimLog()
    return make_lake(tmp_path / "lake"), device, log, SimDirectory(device)


def batches(device, log, n, rows=2):
    """n batches of one message each."""
    return [[on_task(log.append(device.rows(i * rows, rows)))] for i in range(n)]


def seqs(lake, cut=None):
    con = connect(lake.root, cut=cut, comments=False)
    return [r[0] for r in con.execute("SELECT seq FROM telemetry_machine ORDER BY seq").fetchall()]


@pytest.mark.parametrize("step", ["stage", "decide", "apply", "conclude"])
def test_a_crash_after_any_step_loses_and_duplicates_nothing(tmp_path, step):
    lake, device, log, directory = line(tmp_path)
    first, second, third = batches(device, log, 3)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    worker.process({TASK: first})
    dying = make_checkpoint(lake, directory, dying_after(step))
    dying.open(TASK)
    with pytest.raises(CrashError):
        dying.process({TASK: second})
    after = make_checkpoint(lake, directory)
    offset = after.open(TASK)["telemetry.v1"]
    after.process({TASK: [m for m in [*second, *third] if m.offset >= offset]})
    assert seqs(lake) == list(range(6))


@pytest.mark.parametrize("step", ["decide", "apply"])
def test_a_decided_batch_is_finished_by_recovery_from_its_record_alone(tmp_path, step):
    lake, device, log, directory = line(tmp_path)
    [batch] = batches(device, log, 1)
    dying = make_checkpoint(lake, directory, dying_after(step))
    dying.open(TASK)
    with pytest.raises(CrashError):
        dying.process({TASK: batch})
    assert make_checkpoint(lake, directory).open(TASK) == {"telemetry.v1": 1}
    assert seqs(lake) == [0, 1]


def test_recovery_is_repeatable(tmp_path):
    lake, device, log, directory = line(tmp_path)
    [batch] = batches(device, log, 1)
    dying = make_checkpoint(lake, directory, dying_after("decide"))
    dying.open(TASK)
    with pytest.raises(CrashError):
        dying.process({TASK: batch})
    for step in ("apply", "conclude"):
        with pytest.raises(CrashError):
            make_checkpoint(lake, directory, dying_after(step)).open(TASK)
    make_checkpoint(lake, directory).open(TASK)
    assert seqs(lake) == [0, 1]


def test_a_zombie_cannot_commit_and_its_rows_land_once(tmp_path):
    lake, device, log, directory = line(tmp_path)
    first, second = batches(device, log, 2)
    zombie, owner = make_checkpoint(lake, directory), make_checkpoint(lake, directory)
    zombie.open(TASK)
    owner.open(TASK)
    owner.process({TASK: first})
    with pytest.raises(TaskLostError):
        zombie.process({TASK: first})
    owner.process({TASK: second})
    assert zombie.open(TASK) == {"telemetry.v1": 2}
    assert seqs(lake) == [0, 1, 2, 3]


def test_a_zombie_that_wakes_between_decide_and_apply_repeats_nothing(tmp_path):
    lake, device, log, directory = line(tmp_path)
    first, second = batches(device, log, 2)
    zombie = make_checkpoint(lake, directory)
    zombie.open(TASK)
    record = zombie.stage(TASK, first, zombie._parts.clock())
    assert zombie.decide(record)
    owner = make_checkpoint(lake, directory)
    owner.open(TASK)
    owner.process({TASK: second})
    zombie.apply([record])
    zombie.conclude([record], {})
    assert seqs(lake) == [0, 1, 2, 3]


def test_a_lost_task_does_not_hold_back_the_others_of_the_call(tmp_path):
    lake, device, log, directory = line(tmp_path)
    [first] = batches(device, log, 1)
    other = [first[0]._replace(partition=1)]
    both, rival = make_checkpoint(lake, directory), make_checkpoint(lake, directory)
    both.open(0)
    both.open(1)
    rival.open(0)
    rival.process({0: first})
    with pytest.raises(TaskLostError):
        both.process({0: first, 1: other})
    assert both.open(1) == {"telemetry.v1": 1}


def test_every_cut_agrees_with_a_prefix_of_the_log(tmp_path):
    lake, device, log, directory = line(tmp_path)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    for batch in batches(device, log, 4):
        worker.process({TASK: batch})
    cuts = sorted(int(p.name[:12]) for p in (lake.root / "_cuts").iterdir() if p.name[:12].isdigit())
    lengths = [len(seqs(lake, cut)) for cut in cuts]
    assert [n for n in lengths if n] == [2, 4, 6, 8]


def test_derived_messages_are_published_again_under_the_same_ids(tmp_path):
    lake, device, log, directory = line(tmp_path)
    bad = [on_task(log.append(device.rows(0, 1), value=b"garbage"))]
    first, second = Recorder(), Recorder()
    dying = make_checkpoint(lake, directory, dying_after("conclude"), recorder=first)
    dying.open(TASK)
    with pytest.raises(CrashError):
        dying.process({TASK: bad})
    (lake.root / "_commits" / "task-00" / "applied").unlink(missing_ok=True)
    make_checkpoint(lake, directory, recorder=second).open(TASK)
    assert first.published == second.published == ["task-00/0/0"]


def test_state_survives_snapshots_and_a_duplicate_is_known_long_after(tmp_path):
    lake, device, log, directory = line(tmp_path)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    stream = batches(device, log, SNAPSHOT_EVERY * 2 + 3, rows=1)
    for batch in stream:
        worker.process({TASK: batch})
    again = make_checkpoint(lake, directory)
    assert again.open(TASK) == {"telemetry.v1": len(stream)}
    again.process({TASK: [stream[0][0]._replace(offset=len(stream))]})
    assert seqs(lake) == list(range(len(stream)))


def test_another_log_under_the_same_name_is_refused(tmp_path):
    lake, device, log, directory = line(tmp_path)
    [batch] = batches(device, log, 1)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    worker.process({TASK: batch})
    anew = LogIdentity(IDENTITY.cluster_id, {"telemetry.v1": "topic-2"})
    with pytest.raises(OperatorError, match="made anew"):
        make_checkpoint(lake, directory, identity=anew).open(TASK)


def test_a_record_round_trips_and_an_unknown_format_is_refused(tmp_path):
    lake, device, log, directory = line(tmp_path)
    bad = on_task(log.append(device.rows(0, 1), value=b"garbage"))
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    worker.process({TASK: [bad, *batches(device, log, 1)[0]]})
    data = CommitLog(lake.root).read("task-00", 0)
    assert CommitRecord.from_bytes(data).to_bytes() == data
    with pytest.raises(OperatorError, match="format 99"):
        TaskState.from_bytes(with_digest(orjson.dumps({**checked(data, "it"), "format": 99})))
    with pytest.raises(DamagedLakeError, match="not those of its digest"):
        CommitRecord.from_bytes(data.replace(b'"n":0', b'"n":1'))


def landed_lake(tmp_path, commits):
    """A lake with one batch a commit, and the messages."""
    lake, device, log, directory = line(tmp_path)
    stream = batches(device, log, commits)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    for batch in stream:
        worker.process({TASK: batch})
    return lake, directory, stream


@pytest.mark.parametrize("kept", [3, 0], ids=["an older copy", "no copy"])
def test_a_task_whose_commits_went_back_is_refused_at_its_start(tmp_path, kept):
    lake, directory, _stream = landed_lake(tmp_path, 5)
    for n in range(kept, 5):
        CommitLog(lake.root).path("task-00", n).unlink()
    with pytest.raises(DamagedLakeError, match=r"`_commits` is of an earlier moment .* newest commit is"):
        make_checkpoint(lake, directory).open(TASK)
    assert make_checkpoint(lake, directory).open(TASK + 1) == {}, "another task goes on"
    assert seqs(lake) == list(range(10))


def test_commits_that_a_table_lacks_are_applied_again_while_their_files_are_there(tmp_path):
    lake, directory, stream = landed_lake(tmp_path, 5)
    entries = sorted((lake.root / "telemetry_machine" / "_delta_log").glob("*.json"))
    for entry in entries[-2:]:
        entry.unlink()
    again = make_checkpoint(lake, directory)
    assert again.open(TASK) == {"telemetry.v1": len(stream)}
    assert Lake.open(lake.root).applied("telemetry_machine", "task-00") == 4
    assert seqs(lake) == list(range(10))


def test_a_mark_that_is_too_high_hides_no_commit(tmp_path):
    lake, device, log, directory = line(tmp_path)
    [batch] = batches(device, log, 1)
    dying = make_checkpoint(lake, directory, dying_after("decide"))
    dying.open(TASK)
    with pytest.raises(CrashError):
        dying.process({TASK: batch})
    CommitLog(lake.root).mark_applied("task-00", 7)
    make_checkpoint(lake, directory).open(TASK)
    assert seqs(lake) == [0, 1]


def test_a_damaged_table_stops_the_tasks_that_write_to_it_and_commits_the_others(tmp_path):
    lake, device, log, directory = line(tmp_path)
    [good] = batches(device, log, 1)
    bad = on_task(log.append(device.rows(9, 1), value=b"garbage"))._replace(partition=1, offset=0)
    worker = make_checkpoint(lake, directory)
    worker.open(0)
    worker.open(1)
    worker.process({0: good})
    newest = sorted((lake.root / "telemetry_machine" / "_delta_log").glob("*.json"))[-1]
    newest.with_name(f"{int(newest.stem) + 1:020d}.json").write_bytes(b"{")
    again = [good[0]._replace(offset=1)]
    more = [on_task(log.append(device.rows(2, 2)))]
    with pytest.raises(TasksStoppedError) as stopped:
        worker.process({0: [*again, *more], 1: [bad]})
    assert list(stopped.value.reasons) == [0]
    assert "telemetry_machine" in stopped.value.reasons[0]
    assert CommitLog(lake.root).applied("task-01") == 0
    with connect(lake.root, comments=False) as con:
        assert con.execute("SELECT count(*) FROM quarantine").fetchone() == (1,)


def test_an_empty_tick_commits_nothing(tmp_path):
    lake, _device, _log, directory = line(tmp_path)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    worker.process({TASK: []})
    assert CommitLog(lake.root).latest("task-00") is None


def test_a_gap_that_heals_is_no_longer_counted(tmp_path):
    lake, device, log, directory = line(tmp_path)
    worker = make_checkpoint(lake, directory)
    worker.open(TASK)
    first, late, third = batches(device, log, 3)
    for batch in (first, third, [late[0]._replace(offset=3)]):
        worker.process({TASK: batch})
    records = [CommitRecord.from_bytes(r) for r in CommitLog(lake.root).records_from("task-00", 0)]
    assert [r.counters.get("ingest/telemetry.v1/missing_messages", 0) for r in records] == [0, 1, -1]


class WithFullDisk(Lake):
    """A lake that cannot write what one task lands."""

    full_for = ""

    def stage(self, table, rows, task, n):
        if task == self.full_for:
            raise OSError(28, "No space left on device")
        return super().stage(table, rows, task, n)


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_disk_that_is_full_for_one_task_commits_nothing_and_leaves_no_mark_of_a_death(tmp_path, failing):
    lake, device, log, directory = line(tmp_path)
    [batch] = batches(device, log, 1)
    full = WithFullDisk.open(lake.root)
    full.full_for = task_name(failing)
    worker = make_checkpoint(lake, directory, held=full)
    calls = {task: [m._replace(partition=task) for m in batch] for task in range(3)}
    for task in calls:
        worker.open(task)
    with pytest.raises(OSError, match="No space left"):
        worker.process(calls)
    assert not list((lake.root / "_attempts").glob("*.json"))
    full.full_for = ""
    worker.process({failing: calls[failing]})
    assert seqs(lake) == [0, 1]

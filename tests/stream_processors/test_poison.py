"""A message or state on which a job fails is set aside, and the rest lands; or the job stops alone."""

from datetime import timedelta

import pytest

from feature_store import connect
from feature_store.commit_log import CommitLog
from schemas.envelope import encode_rows
from schemas.errors import LookupFailedError, RejectedError, TasksStoppedError
from schemas.row_schemas import SUMMARY_ROWS, fingerprint
from schemas.topics import Lane
from stream_processors.aggregate.aggregate_job import AggregateWindows
from stream_processors.engine.checkpoint import Checkpoint
from stream_processors.engine.records import CommitRecord
from stream_processors.engine.restores import RestoreRequests
from stream_processors.engine.stopped import in_words, stopped_in
from tests.simulators.line import TASK, on_task
from tests.simulators.messages import SimDirectory
from tests.stream_processors.cohorts import T0 as COHORT_T0
from tests.stream_processors.cohorts import Period, summaries
from tests.stream_processors.poison_rig import (
    Fault,
    FaultyIngest,
    PoisonLine,
    all_but,
    devices,
    offsets,
)


def line(tmp_path, n_devices=5, **faults):
    return PoisonLine(tmp_path / "lake", devices(n_devices), faults)


@pytest.mark.parametrize("job", ["ingest", "tally"])
def test_a_message_on_which_a_job_raises_is_quarantined_and_every_other_row_lands(tmp_path, job):
    on = line(tmp_path, **{job: Fault(offsets=offsets(7))})
    batch = on.send(20)
    on.worker().process({TASK: batch})
    assert on.landed() == all_but(batch, 7)
    assert list(on.quarantined()) == [7]
    assert f"PoisonError: job {job} failed on it: ZeroDivisionError" in on.quarantined()[7]
    assert on.state().counters[f"{job}/set_aside_messages"] == 1
    on.assert_balanced()


def test_several_guilty_messages_of_one_batch_are_found_wherever_they_are(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=offsets(0, 13, 14, 39)))
    batch = on.send(40)
    on.worker().process({TASK: batch})
    assert on.landed() == all_but(batch, 0, 13, 14, 39)
    assert sorted(on.quarantined()) == [0, 13, 14, 39]


def test_the_outcome_is_in_the_commit_record_and_recovery_does_not_decide_it_again(tmp_path):
    class Dying(Checkpoint):
        def decide(self, record):
            super().decide(record)
            raise RuntimeError("the process ends here")

    on = line(tmp_path, ingest=Fault(offsets=offsets(3)))
    batch = on.send(8)
    with pytest.raises(RuntimeError):
        on.worker(Dying).process({TASK: batch})
    record = CommitRecord.from_bytes(CommitLog(on.lake.root).read("task-00", 0))
    [entry] = record.set_aside
    assert (entry.kind, entry.job, entry.what) == ("message", "ingest", "telemetry.v1[0]@3")
    on.faults = {}  # a recovery that computed anything would land the message now
    assert on.worker()._tasks[TASK].offsets == {"telemetry.v1": 8}
    assert on.landed() == all_but(batch, 3)
    assert [e["what"] for e in on.set_aside("message")] == ["telemetry.v1[0]@3"]


def test_messages_that_fail_only_together_all_land_in_commits_of_their_own(tmp_path):
    on = line(tmp_path, tally=Fault(pair=offsets(2, 9)))
    batch = on.send(12)
    on.worker().process({TASK: batch})
    assert on.landed() == all_but(batch)
    assert on.quarantined() == {}
    assert on.state().n > 0


def test_a_state_key_on_which_an_empty_batch_fails_is_set_aside_with_its_bytes(tmp_path):
    on = line(tmp_path, tally=Fault())
    on.worker().process({TASK: on.send(10)})
    on.faults["tally"] = Fault(keys=frozenset({"machine-03"}))
    worker, batch = on.worker(), on.send(10)
    worker.process({TASK: []})
    [entry] = on.set_aside("state")
    assert (entry["job"], entry["what"], entry["detail"]["value"]) == ("tally", "machine-03", 2)
    assert on.state().counters["tally/set_aside_keys"] == 1
    kept = {k: v for k, v in on.state().of_job("tally").items() if v}
    assert kept == {f"machine-{i:02d}": 2 for i in range(5) if i != 3}
    worker.process({TASK: batch[:3]})
    assert on.landed() == set(range(13))


def test_more_guilty_keys_than_one_are_each_set_aside(tmp_path):
    on = line(tmp_path, tally=Fault())
    on.worker().process({TASK: on.send(10)})
    on.faults["tally"] = Fault(keys=frozenset({"machine-00", "machine-04"}))
    on.worker().process({TASK: []})
    assert sorted(e["what"] for e in on.set_aside("state")) == ["machine-00", "machine-04"]
    assert set(on.state().of_job("tally")) == {"machine-01", "machine-02", "machine-03"}


def test_messages_of_four_producers_are_our_fault_and_nothing_is_quarantined(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=offsets(0, 1, 2, 3)))
    with pytest.raises(TasksStoppedError, match=r"task-00 is stopped: .*ZeroDivisionError"):
        on.worker().process({TASK: on.send(20)})
    assert CommitLog(on.lake.root).latest("task-00") is None


def test_more_than_one_per_cent_of_a_batch_is_our_fault(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=offsets(0, 1, 5)))
    with pytest.raises(TasksStoppedError):
        on.worker().process({TASK: on.send(150)})
    assert CommitLog(on.lake.root).latest("task-00") is None


def test_small_batches_add_up_to_a_share(tmp_path):
    on = line(tmp_path, n_devices=2, ingest=Fault(offsets=frozenset(range(200))))
    worker = on.worker()
    batches = [on.send(4) for _ in range(60)]
    with pytest.raises(TasksStoppedError):
        all_in_turn(worker, batches)
    assert len(on.quarantined()) < 100


def test_one_device_with_broken_firmware_does_not_stop_the_others(tmp_path):
    broken = frozenset(range(0, 200, 5))
    on = line(tmp_path, ingest=Fault(offsets=broken))
    batch = on.send(200)
    burst = sorted(batch, key=lambda m: m.offset not in broken)
    burst = [m._replace(offset=i) for i, m in enumerate(burst)]  # all of its messages before the others'
    on.faults = {"ingest": Fault(offsets=frozenset(range(len(broken))))}
    batch, broken = burst, frozenset(range(len(broken)))
    on.worker().process({TASK: batch})
    assert on.landed() == all_but(batch, *broken)
    assert set(on.quarantined()) == broken


def test_strangers_cannot_make_a_fault_ours(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=frozenset(range(50, 90))))
    signed = on.send(50)
    forged = [m._replace(key=b"machine-9%d" % (m.offset % 10)) for m in on.send(40)]
    on.worker().process({TASK: [*signed, *forged]})
    assert on.landed() == all_but(signed)
    assert len(on.quarantined()) == 40


def test_a_stopped_task_goes_on_once_it_is_mended_and_nothing_is_lost(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=frozenset(range(20))))
    batch = on.send(20)
    with pytest.raises(TasksStoppedError):
        on.worker().process({TASK: batch})
    on.faults = {}
    on.worker().process({TASK: batch})
    assert on.landed() == all_but(batch)
    assert on.quarantined() == {}


def test_another_task_of_the_call_is_committed_although_one_stops(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=frozenset(range(20))))
    worker = on.worker()
    worker.open(1)
    bad, good = on.send(20), [m._replace(partition=1) for m in on.send(5)]
    with pytest.raises(TasksStoppedError) as error:
        worker.process({TASK: bad, 1: good})
    assert list(error.value.reasons) == [TASK]
    assert on.landed() == all_but(good)


@pytest.mark.parametrize("error", [LookupFailedError("no lake"), OSError(28, "no space left"), MemoryError()])
def test_an_error_of_the_surroundings_is_never_blamed_on_a_message(tmp_path, error):
    on = line(tmp_path)
    worker = on.worker()
    worker._parts.jobs[0].fault = Trouble(error)
    with pytest.raises(type(error)):
        worker.process({TASK: on.send(5)})
    assert CommitLog(on.lake.root).latest("task-00") is None


def all_in_turn(worker, batches):
    for batch in batches:
        worker.process({TASK: batch})


class Trouble:
    """A fault that raises a given error, whatever the batch."""

    def __init__(self, error):
        self._error = error

    def strike(self, messages, state):
        raise self._error


def test_a_job_beside_the_landing_job_stops_alone_and_catches_up_once_mended(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=frozenset(range(10, 30))))
    worker = on.worker()
    worker.process({TASK: on.send(10)})
    worker.process({TASK: on.send(20)})
    worker.process({TASK: on.send(10)})
    assert on.landed() == set(range(40))
    assert on.quarantined() == {}
    assert list(on.state().stopped) == ["tally"]
    assert "job tally of task-00 is stopped since" in in_words(stopped_in(on.lake.root))[0]
    on.faults = {"tally": Fault()}
    on.worker().process({TASK: on.send(5)})
    assert on.state().stopped == {}
    assert sum(on.state().of_job("tally").values()) == 45 == on.state().counters["tally/seen"]
    assert stopped_in(on.lake.root) == []


def test_what_the_log_lost_meanwhile_is_on_record_as_a_gap(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=frozenset(range(20))))
    on.worker().process({TASK: on.send(20)})
    on.faults = {"tally": Fault()}
    worker = on.worker()
    worker._catch_up._reads.low = 12
    worker.process({TASK: []})
    [gap] = on.set_aside("gap")
    assert gap["what"] == "telemetry.v1[0] offsets 0..12"
    assert on.state().counters["tally/missed_messages"] == 12
    assert on.state().counters["tally/seen"] == 8


def test_a_batch_that_unpacks_to_too_much_is_committed_in_portions(tmp_path):
    on = line(tmp_path)
    batch = [m._replace(headers=_claim(m.headers, 16 * 1024**2), value=m.value * 150) for m in on.send(9)]
    on.worker().process({TASK: batch})
    assert on.state().offsets == {"telemetry.v1": 9}
    assert on.state().n == 2


def _claim(headers, raw_bytes):
    return [(k, b"%d" % raw_bytes if k == "raw_bytes" else v) for k, v in headers]


def test_aggregates_of_a_stopped_job_are_the_same_in_the_end_as_if_it_had_never_stopped(tmp_path):
    """The rows that it missed have landed meanwhile: it gets them from the lake."""

    def run(folder, fault):
        on = SummaryLine(tmp_path / folder, devices(5), {"aggregate": fault})
        on.worker().process({TASK: on.summaries(10)})
        on.worker().process({TASK: on.summaries(60)})
        assert bool(on.state().stopped) == bool(fault.offsets)
        on.faults = {"aggregate": Fault()}
        on.worker().process({TASK: on.summaries(10)})
        on.worker(clock=lambda: COHORT_T0 + timedelta(hours=40)).process({TASK: []})
        return on

    whole, stopped = run("whole", Fault()), run("stopped", Fault(offsets=frozenset(range(20, 60))))
    assert stopped.quarantined() == {}
    assert stopped.state().stopped == {}
    assert stopped.windows() == whole.windows() != {}


class SummaryLine(PoisonLine):
    """A line whose devices send summaries, and whose job beside ingest is ``aggregate``."""

    def jobs(self):
        directory = SimDirectory(*self.devices)
        return FaultyIngest(directory, Fault()), FaultyAggregate(directory, self.faults["aggregate"])

    def summaries(self, n):
        found = []
        for _ in range(n):
            at = len(self.log.messages)
            device = self.devices[at % len(self.devices)]
            period = Period(device.device_id, 720 * (at // len(self.devices)), [1.0 + at % 7, 2.0, 3.0])
            rows = (
                summaries([period])
                .select(SUMMARY_ROWS.names)
                .cast(SUMMARY_ROWS)
                .combine_chunks()
                .to_batches()[0]
            )
            value, raw = encode_rows(rows)
            sealed = device.seal_value("summary.v1", Lane.SUMMARY, fingerprint(SUMMARY_ROWS), value, 1, raw)
            appended = COHORT_T0 + timedelta(seconds=6 + 5 * (at // len(self.devices)))
            found.append(on_task(self.log.append(sealed, appended)))
        return found

    def windows(self):
        """Count and sum by window, over all partials."""
        query = "SELECT window_start, sum(n), round(sum(n * mean), 6), min(min), max(max) FROM aggregates"
        query += " GROUP BY window_start"
        return {r[0]: r[1:] for r in connect(self.lake.root, comments=False).execute(query).fetchall()}


class FaultyAggregate(AggregateWindows):
    def __init__(self, context, fault):
        super().__init__(context)
        self.fault = fault

    def process(self, batch, state, now):
        rows = batch.rows.get("summaries")
        if rows is not None and set(rows["_offset"].to_pylist()) & self.fault.offsets:
            raise ZeroDivisionError("a fault that no check foresaw")
        return super().process(batch, state, now)


def test_a_state_key_that_was_set_aside_is_given_back_on_request(tmp_path):
    on = line(tmp_path, tally=Fault())
    on.worker().process({TASK: on.send(10)})
    on.faults["tally"] = Fault(keys=frozenset({"machine-03"}))
    on.worker().process({TASK: []})
    [entry] = on.set_aside("state")
    RestoreRequests(on.lake.root).ask(entry["id"])
    on.faults["tally"] = Fault()
    on.worker().process({TASK: []})
    assert on.state().of_job("tally")["machine-03"] == 2
    assert on.state().counters["tally/restored_keys"] == 1


def test_a_key_that_exists_again_is_not_overwritten(tmp_path):
    on = line(tmp_path, tally=Fault())
    on.worker().process({TASK: on.send(10)})
    on.faults["tally"] = Fault(keys=frozenset({"machine-03"}))
    on.worker().process({TASK: []})
    [entry] = on.set_aside("state")
    on.faults["tally"] = Fault()
    on.worker().process({TASK: on.send(5)})
    RestoreRequests(on.lake.root).ask(entry["id"])
    on.worker().process({TASK: []})
    assert on.state().of_job("tally")["machine-03"] == 1


def test_a_derived_message_that_no_broker_takes_is_set_aside_and_can_be_asked_for(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=offsets(2), how="derive much"))
    on.worker().process({TASK: on.send(5)})
    [entry] = on.set_aside("derived")
    assert (entry["how"], entry["detail"]["topic"]) == ("refused", "tally.v1")
    assert on.state().counters["derived/set_aside_messages"] == 1
    assert on.landed() == set(range(5))
    assert len(on.recorder.published) == 0
    RestoreRequests(on.lake.root).ask(entry["id"])
    on.worker().process({TASK: []})
    assert len(on.set_aside("derived")) == 2  # it is as large as before


def test_a_derived_message_that_the_broker_refused_is_kept_and_counted_with_the_next_commit(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=offsets(2), how="derive"))
    on.recorder.refuses = (0,)
    worker = on.worker()
    worker.process({TASK: on.send(5)})
    [entry] = on.set_aside("derived")
    assert (entry["what"], entry["reason"]) == ("task-00/0/0", "the broker refuses it")
    worker.process({TASK: on.send(1)})
    assert on.state().counters["derived/set_aside_messages"] == 1


@pytest.mark.parametrize("entry_id", ["", "task-00/1", "task-00/1/9", "../x/1/0", "task-00/x/0", "t/1/0"])
def test_what_is_not_there_cannot_be_asked_for(tmp_path, entry_id):
    with pytest.raises(RejectedError):
        RestoreRequests(line(tmp_path).lake.root).ask(entry_id)

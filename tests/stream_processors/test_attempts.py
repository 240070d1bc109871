"""After two deaths over the same messages they are tried in a child; only what fails there is set aside."""

import pytest

from schemas.errors import TasksStoppedError
from stream_processors.engine.attempts import AttemptMarks, CommitAttempt, spans_of
from stream_processors.engine.job_trials import TrialLimits
from stream_processors.engine.records import TaskState
from tests.simulators.line import TASK
from tests.stream_processors.poison_rig import Fault, PoisonLine, all_but, devices, offsets

LIMITS = TrialLimits(memory_mb=256, timeout_s=10.0)


def line(tmp_path, n_devices=5, **faults):
    return PoisonLine(tmp_path / "lake", devices(n_devices), faults)


def die(on, batch, times=2):
    """What processes leave that were killed while they worked on a batch."""
    for _ in range(times):
        marks = AttemptMarks(on.lake.root)
        marks.opened(on.state())
        marks.begin(on.state(), batch)


@pytest.mark.sliced(one_of=3)
@pytest.mark.parametrize("how", ["end", "hang", "memory", "raise"])
def test_a_message_that_ends_processes_is_found_in_a_child_and_quarantined(tmp_path, how):
    on = line(tmp_path, ingest=Fault(offsets=offsets(2), how=how))
    batch = on.send(5)
    die(on, batch)
    limits = LIMITS._replace(timeout_s=3.0) if how == "hang" else LIMITS
    on.worker(child=True, trial_limits=limits).process({TASK: batch})
    assert on.landed() == all_but(batch, 2)
    assert list(on.quarantined()) == [2]
    word = {"end": "ended", "hang": "hung", "memory": "memory", "raise": "raised"}[how]
    assert [e["how"] for e in on.set_aside("message")] == [word]


def test_kills_from_outside_quarantine_nothing(tmp_path):
    on = line(tmp_path)
    batch = on.send(20)
    for deaths in (2, 3, 4):
        die(on, batch, deaths)
    on.worker(child=True, trial_limits=LIMITS).process({TASK: batch})
    assert on.landed() == all_but(batch)
    assert on.quarantined() == {}


def test_a_job_beside_the_landing_job_that_ends_processes_by_itself_stops_alone(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=frozenset(range(4)), how="end"))
    batch = on.send(4)
    die(on, batch)
    on.worker(child=True, trial_limits=LIMITS).process({TASK: batch})
    assert on.landed() == all_but(batch)
    assert list(on.state().stopped) == ["tally"]
    on.faults = {"tally": Fault()}
    on.worker(child=True, trial_limits=LIMITS).process({TASK: []})
    assert on.state().counters["tally/seen"] == 4


def test_a_landing_job_that_ends_processes_by_itself_is_not_run_in_this_one(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=frozenset(range(4)), how="end"))
    batch = on.send(4)
    die(on, batch)
    with pytest.raises(TasksStoppedError, match="SIGKILL"):
        on.worker(child=True, trial_limits=LIMITS).process({TASK: batch})
    assert on.quarantined() == {}


def test_a_state_on_which_a_tick_ends_the_process_is_set_aside(tmp_path):
    on = line(tmp_path, tally=Fault())
    on.worker().process({TASK: on.send(10)})
    on.faults["tally"] = Fault(keys=frozenset({"machine-01"}), how="end")
    die(on, [])
    on.worker(child=True, trial_limits=LIMITS).process({TASK: []})
    assert [e["what"] for e in on.set_aside("state")] == ["machine-01"]


def test_suspects_beyond_the_first_part_stay_suspects(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=offsets(600), how="end"))
    batch = on.send(610, rows=1)
    die(on, batch)
    on.worker(child=True, trial_limits=LIMITS).process({TASK: batch})
    assert list(on.quarantined()) == [600]
    assert len(on.landed()) == 609


def test_one_death_or_deaths_over_other_messages_make_no_suspects(tmp_path):
    on = line(tmp_path)
    batch = on.send(6)
    marks, state = AttemptMarks(tmp_path), TaskState("task-00")
    marks.opened(state)
    marks.begin(state, batch[:3])
    assert not AttemptMarks(tmp_path).opened(state).suspected
    marks.begin(state, batch[3:])
    found = AttemptMarks(tmp_path).opened(state)
    assert (found.suspected, found.deaths) == (False, 1)


def test_suspects_are_what_was_in_every_batch_that_ended_with_a_death(tmp_path):
    batch = line(tmp_path).send(6)
    found = CommitAttempt(0).begun(spans_of(batch[:5])).after_death().begun(spans_of(batch[:3])).after_death()
    assert found.suspected
    assert found.suspects(batch) == 3
    assert found.suspects([]) == 0


def test_a_batch_that_raises_or_goes_well_leaves_no_mark(tmp_path):
    on = line(tmp_path, ingest=Fault(offsets=frozenset(range(5))))
    batch = on.send(5)
    for _ in range(3):
        with pytest.raises(TasksStoppedError):
            on.worker().process({TASK: batch})
    on.faults = {}
    on.worker().process({TASK: batch})
    assert AttemptMarks(on.lake.root).opened(on.state()).deaths == 0


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b'{"format": 99}', b'{"format": 1, "n": 0}'])
def test_a_damaged_mark_counts_for_nothing(tmp_path, content):
    path = tmp_path / "_attempts" / "task-00.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert AttemptMarks(tmp_path).opened(TaskState("task-00")).deaths == 0


def test_a_stopped_job_that_ends_the_process_when_it_catches_up_is_tried_in_a_child_from_then_on(tmp_path):
    on = line(tmp_path, tally=Fault(offsets=frozenset(range(4))))
    on.worker().process({TASK: on.send(4)})
    assert on.state().stopped["tally"].how == "raised"
    on.faults = {"tally": Fault(offsets=frozenset(range(4)), how="end")}
    die(on, [])
    on.worker(child=True, trial_limits=LIMITS).process({TASK: []})
    assert on.state().stopped["tally"].how == "ended"
    on.faults = {"tally": Fault()}
    on.worker(child=True, trial_limits=LIMITS).process({TASK: []})
    assert on.state().counters["tally/seen"] == 4

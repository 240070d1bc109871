"""Laws of the loop that all processes run, first with a settable clock, then with the real processes.

The real processes fail on real damage: JSON in the registry that does not parse, a folder in a file's place.
Nobody foresaw these, so they represent every unforeseen error; each test repairs the damage, and the same
process must then do its work without a restart.
"""

import asyncio
import logging
import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import insert, select

from model_service.identity.authority import init_pki
from model_service.in_turn import each_in_turn
from model_service.processes import engine_process, gate_process, guard_process, trainer_process
from model_service.processes.process_loop import (
    LONGEST_S,
    UNFORESEEN_S,
    ProcessJob,
    ProcessLoop,
    rest_after,
)
from model_service.registry.database import note
from model_service.registry.registry_tables import certificates, outbox, runs
from schemas.errors import (
    DamagedLakeError,
    LakeConflictError,
    OperatorError,
    RegistryError,
    RetryableError,
    TaskLostError,
)
from schemas.proto.delivery_pb2 import WatchRequest
from tests.model_service.drifting_fleets import HARMLESS, fleet, land, sent_rows, store
from tests.model_service.gate_rig import GateRig
from tests.model_service.regimes import warmer
from tests.model_service.trainer_rig import TrainerRig
from tests.simulators.model_service import ModelService
from tests.simulators.rollout_deployment import GROUP, RolloutDeployment, proposed, quick_profile
from tests.waiting import wait_until

LOOP = "model_service.processes.process_loop"


class Clock:
    """Seconds, as the test sets them."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Work:
    """Raises the errors it was given, one a call; works from then on. Remembers when it was called."""

    def __init__(self, clock, *errors, answer=None):
        self.clock, self.errors, self.answer = clock, list(errors), answer
        self.calls = []

    def __call__(self):
        self.calls.append(self.clock())
        if self.errors:
            raise self.errors.pop(0)
        return self.answer

    def __repr__(self):
        return f"called at {self.calls}"


def turns(clock, loop, seconds):
    """A turn a second from now on."""
    for _ in range(seconds):
        loop.turn()
        clock.now += 1.0


def test_a_job_that_fails_rests_and_the_others_have_their_turns():
    clock = Clock()
    failing, well = Work(clock, RetryableError("busy", 3.0)), Work(clock)
    turns(clock, ProcessLoop([ProcessJob("failing", failing), ProcessJob("well", well)], 1.0, clock), 6)
    assert failing.calls == [0, 3, 4, 5]
    assert well.calls == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("error", "rest_s"),
    [
        (RetryableError("away", 7.5), 7.5),
        (LakeConflictError("another writer"), 1.0),
        (RegistryError("no such model"), 1.0),
        (KeyError("champion"), UNFORESEEN_S),
        (OSError("no space left"), UNFORESEEN_S),
        (DamagedLakeError("a table of the lake"), 15.0),
        (OperatorError("no signing key"), None),
        (TaskLostError("another worker"), None),
    ],
)
def test_the_kind_of_the_error_decides_how_long_the_job_rests(error, rest_s):
    assert rest_after(error, 1) == rest_s


def test_unforeseen_errors_in_a_row_double_the_rest_up_to_a_bound():
    rests = [rest_after(ValueError("?"), n) for n in (1, 2, 3, 4, 5, 6, 10**6)]
    assert rests == [5.0, 10.0, 20.0, 40.0, LONGEST_S, LONGEST_S, LONGEST_S]


def test_a_job_that_works_again_begins_with_the_short_rest():
    clock = Clock()
    unforeseen = [ZeroDivisionError(), ZeroDivisionError()]
    work = Work(clock, *unforeseen)
    loop = ProcessLoop([ProcessJob("work", work)], 1.0, clock)
    turns(clock, loop, 17)
    assert work.calls == [0, 5, 15, 16]
    work.errors = [ZeroDivisionError()]
    turns(clock, loop, 6)
    assert work.calls[-2:] == [17, 22]
    assert loop.failures == {"work": 3}


def test_a_rest_is_never_shorter_than_the_jobs_own_pause():
    clock = Clock()
    work = Work(clock, RetryableError("busy"), ValueError())
    turns(clock, ProcessLoop([ProcessJob("work", work, 30.0)], 1.0, clock), 91)
    assert work.calls == [0, 30, 60, 90]


@pytest.mark.parametrize("error", [OperatorError("the key was rotated"), TaskLostError("another worker")])
def test_what_a_person_or_another_process_must_settle_ends_the_loop(error):
    clock = Clock()
    loop = ProcessLoop([ProcessJob("work", Work(clock, error))], 1.0, clock)
    with pytest.raises(type(error), match=str(error)):
        loop.run(threading.Event())


def test_a_job_that_has_more_to_do_gets_the_next_turn_at_once():
    clock = Clock()
    for answer, more in ((True, True), (False, False), (None, False), (3, False)):
        loop = ProcessLoop(
            [ProcessJob("first", Work(clock, answer=answer)), ProcessJob("last", Work(clock))], 1.0, clock
        )
        assert loop.turn() is more


def test_each_error_is_logged_once_until_the_job_works_again(caplog):
    caplog.set_level(logging.INFO, LOOP)
    clock = Clock()
    busy, broken = RetryableError("busy"), KeyError("champion")
    work = Work(clock, busy, broken, busy, broken)
    loop = ProcessLoop([ProcessJob("work", work)], 1.0, clock)
    turns(clock, loop, 90)
    assert [r.getMessage() for r in caplog.records] == [
        "work: RetryableError: busy",
        "work: unexpected error; retrying in 10 s",
        "work: works again, after 4 failed attempts",
    ]
    assert [bool(r.exc_info) for r in caplog.records] == [False, True, False]
    caplog.clear()
    work.errors = [busy]
    turns(clock, loop, 1)
    assert [r.getMessage() for r in caplog.records] == ["work: RetryableError: busy"]


def test_once_stop_is_set_the_loop_ends_whatever_it_waits_for():
    stop, began = threading.Event(), threading.Event()

    def work():
        began.set()
        raise RetryableError("away", 3600.0)

    loop = ProcessLoop([ProcessJob("work", work)], 3600.0)
    thread = threading.Thread(target=loop.run, args=(stop,), daemon=True)
    thread.start()
    assert began.wait(30)
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_in_an_event_loop_the_same_rules_hold():
    clock, stop = Clock(), threading.Event()
    failing, others = Work(clock, ValueError("?"), RetryableError("busy", 2.0)), []

    async def ask():
        await asyncio.sleep(0)
        return failing()

    def count():
        others.append(clock.now)
        clock.now += 1.0
        if clock.now > 9:
            stop.set()

    loop = ProcessLoop([ProcessJob("ask", ask), ProcessJob("count", count)], 0.0, clock)
    asyncio.run(loop.run_async(stop))
    assert failing.calls == [0, 5, 7, 8, 9]
    assert others == list(range(10))


def test_one_of_several_things_that_fails_holds_up_no_other():
    done = []

    def work(number):
        done.append(number)
        if number in errors:
            raise errors[number]

    errors = {1: RetryableError("busy"), 3: KeyError("unforeseen"), 4: RegistryError("no")}
    with pytest.raises(KeyError):
        each_in_turn(range(6), work)
    assert done == [0, 1, 2, 3, 4, 5]
    del errors[3]
    with pytest.raises(RetryableError):
        each_in_turn(range(6), work)
    errors[2] = OperatorError("a person must decide")
    done.clear()
    with pytest.raises(OperatorError):
        each_in_turn(range(6), work)
    assert done == [0, 1, 2]


# The real processes ---------------------------------------------------------------------------------------


@contextmanager
def running(process, settings):
    """The process's ``run`` in a thread; it must still run in the end, and end once ``stop`` is set."""
    stop, ended = threading.Event(), []

    def run():
        try:
            process.run(settings, stop)
        except BaseException as exc:
            ended.append(exc)
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
        assert thread.is_alive()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
    assert ended == []


def damage(registry, table, column):
    """Make a JSON column of all rows something that is no JSON; returns what repairs it."""
    with registry.transaction() as connection:
        [(whole,)] = connection.exec_driver_sql(f"SELECT DISTINCT {column} FROM {table}").all()
        connection.exec_driver_sql(f"UPDATE {table} SET {column} = '{{'")

    def repair():
        with registry.transaction() as connection:
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = ?", (whole,))

    return repair


def await_failure(caplog, job):
    """Until the job has said in one line that what it needs is damaged."""
    message = f"{job}: DamagedFileError: the model registry"
    wait_until(lambda: any(r.getMessage().startswith(message) for r in caplog.records), 60, message)


@pytest.mark.long
def test_the_trainer_survives_a_damaged_record_and_trains_afterwards(tmp_path, caplog):
    of = fleet(HARMLESS["temperature +8 on 80 %"], 3, devices=12, seconds=120)
    store(tmp_path / "lake", of)
    land(tmp_path / "lake", telemetry=sent_rows(of))
    office = TrainerRig(tmp_path / "office", tmp_path / "lake")
    now = office.clock().timestamp()
    office.execute(insert(runs).values(
        run_id="abc", family="machine", profile="machine", state="requested", reason="person", kind="",
        verdicts=[], seed=5, detail="", requested_by="olga", created_at=now, updated_at=now,
    ))  # fmt: skip
    repair = damage(office.registry, "runs", "verdicts")
    with running(trainer_process, office.settings):
        await_failure(caplog, "training runs")
        repair()
        wait_until(lambda: office.states() == ["trained"], 60, "the run to be trained")
    office.registry.close()


@pytest.mark.long
def test_the_gate_survives_a_damaged_record_and_judges_afterwards(tmp_path, caplog):
    office = GateRig(tmp_path)
    office.train(warmer())
    repair = damage(office.registry, "runs", "cause")
    with running(gate_process, office.settings):
        await_failure(caplog, "candidates")
        repair()
        wait_until(lambda: office.state() == "signed", 60, "the candidate to be signed")
    office.registry.close()


@pytest.mark.long
def test_the_engine_goes_on_with_everything_else_while_one_job_cannot_work(tmp_path, caplog):
    service = RolloutDeployment(tmp_path)
    init_pki(service.settings)
    with service.registry.transaction() as connection:
        note(connection, "e-1", "somebody", "something_happened", {})
    repair = damage(service.registry, "outbox", "detail")
    with running(engine_process, service.settings):
        await_failure(caplog, "ship events")
        asked = service.command("start_rollout", version="nonsense", group=GROUP, security=False)
        wait_until(lambda: service.answer(asked)[0] == "refused", 60, "the command's answer")
        assert {"operator", "viewer"} <= set(column(service, certificates.c.subject))
        repair()
        wait_until(lambda: None not in column(service, outbox.c.shipped_at), 60, "the events to be shipped")
    service.registry.close()


def column(service, of):
    with service.registry.reading() as connection:
        return list(connection.execute(select(of)).scalars())


@pytest.mark.long
def test_the_guard_survives_a_damaged_record_and_countersigns_afterwards(tmp_path, caplog):
    service = RolloutDeployment(tmp_path)
    service.use(quick_profile(phases=(0.5, 1.0)))
    proposed(service)
    repair = damage(service.registry, "rollouts", "record")
    with running(guard_process, service.settings):
        await_failure(caplog, "broad channels")
        repair()
        wait_until(lambda: service.requests()[-1].state == "countersigned", 60, "the guard's signature")
    service.registry.close()


@pytest.mark.long
def test_the_public_process_survives_an_unforeseen_error_and_hints_at_the_next_publication(tmp_path):
    with ModelService(tmp_path) as service, service.joined("m-1") as device:
        service.publish_timestamp(1)
        hints = device.delivery().Watch(WatchRequest(device_id="m-1"), timeout=60)
        next(hints)
        timestamp = service.settings.repository / "metadata" / "timestamp.json"
        timestamp.unlink()
        timestamp.mkdir()
        log = service.child.log_path
        wait_until(lambda: "publications: unexpected error" in log.read_text(), 30, "the error")
        timestamp.rmdir()
        service.publish_timestamp(7)
        assert any(hint.timestamp_version == 7 for hint in hints)
        assert service.child.exit_code is None

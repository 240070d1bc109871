"""Engine and guard over a real registry and a real signed repository; devices obey by report alone."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import select, update

from feature_store.lake import Lake
from model_service.identity.authority import init_pki
from model_service.processes import engine_process
from model_service.registry.registry_tables import (
    channel_requests,
    commands,
    device_status,
    gate_verdicts,
    outbox,
    rollout_events,
)
from model_service.rollout import rollout_store
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from schemas.channel_documents import BROAD, CANARY
from schemas.cohorts import SaltedShare
from schemas.updates import Attack
from tests.simulators.rollouts import FACTORY, FAMILY, GROUP, Service, quick_profile
from tests.waiting import wait_until

ENDED = ("completed", "completed_partial", "superseded", "rolled_back", "rolled_back_partial")


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    made.use(quick_profile())
    yield made
    made.registry.close()


def run(service, names, *, until=ENDED, number=1, rounds=60, **deeds):
    """Engine, guard and devices in turn until the rollout is in one of these states."""
    engine, guard = service.engine(), service.guard()
    for _ in range(rounds):
        engine.tick()
        guard.tick()
        service.obey(names, **deeds)
        record = service.rollout(number)
        if record is not None and record.state in until:
            return record
    raise AssertionError(f"still {record}")


def seqs(service, group=GROUP):
    with service.registry.reading() as connection:
        rows = connection.execute(
            select(channel_requests.c.seq)
            .where(channel_requests.c.grp == group)
            .order_by(channel_requests.c.id)
        )
        return list(rows.scalars())


def test_a_signed_candidate_reaches_every_device_by_itself(service):
    names = service.join(20)
    new = service.sign(1)
    record = run(service, names)
    assert record.state == "completed"
    assert all(service.installed[d] == new for d in names)
    out = service.repo.channels(GROUP)
    assert (out[CANARY].seq, out[BROAD].seq) == (1, 2)
    with service.registry.reading() as connection:
        steps = list(connection.execute(select(outbox.c.step).order_by(outbox.c.event_time)).scalars())
    for step in ("published", "rollout_started", "channel_published", "phase_passed", "rollout_completed"):
        assert step in steps


def test_a_profile_that_does_not_roll_out_by_itself_waits_for_a_person(service):
    service.use(quick_profile(auto=False))
    names = service.join(20)
    new = service.sign(1)
    engine = service.engine()
    engine.tick()
    assert service.rollout() is None
    asked = service.command("start_rollout", version=new.version, group=GROUP, security=False)
    again = service.command("start_rollout", version=new.version, group=GROUP, security=False)
    engine.tick()
    assert service.answer(asked) == service.answer(again)
    assert service.answer(asked)[1]["rollout_id"] == f"{GROUP}-1"
    assert run(service, names).state == "completed"


def test_a_model_that_fails_its_trial_ends_rolled_back(service):
    names = service.join(20)
    service.sign(1)
    record = run(service, names, bad=names)
    assert record.state == "rolled_back"
    assert all(service.installed[d].version == FACTORY for d in names)
    assert BROAD not in service.repo.channels(GROUP)


def test_what_a_device_lies_about_its_models_stops_nobody_else(service):
    names = service.join(20)
    service.sign(1)
    engine = service.engine()
    engine.tick()
    with service.registry.transaction() as connection:
        garbage = {"machine": {"version": "garbage", "sha256": "zz"}, "other": None}
        own = device_status.c.device_id == names[0]
        connection.execute(update(device_status).where(own).values(installed=garbage))
    assert run(service, names).state == "completed"


def test_no_rollout_starts_without_passed_gates_or_to_a_group_that_nobody_knows(service):
    service.join(3)
    new = service.sign(1)
    engine = service.engine()
    engine.tick()
    service.command("start_rollout", version=new.version, group="nosuch")
    engine.tick()
    with service.registry.transaction() as connection:
        connection.execute(update(gate_verdicts).values(passed=False))
    service.command("start_rollout", version=new.version, group=GROUP)
    engine.tick()
    with service.registry.reading() as connection:
        answers = connection.execute(select(commands.c.outcome)).scalars().all()
    assert "no group 'nosuch'" in answers[0]["reason"]
    assert "has not passed its gates" in answers[1]["reason"]


def test_a_command_of_nonsense_gets_its_answer(service):
    service.join(20)
    engine = service.engine()
    service.command("control_rollout", rollout_id={}, action="abort")
    engine.tick()
    with service.registry.reading() as connection:
        assert connection.execute(select(commands.c.state)).scalars().all() == ["refused"]


def test_an_abort_in_the_broad_ring_brings_everybody_back(service):
    service.use(quick_profile(phases=(0.5, 1.0)))
    names = service.join(20)
    service.sign(1)
    engine, guard = service.engine(), service.guard()
    for _ in range(20):
        engine.tick()
        guard.tick()
        if BROAD in service.repo.channels(GROUP):
            break
        service.obey(names)
    service.obey(names[:12])
    service.command("control_rollout", rollout_id=f"{GROUP}-1", action="abort", reason="smells odd")
    record = run(service, names)
    assert record.state == "rolled_back"
    assert all(service.installed[d].version == FACTORY for d in names)
    assert all(c.reason == "rollback" for c in service.repo.channels(GROUP).values())
    assert seqs(service) == sorted(set(seqs(service)))


def test_a_newer_model_supersedes_and_the_baseline_stays_the_completed_one(service):
    names = service.join(20)
    first = service.sign(1)
    assert run(service, names).state == "completed"
    service.sign(2)
    service.engine().tick()
    third = service.sign(3)
    assert run(service, names, number=2).state == "superseded"
    record = run(service, names, number=3)
    assert record.state == "completed"
    assert record.baseline == {FAMILY: first}
    assert all(service.installed[d] == third for d in names)


def test_never_two_rollouts_of_a_group_are_active(service):
    names = service.join(12)
    engine, guard = service.engine(), service.guard()
    for major in (1, 2, 3):
        service.sign(major)
        for _ in range(4):
            engine.tick()
            with service.registry.reading() as connection:
                assert len(rollout_store.in_states(connection, ("running", "paused", "aborting"), GROUP)) == 1
            guard.tick()
            service.obey(names[:6])


def test_a_group_without_devices_offers_the_canary_and_asks_a_person(service):
    service.join(4)
    new = service.sign(1)
    engine = service.engine()
    engine.tick()
    asked = service.command("start_rollout", version=new.version, group="other", security=False)
    engine.tick()
    engine.tick()
    assert service.answer(asked)[0] == "done"
    assert service.repo.channels("other")[CANARY].target[FAMILY] == new
    assert service.rollout(group="other").pause.kind == "not_shown"


def test_missing_evidence_is_passed_by_an_approver_only(service):
    names = service.join(20)
    service.use(quick_profile(min_devices=25))
    service.sign(1)
    assert run(service, names, until=("paused",)).pause.kind == "not_shown"
    ask = {"rollout_id": f"{GROUP}-1", "action": "resume", "reason": "looked at it"}
    refused = service.command("control_rollout", **ask, roles=["operator"])
    service.engine().tick()
    assert service.answer(refused)[0] == "refused"
    assert "approver" in service.answer(refused)[1]["reason"]
    service.command("control_rollout", **ask, roles=["operator", "approver"])
    assert run(service, names).state == "completed"


def test_commands_that_make_no_sense_are_refused_with_a_reason(service):
    service.join(4)
    service.sign(1, state="refused")
    bodies = [
        ("start_rollout", {"version": "machine-9.00000009", "group": GROUP}, "no model"),
        ("start_rollout", {"version": "machine-1.00000001", "group": GROUP}, "is refused, not published"),
        ("control_rollout", {"rollout_id": "line-7", "action": "pause"}, "no rollout"),
        ("control_rollout", {"action": "pause"}, "lacks 'rollout_id'"),
    ]
    ids = [service.command(kind, **body) for kind, body, _ in bodies]
    service.engine().tick()
    for command, (_, _, reason) in zip(ids, bodies, strict=True):
        state, outcome = service.answer(command)
        assert (state, reason in outcome["reason"]) == ("refused", True), outcome


def test_a_device_under_attack_counts_against_the_rollout(service):
    names = service.join(20)
    service.sign(1)
    service.engine().tick()
    channel = service.in_force(names[0])
    treated = [d for d in names if channel.wanted(d)[FAMILY].major == 1]
    for device in treated[:2]:
        service.report(device, channel, "idle", "no_change_refused", attack=Attack.TAMPERED_ARTIFACT.value)
    engine = service.engine()
    engine.tick()
    engine.tick()
    assert service.rollout().state in ("aborting", "rolled_back")
    with service.registry.reading() as connection:
        found = connection.execute(
            select(rollout_events).where(rollout_events.c.step == "rollout_aborted")
        ).one()
    assert "2 of 2" in found.detail["reason"]


def test_an_idle_engine_costs_almost_nothing(service):
    names = service.join(20)
    service.sign(1)
    run(service, names)
    engine = service.engine()
    engine.tick()
    start = time.process_time()
    for _ in range(100):
        assert not engine.tick()
    assert (time.process_time() - start) / 100 < 0.005


@pytest.mark.faults
@pytest.mark.parametrize("who", ["engine", "guard", "both"])
def test_killed_around_every_transaction_the_rollout_goes_on_and_no_seq_comes_twice(service, tmp_path, who):
    service.use(quick_profile(phases=(0.5, 1.0)))
    service.join(20)
    service.sign(1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulators.dying_rollout", str(tmp_path), who],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["deaths"] >= 4
    assert told["seqs"] == sorted(set(told["seqs"]))
    assert service.rollout().state == "completed", done.stderr
    requests = service.requests()
    assert [r.document.seq for r in requests] == list(range(1, len(requests) + 1))
    published = [(r.ring, r.sent.phase) for r in requests if r.state == "published"]
    assert published == [(CANARY, 0), (BROAD, 1), (BROAD, 2)]
    with service.registry.reading() as connection:
        events = connection.execute(select(rollout_events.c.step, rollout_events.c.detail)).all()
    for step in ("rollout_started", "rollout_completed"):
        assert [e.step for e in events].count(step) == 1


@pytest.mark.faults
def test_real_processes_killed_by_pid_finish_the_rollout(service):
    init_pki(service.settings)
    names = service.join(20)
    new = service.sign(1)
    running = {name: service.start(name) for name in ("engine", "guard")}
    try:
        for name, ring in (("engine", CANARY), ("guard", BROAD), ("engine", BROAD)):
            wait_until(lambda ring=ring: ring in service.repo.channels(GROUP) or service.obey(names), 40)
            running[name].kill()
            running[name].wait()
            running[name] = service.start(name)
        wait_until(lambda: service.obey(names) < 0 or service.rollout().state == "completed", 40)
    finally:
        for process in running.values():
            process.terminate()
        codes = [process.wait(20) for process in running.values()]
    assert codes == [0, 0]
    assert all(service.installed[d] == new for d in names)
    assert seqs(service) == [1, 2]


def test_the_engines_start_sweeps_what_crashed_writers_left_an_hour_ago(tmp_path):
    settings = ModelSettings(root=tmp_path / "models", lake_root=tmp_path / "lake")
    init_pki(settings)
    ceremony.init(settings, ["machine"], {"default": SaltedShare()})
    Lake.open(settings.lake_root).ensure_fixed_tables()
    kept = {p for p in settings.root.rglob("*") if p.is_file()}
    random = 32 * "a"
    old = [
        settings.pki / f".ca.key.{random}",  # as release 0.2.0 named it
        settings.keys / "engine" / f".tmp-timestamp.pem.{random}",
        settings.repository / "metadata" / f".tmp-timestamp.json.{random}",
    ]
    young = settings.root / f".tmp-address.json.{random}"
    for path in (*old, young):
        path.write_bytes(b"half a")
    for path in old:
        os.utime(path, (time.time() - 7200,) * 2)
    stop = threading.Event()
    stop.set()
    engine_process.run(settings, stop)
    assert {p for p in settings.root.rglob("*") if p.is_file()} >= kept | {young}
    assert not any(path.exists() for path in old)

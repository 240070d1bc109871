"""Engine and guard over a real registry and a real signed repository; devices obey by their reports alone."""

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
    devices,
    gate_verdicts,
    outbox,
    rollout_events,
)
from model_service.rollout import rollout_store
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from schemas.channel_documents import BROAD, CANARY, Release
from schemas.cohorts import SaltedShare
from schemas.updates import Attack
from tests.simulators.rollout_deployment import FACTORY, FAMILY, GROUP, RolloutDeployment, quick_profile
from tests.waiting import wait_until

ENDED = ("completed", "completed_partial", "superseded", "rolled_back", "rolled_back_partial")


@pytest.fixture
def deployment(tmp_path):
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile())
    yield made
    made.registry.close()


def run(deployment, names, *, until=ENDED, number=1, rounds=60, **behaviour):
    """Engine, guard and devices in turn until the rollout is in one of these states."""
    engine, guard = deployment.engine(), deployment.guard()
    for _ in range(rounds):
        engine.tick()
        guard.tick()
        deployment.obey(names, **behaviour)
        record = deployment.rollout(number)
        if record is not None and record.state in until:
            return record
    raise AssertionError(f"still {record}")


def seqs(deployment, group=GROUP):
    with deployment.registry.reading() as connection:
        rows = connection.execute(
            select(channel_requests.c.seq)
            .where(channel_requests.c.grp == group)
            .order_by(channel_requests.c.id)
        )
        return list(rows.scalars())


def test_a_signed_candidate_reaches_every_device_by_itself(deployment):
    names = deployment.join(20)
    new = deployment.sign(1)
    record = run(deployment, names)
    assert record.state == "completed"
    assert all(deployment.installed[d] == new for d in names)
    out = deployment.repo.channels(GROUP)
    assert (out[CANARY].seq, out[BROAD].seq) == (1, 2)
    with deployment.registry.reading() as connection:
        steps = list(connection.execute(select(outbox.c.step).order_by(outbox.c.event_time)).scalars())
    for step in ("published", "rollout_started", "channel_published", "phase_passed", "rollout_completed"):
        assert step in steps


def own_family(deployment, name, **rollout):
    """A profile with a family that nothing ships for, which has its keys."""
    profile = quick_profile(**rollout)
    own = profile.model_copy(update={"name": name, "model": profile.model.model_copy(update={"name": name})})
    deployment.use(own)
    ceremony.init(deployment.settings, [name], {})


def test_devices_that_join_after_their_first_model_get_it_once_they_have_settled(deployment):
    """A first model is made from a file, before any device is there: nobody rolled it out to them."""
    own_family(deployment, "pump", soak_s=60.0)
    new = deployment.sign(1, family="pump", champion="robust-0.15d4c218")
    engine = deployment.engine()
    engine.tick()
    deployment.join(5, profile="pump", enrolled_at=time.time() - 59)
    assert not engine.tick()
    with deployment.registry.transaction() as connection:
        connection.execute(update(devices).values(enrolled_at=time.time() - 61))
    engine = deployment.engine()
    engine.tick()
    record = deployment.rollout()
    assert (record.state, record.version, record.created_by) == ("running", new.version, "engine")
    assert record.baseline == {"pump": Release(version="robust-0.15d4c218")}


def test_what_became_of_a_first_rollout_is_not_tried_again(deployment):
    own_family(deployment, "pump")
    names = deployment.join(5, profile="pump")
    new = deployment.sign(1, family="pump", champion="robust-0.15d4c218")
    engine = deployment.engine()
    engine.tick()
    deployment.command("abort_rollout", rollout_id=f"{GROUP}-1", reason="not now")
    for _ in range(5):
        engine.tick()
    assert deployment.rollout().version == new.version
    assert deployment.rollout(2) is None
    assert names


def test_a_group_rolls_out_one_family_after_the_other(deployment):
    """The draft of one family was superseded by that of another, and its model reached nobody."""
    families = ["fan", "pump"]
    for name in families:
        own_family(deployment, name)
        deployment.join(3, profile=name, prefix=name)
    for name in families:
        deployment.sign(1, family=name, champion="robust-0.15d4c218")
    engine = deployment.engine()
    engine.tick()
    states = {r.family: r.state for n in (1, 2) if (r := deployment.rollout(n)) is not None}
    assert sorted(states.values()) == ["draft", "running"]
    [first] = [n for n in (1, 2) if deployment.rollout(n).state == "running"]
    for _ in range(3):
        engine.tick()
    assert deployment.rollout(first).state == "running"
    ended = deployment.rollout(first).model_copy(update={"state": "completed"})
    with deployment.registry.transaction() as connection:
        rollout_store.save(connection, ended, time.time())
    deployment.engine().tick()
    assert deployment.rollout(3 - first).state == "running"


def test_a_profile_that_does_not_roll_out_by_itself_waits_for_a_person(deployment):
    deployment.use(quick_profile(auto=False))
    names = deployment.join(20)
    new = deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    assert deployment.rollout() is None
    asked = deployment.command("start_rollout", version=new.version, group=GROUP, security=False)
    again = deployment.command("start_rollout", version=new.version, group=GROUP, security=False)
    engine.tick()
    assert deployment.answer(asked) == deployment.answer(again)
    assert deployment.answer(asked)[1]["rollout_id"] == f"{GROUP}-1"
    assert run(deployment, names).state == "completed"


def test_a_model_that_fails_its_trial_ends_rolled_back(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    record = run(deployment, names, bad=names)
    assert record.state == "rolled_back"
    assert all(deployment.installed[d].version == FACTORY for d in names)
    assert BROAD not in deployment.repo.channels(GROUP)


def test_a_false_report_of_installed_models_stops_nobody_else(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    with deployment.registry.transaction() as connection:
        garbage = {"machine": {"version": "garbage", "sha256": "zz"}, "other": None}
        own = device_status.c.device_id == names[0]
        connection.execute(update(device_status).where(own).values(installed=garbage))
    assert run(deployment, names).state == "completed"


def test_no_rollout_starts_without_passed_gates_or_to_an_unknown_group(deployment):
    deployment.join(3)
    new = deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    deployment.command("start_rollout", version=new.version, group="nosuch")
    engine.tick()
    with deployment.registry.transaction() as connection:
        connection.execute(update(gate_verdicts).values(passed=False))
    deployment.command("start_rollout", version=new.version, group=GROUP)
    engine.tick()
    with deployment.registry.reading() as connection:
        answers = connection.execute(select(commands.c.outcome)).scalars().all()
    assert "no group 'nosuch'" in answers[0]["reason"]
    assert "has not passed its gates" in answers[1]["reason"]


def test_a_malformed_command_gets_an_answer(deployment):
    deployment.join(20)
    engine = deployment.engine()
    deployment.command("control_rollout", rollout_id={}, action="abort")
    engine.tick()
    with deployment.registry.reading() as connection:
        assert connection.execute(select(commands.c.state)).scalars().all() == ["refused"]


def test_completed_rollouts_are_taken_back_one_by_one_to_the_factorys_set(deployment):
    names = deployment.join(20)
    first = deployment.sign(1)
    run(deployment, names)
    deployment.sign(2)
    run(deployment, names, number=2)

    def back(number):
        return deployment.command(
            "control_rollout", rollout_id=f"{GROUP}-{number}", action="back", reason="noise"
        )

    early = back(1)
    back(2)
    assert run(deployment, names, number=2, until=ENDED[3:]).state == "rolled_back"
    assert deployment.answer(early) == (
        "refused",
        {"reason": f"rollout {GROUP}-2 completed later: take that back first"},
    )
    assert {deployment.installed[d] for d in names} == {first}
    back(1)
    assert run(deployment, names, until=ENDED[3:]).state == "rolled_back"
    assert {deployment.installed[d].version for d in names} == {FACTORY}
    again = back(1)
    deployment.engine().tick()
    assert deployment.answer(again) == (
        "refused",
        {"reason": f"rollout {GROUP}-1 is rolled_back, not completed"},
    )


def test_an_abort_in_the_broad_ring_brings_everybody_back(deployment):
    deployment.use(quick_profile(phases=(0.5, 1.0)))
    names = deployment.join(20)
    deployment.sign(1)
    engine, guard = deployment.engine(), deployment.guard()
    for _ in range(20):
        engine.tick()
        guard.tick()
        if BROAD in deployment.repo.channels(GROUP):
            break
        deployment.obey(names)
    deployment.obey(names[:12])
    deployment.command("control_rollout", rollout_id=f"{GROUP}-1", action="abort", reason="smells odd")
    record = run(deployment, names)
    assert record.state == "rolled_back"
    assert all(deployment.installed[d].version == FACTORY for d in names)
    assert all(c.reason == "rollback" for c in deployment.repo.channels(GROUP).values())
    assert seqs(deployment) == sorted(set(seqs(deployment)))


def test_a_newer_model_supersedes_and_the_baseline_stays_the_completed_one(deployment):
    names = deployment.join(20)
    first = deployment.sign(1)
    assert run(deployment, names).state == "completed"
    deployment.sign(2)
    deployment.engine().tick()
    third = deployment.sign(3)
    assert run(deployment, names, number=2).state == "superseded"
    record = run(deployment, names, number=3)
    assert record.state == "completed"
    assert record.baseline == {FAMILY: first}
    assert all(deployment.installed[d] == third for d in names)


def test_never_two_rollouts_of_a_group_are_active(deployment):
    names = deployment.join(12)
    engine, guard = deployment.engine(), deployment.guard()
    for major in (1, 2, 3):
        deployment.sign(major)
        for _ in range(4):
            engine.tick()
            with deployment.registry.reading() as connection:
                assert len(rollout_store.in_states(connection, ("running", "paused", "aborting"), GROUP)) == 1
            guard.tick()
            deployment.obey(names[:6])


def test_a_group_without_devices_offers_the_canary_and_asks_a_person(deployment):
    deployment.join(4)
    new = deployment.sign(1)
    engine = deployment.engine()
    engine.tick()
    asked = deployment.command("start_rollout", version=new.version, group="other", security=False)
    engine.tick()
    engine.tick()
    assert deployment.answer(asked)[0] == "done"
    assert deployment.repo.channels("other")[CANARY].target[FAMILY] == new
    assert deployment.rollout(group="other").pause.kind == "not_shown"


def test_missing_evidence_is_passed_by_an_approver_only(deployment):
    names = deployment.join(20)
    deployment.use(quick_profile(min_devices=25))
    deployment.sign(1)
    assert run(deployment, names, until=("paused",)).pause.kind == "not_shown"
    ask = {"rollout_id": f"{GROUP}-1", "action": "resume", "reason": "looked at it"}
    refused = deployment.command("control_rollout", **ask, roles=["operator"])
    deployment.engine().tick()
    assert deployment.answer(refused)[0] == "refused"
    assert "approver" in deployment.answer(refused)[1]["reason"]
    deployment.command("control_rollout", **ask, roles=["operator", "approver"])
    assert run(deployment, names).state == "completed"


def test_commands_that_make_no_sense_are_refused_with_a_reason(deployment):
    deployment.join(4)
    deployment.sign(1, state="refused")
    bodies = [
        ("start_rollout", {"version": "machine-9.00000009", "group": GROUP}, "no model"),
        ("start_rollout", {"version": "machine-1.00000001", "group": GROUP}, "is refused, not published"),
        ("control_rollout", {"rollout_id": "line-7", "action": "pause"}, "no rollout"),
        ("control_rollout", {"action": "pause"}, "lacks 'rollout_id'"),
    ]
    ids = [deployment.command(kind, **body) for kind, body, _ in bodies]
    deployment.engine().tick()
    for command, (_, _, reason) in zip(ids, bodies, strict=True):
        state, outcome = deployment.answer(command)
        assert (state, reason in outcome["reason"]) == ("refused", True), outcome


def test_a_device_under_attack_counts_against_the_rollout(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    deployment.engine().tick()
    channel = deployment.in_force(names[0])
    treated = [d for d in names if channel.wanted(d)[FAMILY].major == 1]
    for device in treated[:2]:
        deployment.report(device, channel, "idle", "no_change_refused", attack=Attack.TAMPERED_ARTIFACT.value)
    engine = deployment.engine()
    engine.tick()
    engine.tick()
    assert deployment.rollout().state in ("aborting", "rolled_back")
    with deployment.registry.reading() as connection:
        found = connection.execute(
            select(rollout_events).where(rollout_events.c.step == "rollout_aborted")
        ).one()
    assert "2 of 2" in found.detail["reason"]


def test_an_idle_engine_costs_almost_nothing(deployment):
    names = deployment.join(20)
    deployment.sign(1)
    run(deployment, names)
    engine = deployment.engine()
    engine.tick()
    start = time.process_time()
    for _ in range(100):
        assert not engine.tick()
    assert (time.process_time() - start) / 100 < 0.005


@pytest.mark.faults
@pytest.mark.parametrize("who", ["engine", "guard", "both"])
def test_killed_around_every_transaction_the_rollout_goes_on_and_no_seq_is_published_twice(
    deployment, tmp_path, who
):
    deployment.use(quick_profile(phases=(0.5, 1.0)))
    deployment.join(20)
    deployment.sign(1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulators.dying_rollout", str(tmp_path), who],
        capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["deaths"] >= 4
    assert result["seqs"] == sorted(set(result["seqs"]))
    assert deployment.rollout().state == "completed", done.stderr
    requests = deployment.requests()
    assert [r.document.seq for r in requests] == list(range(1, len(requests) + 1))
    published = [(r.ring, r.sent.phase) for r in requests if r.state == "published"]
    assert published == [(CANARY, 0), (BROAD, 1), (BROAD, 2)]
    with deployment.registry.reading() as connection:
        events = connection.execute(select(rollout_events.c.step, rollout_events.c.detail)).all()
    for step in ("rollout_started", "rollout_completed"):
        assert [e.step for e in events].count(step) == 1


@pytest.mark.long
@pytest.mark.faults
def test_real_processes_killed_by_pid_finish_the_rollout(deployment):
    init_pki(deployment.settings)
    names = deployment.join(20)
    new = deployment.sign(1)
    running = {name: deployment.start(name) for name in ("engine", "guard")}
    try:
        for name, ring in (("engine", CANARY), ("guard", BROAD), ("engine", BROAD)):
            wait_until(
                lambda ring=ring: ring in deployment.repo.channels(GROUP) or deployment.obey(names), 40
            )
            running[name].kill()
            running[name].wait()
            running[name] = deployment.start(name)
        wait_until(lambda: deployment.obey(names) < 0 or deployment.rollout().state == "completed", 40)
    finally:
        for process in running.values():
            process.terminate()
        codes = [process.wait(20) for process in running.values()]
    assert codes == [0, 0]
    assert all(deployment.installed[d] == new for d in names)
    assert seqs(deployment) == [1, 2]


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

"""The trainer: from a verdict to a proposed candidate with its lineage, or to a reason why not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import timedelta
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from edge_producer.sources.scenario import Injection
from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRecord, DeviceRegistry
from feature_store.point_in_time import training_rows
from infra.stack.model_processes import as_environment
from model_service.models.bundle_files import MANIFEST
from model_service.models.candidate import build_candidate
from model_service.models.fault_bank import load_fault_bank
from model_service.models.trial_effects import for_devices
from model_service.registry.bundle_store import read_artifact
from model_service.registry.candidates import champion_version
from model_service.registry.registry_tables import candidates, outbox, rollouts, runs
from model_service.training.lineage import code_version, selection_of
from model_service.training.training_run import StoredSelection
from model_service.trust.ceremony import open_repository
from model_service.trust.model_targets import model_state
from schemas.channel_documents import artifact_path
from tests.model_service.drifting_fleets import (
    CHAMPION,
    FAULTY,
    HARMLESS,
    MACHINE,
    Fleet,
    drift_rows,
    fleet,
    land,
    sent_rows,
    store,
)
from tests.model_service.trainer_rig import TrainerRig
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def recalibrated() -> Fleet:
    """Machines most of which read warmer from second 75 on."""
    return fleet(HARMLESS["temperature +8 on 80 %"], 3, devices=12, seconds=120)


@pytest.fixture(scope="module")
def wearing() -> Fleet:
    """Machines most of which wear out from second 75 on."""
    return fleet(FAULTY["bearing wear, slow, on 60 %"], 3, devices=12, seconds=120)


@pytest.fixture(scope="module")
def alarmed() -> Fleet:
    """Machines that all read warmer and draw more current from second 75 on."""
    hot = Injection(kind="recalibration", start_s=75, channel="temperature", offset=25.0)
    strained = Injection(kind="recalibration", start_s=75, channel="current", gain=1.6)
    return fleet((hot, strained), 3, devices=12, seconds=120)


def rig_of(folder: Path, of: Fleet, *, drift: bool = True, rows: bool = True) -> TrainerRig:
    root = folder / "lake"
    store(root, of)
    land(
        root, **({"drift": drift_rows(of)} if drift else {}), **({"telemetry": sent_rows(of)} if rows else {})
    )
    return TrainerRig(folder / "rig", root)


@pytest.fixture
def rig(tmp_path):
    """Makes the test's rig; closed when the test ends."""
    with ExitStack() as opened:

        def made(of: Fleet, **given) -> TrainerRig:
            return opened.enter_context(closing(rig_of(tmp_path, of, **given)))

        yield made


@pytest.fixture(scope="module")
def trained(tmp_path_factory, recalibrated):
    """A rig whose verdict became a candidate; tests only read it."""
    with closing(rig_of(tmp_path_factory.mktemp("trained"), recalibrated)) as made:
        made.tick()
        yield made


def test_a_recalibration_becomes_a_candidate_in_one_tick(trained):
    [run], [candidate] = trained.rows(), trained.candidates()
    assert (run["state"], run["cause"]["kind"], run["version"]) == (
        "trained",
        "sensor_recalibration",
        candidate["version"],
    )
    assert candidate["version"].startswith("machine-1.")
    assert candidate["champion"] == CHAMPION.manifest.version
    assert trained.steps() == [
        "run_requested",
        "run_collecting",
        "run_building",
        "model_trained",
        "run_trained",
    ]
    trained.tick()
    assert len(trained.candidates()) == 1


def test_the_candidate_is_proposed_with_the_trainers_key_alone(trained):
    [candidate] = trained.candidates()
    path = artifact_path("machine", candidate["version"])
    state = model_state(open_repository(trained.settings), "machine", path, candidate["sha256"])
    assert state == "proposed"


def test_the_bytes_follow_from_cut_code_and_seed(trained):
    [run], [candidate] = trained.rows(), trained.candidates()
    plan = run["cause"]
    stored = read_artifact(trained.settings.artifacts, candidate["sha256"])
    with closing(connect(trained.settings.lake_root, run["pin"], comments=False)) as con:
        taken = training_rows(con, selection_of(MACHINE, StoredSelection.model_validate(plan["wanted"])))
    again = build_candidate(
        MACHINE, taken.rows, CHAMPION, plan["moved"], stored.manifest.lineage, run["seed"], 1, run["kind"]
    )
    bank = load_fault_bank("machine")
    assert plan["effects"] == bank.digest
    assert for_devices(again, MACHINE, bank).files == stored.files
    assert json.loads(stored.files[MANIFEST])["lineage"]["code"] == code_version()


@pytest.mark.parametrize("module", ["model_service/models/adapt.py", "feature_store/weights.py"])
def test_a_change_of_the_code_that_makes_models_changes_its_version(module, tmp_path):
    root = Path(__file__).parents[2]
    for folder, copy in product(("feature_store", "model_service", "schemas"), ("same", "changed")):
        shutil.copytree(root / folder, tmp_path / copy / folder)
    with (tmp_path / "changed" / module).open("a") as file:
        file.write("# changed")
    assert code_version(tmp_path / "same") == code_version()
    assert code_version(tmp_path / "changed") != code_version()


def test_lineage_leads_from_a_model_to_its_rows_and_from_a_row_to_its_models(trained):
    [candidate], [run] = trained.candidates(), trained.rows()
    with closing(connect(trained.settings.lake_root, comments=False)) as con:
        rows = con.execute(
            "SELECT device_id, boot_id, seq, part, pin FROM lineage WHERE model_version = ? ORDER BY ALL",
            [candidate["version"]],
        ).fetchall()
        device, boot, seq = rows[0][:3]
        models = con.execute(
            "SELECT model_version FROM lineage WHERE device_id = ? AND boot_id = ? AND seq = ?",
            [device, boot, seq],
        ).fetchall()
        seen = con.execute("SELECT DISTINCT scored_by FROM lineage").fetchall()
    assert models == [(candidate["version"],)]
    assert seen == [(CHAMPION.manifest.version,)]
    assert {r[3] for r in rows} == {"train", "holdout"}
    assert {r[4] for r in rows} == {run["pin"]} <= set(CutStore(Lake(trained.settings.lake_root)).pins())
    assert len(rows) == json.loads(json.dumps(candidate["manifest"]))["lineage"]["rows"] + sum(
        r[3] == "holdout" for r in rows
    )


def test_no_row_from_before_the_onset_trains(trained):
    [run] = trained.rows()
    with closing(connect(trained.settings.lake_root, comments=False)) as con:
        [(first,)] = con.execute("SELECT min(event_time) FROM training_sets").fetchall()
    assert first.timestamp() >= run["onset"]


def test_wear_on_most_machines_is_declined_and_makes_no_model(rig, wearing):
    made = rig(wearing)
    made.tick()
    assert {r["cause"]["kind"] for r in made.rows()} <= {"degradation", "unclassified"}
    assert set(made.states()) <= {"declined", "waiting"}
    assert made.candidates() == []
    assert {"run_declined", "run_waiting"} & set(made.steps())


def test_without_leave_to_start_by_itself_a_run_waits_for_a_person_who_decides(rig, recalibrated):
    made = rig(recalibrated)
    by_hand = MACHINE.model_copy(update={"training": MACHINE.training.model_copy(update={"auto": False})})
    register(made, by_hand)
    made.tick()
    assert made.states() == ["waiting"]
    assert made.rows()[0]["cause"]["retrain"] is True
    made.execute(update(runs).values(state="requested", requested_by="anna"))  # what AckDrift does
    made.tick()
    assert made.states() == ["trained"]


def test_a_declined_run_goes_on_where_a_person_says_so(rig, wearing):
    """Without the devices that look faulty, and the gates still have their word."""
    made = rig(wearing)
    made.tick()
    made.execute(update(runs).values(state="requested", requested_by="anna"))
    made.tick()
    assert set(made.states()) & {"trained", "collecting", "failed"}
    assert "run_accepted" in made.steps()


def test_a_person_may_have_a_drift_learnt_that_put_all_devices_in_alarm(rig, alarmed):
    """What nobody can classify waits, and no row of it is without an alarm: the person's word counts."""
    made = rig(alarmed)
    made.tick()
    [run] = made.rows()
    assert (run["state"], run["cause"]["kind"]) == ("waiting", "unclassified")
    assert run["cause"]["evidence"]["alarmed_share"] == 1.0
    made.execute(update(runs).values(state="requested", requested_by="anna"))
    made.tick()
    [run] = made.rows()
    assert run["state"] == "trained", run["detail"]
    with closing(connect(made.settings.lake_root, comments=False)) as con:
        [(first,)] = con.execute("SELECT min(event_time) FROM training_sets").fetchall()
    assert first.timestamp() >= run["onset"]


def register(made: TrainerRig, profile) -> None:
    from feature_store.lake_registry import ProfileRegistry

    ProfileRegistry(Lake.open(made.settings.lake_root)).register(profile)


def test_a_run_waits_for_rows_and_then_goes_on(rig, recalibrated):
    made = rig(recalibrated, rows=False)
    made.tick()
    assert made.states() == ["collecting"]
    land(made.settings.lake_root, telemetry=sent_rows(recalibrated))
    made.tick()
    assert [(r["state"], r["detail"]) for r in made.rows()] == [("trained", "")]  # it lacks nothing now


def test_a_run_that_waits_for_rows_says_what_it_lacks(rig, recalibrated):
    made = rig(recalibrated, rows=False)
    made.tick()
    [run] = made.rows()
    assert run["state"] == "collecting"
    assert run["detail"] == (
        "waits for rows; it has 0 of 20 effective rows, 0 of 5 devices to train on, 0 of 5 devices to test on"
    )
    made.tick()
    assert made.rows() == [run]  # the wait counts from the last transition, and nothing new is nothing to say


def test_a_run_that_is_cancelled_while_it_is_built_makes_no_candidate_and_keeps_no_cut(rig, recalibrated):
    made = rig(recalibrated)
    made.execute(
        insert(runs).values(
            run_id="r", family="machine", profile="machine", state="cancelled", reason="person", kind="",
            verdicts=[], seed=0, detail="", requested_by="anna", created_at=1.0, updated_at=1.0, pin="run-r",
        )
    )  # fmt: skip
    cuts = CutStore(Lake(made.settings.lake_root))
    cuts.pin("run-r", cuts.latest().id)
    made.tick()
    assert "run-r" not in cuts.pins()
    [cancelled] = [r for r in made.rows() if r["run_id"] == "r"]
    assert (cancelled["state"], cancelled["pin"], cancelled["updated_at"]) == ("cancelled", None, 1.0)
    assert len(made.candidates()) == 1  # that of the drift: a run that was cancelled holds up no other


def test_a_family_that_several_profiles_run_is_not_trained_and_the_run_says_why(rig, recalibrated):
    made = rig(recalibrated)
    register(made, MACHINE.model_copy(update={"name": "pump"}))
    fleet_of = DeviceRegistry(Lake.open(made.settings.lake_root))
    fleet_of.register([DeviceRecord("p-1", "pump", "s", "g", "h", key_id="k", public_key="")])
    made.tick()
    assert made.candidates() == []
    assert {r["state"] for r in made.rows()} == {"failed"}
    assert "family 'machine' is run by the profiles machine, pump" in made.rows()[0]["detail"]


def test_a_drift_under_a_model_that_learns_nothing_makes_no_run_that_waits_for_a_person(rig, recalibrated):
    """The person could only ask for a training, and that failed."""
    made = rig(recalibrated)
    generic = MACHINE.model.model_copy(update={"name": "robust"})
    yearly = MACHINE.training.model_copy(update={"schedule_s": 1.0})
    register(made, MACHINE.model_copy(update={"model": generic, "training": yearly}))
    made.tick()
    made.clock.ahead = timedelta(days=2)
    made.tick()
    [run] = made.rows()  # and the clock starts none
    assert (run["state"], run["family"], made.candidates()) == ("declined", "robust", [])
    assert "nothing to train in model family 'robust'" in run["detail"]
    assert "edgeloop device relearn" in run["detail"]


@pytest.mark.parametrize("kind", ["", "anomaly", "classifier"])
def test_a_family_that_cannot_be_trained_ends_its_run_and_not_the_trainer(rig, recalibrated, kind):
    """`model train robust --kind classifier` ended the trainer at every start."""
    made = rig(recalibrated, drift=False)
    own = MACHINE.model_copy(update={"model": MACHINE.model.model_copy(update={"name": "robust"})})
    register(made, own)
    made.execute(
        insert(runs).values(
            run_id="r", family="robust", profile="machine", state="requested", reason="person", kind=kind,
            verdicts=[], seed=0, detail="", requested_by="anna", created_at=1.0, updated_at=1.0,
        )
    )  # fmt: skip
    made.tick()
    [run] = made.rows()
    assert (run["state"], made.candidates()) == ("failed", [])
    assert "nothing to train in model family 'robust'" in run["detail"]


def test_an_error_that_nobody_foresaw_ends_the_run_and_not_the_trainer(rig, recalibrated):
    made = rig(recalibrated)
    made.tick()
    [run] = made.rows()
    wanted = run["cause"]["wanted"]
    wanted |= {name: wanted[name][:19] for name in ("event_from", "event_to")}  # without their zone
    made.execute(update(runs).values(state="building", cause={**run["cause"], "wanted": wanted}))
    made.tick()
    [run] = made.rows()
    assert run["state"] == "failed"
    assert run["detail"].startswith("TypeError: ")


def test_a_run_that_never_gets_enough_rows_fails_and_says_so(rig, recalibrated):
    made = rig(recalibrated, rows=False)
    made.tick()
    made.clock.ahead = timedelta(seconds=MACHINE.training.max_wait_s + 1)
    made.tick()
    [run] = made.rows()
    assert run["state"] == "failed"
    assert "0 of 20 effective rows" in run["detail"]


def test_the_same_onset_is_never_trained_twice(rig, recalibrated):
    made = rig(recalibrated)
    made.tick()
    late = drift_rows(recalibrated)
    offset = late.schema.get_field_index("event_id")
    again = late.set_column(
        offset, late.schema.field(offset), [[f"task-05/9/{i}" for i in range(late.num_rows)]]
    )
    land(made.settings.lake_root, drift=again)
    made.clock.ahead = timedelta(seconds=MACHINE.training.cooldown_s + 1)
    made.tick()
    assert made.states() == ["trained"]
    assert len(made.rows()[0]["verdicts"]) == 2 * late.num_rows


def test_a_refused_candidate_gets_another_try_with_more_rows_and_no_third_after_that(rig, recalibrated):
    made = rig(recalibrated)
    for major in (1, 2, 3):
        made.tick()
        assert made.states() == ["trained"] * major
        assert made.candidates()[-1]["major"] == major
        made.execute(update(candidates).values(state="refused"))
        made.tick()
        if major < 3:
            assert made.states()[-1] == "collecting", "there are no more rows than the refused one had"
            land(made.settings.lake_root, telemetry=sent_rows(recalibrated, p=0.9, boot_id=major + 1))
    assert made.states() == ["trained"] * 3
    assert len({r["onset"] for r in made.rows()}) == 1


def test_a_learnt_change_is_trained_again_on_more_rows_once_its_model_is_in_force(rig, recalibrated):
    made = rig(recalibrated)
    register(
        made, MACHINE.model_copy(update={"training": MACHINE.training.model_copy(update={"renewals": 2})})
    )
    made.tick()
    made.clock.ahead = timedelta(hours=1)
    made.tick()
    made.execute(update(candidates).values(state="published"))
    [version] = [c["version"] for c in made.candidates()]
    made.execute(insert(rollouts).values(
        rollout_id="default-1", grp="default", family="machine", version=version, state="running", phase=0,
        security=False, record={}, created_by="engine", created_at=0.0, updated_at=0.0,
    ))  # fmt: skip
    made.tick()
    assert made.states() == ["trained"]  # its model is on its way
    made.execute(update(rollouts).values(state="completed"))
    made.tick()
    first, second = made.rows()
    [candidate] = made.candidates()
    assert second["state"] in {"examining", "collecting"}
    assert (second["reason"], second["onset"]) == ("drift", first["onset"])
    assert second["cause"]["need"] == pytest.approx(1.5 * candidate["manifest"]["lineage"]["effective_rows"])
    made.tick()
    assert len(made.rows()) == 2


def test_verdicts_are_history_once_seen_across_restarts(rig, recalibrated):
    made = rig(recalibrated)
    made.tick()
    made.open()
    made.tick()
    assert made.states() == ["trained"]


def test_a_person_can_have_a_model_trained_without_any_drift(rig, recalibrated):
    made = rig(recalibrated, drift=False)
    now = made.clock().timestamp()
    made.execute(insert(runs).values(
        run_id="abc", family="machine", profile="machine", state="requested", reason="person", kind="",
        verdicts=[], seed=5, detail="", requested_by="olga", created_at=now, updated_at=now,
    ))  # fmt: skip
    made.tick()
    [run], [candidate] = made.rows(), made.candidates()
    assert (run["state"], run["pin"], run["kind"]) == ("trained", "run-abc", "anomaly")
    assert candidate["version"].startswith("machine-1.")


def test_a_run_whose_champion_is_gone_fails_with_the_reason_and_the_process_lives(rig, recalibrated):
    made = rig(recalibrated)
    made.execute(insert(candidates).values(
        version="machine-4.00000000", family="machine", major=4, kind="anomaly", run_id="x", champion="y",
        sha256="0" * 64, length=1, manifest={}, state="published", detail="", created_at=0, updated_at=0,
    ))  # fmt: skip
    made.tick()
    [run] = made.rows()
    assert run["state"] == "failed"
    assert "artifact 000000000000" in run["detail"]
    assert "run_failed" in [r["step"] for r in made.rows(outbox)]


def test_a_model_that_was_taken_back_is_no_champion(trained):
    [mine] = trained.candidates()
    older = {**mine, "version": "machine-7.00000000", "major": 7, "state": "published"}
    newer = {**older, "version": "machine-8.00000000", "major": 8}
    rollout = {
        "rollout_id": "r", "grp": "g", "family": "machine", "version": newer["version"],
        "state": "rolled_back", "phase": 0, "security": False, "record": {}, "created_by": "x",
        "created_at": 0, "updated_at": 0,
    }  # fmt: skip
    with trained.registry.engine.connect() as connection:
        connection.execute(insert(candidates), [older, newer])
        assert champion_version(connection, "machine") == newer["version"]
        connection.execute(insert(rollouts).values(**rollout))
        assert champion_version(connection, "machine") == older["version"]
        kept = {**rollout, "rollout_id": "s", "grp": "h", "state": "completed"}
        connection.execute(insert(rollouts).values(**kept))
        assert champion_version(connection, "machine") == newer["version"]
        connection.rollback()


@pytest.mark.long
@pytest.mark.faults
def test_a_trainer_killed_before_any_durable_step_makes_the_same_model_once(tmp_path, recalibrated):
    template = tmp_path / "template"
    store(template / "lake", recalibrated)
    land(template / "lake", drift=drift_rows(recalibrated), telemetry=sent_rows(recalibrated))
    TrainerRig(template / "rig", template / "lake").close()
    points = ["0", "4", "8", "12", "15", "18"]
    command = [sys.executable, "-m", "tests.simulators.dying_trainer", str(template), str(tmp_path / "work")]
    env = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    done = subprocess.run(
        [*command, *points], env=env, capture_output=True, text=True, check=True, timeout=150
    )
    unharmed, *killed = map(json.loads, done.stdout.splitlines())
    assert unharmed["states"] == ["trained"], done.stderr
    assert unharmed["count"] > int(points[-2])
    assert len(unharmed["candidates"]) == len(unharmed["artifacts"]) == 1
    assert unharmed["rows"] == unharmed["distinct"] > 50
    for one in killed:
        assert one["killed"] or one["at"] > unharmed["count"]
        same = ("candidates", "states", "steps", "rows", "distinct", "pins", "artifacts", "whole")
        assert {k: one[k] for k in same} == {k: unharmed[k] for k in same}, one["at"]


def test_the_process_trains_and_ends_when_told_to(rig, recalibrated):
    made = rig(recalibrated)
    env = {**os.environ, **as_environment(made.settings), "ORT_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen([sys.executable, "-m", "model_service", "trainer"], env=env)
    try:
        wait_until(lambda: made.states() == ["trained"], 60)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0

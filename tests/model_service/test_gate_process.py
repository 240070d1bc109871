"""The gate process: it signs what it judged itself, keeps what it refused, and may be killed anywhere."""

import os
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.gates.gate import Gate
from model_service.models.bundle_files import build_bundle
from model_service.models.fault_bank import load_fault_bank
from model_service.models.trial_effects import for_devices
from model_service.registry.bundle_store import store_artifact
from model_service.registry.registry_tables import candidates, runs
from model_service.trust.ceremony import open_repository
from model_service.trust.model_targets import model_state
from schemas.channel_documents import artifact_path
from schemas.errors import OperatorError, RetryableError
from tests.model_service.drifting_fleets import HARMLESS, drift_rows, fleet, land, sent_rows, store
from tests.model_service.gate_rig import PIN, GateRig
from tests.model_service.regimes import CHAMPION, MACHINE, unhurried, warmer, worn
from tests.model_service.trainer_rig import TrainerRig
from tests.waiting import wait_until


@pytest.fixture
def rig(tmp_path):
    rig = GateRig(tmp_path)
    yield rig
    rig.registry.close()


def proposal(rig, version):
    [row] = rig.rows(candidates)
    path = artifact_path("machine", version)
    return model_state(open_repository(rig.settings), "machine", path, row["sha256"])


def test_a_better_candidate_gets_the_second_signature(rig):
    version = rig.train(warmer())
    unsigned = proposal(rig, version)
    assert rig.gate.step()
    assert rig.state() == "signed"
    assert proposal(rig, version) not in {unsigned, "absent", "stale"}
    assert all(row["passed"] for row in rig.verdicts().values())
    assert rig.verdicts()["quality"]["low"] > 0
    assert rig.steps() == ["gates_passed"]
    assert not rig.gate.step()


def test_a_bundle_carries_exactly_the_fault_effects_that_its_run_plans(rig):
    """A trainer that is turned could send devices faults that any model detects."""
    bank = load_fault_bank("machine")
    plan = {"effects": bank.digest}
    rig.train(warmer(), plan=plan, bundle=lambda made: for_devices(made, MACHINE, bank))
    rig.gate.step()
    assert rig.state() == "signed", rig.verdicts()


def test_a_bundle_with_other_fault_effects_than_planned_is_refused(rig):
    easy = replace(load_fault_bank("machine"), effects={"easy": {1.0: np.full((1, 10), 5.0)}})
    plan = {"effects": load_fault_bank("machine").digest}
    rig.train(warmer(), plan=plan, bundle=lambda made: for_devices(made, MACHINE, easy))
    rig.gate.step()
    assert rig.state() == "refused"
    assert "golden.arrow" in rig.verdicts()["rebuild"]["detail"]["says"]


def test_a_refused_candidate_stays_with_its_reasons_and_without_a_signature(rig):
    version = rig.train(worn(0.3), moved=("vibration",))
    unsigned = proposal(rig, version)
    rig.gate.step()
    [row] = rig.rows(candidates)
    assert row["state"] == "refused"
    assert "bearing_wear" in row["detail"]
    assert rig.verdicts()["fault_learnt"]["passed"] is False
    assert rig.verdicts()["quality"]["passed"] is True
    assert proposal(rig, version) == unsigned
    assert rig.steps() == ["refused"]
    assert (rig.settings.artifacts / row["sha256"]).exists()


def test_killed_while_it_judged_it_judges_again_with_the_same_numbers(rig):
    rig.train(warmer())
    rig.set(candidates, state="gating")
    rig.gate.step()
    first = rig.verdicts()
    rig.set(candidates, state="gating")  # signed, and killed before it could say so
    Gate(rig.settings, rig.registry).step()
    assert rig.state() == "signed"
    again = rig.verdicts()
    for name in ("quality", "recall", "fault_learnt", "parity", "rebuild"):
        assert {k: again[name][k] for k in ("value", "low", "high")} == {
            k: first[name][k] for k in ("value", "low", "high")
        }
    assert rig.steps() == ["gates_passed"]


def test_artifact_bytes_that_are_not_their_names_are_refused(rig):
    rig.train(warmer())
    [row] = rig.rows(candidates)
    path = rig.settings.artifacts / row["sha256"]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    rig.gate.step()
    assert rig.state() == "refused"
    assert "do not have the digest of its name" in rig.verdicts()["evidence"]["detail"]["says"]


def test_a_signed_graph_that_is_not_what_the_lake_trains_is_refused(rig):
    """Trainer's key alone: everything fits together, and the gate's own rows make another model."""

    def other(bundle):
        stated = bundle.manifest.model_copy(
            update={"calibration": bundle.manifest.calibration.model_copy(update={"middle": 9.0})}
        )
        return build_bundle(stated, bundle.model, bundle.golden, 1)

    rig.train(warmer(), bundle=other)
    rig.gate.step()
    assert rig.state() == "refused"
    refused = {n for n, v in rig.verdicts().items() if not v["passed"]}
    assert {"rebuild", "parity"} <= refused


def test_rows_come_from_the_runs_question_at_its_pin_and_from_nowhere_else(rig):
    rig.train(warmer())
    [run] = rig.rows(runs)
    asked = run["cause"]["wanted"]
    rig.set(runs, cause={**run["cause"], "wanted": {**asked, "without": ["m-03"]}})
    rig.gate.step()
    assert "rebuild" in rig.rows(candidates)[0]["detail"]


def test_rows_that_landed_after_the_pin_are_not_seen(rig):
    rig.train(warmer())
    rig.land_late(worn(0.5))
    rig.gate.step()
    assert rig.state() == "signed"


def test_an_artifact_of_another_version_is_refused(rig):
    rig.train(warmer())
    digest, _ = store_artifact(rig.settings.artifacts, CHAMPION)
    rig.set(candidates, sha256=digest)
    rig.gate.step()
    assert rig.state() == "refused"
    assert "holds" in rig.verdicts()["evidence"]["detail"]["says"]


def test_a_pin_that_is_gone_refuses_with_its_name(rig):
    rig.train(warmer())
    CutStore(Lake(rig.settings.lake_root)).unpin(PIN)
    rig.gate.step()
    assert rig.state() == "refused"
    assert PIN in rig.rows(candidates)[0]["detail"]


def test_without_the_trainers_proposal_it_waits_and_signs_once_there_is_one(rig):
    kept = []
    rig.train(warmer(), propose=False, bundle=lambda b: kept.append(b) or b)
    for _ in range(2):
        with pytest.raises(RetryableError):
            rig.gate.step()
    assert rig.state() == "gating"
    rig.propose(kept[0], rig.rows(candidates)[0]["sha256"])
    assert rig.gate.step()
    assert rig.state() == "signed"


def test_without_its_key_it_signs_nothing(rig):
    rig.train(warmer())
    (rig.settings.keys / "gate" / "models-machine.pem").unlink()
    with pytest.raises(OperatorError, match="models-machine"):
        rig.gate.step()
    assert rig.state() == "gating"


def test_what_the_trainer_makes_of_a_recalibration_is_signed(tmp_path):
    """The trainer's own process and the gate's, with a lake between them: same rows, same bytes."""
    of = fleet(HARMLESS["temperature +8 on 80 %"], 3, devices=20, seconds=110)
    store(tmp_path / "lake", of)
    land(tmp_path / "lake", drift=drift_rows(of), telemetry=sent_rows(of))
    ProfileRegistry(Lake.open(tmp_path / "lake")).register(unhurried())
    with closing(TrainerRig(tmp_path / "rig", tmp_path / "lake")) as rig:
        rig.tick()
        assert Gate(rig.settings, rig.registry).step()
        [made] = rig.candidates()
    assert (made["state"], made["detail"]) == ("signed", "")


@pytest.mark.faults
def test_a_process_killed_at_its_work_leaves_what_the_next_one_finishes(rig):
    rig.train(warmer())
    environment = {
        **os.environ, "ORT_DISABLE_TELEMETRY": "1", "MODEL_ROOT": str(rig.settings.root),
        "MODEL_LAKE_ROOT": str(rig.settings.lake_root), "MODEL_TICK_S": "0.02",
    }  # fmt: skip
    command = [sys.executable, "-m", "model_service", "gate"]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: rig.state() == "gating", timeout_s=60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: rig.state() == "signed", timeout_s=60)
    second.terminate()
    second.communicate(timeout=30)
    assert second.returncode == 0
    assert rig.steps() == ["gates_passed"]

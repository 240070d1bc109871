"""The gate process: it signs what it judged itself, keeps what it refused, and may be killed anywhere."""

import os
import signal
import subprocess
import sys
from contextlib import closing

import pytest

from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.gates.gate import Gate
from model_service.models.bundle_files import build_bundle
from model_service.registry.bundle_store import store_artifact
from model_service.registry.registry_tables import candidates, runs
from model_service.trust.ceremony import open_repository
from model_service.trust.model_targets import model_state
from schemas.channel_documents import artifact_path
from schemas.errors import OperatorError, RetryableError
from tests.model_service.drifting_fleets import HARMLESS, fleet, land, said, sent, store
from tests.model_service.gate_office import PIN, GateOffice
from tests.model_service.regimes import CHAMPION, unhurried, warmer, worn
from tests.model_service.training_office import TrainingOffice
from tests.waiting import wait_until


@pytest.fixture
def office(tmp_path):
    office = GateOffice(tmp_path)
    yield office
    office.registry.close()


def proposal(office, version):
    [row] = office.rows(candidates)
    path = artifact_path("machine", version)
    return model_state(open_repository(office.settings), "machine", path, row["sha256"])


def test_a_better_candidate_gets_the_second_signature(office):
    version = office.train(warmer())
    unsigned = proposal(office, version)
    assert office.gate.step()
    assert office.state() == "signed"
    assert proposal(office, version) not in {unsigned, "absent", "stale"}
    assert all(row["passed"] for row in office.verdicts().values())
    assert office.verdicts()["quality"]["low"] > 0
    assert office.steps() == ["gates_passed"]
    assert not office.gate.step()


def test_a_refused_candidate_stays_with_its_reasons_and_without_a_signature(office):
    version = office.train(worn(0.3), moved=("vibration",))
    unsigned = proposal(office, version)
    office.gate.step()
    [row] = office.rows(candidates)
    assert row["state"] == "refused"
    assert "bearing_wear" in row["detail"]
    assert office.verdicts()["fault_learnt"]["passed"] is False
    assert office.verdicts()["quality"]["passed"] is True
    assert proposal(office, version) == unsigned
    assert office.steps() == ["refused"]
    assert (office.settings.artifacts / row["sha256"]).exists()


def test_killed_while_it_judged_it_judges_again_with_the_same_numbers(office):
    office.train(warmer())
    office.set(candidates, state="gating")
    office.gate.step()
    first = office.verdicts()
    office.set(candidates, state="gating")  # signed, and killed before it could say so
    Gate(office.settings, office.registry).step()
    assert office.state() == "signed"
    again = office.verdicts()
    for name in ("quality", "recall", "fault_learnt", "parity", "rebuild"):
        assert {k: again[name][k] for k in ("value", "low", "high")} == {
            k: first[name][k] for k in ("value", "low", "high")
        }
    assert office.steps() == ["gates_passed"]


def test_artifact_bytes_that_are_not_their_names_are_refused(office):
    office.train(warmer())
    [row] = office.rows(candidates)
    path = office.settings.artifacts / row["sha256"]
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    office.gate.step()
    assert office.state() == "refused"
    assert "not those of its name" in office.verdicts()["evidence"]["detail"]["says"]


def test_a_signed_graph_that_is_not_what_the_lake_trains_is_refused(office):
    """Trainer's key alone: everything fits together, and the gate's own rows make another model."""

    def other(bundle):
        stated = bundle.manifest.model_copy(
            update={"calibration": bundle.manifest.calibration.model_copy(update={"middle": 9.0})}
        )
        return build_bundle(stated, bundle.model, bundle.golden, 1)

    office.train(warmer(), bundle=other)
    office.gate.step()
    assert office.state() == "refused"
    refused = {n for n, v in office.verdicts().items() if not v["passed"]}
    assert {"rebuild", "parity"} <= refused


def test_rows_come_from_the_runs_question_at_its_pin_and_from_nowhere_else(office):
    office.train(warmer())
    [run] = office.rows(runs)
    asked = run["cause"]["wanted"]
    office.set(runs, cause={**run["cause"], "wanted": {**asked, "without": ["m-03"]}})
    office.gate.step()
    assert "rebuild" in office.rows(candidates)[0]["detail"]


def test_rows_that_landed_after_the_pin_are_not_seen(office):
    office.train(warmer())
    office.land_late(worn(0.5))
    office.gate.step()
    assert office.state() == "signed"


def test_an_artifact_of_another_version_is_refused(office):
    office.train(warmer())
    digest, _ = store_artifact(office.settings.artifacts, CHAMPION)
    office.set(candidates, sha256=digest)
    office.gate.step()
    assert office.state() == "refused"
    assert "holds" in office.verdicts()["evidence"]["detail"]["says"]


def test_a_pin_that_is_gone_refuses_with_its_name(office):
    office.train(warmer())
    CutStore(Lake(office.settings.lake_root)).unpin(PIN)
    office.gate.step()
    assert office.state() == "refused"
    assert PIN in office.rows(candidates)[0]["detail"]


def test_without_the_trainers_proposal_it_waits_and_signs_once_there_is_one(office):
    kept = []
    office.train(warmer(), propose=False, bundle=lambda b: kept.append(b) or b)
    for _ in range(2):
        with pytest.raises(RetryableError):
            office.gate.step()
    assert office.state() == "gating"
    office.propose(kept[0], office.rows(candidates)[0]["sha256"])
    assert office.gate.step()
    assert office.state() == "signed"


def test_without_its_key_it_signs_nothing(office):
    office.train(warmer())
    (office.settings.keys / "gate" / "models-machine.pem").unlink()
    with pytest.raises(OperatorError, match="models-machine"):
        office.gate.step()
    assert office.state() == "gating"


def test_what_the_trainer_makes_of_a_recalibration_is_signed(tmp_path):
    """The trainer's own process and the gate's, with a lake between them: same rows, same bytes."""
    of = fleet(HARMLESS["temperature +8 on 80 %"], 3, devices=20, seconds=110)
    store(tmp_path / "lake", of)
    land(tmp_path / "lake", drift=said(of), telemetry=sent(of))
    ProfileRegistry(Lake.open(tmp_path / "lake")).register(unhurried())
    with closing(TrainingOffice(tmp_path / "office", tmp_path / "lake")) as office:
        office.tick()
        assert Gate(office.settings, office.registry).step()
        [made] = office.candidates()
    assert (made["state"], made["detail"]) == ("signed", "")


@pytest.mark.faults
def test_a_process_killed_at_its_work_leaves_what_the_next_one_finishes(office):
    office.train(warmer())
    environment = {
        **os.environ, "ORT_DISABLE_TELEMETRY": "1", "MODEL_ROOT": str(office.settings.root),
        "MODEL_LAKE_ROOT": str(office.settings.lake_root), "MODEL_TICK_S": "0.02",
    }  # fmt: skip
    command = [sys.executable, "-m", "model_service", "gate"]
    first = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: office.state() == "gating", timeout_s=60)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: office.state() == "signed", timeout_s=60)
    second.terminate()
    second.communicate(timeout=30)
    assert second.returncode == 0
    assert office.steps() == ["gates_passed"]

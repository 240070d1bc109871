"""`edgeloop drift`: verdicts beside the runs that they led to."""

import pytest

from tests.infra.cli import EdgeloopHere
from tests.model_service.drifting_fleets import HARMLESS, drift_rows, fleet, land, sent_rows, store
from tests.model_service.trainer_rig import TrainerRig


@pytest.fixture(scope="module")
def edgeloop(tmp_path_factory) -> EdgeloopHere:
    """A state folder in which a recalibration became a candidate; nothing runs."""
    state = tmp_path_factory.mktemp("state")
    of = fleet(HARMLESS["temperature +8 on all"], 3, devices=8, seconds=110)
    store(state / "lake", of)
    land(state / "lake", drift=drift_rows(of), telemetry=sent_rows(of))
    (state / "models").mkdir()
    office = TrainerRig(state, state / "lake")
    office.tick()
    office.registry.close()
    return EdgeloopHere(state)


def test_verdicts_are_listed_with_the_run_that_they_led_to(edgeloop):
    listed = edgeloop.json("drift", "list")
    [run] = listed["runs"]
    assert (run["state"], run["cause"]) == ("trained", "sensor_recalibration")
    assert {v["run_id"] for v in listed["verdicts"]} == {run["run_id"]}


def test_a_decision_is_either_retrain_or_dismiss(edgeloop):
    assert edgeloop("drift", "ack", "machine-run-1", "--retrain", "--dismiss").returncode == 2


def test_a_decision_needs_the_model_service(edgeloop):
    result = edgeloop("drift", "ack", "machine-run-1", "--dismiss")
    assert result.returncode == 1
    assert "no model service runs" in result.stderr

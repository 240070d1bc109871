"""A model from elsewhere on a whole stack: it reaches all devices, and a drift of it waits for a person.

Six pumps, so that a model of their own would be trained again by itself (`test_second_profile.py`).
"""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.model_service.given_graphs import file_of
from tests.test_second_profile import BASELINE_WINDOWS, HISTORY, NAMES, RECALIBRATED, pump_site, quick

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900), pytest.mark.long]

CENTRE = np.array([5.4, 21.0, 12.5])
"""What pressure, flow and current of a healthy pump are about."""
DEMAND, NOISE = 0.02 * np.array([-1.2, 42.0, 9.0]), np.array([0.04, 0.4, 0.1])
"""How they vary: together with the demand, and each by itself."""
FAR = 4.0


def given_model() -> bytes:
    """Somebody's own model: how far a window lies off, whatever the demand is."""
    values, vectors = np.linalg.eigh(np.outer(DEMAND, DEMAND) + np.diag(NOISE**2))
    nodes = [
        helper.make_node("Sub", ["x", "centre"], ["off"]),
        helper.make_node("MatMul", ["off", "whitened"], ["z"]),
        helper.make_node("Abs", ["z"], ["far"]),
        helper.make_node("ReduceMax", ["far"], ["most"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["most", "limit"], ["beyond"]),
        helper.make_node("Sigmoid", ["beyond"], ["score"]),
    ]
    constants = {"centre": CENTRE, "whitened": vectors / np.sqrt(values), "limit": np.array([FAR])}
    return file_of(nodes, [None, 3], {n: value.astype(np.float32) for n, value in constants.items()})


site = pytest.fixture(scope="module")(pump_site)


def test_a_drift_of_an_imported_model_waits_for_a_person_and_says_what_to_do(site):
    given = site.folder / "given.onnx"
    given.write_bytes(given_model())
    site.founds("pump", HISTORY, quick, starts=True, given=given)
    imported = site.has_first_model()

    site.until_watched(BASELINE_WINDOWS)
    for name in NAMES:
        site.machines[name].offset = RECALIBRATED
    waiting = lambda: [r for r in site.training() if r["state"] == "waiting"]  # noqa: E731
    site.until(waiting, "a run that waits")
    [run] = waiting()
    assert f"Model {imported} was imported" in run["says"]
    assert "edgeloop model import" in run["says"]
    assert [m["version"] for m in site.models()] == [imported]

    # All rows since the drift may have been in an alarm of the import: the person's word counts.
    site.types("drift", "ack", run["run_id"], "--retrain")
    made = lambda: [m for m in site.models() if m["version"] != imported]  # noqa: E731
    site.until(made, "a model fitted in the import's place")

"""Laws of imported models: what a device cannot run is refused and why; the rest passes the gates as any."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from sqlalchemy import select, update

from model_service.detectors.first_model import FirstModel
from model_service.detectors.import_store import put_import
from model_service.detectors.imported_bundle import check_import
from model_service.detectors.imported_score import ImportedScore
from model_service.models.runtime import OrtGraph
from model_service.registry.bundle_store import read_artifact
from model_service.registry.registry_tables import candidates, gate_verdicts, runs
from model_service.service.fleet_writes import RunRequest, request_run
from model_service.training.building import IMPORT, waits_for_a_person
from model_service.training.cause import Cause
from model_service.training.examine import Examination, after_examination
from model_service.training.run_states import RunState
from model_service.training.training_run import TRAINER, RunReason, TrainingRun
from schemas.calendar_features import golden_ends
from schemas.drift_vocabulary import NEW_NORMAL, DriftKind
from schemas.errors import BundleError
from schemas.instants import utc_now
from tests.model_service.given_graphs import file_of, of_features, of_windows
from tests.model_service.test_detectors import PUMP, windows
from tests.model_service.test_first_model_line import OWN, FirstModelRig

BOTH = [pytest.param(of_features(), id="features"), pytest.param(of_windows(), id="window")]


def one(kind: str, *inputs: str, domain: str = "", **attributes: Any) -> object:
    return helper.make_node(kind, ["x", *inputs], ["score"], domain=domain, **attributes)


ROW = [None, 4]
SUM = [one("ReduceMean", axes=[1], keepdims=1)]
REFUSED = [
    (b"not a graph", "not an ONNX model"),
    (b"", "holds no ONNX graph"),
    (file_of([one("Best", domain="mine")], ROW, {}, sets=[helper.make_opsetid("mine", 1)]), "mine.Best"),
    (file_of([one("RandomNormalLike")], ROW, {}), "draws random numbers"),
    (file_of(SUM, ROW, {}, opset=19), "Export it with operator set 17"),
    (file_of(SUM, [None, 5], {}), r"gives \(n, 4\), the last dimension in the order pressure_mean"),
    (file_of(SUM, [None, 2, 8], {}), r"gives \(n, 8, 2\), the last dimension in the order pressure, flow"),
    (file_of(SUM, [1, 4], {}), "free first size"),
    (file_of(SUM, [4], {}), "features, shape"),
    (file_of(SUM, ROW, {}, kind=TensorProto.INT64), "no tensor of floats"),
    (file_of([one("Identity")], ROW, {}), "one number a window"),
    (file_of(SUM, ROW, {}), "between 0"),
    (file_of([one("Softmax", axis=0)], ROW, {}), "one number a window"),
    (
        file_of([*SUM, helper.make_node("Identity", ["x"], ["p"])], ROW, {}, outputs=("p", "q")),
        "score-output",
    ),
    (
        file_of(
            [
                helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
                helper.make_node("Softmax", ["m"], ["score"], axis=0),
            ],
            ROW,
            {},
        ),
        "other windows of a batch",
    ),
]


@pytest.mark.parametrize(("data", "why"), REFUSED, ids=[why[:24] for _, why in REFUSED])
def test_what_a_device_could_not_run_is_refused_with_what_to_do(data, why):
    with pytest.raises(BundleError, match=why):
        check_import(data, PUMP, "")


@pytest.mark.parametrize("data", [*BOTH, pytest.param(of_features(dtype=np.float64), id="float64")])
def test_the_bundle_scores_as_the_given_file_does_and_gives_none_where_a_channel_is_missing(data):
    from model_service.models.factory_models import anomaly_graph

    score = ImportedScore(check_import(data, PUMP, ""), PUMP)
    given = windows(30, seed=4)
    given[2, 3, 0] = np.nan
    given[3, :, 1] = np.nan
    given[4, :, 0] += 40
    [found] = OrtGraph(anomaly_graph(PUMP, score, "pump"), "pump").run(("score",), {"window": given})
    np.testing.assert_allclose(found, score.of_windows(given, golden_ends(len(given))), atol=1e-6)
    assert np.isnan(found[3])
    assert np.isfinite(np.delete(found, 3)).all()
    assert found[4] > 0.9


class ImportRig(FirstModelRig):
    """The same, with an import in the place of a fit."""

    def request(self, data: bytes, *, evidence: bool = True) -> dict[str, Any]:
        """Import a file, have it made a candidate; returns the run's row."""
        fitted: FirstModel = self.fitted
        kept = windows(120, seed=9) if evidence else np.empty((0, 8, 2), np.float32)
        assert fitted.bank.profile == OWN.name
        put_import(self.settings.root, OWN.name, data, "", kept)
        wanted = RunRequest("pump", "pump", "somebody", kind=IMPORT, detail="my own")
        with self.registry.transaction() as connection:
            request_run(connection, wanted, self.now.timestamp())
        self.scheduler.poll()
        self.scheduler.work()
        return self.rows(runs)[-1]

    def bring(self, data: bytes) -> dict[str, Any]:
        """The same, judged; returns its verdicts by gate."""
        run = self.request(data)
        assert run["state"] == "trained", run["detail"]
        self.gate.step()
        with self.registry.reading() as connection:
            found = connection.execute(select(gate_verdicts)).mappings()
            return {row["gate"]: row for row in found}


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = ImportRig(tmp_path_factory.mktemp("imports"))
    yield made
    made.registry.close()


@pytest.mark.parametrize("data", BOTH)
def test_an_import_passes_the_gates_and_is_signed_as_any_candidate(rig, data):
    verdicts = rig.bring(data)
    assert {g: v["detail"]["says"] for g, v in verdicts.items() if not v["passed"]} == {}
    gates = {
        "rebuild",
        "parity",
        "golden",
        "score_range",
        "alarm_budget",
        "generic_recall",
        "lineage",
        "size",
    }
    assert gates <= set(verdicts)
    candidate = rig.rows(candidates)[-1]
    assert candidate["state"] == "signed"
    manifest = read_artifact(rig.settings.artifacts, candidate["sha256"]).manifest
    assert manifest.lineage.pin == rig.rows(runs)[-1]["pin"]
    assert "edgeloop model import" in waits_for_a_person(manifest)


def test_without_windows_to_judge_it_on_an_import_of_raw_windows_fails_and_says_what_to_do(rig):
    run = rig.request(of_windows(), evidence=False)
    assert (run["state"], "--from" in run["detail"]) == ("failed", True)


def test_an_import_that_sees_no_fault_is_refused(rig):
    blind = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=1),
        helper.make_node("Mul", ["m", "zero"], ["score"]),
    ]
    verdicts = rig.bring(file_of(blind, ROW, {"zero": np.array([0.0], np.float32)}))
    assert not verdicts["generic_recall"]["passed"]
    assert rig.rows(candidates)[-1]["state"] == "refused"


def test_after_an_import_a_person_may_have_another_model_fitted_in_its_place(rig):
    rig.bring(of_features())
    with rig.registry.transaction() as connection:
        connection.execute(update(candidates).where(candidates.c.state == "signed").values(state="published"))
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    made = read_artifact(rig.settings.artifacts, rig.rows(candidates)[-1]["sha256"]).manifest
    assert made.parameters


@pytest.mark.parametrize("kind", [DriftKind.UNCLASSIFIED, DriftKind.SENSOR_RECALIBRATION])
def test_a_drift_of_an_import_says_what_a_person_can_do_whatever_it_was_found_to_be(kind):
    at = utc_now()
    run = TrainingRun(
        run_id="r", family="pump", profile=OWN.name, state=RunState.EXAMINING, reason=RunReason.DRIFT,
        requested_by=TRAINER, created_at=at, updated_at=at, verdicts=(), onset=at, seed=1,
    )  # fmt: skip
    found = Examination(Cause(kind, kind in NEW_NORMAL, True, (), (), {}, "it moved"), None)
    after = after_examination(run, found, OWN, waited=False, untaught="", held="bring another")
    assert (after.state, after.detail) == (RunState.WAITING, "bring another")
    assert after.finding.text == "it moved. bring another"

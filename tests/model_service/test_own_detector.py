"""A detector of a package: the loop adapts it, gates judge it, devices run it without the package."""

from __future__ import annotations

import numpy as np
from sqlalchemy import update

from edge_producer.bundle import Bundle
from edge_producer.inference import OnnxPredictor
from model_service.detectors.kinds import detector_of, kind_named
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.features import logged_features, profile_features
from model_service.registry.bundle_store import read_artifact, store_artifact
from model_service.registry.registry_tables import candidates, gate_verdicts, runs
from schemas.calendar_features import golden_ends
from schemas.instants import from_us
from schemas.manifest import TrainingFacts
from tests.model_service.test_detectors import windows
from tests.model_service.test_extensions import installed
from tests.model_service.test_first_model_line import OWN, FirstModelRig

DETECTOR = '''

from model_service.detectors.detector import DetectorKind
from model_service.detectors.robust_reference import RobustReference
from model_service.detectors.scaling import Scaling, calibration_of
from model_service.models.graph import nan_where_missing
from model_service.models.mahalanobis import write_calibration
from schemas.manifest import Calibration


class Average(RobustReference):
    """How far the features lie from their medians on average."""

    def distance(self, features):
        return np.abs(self.scaling.z(features)).mean(axis=1)

    def write(self, writer, features):
        off = writer.op("Abs", self.scaling.write(writer, features))
        distance = writer.op("ReduceMean", off, axes=[1], keepdims=0)
        return nan_where_missing(writer, features, write_calibration(writer, distance, self.calibration))


def fit(features, logged, settings):
    raw = Average(Scaling.robust(features, logged), Calibration(middle=1.0, slope=1.0))
    return raw.calibrated_by(calibration_of(raw.distance(features)))


def of(manifest):
    return Average(Scaling.of(manifest), manifest.calibration)


AVERAGE = DetectorKind("average", "how far features lie on average", ({},), fit, of)
'''
DETECTS = "[edgeloop.detectors]\naverage = pump_extensions:AVERAGE\n"


def take_the_firsts_place(rig: FirstModelRig, made: BundleFiles) -> None:
    """Have the family's first model be this one, published."""
    rig.train()
    sha256, length = store_artifact(rig.settings.artifacts, made)
    manifest = made.manifest
    values = {"sha256": sha256, "length": length, "manifest": manifest.model_dump(mode="json")}
    with rig.registry.transaction() as connection:
        connection.execute(update(candidates).values(version=manifest.version, state="published", **values))
        connection.execute(update(runs).values(version=manifest.version))


def test_a_packages_detector_is_adapted_and_judged_and_without_the_package_the_run_says_what_is_missing(
    tmp_path, monkeypatch
):
    with installed(tmp_path, monkeypatch, more=DETECTOR, points=DETECTS):
        rig = FirstModelRig(tmp_path, devices=6)
        features = profile_features(OWN, windows(200), golden_ends(200))
        kind = kind_named("average")
        model = kind.fit(features, logged_features(OWN), {})
        facts = TrainingFacts(script="tests", seed=0, devices=1, windows=200)
        first = learnt_bundle(OWN, "pump", model, [[features]], windows(8, seed=1), facts, detector="average")
        take_the_firsts_place(rig, first)
        run = rig.train()
        assert run["state"] == "trained", run["detail"]
        second = rig.rows(candidates)[-1]
        rig.gate.step()
        verdicts = {v["gate"]: v["passed"] for v in rig.rows(gate_verdicts)}
        assert verdicts["rebuild"]
        assert verdicts["parity"]
        made = read_artifact(rig.settings.artifacts, second["sha256"])
        assert (made.manifest.detector, second["champion"]) == ("average", first.manifest.version)
        wanted = detector_of(made.manifest).score(features)
    predictor = OnnxPredictor(Bundle(made.manifest, made.model, made.golden), OWN)
    ends = [from_us(int(us)) for us in golden_ends(200)]
    scores = [predictor.score("d", w, at)[1] for w, at in zip(windows(200), ends, strict=True)]
    np.testing.assert_allclose(scores, wanted, atol=1e-5)  # a device needs no code of it
    run = rig.train()
    assert run["state"] == "failed"
    assert "there is no detector 'average'; there are: mahalanobis, robust_reference, pca" in run["detail"]
    rig.registry.close()

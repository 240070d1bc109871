"""Machine models that detect less, have learnt faults, or are recalibrated: real graphs, and bundles."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np

from edge_producer.bundle import BUNDLES, Bundle, open_bundle
from edge_producer.updates.fault_trial import TrialModel
from edge_producer.updates.update_once import synthetic_windows
from edge_producer.window import Floats, Samples
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import anomaly_graph
from model_service.models.fault_bank import FaultBank, load_fault_bank
from model_service.models.features import compute
from model_service.models.golden import Golden, with_effects
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.trial_effects import effects_of
from schemas.profile_file import find_profile
from tests.simulators.update_service import candidate

MACHINE = find_profile("machine")
FACTORY = open_bundle(BUNDLES / "machine")
MODEL = Mahalanobis.of(FACTORY.manifest)
BANK: FaultBank = load_fault_bank("machine")  # type: ignore[assignment]  (it ships)
EFFECTS = effects_of(BANK)
VIBRATION = np.array([name.startswith("vibration") for name in MACHINE.feature_names]) & np.array(
    [not name.endswith(("crest", "kurtosis")) for name in MACHINE.feature_names]
)
"""Features that grow with the vibration."""


def own_windows(count: int = 24, gain: float = 1.0) -> Samples:
    """Healthy windows of one machine, whose vibration is ``gain`` times as large, shape (n, W, C)."""
    windows = np.stack([w.samples for w in islice(synthetic_windows(MACHINE, "m-1"), count)])
    windows[:, :, 0] *= gain
    return windows


def deaf(times: float) -> Mahalanobis:
    """The factory's model, for which a distance must be so many times as large to score the same."""
    middle = MODEL.calibration.middle * times
    return MODEL.calibrated_by(MODEL.calibration.model_copy(update={"middle": middle}))


def moved(by: Floats) -> Mahalanobis:
    """The factory's model around another centre, by feature as in its parameters."""
    return replace(MODEL, mean=MODEL.mean + by)


def trial_model(model: Mahalanobis) -> TrialModel:
    """The model's graph, with a manifest whose baselines are its own."""
    manifest = FACTORY.manifest
    usual = np.where(model.logged, np.exp(model.mean + model.std**2 / 2), model.mean)
    own = {
        name: manifest.baselines[name].model_copy(update={"mean": float(usual[at])})
        for at, name in enumerate(MACHINE.feature_names)
    }
    stated = manifest.model_copy(update={"baselines": {**manifest.baselines, **own}})
    return TrialModel(Bundle(stated, anomaly_graph(MACHINE, model), FACTORY.golden), MACHINE, None)


def signed_candidate(number: int, model: Mahalanobis = MODEL, *, effects: bool = True) -> BundleFiles:
    """A bundle of the model, with golden vectors of its own."""
    windows = own_windows(4)
    features = compute(windows, MACHINE.feature_specs(), MACHINE.channel_names)
    golden = Golden(windows, features, model.score(features)).to_arrow()
    golden = with_effects(golden, EFFECTS) if effects else golden
    return candidate(number, model=anomaly_graph(MACHINE, model), golden=golden)

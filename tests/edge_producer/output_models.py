"""A real bundle whose graph reads the calendar and gives a further output, on the profile of a small pump."""

from __future__ import annotations

import numpy as np

from edge_producer.bundle import Bundle
from model_service.models.bundle_files import BundleFiles
from model_service.models.factory_models import learnt_bundle
from model_service.models.features import profile_features
from model_service.models.graph import GraphWriter, write_output
from schemas.manifest import Calibration, TrainingFacts
from schemas.profile import Profile

HOUR_US = 3_600_000_000
FIRST_US = 1_767_571_200_000_000
"""Monday, 5 January 2026, 00:00 UTC."""


def pump_profile(**of_features: object) -> Profile:
    """Two channels; the calendar of Chicago; an output ``queue`` with a rule of its own."""
    calendar = {"calendar": ["hour_sin", "hour_cos", "weekend"], "time_zone": "America/Chicago"}
    compute = [{"channel": c, "kinds": ["mean", "std"]} for c in ("pressure", "flow")]
    return Profile.model_validate(
        {
            "name": "pump",
            "channels": [
                {"name": n, "unit": u, "min": -100.0, "max": 100.0}
                for n, u in (("pressure", "bar"), ("flow", "m3/h"))
            ],
            "sampling": {"rate_hz": 1.0, "window_samples": 8, "hop_samples": 8},
            "features": {"set": "pump", "compute": compute, **calendar, **of_features},
            "model": {"name": "pump", "outputs": ["queue"]},
            "decision": {
                "rules": [
                    {"action": "inspect", "enter": 0.6, "leave": 0.5},
                    {"action": "drain", "enter": 0.7, "leave": 0.6, "output": "queue"},
                ]
            },
            "summaries": {"period_s": 60.0, "moments": True},
            "drift": {"window_s": 300.0},
        }
    )


PUMP = pump_profile()


class Levels:
    """Score: how far the pressure is from 5 bar. Queue: the flow, and more of it in the local morning."""

    calibration = Calibration(middle=1.0, slope=1.0)

    def score(self, features):
        return np.clip(np.abs(features[:, 0] - 5) / 20, 0, 1) + 0.0 * features.sum(axis=1)

    def further(self, features):
        queue = np.clip(features[:, 2] / 20 + 0.2 * features[:, 4], 0, 1) + 0.0 * features.sum(axis=1)
        return queue[:, np.newaxis]

    def parameters(self):
        return {}

    def write(self, writer: GraphWriter, features: str) -> str:
        return self.write_all(writer, features)[0]

    def write_all(self, writer: GraphWriter, features: str) -> tuple[str, ...]:
        pressure, flow, sine = (writer.op("Gather", features, writer.integer(n), axis=1) for n in (0, 2, 4))
        off = writer.op("Abs", writer.op("Sub", pressure, writer.floats(5.0)))
        score = writer.op("Div", off, writer.floats(20.0))
        morning = writer.op("Mul", sine, writer.floats(0.2))
        queue = writer.op("Add", writer.op("Div", flow, writer.floats(20.0)), morning)
        return write_output(writer, score, features), write_output(writer, queue, features)


def windows(count: int, seed: int = 0, level: float = 5.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (level + rng.normal(0, 0.5, (count, 8, 2))).astype(np.float32)


def ends(count: int, step_us: int = HOUR_US) -> np.ndarray:
    return FIRST_US + step_us * np.arange(count)


def pump_bundle(profile: Profile = PUMP, model: object = None) -> BundleFiles:
    """The bundle, with everything that training writes."""
    healthy = profile_features(profile, windows(200), ends(200))
    facts = TrainingFacts(script="tests", seed=0, devices=1, windows=200)
    given = model or Levels()
    return learnt_bundle(profile, "pump", given, [[healthy]], windows(8, seed=1), facts, detector="levels")


def device_bundle(made: BundleFiles) -> Bundle:
    """The same as a device reads it."""
    return Bundle(made.manifest, made.model, made.golden)

"""Laws of wide channels: a counter's small steps survive from the sample to the wire."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_producer.inference import load_predictor
from edge_producer.sensed_rows import Row, StoredRow, wire_batch
from schemas.columns import Kind
from schemas.envelope import decode_rows, encode_rows
from schemas.feature_set import FEATURE_KINDS
from schemas.profile import Profile
from schemas.row_schemas import telemetry_layout, telemetry_rows

BASE = 18_228_934.0
"""Around it float32 knows only every second number."""


def profile(dtype: str, window: int = 8) -> Profile:
    return Profile.model_validate(
        {
            "name": "meter",
            "channels": [
                {"name": "energy", "unit": "kWh", "dtype": dtype, "min": 0, "max": 1e9},
                {"name": "heat", "unit": "degC", "min": -50, "max": 150},
            ],
            "sampling": {"rate_hz": 1.0, "window_samples": window, "hop_samples": window},
            "features": {
                "set": "meter",
                "compute": [{"channel": c, "kinds": list(FEATURE_KINDS)} for c in ("energy", "heat")],
            },
            "model": {"name": "robust", "warmup_windows": 8},
        }
    )


def windows(n: int) -> list[np.ndarray]:
    steps = np.arange(8) * 0.25
    return [np.column_stack([BASE + k * 2 + steps, 20 + np.sin(k + steps)]) for k in range(n)]


@pytest.mark.parametrize("base", [0.0, BASE])
def test_every_feature_of_a_wide_channel_is_what_numpy_computes(base):
    used, predictor = profile("float64"), load_predictor(profile("float64"))
    for window in (w - [BASE - base, 0] for w in windows(3)):
        features, _ = predictor.score("d1", window)
        got = dict(zip(used.feature_names, features.tolist(), strict=True))
        energy = window[:, 0]
        assert features.dtype == np.float64
        assert got["energy_last"] == energy[-1]
        assert got["energy_mean"] == energy.mean()
        assert (got["energy_min"], got["energy_max"]) == (energy.min(), energy.max())
        assert got["energy_rms"] == pytest.approx(np.sqrt((energy**2).mean()), rel=1e-12)
        assert got["energy_std"] == pytest.approx(energy.std(), rel=1e-5)
        assert got["energy_peak"] == pytest.approx(np.abs(energy - energy.mean()).max(), rel=1e-5)
        assert got["heat_mean"] == pytest.approx(window[:, 1].mean(), rel=1e-6)


def test_a_score_does_not_depend_on_where_a_counter_stands():
    scores = []
    for base in (0.0, BASE):
        predictor = load_predictor(profile("float64"))
        scores.append([predictor.score("d1", w - [BASE - base, 0])[1] for w in windows(40)])
    assert scores[0] == scores[1]
    assert scores[0][-1] is not None


def test_a_restart_goes_on_with_the_reference_and_where_the_counter_is_counted_from():
    rng, running = np.random.default_rng(5), load_predictor(profile("float64"))
    seen = [w - [2 * k, 0] + rng.normal(0, 0.3, (8, 2)) for k, w in enumerate(windows(60))]
    scores = [running.score("d1", window)[1] for window in seen[:40]]
    assert scores[-1] is not None
    restarted = load_predictor(profile("float64"))
    restarted.restore_reference("d1", json.loads(json.dumps(running.export_reference("d1"))))
    for window in (np.add(w, [100, 0]) for w in seen[40:]):
        assert restarted.score("d1", window)[1] == pytest.approx(running.score("d1", window)[1], abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_wire_carries_what_was_sensed(dtype):
    used = profile(dtype)
    kind = np.float64 if dtype == "float64" else np.float32
    features = np.array([BASE + 0.25] * 12 + [20.125] * 12, dtype=kind)
    row = Row(1, 0, 10**6, 0, 0, 1, features, 0.5, "none", "m-1", 0.0)
    again = Row.from_json(row.to_json())
    assert again.features.dtype == kind
    np.testing.assert_array_equal(again.features, features)
    stored = StoredRow(1, 1, 1, 0, 10**6, 0, 1, features.tobytes(), 0.5, "none", 1, 0.1, 0.1, "m-1", 0.0)
    batch = wire_batch("d1", [stored], telemetry_layout(used))
    kinds = {column.name: column.kind for column in batch.layout.columns}
    assert kinds["energy_last"] == (Kind.FLOAT64 if dtype == "float64" else Kind.FLOAT32)
    assert kinds["heat_last"] == Kind.FLOAT32
    [sent] = decode_rows(*encode_rows(batch), telemetry_rows(used)).to_pylist()
    assert (sent["energy_last"], sent["heat_last"]) == (float(features[0]), 20.125)

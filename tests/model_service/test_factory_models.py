"""Laws of training: reproducible, calibrated, honest about what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from edge_producer.bundle import BUNDLES, MANIFEST
from infra.factory import main
from model_service.models.mahalanobis import HEALTHY_SCORE, calibrated, fit
from model_service.models.rounding import rounded
from schemas.errors import BundleError
from schemas.manifest import Calibration, parse_manifest


@pytest.fixture(scope="module")
def healthy() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixed = rng.normal(0, 1, (5000, 3)) @ np.array([[1, 0.8, 0], [0, 1, 0], [0, 0, 2.0]])
    return np.exp(mixed * [0.1, 0.1, 0.0]) + mixed * [0, 0, 1.0]


def test_one_healthy_window_in_a_thousand_reaches_the_healthy_score(healthy):
    scores = fit(healthy, [True, True, False]).score(healthy)
    assert np.quantile(scores, 0.999) == pytest.approx(HEALTHY_SCORE, abs=0.01)


def test_the_score_grows_with_the_distance_from_zero_to_one():
    scores = calibrated(np.array([0.0, 1.0, 2.0, 4.0, 1e6, 1e300, np.inf]), Calibration(middle=2, slope=3))
    assert scores[0] == 0
    assert scores[2] == 0.5
    assert (np.diff(scores) >= 0).all()
    assert scores[-1] == 1


def test_the_distance_is_mahalanobis_without_shrinkage_in_mind(healthy):
    """Against numpy's own inverse, with the same shrunk correlation."""
    model = fit(healthy, [False] * 3)
    z = (healthy - model.mean) / model.std
    shrunk = 0.8 * np.corrcoef(healthy.T) + 0.2 * np.eye(3)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", z, np.linalg.inv(shrunk), z))
    np.testing.assert_allclose(model.distance(healthy), expected, rtol=1e-4)


def test_a_row_with_a_missing_feature_has_no_score(healthy):
    row = healthy[:2].copy()
    row[0, 1] = np.nan
    scores = fit(healthy, [True, True, False]).score(row)
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1])


def test_noise_in_the_last_bits_does_not_reach_the_parameters(healthy):
    noisy = healthy * (1 + np.random.default_rng(1).uniform(-1e-15, 1e-15, healthy.shape))
    first, second = fit(healthy, [True, True, False]), fit(noisy, [True, True, False])
    np.testing.assert_array_equal(first.whitening, second.whitening)
    assert first.calibration == second.calibration


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0.0), (123456.789, 123457.0), (-0.00123456789, -0.00123457)]
)
def test_rounding_keeps_six_digits(value, expected):
    assert rounded(np.array([value]))[0] == expected


def test_the_manifest_states_baselines_and_edges_for_every_feature():
    manifest = parse_manifest((BUNDLES / "machine" / MANIFEST).read_bytes(), "shipped")
    assert set(manifest.baselines) == set(manifest.bin_edges) == {*manifest.features, "score"}
    assert all(b.device_std <= b.std and b.mean_std <= b.std for b in manifest.baselines.values())


def test_a_manifest_with_an_unknown_key_or_no_number_is_refused():
    text = (BUNDLES / "robust" / MANIFEST).read_text()
    with pytest.raises(BundleError, match="colour"):
        parse_manifest(text.replace('"name"', '"colour": 1, "name"', 1), "x")
    with pytest.raises(BundleError, match="x"):
        parse_manifest("{", "x")


@pytest.mark.long
def test_the_script_checks_what_is_shipped(capsys):
    assert main(["--check"]) == 0
    assert main(["--what"]) == 2
    assert "usage" in capsys.readouterr().err

"""Laws of the feature graph: numpy says what a feature is, scipy agrees, ONNX computes the same."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from model_service.models.feature_graph import write_chosen_features, write_features
from model_service.models.features import all_kinds
from model_service.models.graph import FLOAT, INT64, GraphWriter, tensor
from schemas.feature_set import FEATURE_KINDS, FeatureSpec

KINDS = list(FEATURE_KINDS)


def of_kind(windows: np.ndarray, kind: str) -> np.ndarray:
    return all_kinds(windows)[..., KINDS.index(kind)]


@pytest.fixture(scope="module")
def session() -> ort.InferenceSession:
    writer = GraphWriter()
    writer.op("Identity", write_chosen_features(writer), output="features")
    inputs = [tensor("window", FLOAT, ["b", "w", "c"]), tensor("columns", INT64, ["f"])]
    return ort.InferenceSession(writer.build("t", inputs, [tensor("features", FLOAT, ["b", "f"])]))


def onnx_kinds(session: ort.InferenceSession, windows: np.ndarray) -> np.ndarray:
    columns = np.arange(windows.shape[2] * len(KINDS), dtype=np.int64)
    (out,) = session.run(None, {"window": windows, "columns": columns})
    return out.reshape(len(windows), windows.shape[2], -1)


@settings(max_examples=60, deadline=None)
@given(
    width=st.sampled_from([1, 2, 3, 7, 8, 9, 64, 100, 513]),
    channels=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    offset=st.sampled_from([0.0, 1.0, -300.0]),
    seed=st.integers(0, 1000),
)
def test_the_graph_computes_the_reference(session, width, channels, missing, offset, seed):
    rng = np.random.default_rng(seed)
    windows = rng.normal(offset, 2.0, (3, width, channels)).astype(np.float32)
    windows[rng.random(windows.shape) < missing] = np.nan
    windows[1, :, 0] = 0.1
    got, expected = onnx_kinds(session, windows), all_kinds(windows)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_window_of_one_sample_has_every_kind_defined(session):
    window = np.array([[[3.5]]], dtype=np.float32)
    found = dict(zip(KINDS, onnx_kinds(session, window)[0, 0].tolist(), strict=True))
    place = {"last": 3.5, "mean": 3.5, "min": 3.5, "max": 3.5, "rms": 3.5}
    assert found == {**dict.fromkeys(KINDS, 0.0), **place}


def test_kurtosis_is_scipys():
    windows = np.random.default_rng(0).standard_t(5, (4, 300, 2))
    expected = stats.kurtosis(windows, axis=1, fisher=False)
    np.testing.assert_allclose(of_kind(windows, "kurtosis"), expected, rtol=1e-10)


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 130), missing=st.sampled_from([0.0, 0.3]), seed=st.integers(0, 1000))
def test_the_bands_add_up_to_the_standard_deviation(width, missing, seed):
    rng = np.random.default_rng(seed)
    windows = rng.normal(10, 3, (2, width, 1))
    windows[rng.random(windows.shape) < missing] = np.nan
    parts = sum(of_kind(windows, band) ** 2 for band in ("band_low", "band_mid", "band_high"))
    np.testing.assert_allclose(parts, of_kind(windows, "std") ** 2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("share", "band"),
    [(1 / 32, "band_low"), (3 / 16, "band_mid"), (1 / 4, "band_high"), (3 / 8, "band_high")],
)
def test_a_tone_falls_into_its_band(share, band):
    tone = np.sqrt(2) * np.sin(2 * np.pi * share * np.arange(64) + 0.3)[None, :, None]
    found = {b: float(of_kind(tone, b)[0, 0]) for b in ("band_low", "band_mid", "band_high")}
    assert found.pop(band) == pytest.approx(1.0, abs=1e-9)
    assert max(found.values()) < 1e-9


def test_missing_samples_are_left_out(session):
    whole = np.random.default_rng(2).normal(0, 1, (1, 50, 1)).astype(np.float32)
    gappy = np.full((1, 80, 1), np.nan, dtype=np.float32)
    gappy[0, np.sort(np.random.default_rng(3).permutation(80)[:50])] = whole[0]
    timeless = [k for k in KINDS if not k.startswith("band")]
    places = [KINDS.index(k) for k in timeless]
    np.testing.assert_allclose(
        onnx_kinds(session, gappy)[..., places], onnx_kinds(session, whole)[..., places], rtol=1e-5
    )


def test_a_channel_without_samples_has_no_features_and_spoils_no_other(session):
    windows = np.ones((1, 9, 2), dtype=np.float32)
    windows[0, :, 0] = [np.nan, np.inf, -np.inf] * 3
    found = onnx_kinds(session, windows)
    assert np.isnan(found[0, 0]).all()
    assert np.isfinite(found[0, 1]).all()


def test_a_fixed_graph_holds_only_what_its_features_need():
    specs = [FeatureSpec(channel="b", kind="mean", unit="V"), FeatureSpec(channel="a", kind="max", unit="V")]
    writer = GraphWriter()
    writer.op("Identity", write_features(writer, specs, ["a", "b"]), output="features")
    model = writer.build("t", [tensor("window", FLOAT, ["n", 4, 2])], [tensor("features", FLOAT, ["n", 2])])
    assert b"DFT" not in model
    window = np.arange(8, dtype=np.float32).reshape(1, 4, 2)
    (out,) = ort.InferenceSession(model).run(None, {"window": window})
    assert out.tolist() == [[4.0, 6.0]]

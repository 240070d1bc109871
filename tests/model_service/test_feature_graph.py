"""Laws of the feature graph: numpy says what a feature is, scipy agrees, ONNX computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from model_service import compute_features
from model_service.models.feature_graph import (
    write_chosen_features,
    write_features,
    write_grouped_features,
)
from model_service.models.features import all_kinds
from model_service.models.graph import FLOAT, INT64, GraphWriter, tensor
from schemas.feature_set import FEATURE_KINDS, FeatureSpec
from schemas.profile_file import find_profile

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


def fixed_graph(specs: list[FeatureSpec], channels: list[str], samples: int, *, grouped: bool) -> bytes:
    writer = GraphWriter()
    found = (
        write_grouped_features(writer, specs, channels, samples)
        if grouped
        else write_features(writer, specs, channels)
    )
    writer.op("Identity", found, output="features")
    inputs = [tensor("window", FLOAT, ["n", samples, len(channels)])]
    return writer.build("t", inputs, [tensor("features", FLOAT, ["n", len(specs)])])


@settings(max_examples=25, deadline=None)
@given(data=st.data(), samples=st.sampled_from([1, 2, 7, 10]), seed=st.integers(0, 1000))
def test_channels_that_share_operators_have_the_features_that_each_has_alone(data, samples, seed):
    """In any order of columns, and whatever is missing in one of them."""
    channels = ["a", "b", "c"]
    every = [FeatureSpec(channel=c, kind=k, unit="V") for c in channels for k in KINDS]
    specs = data.draw(st.lists(st.sampled_from(every), min_size=1, max_size=12, unique_by=lambda s: s.name))
    rng = np.random.default_rng(seed)
    windows = rng.normal(100.0, 2.0, (4, samples, 3)).astype(np.float32)
    windows[1, :, 0] = np.nan
    windows[2][rng.random((samples, 3)) < 0.4] = np.inf
    windows[3, :, 1] = 0.1
    alone, shared = (
        ort.InferenceSession(fixed_graph(specs, channels, samples, grouped=grouped)).run(
            None, {"window": windows}
        )[0]
        for grouped in (False, True)
    )
    np.testing.assert_allclose(shared, alone, rtol=1e-6, atol=1e-6)


def test_the_robots_features_take_a_third_of_the_operators_and_are_those_of_numpy():
    profile = find_profile("robot")
    specs, names = profile.feature_specs(), list(profile.channel_names)
    samples = profile.sampling.window_samples
    rng = np.random.default_rng(3)
    windows = rng.normal(0.0, 3.0, (6, samples, len(names))).astype(np.float32)
    windows[1, :, 2] = np.nan
    windows[2][rng.random((samples, len(names))) < 0.3] = np.nan
    alone, shared = (fixed_graph(specs, names, samples, grouped=grouped) for grouped in (False, True))
    (found,) = ort.InferenceSession(shared).run(None, {"window": windows})
    expected = compute_features(windows, specs, profile.channel_names)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert 3 * len(onnx.load_from_string(shared).graph.node) < len(onnx.load_from_string(alone).graph.node)

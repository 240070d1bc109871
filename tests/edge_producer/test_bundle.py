"""Laws of bundles: nothing altered or made for other inputs is run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from edge_producer.bundle import BUNDLES, GENERIC, GOLDEN, MANIFEST, MODEL, load_bundle, open_bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.updates.slots import ModelSlots
from infra.factory import makers
from model_service.models.bundle_files import BundleFiles, build_bundle
from schemas.durable import DISK
from schemas.errors import BundleError
from schemas.profile import ModelSpec, Profile
from schemas.profile_file import find_profile

MACHINE = find_profile("machine")
SHIPPED = [name for name in makers() if name != GENERIC]
"""Each is fitted to days of simulated devices, which takes its time."""


@pytest.fixture(scope="module")
def robust() -> BundleFiles:
    return makers()[GENERIC]()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(BUNDLES, tmp_path / "bundles")
    return tmp_path / "bundles"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "machine" else pytest.mark.long) for name in SHIPPED]
)
def test_the_shipped_bundle_is_what_the_script_builds(name):
    assert makers()[name]().differences(BUNDLES / name) == []


def test_the_bundle_for_any_profile_is_what_the_script_builds(robust):
    assert robust.differences(BUNDLES / GENERIC) == []


@pytest.mark.parametrize("name", ["machine", "robust"])
def test_a_bundle_is_small_and_named_by_its_content(name):
    bundle = open_bundle(BUNDLES / name)
    assert sum(p.stat().st_size for p in (BUNDLES / name).iterdir()) < 200_000
    assert bundle.manifest.version == f"{name}-0.{bundle.manifest.content_digest()[:8]}"


def test_what_was_written_is_what_is_read(robust, tmp_path):
    robust.write(tmp_path / "robust")
    assert open_bundle(tmp_path / "robust").manifest == robust.manifest


@pytest.mark.parametrize("file", [MODEL, GOLDEN])
def test_an_altered_file_is_refused(file, folder):
    path = folder / "machine" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=rf"{file}.*incomplete or altered"):
        load_bundle(MACHINE, folder)


def test_an_altered_manifest_is_refused(folder):
    path = folder / "machine" / MANIFEST
    content = json.loads(path.read_text())
    content["calibration"]["middle"] *= 2
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="was altered"):
        load_bundle(MACHINE, folder)


def test_a_missing_file_or_bundle_is_named(folder):
    (folder / "machine" / GOLDEN).unlink()
    with pytest.raises(BundleError, match=GOLDEN):
        load_bundle(MACHINE, folder)
    other = MACHINE.model_copy(update={"model": ModelSpec(name="cat_detector")})
    with pytest.raises(BundleError, match=r"no bundle 'cat_detector'.*machine, .*robust"):
        load_bundle(other, folder)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("sampling", "rate_hz", 256.0, r"sampling.rate_hz: wants 512.0, has 256.0"),
        ("sampling", "window_samples", 256, "sampling.window_samples"),
        ("features", "version", 2, "wants rotating@1, has rotating@2"),
    ],
)
def test_a_model_made_for_other_windows_is_refused(section, key, value, message):
    raw = MACHINE.model_dump()
    raw[section][key] = value
    with pytest.raises(BundleError, match=message):
        load_bundle(Profile.model_validate(raw))


def test_a_model_made_for_another_unit_is_refused():
    raw = MACHINE.model_dump()
    raw["channels"][1]["unit"] = "degF"
    with pytest.raises(BundleError, match=r"temperature \[degC\].*temperature \[degF\]"):
        load_bundle(Profile.model_validate(raw))


def test_the_robust_bundle_fits_any_profile():
    raw = MACHINE.model_dump() | {"model": {"name": "robust"}}
    raw["sampling"] = {"rate_hz": 3.0, "window_samples": 5, "hop_samples": 2}
    assert load_bundle(Profile.model_validate(raw)).manifest.family == "robust"


def test_a_profile_with_a_family_of_its_own_name_starts_with_the_generic_bundle(tmp_path):
    """Its devices had no model at all: nothing ships for it, and what comes over the channel comes later."""
    raw = MACHINE.model_dump() | {"name": "pump", "model": {"name": "pump"}}
    own = Profile.model_validate(raw)
    assert load_bundle(own).manifest.family == GENERIC
    slots = ModelSlots(tmp_path, own, DISK)
    assert slots.factory.releases["pump"].version == load_bundle(own).manifest.version
    assert slots.bundle(slots.factory).manifest.family == GENERIC
    with pytest.raises(BundleError, match="no bundle 'pmup'"):
        load_bundle(Profile.model_validate(raw | {"model": {"name": "pmup"}}))


def test_a_model_that_misses_its_golden_vectors_is_refused(robust, tmp_path):
    """All digests hold: only running it shows that the graph is not the one that was meant."""
    table = pa.ipc.open_file(robust.files[GOLDEN]).read_all()
    score = pa.array([0.123] * table.num_rows, pa.float32())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.set_column(2, "score", score))
    build_bundle(robust.manifest, robust.files[MODEL], sink.getvalue().to_pybytes()).write(
        tmp_path / "robust"
    )
    profile = MACHINE.model_copy(update={"model": ModelSpec(name="robust")})
    bundle = load_bundle(profile, tmp_path)
    with pytest.raises(BundleError, match="golden window 0 misses"):
        OnnxPredictor(bundle, profile)


def test_a_graph_that_is_none_is_refused(robust, tmp_path):
    build_bundle(robust.manifest, b"not a graph", robust.files[GOLDEN]).write(tmp_path / "robust")
    profile = MACHINE.model_copy(update={"model": ModelSpec(name="robust")})
    with pytest.raises(BundleError, match="robust-0"):
        OnnxPredictor(load_bundle(profile, tmp_path), profile)

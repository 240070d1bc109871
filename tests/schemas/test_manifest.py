"""Laws of manifests: what was added since 0.2.0 changes no manifest of before."""

import json

import pytest

from edge_producer.bundle import BUNDLES, open_bundle
from schemas.errors import BundleError
from schemas.manifest import parse_manifest

MACHINE = open_bundle(BUNDLES / "machine").manifest


def test_a_manifest_of_before_keeps_its_text_and_version():
    text = (BUNDLES / "machine" / "manifest.json").read_text(encoding="utf-8")
    assert "optional_channels" not in text
    assert parse_manifest(text, "here").to_json() == text


def test_optional_channels_are_content_like_any_other():
    stated = MACHINE.model_copy(update={"optional_channels": ("temperature",)}).versioned(0)
    assert stated.version != MACHINE.version
    assert parse_manifest(stated.to_json(), "here") == stated
    stripped = {k: v for k, v in json.loads(stated.to_json()).items() if k != "optional_channels"}
    with pytest.raises(BundleError, match="altered"):
        parse_manifest(json.dumps(stripped), "here")


def test_optional_channels_are_channels_of_the_model():
    unknown = MACHINE.model_copy(update={"optional_channels": ("pressure",)}).versioned(0)
    with pytest.raises(BundleError, match="pressure"):
        parse_manifest(unknown.to_json(), "here")

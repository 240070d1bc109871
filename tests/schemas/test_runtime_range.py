"""Laws of hardware classes and runtimes in what is signed: absent means any, and changes no earlier byte."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from edge_producer.bundle import BUNDLES, open_bundle
from schemas.channel_documents import TargetCustom
from schemas.errors import BundleError
from schemas.manifest import parse_manifest
from schemas.profile_changes import kind_of
from schemas.profile_file import find_profile
from schemas.runtime_range import allows

MACHINE = find_profile("machine")
MANIFEST = open_bundle(BUNDLES / "machine").manifest


@pytest.mark.parametrize(
    ("versions", "version", "allowed"),
    [
        ("", "1.0", True),
        ("", "", True),
        (">=1.32", "1.32.0", True),
        (">=1.32,<2", "2.0", False),
        (">=1.9", "1.32.0", True),
        (">=1.32", "", False),
        (">=1.32", "of my own", False),
        (">=1.32", "1.33.0rc1", True),
    ],
)
def test_a_range_allows_the_versions_in_it_and_an_empty_one_all(versions, version, allowed):
    assert allows(versions, version) is allowed


def test_what_names_no_class_and_no_range_is_signed_as_before():
    custom = TargetCustom(family="machine", version=MANIFEST.version, opset=17)
    assert custom.model_dump(mode="json") == {
        "family": "machine", "version": MANIFEST.version, "hardware": [], "opset": 17,
    }  # fmt: skip
    assert TargetCustom.of(MANIFEST) == custom
    assert not {"hardware", "runtime"} & set(json.loads(MANIFEST.to_json()))
    assert not {"hardware", "runtime"} & set(MACHINE.canonical()["model"])


def test_class_and_range_of_a_manifest_are_signed_beside_its_digest():
    stated = MANIFEST.model_copy(update={"hardware": ("arm64",), "runtime": ">=1.32"}).versioned(3)
    again = parse_manifest(stated.to_json(), "here")
    signed = TargetCustom.of(again).model_dump(mode="json")
    assert (signed["hardware"], signed["runtime"]) == (["arm64"], ">=1.32")
    assert TargetCustom.model_validate(signed) == TargetCustom.of(stated)
    stripped = {k: v for k, v in json.loads(stated.to_json()).items() if k != "hardware"}
    with pytest.raises(BundleError, match="altered"):
        parse_manifest(json.dumps(stripped), "here")


def test_a_profile_that_names_no_range_is_refused():
    with pytest.raises(ValidationError, match="no range of versions"):
        MACHINE.model.model_validate({**MACHINE.model.model_dump(), "runtime": "newest"})


def test_a_change_of_where_models_run_is_guarded_and_compatible():
    assert kind_of("model.hardware") == kind_of("model.runtime") == "guarded"
    assert kind_of("model.name") == "incompatible"

"""Laws of a model's version: one grammar, one parser, for whatever text we ever wrote."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from schemas.channel_documents import Release
from schemas.errors import BundleError
from schemas.manifest import parse_manifest
from schemas.model_version import ModelVersion

ROOT = Path(__file__).parents[2]
BUNDLES = sorted((ROOT / "edge_producer" / "bundles").glob("*/manifest.json"))
SPELT = re.compile(r"(?<![\w.-])[a-z][a-z0-9_]*-\d+\.[0-9a-f]{8}\b")


def written() -> list[str]:
    """Every version in shipped bundles, tests, documents and examples.

    The golden bytes of telemetry name their model ``m-1``: rows carry the text, and nothing parses it.
    """
    kinds = ("tests/**/*.py", "docs/**/*.md", "examples/**/*", "edge_producer/bundles/*/manifest.json")
    files = [p for kind in kinds for p in ROOT.glob(kind) if p.is_file()]
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in files]
    return sorted({version for text in texts for version in SPELT.findall(text)})


def test_every_version_ever_written_is_the_value_it_parses_to():
    versions = written()
    assert {"machine-0.00000000", "robust-0.15d4c218", "machine-12.0123abcd"} <= set(versions)
    for text in versions:
        version = ModelVersion.parse(text)
        assert str(version) == text
        assert text.startswith(f"{version.family}-{version.major}.")


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.parent.name)
def test_a_bundle_that_ships_is_the_factorys_and_named_by_its_content(path):
    manifest = parse_manifest(path.read_bytes(), str(path))
    version = ModelVersion.parse(manifest.version)
    assert (version.family, version.major, version.is_factory) == (manifest.name, 0, True)
    assert manifest.content_digest().startswith(version.digest)


@pytest.mark.parametrize("text", [
    "", "m-1", "machine", "machine-1", "machine-1.0123abc", "machine-1.0123abcde", "machine-1.0123ABCD",
    "-1.0123abcd", "machine-.0123abcd", "Machine-1.0123abcd", "a-b-1.0123abcd", "machine--1.0123abcd",
    " machine-1.0123abcd", "machine-1.0123abcd\n", "../machine-1.0123abcd",
])  # fmt: skip
def test_what_is_no_version_is_refused_by_the_parser_and_on_the_wire(text):
    with pytest.raises(ValueError, match="no model version"):
        ModelVersion.parse(text)
    with pytest.raises(ValidationError):
        Release(version=text)


def test_versions_are_values():
    one = ModelVersion.parse("machine-12.0123abcd")
    assert one == ModelVersion("machine", 12, "0123abcd")
    assert len({one, ModelVersion.parse(str(one))}) == 1
    assert not one.is_factory
    assert Release(version=str(one)).major == 12


@pytest.mark.parametrize(
    "version", ["machine", "machine.{digest}", "robust-1.{digest}", "machine-1.00000000"]
)
def test_a_manifest_of_another_version_than_its_content_is_refused(version):
    [path] = [p for p in BUNDLES if p.parent.name == "machine"]
    raw = json.loads(path.read_bytes())
    digest = raw["version"].partition(".")[2]
    with pytest.raises(BundleError):
        parse_manifest(json.dumps({**raw, "version": version.format(digest=digest)}), "here")

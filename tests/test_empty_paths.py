"""An empty path is no path: it would mean the folder that one happens to be in."""

from __future__ import annotations

import os

import pytest

import edge_producer.settings
import feature_store
import infra.settings
import model_service.settings
import stream_processors.settings
from edge_producer.joining import usual_settings
from edge_producer.settings import EdgeSettings
from infra.settings import StackSettings
from model_service.settings import ModelSettings
from schemas.local_folder import NamedPath
from stream_processors.settings import StreamSettings

LOADERS = {
    "EDGE_": (EdgeSettings, edge_producer.settings.load_settings),
    "STREAM_": (StreamSettings, stream_processors.settings.load_settings),
    "MODEL_": (ModelSettings, model_service.settings.load_settings),
    "EDGELOOP_": (StackSettings, lambda: infra.settings.load_settings(os.environ)),
}
PATHS = [
    f"{prefix}{name}".upper()
    for prefix, (settings, _) in LOADERS.items()
    for name, field in settings.model_fields.items()
    if "Path" in str(field.annotation)
]
NEEDED = {
    "EDGE_": {"EDGE_STATE_DIR": "edge", "EDGE_PROFILE": "machine", "EDGE_DEVICES": "m-1"},
    "STREAM_": {"STREAM_LAKE_ROOT": "lake"},
    "MODEL_": {"MODEL_ROOT": "models", "MODEL_LAKE_ROOT": "lake"},
    "EDGELOOP_": {},
}


def test_the_settings_that_are_paths_are_known():
    assert {"EDGE_STATE_DIR", "EDGE_SOURCE_CA", "STREAM_LAKE_ROOT", "EDGELOOP_STATE_DIR"} <= set(PATHS)
    assert NamedPath is not None


@pytest.mark.parametrize("variable", PATHS)
def test_an_empty_path_is_refused_by_the_name_of_its_setting(variable, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    prefix = next(p for p in sorted(LOADERS, key=len, reverse=True) if variable.startswith(p))
    for name, value in {**NEEDED[prefix], variable: " "}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        Exception, match=rf"(?s)({variable}|{variable.removeprefix(prefix).lower()}).*is empty"
    ):
        LOADERS[prefix][1]()
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_of_a_device_that_joins_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_STATE_DIR", "")
    with pytest.raises(ValueError, match="EDGE_STATE_DIR is empty"):
        usual_settings(tmp_path / "pump-7.json", {})


def test_a_query_without_a_folder_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGELOOP_STATE_DIR", "")
    with pytest.raises(Exception, match="is empty"):
        feature_store.connect()

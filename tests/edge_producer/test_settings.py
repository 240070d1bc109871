"""Laws of the edge's settings."""

import pytest

import edge_producer
from edge_producer.settings import EdgeSettings, load_settings, unknown_variables


def test_a_misspelt_variable_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("EDGE_PROFILE", "machine")
    monkeypatch.setenv("EDGE_DEVICES", '["m-1", "m-2"]')
    assert load_settings().devices == ("m-1", "m-2")
    monkeypatch.setenv("EDGE_LINGERS", "1")
    with pytest.raises(ValueError, match="EDGE_LINGERS"):
        load_settings()


def test_devices_may_be_a_plain_id_or_several_with_commas(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("EDGE_PROFILE", "machine")
    for given, read in (("m-1", ("m-1",)), ("m-1, m-2", ("m-1", "m-2"))):
        monkeypatch.setenv("EDGE_DEVICES", given)
        assert load_settings().devices == read


def test_a_variable_may_be_in_either_case(monkeypatch, tmp_path):
    monkeypatch.setenv("edge_state_dir", str(tmp_path))
    monkeypatch.setenv("EDGE_PROFILE", "machine")
    monkeypatch.setenv("Edge_Devices", "m-1")
    monkeypatch.setenv("EDGE_DURATION_S", "2.5")
    read = load_settings()
    assert (read.state_dir, read.devices, read.duration_s) == (tmp_path, ("m-1",), 2.5)


def test_what_is_missing_is_named_as_its_variable(monkeypatch):
    for name in ("EDGE_STATE_DIR", "EDGE_PROFILE", "EDGE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"EDGE_STATE_DIR: Field required; EDGE_PROFILE: .*EDGE_DEVICES: "):
        load_settings()


def test_every_setting_is_known_by_its_variable():
    assert unknown_variables({f"EDGE_{n.upper()}": "" for n in EdgeSettings.model_fields}) == []


def test_device_names_cannot_leave_the_state_folder(tmp_path):
    with pytest.raises(ValueError, match="devices"):
        EdgeSettings(state_dir=tmp_path, profile="machine", devices=("../../etc/x",))


def test_public_names_exist():
    assert all(hasattr(edge_producer, name) for name in edge_producer.__all__)

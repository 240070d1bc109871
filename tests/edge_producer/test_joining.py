"""Laws of what a join bundle stands for, and where a device keeps it."""

import json
import stat
from pathlib import Path

import pytest

from edge_producer.join_files import kept_joins
from edge_producer.joining import usual_settings
from edge_producer.settings import EdgeSettings
from schemas.join import JoinBundle
from schemas.profile_file import find_profile

MACHINE = find_profile("machine")


def bundle(name="pump-7", **more):
    return JoinBundle(
        device_id=name, token="t", enrollment="h:1", delivery="h:2", ca_pem="c", root_json="{}",
        group="default", hardware="sim", families=("machine",), **more,
    )  # fmt: skip


def whole(**more):
    given = {"broker": "10.0.0.1:9093", "broker_tls": True, "namespace": "plant"}
    return bundle(profile=json.loads(MACHINE.model_dump_json()), **{**given, **more})


def written(folder: Path, made: JoinBundle, name="brought.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(made.model_dump_json())
    return folder / name


def test_a_bundle_names_all_that_a_device_needs_under_any_file_name(tmp_path):
    found = usual_settings(written(tmp_path, whole()), {}, {"EDGE_STATE_DIR": str(tmp_path / "edge")})
    settings = EdgeSettings(**found)
    assert (settings.name, settings.devices, settings.broker_tls) == ("pump-7", ("pump-7",), True)
    assert (settings.bootstrap_servers, settings.namespace) == ("10.0.0.1:9093", "plant")
    assert find_profile(settings.profile) == MACHINE
    [kept] = kept_joins(tmp_path / "edge")
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(kept.parent.stat().st_mode)) == (0o600, 0o700)


def test_a_later_start_needs_the_file_no_more(tmp_path):
    environ = {"XDG_STATE_HOME": str(tmp_path / "state")}
    brought = written(tmp_path, whole())
    first = usual_settings(brought, {}, environ)
    brought.unlink()
    assert usual_settings(None, {}, environ) == first
    assert first["state_dir"] == tmp_path / "state" / "edgeloop-edge" / "pump-7"
    usual_settings(written(tmp_path, whole().model_copy(update={"device_id": "pump-8"})), {}, environ)
    with pytest.raises(ValueError, match=r"several devices were begun .*\(pump-7, pump-8\)"):
        usual_settings(None, {}, environ)  # a person says which
    assert usual_settings(None, {"state_dir": (str(first["state_dir"]), "--state-dir")}, environ) == first


def test_without_a_device_the_command_says_how_to_begin_one(tmp_path):
    with pytest.raises(ValueError, match="no device was begun here: --join FILE"):
        usual_settings(None, {}, {"XDG_STATE_HOME": str(tmp_path)})


def test_a_bundle_that_is_brought_anew_replaces_the_one_before_and_its_profile(tmp_path):
    environ = {"EDGE_STATE_DIR": str(tmp_path / "edge")}
    usual_settings(written(tmp_path, whole()), {}, environ)
    changed = MACHINE.model_copy(update={"filter": MACHINE.filter.model_copy(update={"p": 0.5})})
    newer = whole(broker="10.0.0.2:9093").model_copy(
        update={"token": "u", "profile": json.loads(changed.model_dump_json())}
    )
    usual_settings(written(tmp_path, newer), {}, environ)
    later = usual_settings(None, {}, environ)
    assert later["bootstrap_servers"] == "10.0.0.2:9093"
    assert find_profile(later["profile"]) == changed


def test_a_bundle_of_the_last_release_says_nothing_about_broker_and_profile(tmp_path):
    environ = {"EDGE_STATE_DIR": str(tmp_path / "edge")}
    found = usual_settings(written(tmp_path, bundle()), {}, environ)
    assert set(found) == {"state_dir", "name", "devices", "join_dir"}


def test_a_bundle_that_says_nothing_new_is_one_that_the_last_release_reads():
    assert set(json.loads(bundle().model_dump_json())) == {
        "device_id", "token", "enrollment", "delivery", "server_name", "ca_pem", "root_json", "group",
        "hardware", "families",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (None, {}, "cannot be read"),
        ("{}", {}, "no join bundle, or is damaged"),
        (whole().model_dump_json(), {"devices": ("pump-8", "--devices")}, "--devices names another"),
        (bundle(profile={"name": "x"}).model_dump_json(), {}, "a profile that this release cannot read"),
    ],
)
def test_a_bundle_that_cannot_be_used_is_refused_and_not_kept(tmp_path, text, given, message):
    path = tmp_path / "b.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        usual_settings(path, given, {"EDGE_STATE_DIR": str(tmp_path / "edge")})
    assert kept_joins(tmp_path / "edge") == []

"""Laws of join bundles on this machine: they name the ports that the model service has now."""

import json

import pytest

from infra.stack.join_addresses import JoinAddresses
from model_service import Address, ModelSettings
from model_service.address import write_address
from schemas.join import JoinBundle


@pytest.fixture
def settings(tmp_path):
    made = ModelSettings(root=tmp_path / "models", lake_root=tmp_path / "lake")
    made.root.mkdir()
    return made


def listens(settings, enrollment, delivery):
    write_address(
        settings, Address(host="127.0.0.1", enrollment_port=enrollment, delivery_port=delivery, pid=1)
    )


def put_bundle(folder, name, enrollment, delivery):
    path = folder / "edge" / "site-a" / "join" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    bundle = JoinBundle(
        device_id=name, token="t", enrollment=enrollment, delivery=delivery, ca_pem="c", root_json="{}",
        group="default", hardware="sim", families=("machine",),
    )  # fmt: skip
    path.write_text(bundle.model_dump_json())
    return path


def addresses(path):
    found = json.loads(path.read_text())
    return found["enrollment"], found["delivery"], found["token"]


def test_bundles_follow_the_service_and_keep_everything_else(settings, tmp_path):
    listens(settings, 1001, 1002)
    subject = JoinAddresses(settings, tmp_path / "edge")
    own = put_bundle(tmp_path, "m-1", "127.0.0.1:1001", "127.0.0.1:1002")
    proxied = put_bundle(tmp_path, "m-2", "127.0.0.1:1001", "127.0.0.1:7777")
    foreign = put_bundle(tmp_path, "m-3", "10.0.0.1:1001", "10.0.0.1:1002")
    listens(settings, 1001, 2002)
    moved = subject.update()
    assert "127.0.0.1:1002 is now 127.0.0.1:2002; 1 join bundles here say so" in moved
    assert addresses(own) == ("127.0.0.1:1001", "127.0.0.1:2002", "t")
    assert addresses(proxied) == ("127.0.0.1:1001", "127.0.0.1:7777", "t")
    assert addresses(foreign) == ("10.0.0.1:1001", "10.0.0.1:1002", "t")
    assert own.stat().st_mode & 0o077 == 0
    assert subject.update() == ""


def test_a_service_that_stays_or_was_never_there_changes_nothing(settings, tmp_path):
    subject = JoinAddresses(settings, tmp_path / "edge")
    assert subject.update() == ""
    listens(settings, 1001, 1002)
    assert subject.update() == ""
    path = put_bundle(tmp_path, "m-1", "127.0.0.1:1001", "127.0.0.1:1002")
    listens(settings, 1001, 1002)
    assert subject.update() == ""
    assert addresses(path)[1] == "127.0.0.1:1002"


def test_a_file_that_is_no_bundle_is_left_alone(settings, tmp_path):
    listens(settings, 1001, 1002)
    subject = JoinAddresses(settings, tmp_path / "edge")
    path = put_bundle(tmp_path, "m-1", "127.0.0.1:1001", "127.0.0.1:1002")
    path.write_bytes(b"{torn")
    listens(settings, 3001, 3002)
    assert "0 join bundles here" in subject.update()
    assert path.read_bytes() == b"{torn"

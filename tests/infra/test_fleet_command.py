"""Laws of `edgeloop fleet`: what a person does from invitation to revocation."""

import stat

import pytest

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.identity.authority import init_pki
from model_service.identity.people import record_people
from schemas.join import JoinBundle
from schemas.profile_file import builtin_profiles, load_profile
from tests.infra.cli import EdgeloopHere
from tests.simulators.model_service import ModelService, SimClient


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ModelService(tmp_path_factory.mktemp("state")) as running:
        running.create_repository("default")
        yield running


def test_a_device_is_invited_joins_and_is_revoked(service, tmp_path):
    edgeloop, file = EdgeloopHere(service.folder), tmp_path / "join" / "join.json"
    made = edgeloop("fleet", "invite", "m-1", "--profile", "machine", "--site", "north", "-o", str(file))
    assert (made.returncode, made.stdout) == (0, "")
    assert (stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (0o600, 0o700)
    bundle = JoinBundle.model_validate_json(file.read_text())
    assert (bundle.families, bundle.group) == (("machine",), "default")
    assert bundle.root_json == service.create_repository().root().decode()
    with SimClient(bundle) as client:
        client.enroll()
    [found] = edgeloop.json("fleet", "devices")
    assert (found["device_id"], found["site"], found["active"]) == ("m-1", "north", True)
    [token] = edgeloop.json("fleet", "tokens")
    assert token["used_at"] is not None
    assert edgeloop("fleet", "revoke", "m-1").returncode == 0
    shown = edgeloop("fleet", "devices").stdout
    assert "m-1" in shown
    assert "revoked" in shown


def test_a_gateway_is_invited_and_devices_go_behind_it_and_back(service, tmp_path):
    edgeloop, join = EdgeloopHere(service.folder), tmp_path / "join"
    made = edgeloop.json("fleet", "invite-gateway", "hall-3", "-o", str(join / "hall-3.json"))
    assert made["device_id"] == "hall-3"
    for name, behind in (("p-1", ("--gateway", "hall-3")), ("p-2", ())):
        file = str(join / f"{name}.json")
        invited = edgeloop("fleet", "invite", name, "--profile", "machine", *behind, "-o", file)
        assert invited.returncode == 0, invited.stderr
    for name in ("hall-3", "p-1", "p-2"):
        with SimClient(JoinBundle.model_validate_json((join / f"{name}.json").read_text())) as client:
            client.enroll()

    def senders():
        return {d["device_id"]: d["gateway"] for d in edgeloop.json("fleet", "devices") if d["active"]}

    assert senders() == {"hall-3": None, "p-1": "hall-3", "p-2": None}
    assert "behind hall-3" in edgeloop("fleet", "devices").stdout
    done = edgeloop.json("fleet", "assign", "p-1", "p-2", "--gateway", "hall-3")
    assert done == {"devices": ["p-1", "p-2"], "gateway": "hall-3", "in_force": True}
    assert senders() == {"hall-3": None, "p-1": "hall-3", "p-2": "hall-3"}
    assert edgeloop("fleet", "assign", "p-1").returncode == 0
    assert senders()["p-1"] is None
    for wrong in (("p-1", "--gateway", "hall-4"), ("hall-3", "--gateway", "hall-3"), ("p-9",)):
        refused = edgeloop("fleet", "assign", *wrong)
        assert refused.returncode == 1
        assert "error: " in refused.stderr


def test_an_invitation_registers_a_profile_that_the_lake_lacks_and_changes_none_that_it_has(tmp_path):
    """An invited device sent everything to the dead-letter topic: nothing had registered its profile."""
    file = tmp_path / "pump.toml"
    file.write_text(builtin_profiles()["machine"].read_text().replace('name = "machine"', 'name = "pump"', 1))
    with ModelService(tmp_path / "state") as service:
        service.create_repository("default")
        registry = ProfileRegistry(Lake.open(service.settings.lake_root))
        assert "pump" not in registry.profiles()
        invite = ("fleet", "invite", "p-1", "--profile", str(file), "-o", str(tmp_path / "join.json"))
        assert EdgeloopHere(service.folder)(*invite).returncode == 0
        assert registry.profiles()["pump"] == load_profile(file)
        own = load_profile(file).model_copy(update={"description": "ours"})
        registry.register(own)
        assert EdgeloopHere(service.folder)(*invite).returncode == 0
        assert registry.profiles()["pump"] == own


def test_a_device_that_never_joined_cannot_be_revoked(service):
    done = EdgeloopHere(service.folder)("fleet", "revoke", "nobody")
    assert done.returncode == 1
    assert "no device nobody has joined" in done.stderr


def test_a_persons_stolen_certificate_is_revoked_and_replaced(service):
    edgeloop = EdgeloopHere(service.folder)
    record_people(service.settings, service.registry)
    [viewer] = [p for p in edgeloop.json("fleet", "people") if p["name"] == "viewer"]
    assert viewer["serial"] in edgeloop("fleet", "people").stdout
    done = edgeloop.json("fleet", "revoke-person", viewer["serial"], "--reason", "laptop stolen")
    assert done == {"name": "viewer", "serial": viewer["serial"], "revoked": True}
    refused = edgeloop("fleet", "devices")
    assert refused.returncode == 1
    assert f"the certificate {viewer['serial']} of viewer was revoked" in refused.stderr
    for name in ("viewer.key", "viewer.pem"):
        (service.settings.pki / "people" / name).unlink()
    init_pki(service.settings)  # `edgeloop up` does it
    record_people(service.settings, service.registry)
    states = [(p["name"], p["revoked_at"] is None) for p in edgeloop.json("fleet", "people")]
    assert sorted(states) == [("operator", True), ("viewer", False), ("viewer", True)]


def test_a_certificate_can_be_named_by_its_file(tmp_path):
    with ModelService(tmp_path) as service:
        edgeloop, file = EdgeloopHere(service.folder), service.settings.pki / "people" / "operator.pem"
        assert edgeloop("fleet", "revoke-person", str(file)).stdout.endswith("of operator is revoked\n")
        assert "of operator was revoked" in edgeloop("fleet", "tokens").stderr


def test_look_ups_need_no_service(tmp_path):
    with ModelService(tmp_path) as service:
        service.create_repository("default")
        record_people(service.settings, service.registry)
        edgeloop = EdgeloopHere(service.folder)
        invited = edgeloop("fleet", "invite", "m-9", "--profile", "machine", "-o", str(tmp_path / "m-9.json"))
        assert invited.returncode == 0, invited.stderr
        up = {name: edgeloop.json("fleet", name) for name in ("devices", "tokens", "people")}
    down = {name: edgeloop.json("fleet", name) for name in up}
    assert down == up
    assert [t["device_id"] for t in down["tokens"]] == ["m-9"]
    assert "this is what the registry holds" in edgeloop("fleet", "devices").stderr


def test_without_a_stack_the_command_says_what_to_do(tmp_path):
    done = EdgeloopHere(tmp_path)("fleet", "devices")
    assert done.returncode == 1
    assert "edgeloop up" in done.stderr

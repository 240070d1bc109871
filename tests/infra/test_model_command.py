"""`edgeloop model`: which models there are, what the gates said, what they come from; without a stack too."""

import pytest

from tests.feature_store.fleets import alerts, land, machine_lake
from tests.infra.cli import EdgeloopHere
from tests.model_service.gate_rig import DEVICES, PIN, SPAN, GateRig
from tests.model_service.regimes import CHAMPION, LINEAGE, warmer, worn

FACTORY = CHAMPION.manifest.version


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A state folder with one signed candidate; nothing runs."""
    office = GateRig(tmp_path_factory.mktemp("state"))
    version = office.train(warmer())
    office.gate.step()
    office.write_lineage()
    raised = alerts(
        device_id=["m-01"], boot_id=[1], seq=[70], action=["inspect"], score=[0.7], model_version=[version]
    )
    land(machine_lake(office.settings.lake_root), alerts=raised)
    office.registry.close()
    return EdgeloopHere(office.settings.root.parent), version


def test_no_help_turns_a_form_into_a_picture(tmp_path):
    """`DEVICE:BOOT:SEQ` was shown with a boot in its middle."""
    shown = EdgeloopHere(tmp_path)("model", "lineage", "--help").stdout
    assert "DEVICE:BOOT_ID:SEQ" in shown


def test_the_list_has_factory_models_and_candidates(signed):
    edgeloop, version = signed
    listed = {m["version"]: m for m in edgeloop.json("model", "list")}
    assert (listed[FACTORY]["state"], listed[version]["state"]) == ("factory", "signed")
    assert listed[version]["champion"] == FACTORY
    assert listed[version]["run_id"] == LINEAGE.run_id
    assert set(listed) >= {m["version"] for m in edgeloop.json("model", "list", "--family", "machine")}
    shown = edgeloop("model", "list").stdout
    assert version in shown
    assert "ships with every device" in shown


def test_gates_show_each_number_and_what_it_means(signed):
    edgeloop, version = signed
    found = {v["gate"]: v for v in edgeloop.json("model", "gates", version)}
    assert all(v["passed"] for v in found.values())
    assert found["quality"]["bound"] < found["quality"]["low"] < found["quality"]["value"]
    assert next(iter(found)) == "operators"
    shown = edgeloop("model", "gates", version).stdout
    assert found["quality"]["says"] in shown
    assert "REFUSED" not in shown


def test_a_refusal_says_which_gate_and_why(tmp_path):
    office = GateRig(tmp_path)
    version = office.train(worn(0.3), moved=("vibration",))
    office.gate.step()
    office.registry.close()
    edgeloop = EdgeloopHere(tmp_path)
    assert "REFUSED" in edgeloop("model", "gates", version).stdout
    [refused] = [m for m in edgeloop.json("model", "list") if m["state"] == "refused"]
    assert "bearing_wear" in refused["detail"]


def test_lineage_leads_from_a_model_to_its_rows(signed):
    edgeloop, version = signed
    found = edgeloop.json("model", "lineage", version)
    parts = {p["part"]: p for p in found["rows"]}
    assert sum(p["rows"] for p in parts.values()) <= DEVICES * len(SPAN)
    assert parts["train"]["devices"] == DEVICES
    assert found["manifest"]["lineage"]["pin"] == PIN
    shown = edgeloop("model", "lineage", version).stdout
    assert PIN in shown
    assert "holdout" in shown


def test_lineage_leads_from_a_row_to_the_models_it_made_and_back(signed):
    edgeloop, version = signed
    [made] = edgeloop.json("model", "lineage", "--row", f"m-03:1:{SPAN.start}")
    assert (made["model_version"], made["part"]) == (version, "train")
    assert edgeloop.json("model", "lineage", "--row", "m-03:1:5") == []
    assert "no model" in edgeloop("model", "lineage", "--row", "m-03:1:5").stdout


def test_lineage_leads_from_an_alarm_to_training_rows(signed):
    edgeloop, version = signed
    found = edgeloop.json("model", "lineage", "--alarm", "m-01:1:70")
    assert found["alarm"]["model_version"] == version
    assert {p["part"] for p in found["model"]["rows"]} == {"train", "holdout"}
    missing = edgeloop("model", "lineage", "--alarm", "m-01:1:71")
    assert missing.returncode == 1
    assert "no alarm began" in missing.stderr


def test_show_says_where_a_model_stands(signed):
    edgeloop, version = signed
    facts = edgeloop.json("model", "show", version)
    assert facts["run"]["moved"] == ["temperature"]
    assert "parameters" not in facts["manifest"]
    assert "signed" in edgeloop("model", "show", version).stdout
    assert edgeloop.json("model", "show", FACTORY)["state"] == "factory"


def test_misuse_and_unknown_names_say_what_to_do(signed, tmp_path):
    edgeloop, version = signed
    assert edgeloop("model", "lineage").returncode == 2
    assert edgeloop("model", "lineage", version, "--row", "a:1:2").returncode == 2
    unknown = edgeloop("model", "gates", "machine-9.00000000")
    assert unknown.returncode == 1
    assert version in unknown.stderr
    assert "DEVICE:BOOT_ID:SEQ" in edgeloop("model", "lineage", "--row", "m-03").stderr
    nothing = EdgeloopHere(tmp_path)("model", "list")
    assert nothing.returncode == 1
    assert "edgeloop up" in nothing.stderr

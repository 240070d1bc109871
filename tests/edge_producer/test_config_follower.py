"""A device takes configurations over at their instant, keeps and takes them back; attacks named.

The rig: `UpdaterRig` under `PLANNED` at a `ConfigCloud`, which signs with real keys and serves real TLS.
`window` is the device's next window, with an event time to order.
"""

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.config_switch import FEW_FAILURES
from edge_producer.updates import config_trial
from edge_producer.updates.resources import UpdaterResources
from model_service.trust.policy import set_policy
from schemas.bundle_archive import pack
from schemas.channel_documents import Release
from schemas.config_manifest import CONFIG_MEMBERS, ConfigBundle, no_config
from schemas.config_spec import ParameterSpec
from schemas.errors import BundleError
from schemas.updates import Attack
from tests.edge_producer.config_cloud import PARAMETERS, PLAN, PLANNED, ConfigCloud, config
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.simulators.lossy_disk import LossyDisk, PowerCut
from tests.simulators.update_service import candidate

NONE = no_config(PLAN).version
FAR = datetime(2126, 1, 1, tzinfo=UTC)


@pytest.fixture
def cloud(tmp_path):
    with ConfigCloud(tmp_path / "cloud") as service:
        service.join(tmp_path / "join", "m-1")
        yield service


@pytest.fixture
def start(tmp_path):
    """Starts the device's process, again if it was started before."""
    opened = []

    def begin(profile=PLANNED, **given):
        while opened:
            opened.pop().close()
        resources = replace(UpdaterResources.of(profile), **given)
        opened.append(UpdaterRig(edge_settings(tmp_path), profile, resources=resources))
        return opened[0]

    yield begin
    while opened:
        opened.pop().close()


def shown(rig):
    return rig.agent.status["configs"][PLAN]


def driven(rig, *, windows=True, **wanted):
    """Windows and steps until the status shows this and all of it is reported."""

    def done():
        told = shown(rig)
        return all(told[k] == v for k, v in wanted.items()) and not rig.agent.status["unreported"]

    rig.drive(done, what=str(wanted), windows=windows)
    return shown(rig)


def decided_at(rig, end):
    """Parameters by which the device decides a window that ends then."""
    rig.devices["m-1"].process(replace(next(rig.sources["m-1"]), end=end))
    return rig.devices["m-1"].parameters


def in_force(cloud, start, bundle=None):
    """A device that decides by a configuration, and its release."""
    bundle = bundle or config()
    release = cloud.sign_config(bundle)
    cloud.name_config(release)
    rig = start()
    driven(rig, version=release.version, result="committed")
    return rig, release


def test_a_signed_configuration_comes_into_force_and_is_reported(cloud, start):
    bundle = config()
    channel = cloud.name_config(cloud.sign_config(bundle))
    rig = start()
    driven(rig, version=bundle.manifest.version, result="committed")
    rig.sense()
    assert rig.devices["m-1"].parameters == {"green_s": (20.0, 30.0), "offset_s": 7.0}
    newest = cloud.reports["m-1"][-1]
    assert (newest.attempted.version, newest.rollout_id) == (bundle.manifest.version, channel.rollout_id)
    assert {i.family: i.version for i in newest.installed} == {
        "machine": cloud.factory.version,
        PLAN: bundle.manifest.version,
    }


def test_the_first_window_that_ends_at_the_instant_is_the_first_decided_by_it(cloud, start):
    release = cloud.sign_config(config(valid_from=FAR))
    cloud.name_config(release)
    rig = start()
    told = driven(rig, wanted=release.version, state="staged")
    assert (told["version"], told["switch_at"]) == (NONE, FAR.isoformat())
    second = timedelta(seconds=1)
    assert decided_at(rig, FAR - second) == {}
    assert decided_at(rig, FAR) == {"green_s": (20.0, 30.0), "offset_s": 7.0}
    driven(rig, windows=False, version=release.version, wanted="", result="committed")


def test_what_is_held_survives_restarts_without_a_network_and_switches_at_the_same_instant(cloud, start):
    old_rig, old = in_force(cloud, start)
    new = cloud.sign_config(config(2, (40.0, 40.0), valid_from=FAR))
    cloud.name_config(new, baseline=old)
    driven(old_rig, wanted=new.version, state="staged")
    cloud.down = True
    rig = start()
    assert decided_at(rig, FAR - timedelta(seconds=1))["green_s"] == (20.0, 30.0)
    assert decided_at(rig, FAR)["green_s"] == (40.0, 40.0)
    again = start()
    assert decided_at(again, FAR + timedelta(seconds=1))["green_s"] == (40.0, 40.0)


def test_all_devices_of_a_document_switch_at_one_instant_which_a_slow_clock_does_not_hold_up(cloud, start):
    manifest = config(lead_s=3600.0).manifest
    issued = datetime(2026, 11, 1, tzinfo=UTC)
    assert manifest.switch_at(issued) == issued + timedelta(hours=1)
    assert manifest.switch_at(issued, security=True) == issued
    assert config(valid_from=FAR).manifest.switch_at(issued) == FAR
    release = cloud.sign_config(config())
    cloud.name_config(release, issued=datetime.now(UTC) - timedelta(hours=1))
    rig = start()  # its windows end in January: by their times the instant never comes
    driven(rig, version=release.version)


def test_the_channel_takes_a_configuration_back_and_the_model_stays(cloud, start):
    rig, first = in_force(cloud, start)
    second = cloud.sign_config(config(2, (40.0, 40.0)))
    cloud.name_config(second, baseline=first)
    driven(rig, version=second.version)
    model = rig.agent.switch.models.active
    cloud.name_config(first, baseline=first, reason="rollback")
    driven(rig, version=first.version, result="committed")
    cloud.name_config(no_config(PLAN), reason="rollback")
    driven(rig, version=NONE)
    rig.sense()
    assert rig.devices["m-1"].parameters == {}
    assert rig.agent.switch.models.active is model


def test_what_is_held_is_dropped_when_the_channel_wants_what_runs(cloud, start):
    rig, first = in_force(cloud, start)
    held = cloud.sign_config(config(2, (40.0, 40.0), valid_from=FAR))
    cloud.name_config(held, baseline=first)
    driven(rig, wanted=held.version)
    cloud.name_config(first, reason="rollback")
    driven(rig, wanted="", version=first.version)
    assert decided_at(rig, FAR)["green_s"] == (20.0, 30.0)


def other_bounds():
    wider = (PARAMETERS[0].model_copy(update={"max": 999.0}), PARAMETERS[1])
    return config(2, (900.0, 30.0), parameters=wider)


REFUSED = {
    "another group": (lambda: config(2, group="other"), Attack.MIX_AND_MATCH, "group other"),
    "another profile": (lambda: config(2, profile="pump"), Attack.MIX_AND_MATCH, "profile pump"),
    "other bounds": (other_bounds, Attack.UNSAFE_CONTENT, "whose bounds count"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_signed_configuration_that_is_not_for_this_device_is_refused(cloud, start, case):
    make, attack, says = REFUSED[case]
    rig, first = in_force(cloud, start)
    cloud.name_config(cloud.sign_config(make()), baseline=first)
    told = driven(rig, result="no_change_refused")
    assert (told["attack"], told["version"]) == (attack, first.version)
    assert says in told["detail"]


def test_values_outside_their_bounds_are_refused_whoever_signed_them(cloud, start):
    rig, first = in_force(cloud, start)
    bundle = config(2)
    files = {**bundle.files, "config.json": bundle.files["config.json"].replace(b"20.0", b"61.0")}
    cloud.name_config(cloud.sign_config(bundle, data=pack(files, CONFIG_MEMBERS)), baseline=first)
    told = driven(rig, result="no_change_refused", attack=Attack.UNSAFE_CONTENT)
    assert told["version"] == first.version


ATTACKS = {
    "bytes": Attack.TAMPERED_ARTIFACT,
    "unsigned": Attack.UNSIGNED_INSTRUCTION,
    "a model": Attack.MIX_AND_MATCH,
    "floor": Attack.BELOW_FLOOR,
    "revoked": Attack.REVOKED_CONTENT,
}


def test_a_bomb_in_an_artifact_is_refused_before_it_is_parsed(cloud, start):
    rig, first = in_force(cloud, start)
    bundle = config(2)
    files = {**bundle.files, "config.json": bundle.files["config.json"] + b" " * 9_000_000}
    data = pack(files, CONFIG_MEMBERS)
    assert len(data) < 10_000
    cloud.name_config(cloud.sign_config(bundle, data=data), baseline=first)
    told = driven(rig, result="no_change_refused", attack=Attack.UNSAFE_CONTENT)
    assert "bytes unpacked" in told["detail"]
    assert told["version"] == first.version


@pytest.mark.sliced(one_of=3)
@pytest.mark.parametrize("what", ATTACKS)
def test_attacks_on_a_configuration_are_named_and_touch_neither_it_nor_the_model(cloud, start, what):
    rig, first = in_force(cloud, start)
    second = cloud.sign_config(config(2, (40.0, 40.0)))
    model = cloud.sign(candidate(1))
    attack = ATTACKS[what]
    if what == "bytes":
        cloud.artifact_filter = lambda data: data if len(data) > 10_000 else data[:-1] + bytes([data[-1] ^ 1])
    elif what == "unsigned":
        second = Release(version=f"{PLAN}-3.00000003", sha256="3" * 64)
    elif what == "a model":
        custom = config(3).manifest.custom().model_copy(update={"kind": ""})
        second = cloud.sign_config(config(3), custom=custom)
    elif what == "floor":
        set_policy(cloud.settings, floors={PLAN: 3})
    else:
        set_policy(cloud.settings, revoke=[second.sha256])
    cloud.name_config(second, baseline=first, model=model)
    told = driven(rig, result="no_change_refused", attack=attack)
    assert told["version"] == first.version
    rig.drive(lambda: rig.version == model.version, what="the model goes on all the same")
    if what == "bytes":
        cloud.artifact_filter = lambda data: data
        driven(rig, version=second.version)  # the way was bad, not the configuration
    assert any(r.attack == attack and r.state != "trial" for r in cloud.reports["m-1"])


def test_a_device_that_the_table_does_not_know_puts_it_off_and_that_is_no_failure(cloud, start):
    cloud.name_config(cloud.sign_config(config(offsets={"m-2": 1.0})))
    rig = start()
    told = driven(rig, result="no_change_deferred")
    assert (told["version"], told["attack"]) == (NONE, "")
    assert "no table for m-1" in told["detail"]


def test_a_configuration_that_the_decision_function_does_not_take_is_refused(cloud, start):
    def dry_call(device_id, parameters):
        assert device_id == "m-1"
        raise ValueError(f"green of {parameters['green_s'][0]:g} s is none of mine")

    cloud.name_config(cloud.sign_config(config()))
    told = driven(start(dry_call=dry_call), result="no_change_refused")
    assert "green of 20 s is none of mine" in told["detail"]


def test_a_dry_call_that_hangs_holds_up_neither_updater_nor_model(cloud, start, monkeypatch):
    monkeypatch.setattr(config_trial, "DRY_CALL_S", 0.05)
    ends = threading.Event()
    cloud.name_config(cloud.sign_config(config()))
    told = driven(start(dry_call=lambda *_: ends.wait()), result="no_change_refused")
    ends.set()
    assert "no answer within" in told["detail"]


def test_a_configuration_under_which_decisions_fail_is_taken_back_and_not_tried_again(cloud, start):
    rig, first = in_force(cloud, start)
    second = cloud.sign_config(config(2, (40.0, 40.0)))
    cloud.name_config(second, baseline=first)
    driven(rig, version=second.version)
    switch = rig.updater.configs
    for _ in range(FEW_FAILURES - 1):
        switch.decided("m-1", well=False)
    switch.decided("m-1", well=True)
    rig.agent.step()
    assert shown(rig)["version"] == second.version
    for _ in range(FEW_FAILURES):
        switch.decided("m-1", well=False)
    told = driven(rig, state="restored")
    assert told["version"] == first.version
    rig.sense()
    assert rig.devices["m-1"].parameters["green_s"] == (20.0, 30.0)
    assert cloud.reports["m-1"][-1].attempted.version == second.version
    assert start().devices["m-1"].parameters["green_s"] == (20.0, 30.0)
    rig = start()
    rig.drive(rig.agent.checked.is_set)
    assert shown(rig)["version"] == first.version
    cloud.name_config(second, baseline=first)  # a newer document may have it tried again
    driven(rig, version=second.version)


def test_a_damaged_artifact_means_the_one_before_and_a_new_fetch(cloud, start, tmp_path):
    rig, first = in_force(cloud, start)
    second = cloud.sign_config(config(2, (40.0, 40.0)))
    cloud.name_config(second, baseline=first)
    driven(rig, version=second.version)
    rig.close()
    [kept] = tmp_path.rglob(f"{second.sha256}.bundle")
    kept.write_bytes(b"x")
    cloud.down = True
    rig = start()
    assert rig.devices["m-1"].parameters["green_s"] == (20.0, 30.0)
    cloud.down = False
    driven(rig, version=second.version)


def test_a_damaged_record_means_no_configuration_and_lets_no_older_document_in(cloud, start, tmp_path):
    rig, first = in_force(cloud, start)
    seq = shown(rig)["seq"]
    rig.close()
    [record] = tmp_path.rglob("configs/*/state.json")
    record.write_bytes(b"{half a rec")
    cloud.down = True
    rig = start()
    assert (shown(rig)["version"], shown(rig)["seq"]) == (NONE, seq)
    cloud.down = False
    driven(rig, version=first.version)


def test_a_profile_without_configurations_keeps_nothing_and_ignores_what_a_channel_names(
    cloud, start, tmp_path
):
    """As a device of 0.2.0: it reads its own family in a document, and passes over targets with a kind."""
    cloud.name_config(cloud.sign_config(config()), model=cloud.sign(candidate(1)))
    rig = start(quick_machine())
    rig.settle("machine-1." + candidate(1).manifest.version.rpartition(".")[2])
    assert "configs" not in rig.agent.status
    assert not list(tmp_path.rglob("configs"))


def test_bounds_are_of_every_number():
    spec = ParameterSpec(name="x", unit="s", min=0.0, max=1.0, shape=(2, 2))
    manifest = config().manifest.model_copy(update={"parameters": (spec,)})
    good = ConfigBundle.made(manifest, {"x": [[0, 1], [0.5, 1.0]]}, 1)
    assert good.values == {"x": [[0.0, 1.0], [0.5, 1.0]]}
    for wrong in ([[0, 1]], [[0, 1], [0, 2]], [[0, 1], [0, float("nan")]], [[0, 1], [0, True]], 1.0, None):
        with pytest.raises(BundleError):
            ConfigBundle.made(manifest, {"x": wrong}, 1)
    for values in ({}, {"x": [[0, 1], [0, 1]], "y": 1.0}):
        with pytest.raises(BundleError):
            ConfigBundle.made(manifest, values, 1)


@pytest.mark.sliced(one_of=6)
@pytest.mark.faults
@pytest.mark.parametrize("begin", range(6))
def test_the_power_may_go_before_any_step_of_a_switch(tmp_path, begin):
    """The same switch again and again, cut at every sixth step of the disk from ``begin`` on."""
    with ConfigCloud(tmp_path / "cloud") as cloud:
        first, second = cloud.sign_config(config()), cloud.sign_config(config(2, (40.0, 40.0)))
        greens, cut, whole = set(), begin, False
        while not whole:
            cut += 6
            folder = tmp_path / f"run-{cut}"
            cloud.join(folder / "join", "m-1")
            cloud.name_config(first)
            settings = edge_settings(folder)
            with UpdaterRig(settings, PLANNED) as rig:
                driven(rig, version=first.version)
            cloud.name_config(second, baseline=first)
            disk = LossyDisk(settings.updates_dir, die_before=cut)
            try:
                with UpdaterRig(settings, PLANNED, disk) as rig:
                    driven(rig, version=second.version)
                    whole = disk.steps < cut
            except PowerCut:
                whole = False
            if whole:
                disk.close()
                break
            disk.power_cut()
            cloud.down = True
            with UpdaterRig(settings, PLANNED, disk) as rig:
                greens.add(tuple(decided_at(rig, datetime.now(UTC) + timedelta(days=1)).get("green_s", ())))
            cloud.down = False
            with UpdaterRig(settings, PLANNED, disk) as rig:
                driven(rig, version=second.version)
            disk.close()
        assert greens == {(20.0, 30.0), (40.0, 40.0)}

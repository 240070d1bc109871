"""A device follows its group's document on profiles, over real TLS before a real repository; attacks named.

The rig: `UpdaterRig` at an `UpdateService`; `Cloud` signs versions and publishes documents with the engine's
key, as an engine that was taken over could. `boundary` is what the sensing loop does between two windows.
"""

from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.profile_switch import RunningProfile
from feature_store.version_store import VersionStore
from model_service.trust.keys import load_online_key
from model_service.trust.metadata import newer, sign, target_file
from model_service.trust.profile_channels import publish_profile_channel
from model_service.trust.profile_signing import sign_profile
from model_service.trust.roles import ROLE_LIFETIME
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.profile_channel import PROFILE_CHANNEL_ROLE, ProfileChannel, WantedVersion, profile_channel_path
from schemas.updates import Attack, ProfileOutcome
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings, quick_machine
from tests.simulators.update_service import UpdateService, candidate

MACHINE = quick_machine()


def with_p(p):
    return MACHINE.model_copy(update={"filter": MACHINE.filter.model_copy(update={"p": p})})


class Cloud(UpdateService):
    """Signs and names versions of `machine`."""

    profile_seq = 0

    def sign_version(self, profile, *, authority="policy", groups=("default",)):
        pushed = sign_profile(self.settings, profile, groups, authority)
        return VersionStore(self.settings.lake_root).signed(pushed.version).statement

    def name(self, target, *, baseline=None, cohort=EVERYBODY, seq=None, checked=True):
        """Publish a document; unchecked: whatever it says."""
        self.profile_seq = self.profile_seq + 1 if seq is None else seq
        now = datetime.now(UTC)
        document = ProfileChannel(
            group="default", seq=self.profile_seq, rollout_id=f"p-{self.profile_seq}", issued=now,
            profiles={"machine": WantedVersion(target=target, baseline=baseline, cohort=cohort)},
            expires=now + timedelta(days=7),
        )  # fmt: skip
        key = load_online_key(self.settings.keys / "engine", PROFILE_CHANNEL_ROLE)
        if checked:
            publish_profile_channel(self.repo, document, key, self.online, self.settings.lake_root)
        else:
            self._force(document, key)
        self.hint()
        return document

    def _force(self, document, key):
        path, data = profile_channel_path("default"), document.model_dump_json().encode()
        entry = target_file(path, data)
        with self.repo.locked() as published:
            following = newer(published.roles[PROFILE_CHANNEL_ROLE], self.repo.now(), ROLE_LIFETIME)
            following.targets[path] = entry
            files = {self.repo.target_file(path, entry.hashes["sha256"]): data}
            self.online.publish(self.repo, published, {PROFILE_CHANNEL_ROLE: sign(following, [key])}, files)


@pytest.fixture
def cloud(tmp_path):
    with Cloud(tmp_path / "cloud") as service:
        service.join(tmp_path / "join", "m-1")
        yield service


@pytest.fixture
def start(tmp_path):
    """Starts the device's process, again if it was started before."""
    opened = []

    def begin(profile=MACHINE):
        while opened:
            opened.pop().close()
        opened.append(UpdaterRig(edge_settings(tmp_path), profile))
        return opened[0]

    yield begin
    while opened:
        opened.pop().close()


def boundary(rig):
    for name, wanted in rig.updater.profiles.wanted.items():
        rig.updater.profiles.taken_over(name, RunningProfile(wanted.profile, wanted.number))


def followed(rig, outcome=ProfileOutcome.APPLIED, seq=None):
    """Steps and boundaries until the device has reported this outcome of the newest document."""

    def done():
        boundary(rig)
        told = rig.agent.status["profile"]
        return (
            told["outcome"] == outcome and seq in {None, told["seq"]} and not rig.agent.status["unreported"]
        )

    rig.drive(done, what=f"{outcome}", windows=False)
    return rig.agent.status["profile"]


def reported(cloud):
    return [r for r in cloud.reports["m-1"] if r.HasField("profile_state")]


def attack(rig, attack, **more):
    told = followed(rig, ProfileOutcome.REFUSED, **more)
    assert told["attack"] == attack, told
    return told["detail"]


def test_a_pushed_version_is_applied_and_reported(cloud, start):
    cloud.name(cloud.sign_version(MACHINE))
    rig = start()
    followed(rig)
    assert (rig.updater.profiles.process.number, rig.updater.profiles.process.profile) == (1, MACHINE)
    two = cloud.sign_version(with_p(0.05), authority="operator")
    cloud.name(two)
    followed(rig, seq=2)
    newest = reported(cloud)[-1]
    assert (newest.profile_state.number, newest.profile_state.digest) == (2, two.sha256)
    assert (newest.attempted.version, newest.result) == (two.release, "committed")
    assert newest.rollout_id == "p-2"


def test_a_process_starts_with_what_it_was_told_and_also_goes_on_without_a_network(cloud, start):
    cloud.sign_version(MACHINE)
    cloud.name(cloud.sign_version(with_p(0.05)))
    rig = start()
    rig.drive(lambda: rig.agent.status["profile"]["outcome"] == "accepted", windows=False)
    cloud.down = True
    again = start()
    assert again.updater.profiles.process.number == 2
    assert again.updater.profiles.process.profile.filter.p == 0.05
    assert start(quick_machine(silent_s=99.0)).updater.profiles.process.number == 2


def test_only_what_a_device_is_told_is_taken_over_and_an_abort_leads_back(cloud, start):
    one, two = cloud.sign_version(MACHINE), cloud.sign_version(with_p(0.05))
    cloud.name(one)
    rig = start()
    followed(rig)
    cloud.name(two, baseline=one, cohort=EVERYBODY.model_copy(update={"share": 0.999999}))
    followed(rig, seq=2)
    assert rig.updater.profiles.process.number == 2
    cloud.name(two, baseline=one, cohort=NOBODY)
    assert "floor" not in followed(rig, seq=3)["detail"]
    assert rig.updater.profiles.process.number == 1


def test_an_engines_key_alone_brings_no_version_that_nobody_signed(cloud, start):
    one = cloud.sign_version(MACHINE)
    cloud.name(one)
    rig = start()
    followed(rig)
    forged = one.model_copy(update={"number": 2, "follows": 1, "sha256": "0" * 64})
    cloud.name(forged, checked=False)
    assert "was named, but not sent" in attack(rig, Attack.MIX_AND_MATCH)
    assert rig.updater.profiles.process.number == 1
    assert reported(cloud)[-1].attack == Attack.MIX_AND_MATCH


def test_a_version_for_another_group_is_refused(cloud, start):
    cloud.sign_version(MACHINE)
    other = cloud.sign_version(with_p(0.05), groups=("other",))
    cloud.name(other, checked=False)
    rig = start()
    assert "not for default" in attack(rig, Attack.MIX_AND_MATCH)
    assert rig.updater.profiles.process.number == 0


def test_an_older_document_is_refused_and_a_restart_does_not_forget_it(cloud, start):
    one, two = cloud.sign_version(MACHINE), cloud.sign_version(with_p(0.05))
    cloud.name(one, seq=4)
    cloud.name(two, seq=5)
    followed(start(), seq=5)
    cloud.name(one, seq=4, checked=False)
    rig = start()
    assert "came after 5" in attack(rig, Attack.REPLAYED_CHANNEL)
    assert rig.updater.profiles.process.number == 2


def test_a_settled_version_is_left_for_no_lower_one(cloud, start):
    one, two = cloud.sign_version(MACHINE), cloud.sign_version(with_p(0.05))
    cloud.name(two)
    rig = start()
    followed(rig)
    cloud.name(two, baseline=one, cohort=NOBODY)
    assert "lies below 2" in attack(rig, Attack.BELOW_FLOOR)
    assert rig.updater.profiles.process.number == 2


def test_models_reach_a_device_that_refuses_every_profile(cloud, start):
    cloud.sign_version(MACHINE)
    cloud.name(cloud.sign_version(with_p(0.05), groups=("other",)), checked=False)
    rig = start()
    attack(rig, Attack.MIX_AND_MATCH)
    release = cloud.sign(candidate(1))
    cloud.instruct(release)
    rig.settle(release.version, 60)
    assert rig.updater.profiles.process.number == 0


def test_a_device_that_cannot_begin_a_boot_says_so_and_goes_on(cloud, start):
    cloud.name(cloud.sign_version(MACHINE))
    rig = start()
    profiles = rig.updater.profiles
    rig.drive(lambda: profiles.wanted, windows=False)
    profiles.failed("m-1", profiles.wanted["m-1"], "ValueError: no")
    rig.drive(lambda: rig.agent.status["profile"]["outcome"] == "failed", windows=False)
    assert (profiles.wanted, profiles.process.number) == ({}, 0)
    assert "ValueError: no" in rig.agent.status["profile"]["detail"]


def test_devices_of_one_process_run_each_what_it_is_told(cloud, tmp_path):
    cloud.join(tmp_path / "join", "m-1")
    cloud.join(tmp_path / "join", "m-2")
    one, two = cloud.sign_version(MACHINE), cloud.sign_version(with_p(0.05))
    cloud.name(two, baseline=one, cohort=SaltedShare(devices=("m-2",)))
    settings = edge_settings(tmp_path, ["m-1", "m-2"])
    rig = UpdaterRig(settings, MACHINE)
    try:

        def all_applied():
            boundary(rig)
            return {a.status["profile"]["outcome"] for a in rig.updater.agents.values()} == {"applied"}

        rig.drive(all_applied, windows=False)
        profiles = rig.updater.profiles
        assert {name: profiles.running(name).number for name in settings.devices} == {"m-1": 1, "m-2": 2}
        assert profiles.process.number == 2
    finally:
        rig.close()

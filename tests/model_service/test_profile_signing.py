"""Versions of profiles are signed by who must, known to the lake first, and published as TUF targets."""

import json
import shutil

import pytest

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from feature_store.version_store import VersionStore
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from model_service.trust.profile_signing import published_bounds, set_bounds, sign_profile, version_path
from schemas.channel_documents import POLICY_PATH
from schemas.cohorts import EVERYBODY
from schemas.errors import OperatorError, ProfileError, ProfileVersionError
from schemas.profile_bounds import DEFAULT_BOUNDS, ValueLimits
from schemas.profile_file import builtin_profiles, find_profile, parse_profile
from schemas.profile_statement import SignedVersion
from schemas.version_chain import LONGEST
from schemas.version_names import VersionName
from tests.simulators.profile_signers import ProfileSigners
from tests.simulators.tuf_repository import Clock, Cloud, Device

TEXT = builtin_profiles()["machine"].read_text()
MACHINE = find_profile("machine")
ONE, TWO = VersionName("machine", 1), VersionName("machine", 2)


def changed(old, new):
    assert old in TEXT
    return parse_profile(TEXT.replace(old, new, 1), "p")


RARER, UNSAFE = changed("p = 0.08", "p = 0.05"), changed('fail_safe = "slow_down"', 'fail_safe = "none"')


class Stack:
    def __init__(self, folder):
        self.clock = Clock()
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake")
        ceremony.init(self.settings, ["machine"], {"default": EVERYBODY}, now=self.clock)
        self.repo = ceremony.open_repository(self.settings, self.clock)

    def push(self, profile, by="operator", groups=("default",), **more):
        return sign_profile(self.settings, profile, groups, by, now=self.clock, **more)

    @property
    def versions(self):
        return VersionStore(self.settings.lake_root)


@pytest.fixture
def stack(tmp_path):
    return Stack(tmp_path)


def test_the_first_version_is_the_policys_and_everyday_ones_an_operators(stack):
    with pytest.raises(ProfileError, match="first version of its name"):
        stack.push(MACHINE)
    assert stack.push(MACHINE, by="policy").version == ONE
    pushed = stack.push(RARER)
    assert (pushed.version, pushed.is_new, pushed.verdict.authority) == (TWO, True, "operator")
    store = stack.versions
    assert store.version(TWO).profile == RARER
    assert store.signed(ONE).signed_by(store.keys()) == {"operator", "policy"}
    assert store.signed(TWO).signed_by(store.keys()) == {"operator"}


def test_a_version_is_a_target_with_the_same_statement(stack):
    stack.push(MACHINE, by="policy")
    raw = json.loads(stack.repo.document(version_path(ONE)))
    assert SignedVersion.from_json(raw) == stack.versions.signed(ONE)
    assert stack.repo.policy() is not None
    assert stack.repo.target(POLICY_PATH) is not None


def test_a_repeated_push_changes_nothing(stack):
    stack.push(MACHINE, by="policy")
    versions = stack.repo.versions()
    assert not stack.push(MACHINE).is_new
    assert stack.repo.versions() == versions


def test_a_push_that_ended_before_its_publication_is_completed_by_the_next(stack):
    stack.push(MACHINE, by="policy")
    before = stack.settings.root.with_name("before")
    shutil.copytree(stack.settings.root, before)
    stack.push(RARER)
    shutil.rmtree(stack.settings.root)
    before.rename(stack.settings.root)
    repo = ceremony.open_repository(stack.settings, stack.clock)
    assert repo.document(version_path(TWO)) is None
    assert not stack.push(RARER).is_new
    assert json.loads(repo.document(version_path(TWO)))["statement"]["number"] == 2


def test_privacy_and_safety_take_the_policy_key(stack):
    stack.push(MACHINE, by="policy")
    with pytest.raises(ProfileError, match="touches privacy or safety"):
        stack.push(UNSAFE)
    shutil.move(stack.settings.offline_keys / "policy.pem", stack.settings.root / "away.pem")
    with pytest.raises(OperatorError, match="policy"):
        stack.push(UNSAFE, by="policy")
    assert stack.versions.newest("machine") == ONE
    assert stack.push(RARER).version == TWO
    shutil.move(stack.settings.root / "away.pem", stack.settings.offline_keys / "policy.pem")
    assert (
        stack.push(changed('fail_safe = "slow_down"', 'fail_safe = "none"'), by="policy").version.number == 3
    )


def test_the_policys_bounds_hold_from_the_next_push_on(stack):
    stack.push(MACHINE, by="policy")
    assert published_bounds(stack.repo) == DEFAULT_BOUNDS
    set_bounds(stack.settings, {"filter.p": ValueLimits(least=0.06, most=0.1)}, now=stack.clock)
    with pytest.raises(ProfileError, match=r"filter\.p = 0\.05 lies outside 0\.06\.\.0\.1"):
        stack.push(RARER)
    pushed = stack.push(changed("p = 0.08", "p = 0.07"))
    assert stack.versions.signed(pushed.version).statement.bounds == 2
    assert stack.repo.policy().seq == 1


def test_an_incompatible_profile_is_not_signed_by_anybody(stack):
    stack.push(MACHINE, by="policy")
    with pytest.raises(ProfileError, match="another name"):
        stack.push(changed("rate_hz = 512.0", "rate_hz = 256.0"), by="policy")
    assert stack.versions.newest("machine") == ONE


def test_a_new_name_is_registered_and_a_known_one_keeps_what_0_2_0_judges_by(stack):
    registry = ProfileRegistry(Lake.open(stack.settings.lake_root))
    registry.register(UNSAFE)
    stack.push(MACHINE, by="policy")
    stack.push(RARER)
    pump = parse_profile(TEXT.replace('name = "machine"', 'name = "pump"', 1), "p")
    stack.push(pump, by="policy")
    assert registry.profiles() == {"machine": UNSAFE, "pump": pump}


def test_to_go_back_is_to_push_the_old_content_under_a_new_number(stack):
    stack.push(MACHINE, by="policy")
    stack.push(RARER)
    assert stack.push(MACHINE).version.number == 3


def test_a_version_for_one_group_enters_no_other_channel(stack):
    stack.push(MACHINE, by="policy")
    with pytest.raises(ProfileVersionError, match="not for plant"):
        stack.versions.enter_channel("plant", ONE)


def test_the_operators_key_can_be_rotated_and_what_it_signed_stays(stack):
    stack.push(MACHINE, by="policy")
    stack.push(RARER)
    ceremony.rotate(stack.settings, "profiles", "operator", now=stack.clock)
    assert stack.versions.version(TWO).profile == RARER
    assert stack.push(MACHINE).version.number == 3


def test_a_device_that_knows_nothing_of_profiles_follows_its_channel_as_before(tmp_path):
    clock = Clock()
    cloud = Cloud(tmp_path, clock)
    device = Device(tmp_path / "device", cloud)
    device.poll()
    for profile, by in ((MACHINE, "policy"), (RARER, "operator")):
        sign_profile(cloud.settings, profile, ("site",), by, now=clock)
    set_bounds(cloud.settings, {"filter.p": ValueLimits(least=0.06)}, now=clock)
    verified = device.verify()
    assert verified.versions["profiles"] == 3
    assert verified.policy == cloud.repo.policy()
    assert device.poll().channel is None


def test_a_chain_that_devices_would_not_verify_to_its_end_needs_the_policy_role(stack):
    signers, store = ProfileSigners(), stack.versions
    Lake.open(stack.settings.lake_root)
    signers.register(store)
    for number in range(1, LONGEST + 1):
        rarer = MACHINE.filter.model_copy(update={"p": 0.1 + number / 1000})
        by = "policy" if number == 1 else "profiles"
        store.put(signers.sign(MACHINE.model_copy(update={"filter": rarer}), number, by=by))
    with pytest.raises(ProfileError, match="devices verify no more"):
        stack.push(RARER)
    assert stack.push(RARER, by="policy").version.number == LONGEST + 1
    assert stack.push(MACHINE).version.number == LONGEST + 2

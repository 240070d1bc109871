"""The lake's versions of profiles: written once, signed by who must, each with a copy."""

import pytest

from feature_store.version_store import VersionStore
from schemas.errors import DamagedLakeError, ProfileVersionError
from schemas.profile_bounds import DEFAULT_BOUNDS, ValueLimits
from schemas.profile_file import builtin_profiles, find_profile, parse_profile
from schemas.profile_statement import SignedVersion
from schemas.version_names import VersionName
from tests.simulators.profile_signers import ProfileSigners

TEXT = builtin_profiles()["machine"].read_text()
MACHINE = find_profile("machine")
RARER = parse_profile(TEXT.replace("p = 0.08", "p = 0.05", 1), "p")
UNSAFE = parse_profile(TEXT.replace('fail_safe = "slow_down"', 'fail_safe = "none"', 1), "p")
ONE, TWO = VersionName("machine", 1), VersionName("machine", 2)


@pytest.fixture
def signers(lake_root):
    made = ProfileSigners()
    made.register(VersionStore(lake_root))
    return made


def test_what_was_put_is_known_to_every_process_and_stays(lake_root, signers):
    store = VersionStore(lake_root)
    store.put(signers.sign(MACHINE, 1))
    store.put(signers.sign(RARER, 2, by="profiles"))
    store.put(signers.sign(MACHINE, 1))
    other = VersionStore(lake_root)
    assert (other.names(), other.history("machine"), other.newest("machine")) == (
        ["machine"],
        [ONE, TWO],
        TWO,
    )
    assert other.version(TWO).profile == RARER
    assert other.version(VersionName("machine", 3)) is None


def test_a_number_is_used_once(lake_root, signers):
    store = VersionStore(lake_root)
    store.put(signers.sign(MACHINE, 1))
    with pytest.raises(ProfileVersionError, match="numbers are used once"):
        store.put(signers.sign(RARER, 1))
    assert VersionStore(lake_root).version(ONE).profile == MACHINE


@pytest.mark.parametrize(
    ("profile", "number", "by", "changes", "why"),
    [
        (MACHINE, 1, "stranger", {}, "nobody who may"),
        (MACHINE, 1, "profiles", {}, "the policy role must sign"),
        (UNSAFE, 2, "profiles", {}, r"decision\.fail_safe touches privacy or safety"),
        (RARER, 2, "profiles", {"follows": 7}, "is not known"),
        (RARER, 2, "profiles", {"follows": 2}, "is not known"),
        (RARER, 2, "profiles", {"bounds": 9}, "bounds 9"),
        (RARER, 2, "policy", {"name": "pump"}, "is of profile machine"),
        (RARER, 2, "policy", {"sha256": "0" * 64}, "not what was signed"),
    ],
)
def test_what_is_not_signed_as_it_must_be_is_not_taken(lake_root, signers, profile, number, by, changes, why):
    store = VersionStore(lake_root)
    store.put(signers.sign(MACHINE, 1))
    with pytest.raises(ProfileVersionError, match=why):
        VersionStore(lake_root).put(signers.sign(profile, number, by=by, **changes))
    assert VersionStore(lake_root).version(TWO) is None


def test_an_operator_signs_within_the_bounds_that_the_statement_names(lake_root, signers):
    store = VersionStore(lake_root)
    store.put(signers.sign(MACHINE, 1))
    tight = {"filter.p": ValueLimits(least=0.06, most=0.1)}
    store.add_bounds(DEFAULT_BOUNDS)
    store.add_bounds(DEFAULT_BOUNDS.model_copy(update={"seq": 2, "limits": tight}))
    assert [b.seq for b in store.bounds()] == [2, 1]
    with pytest.raises(ProfileVersionError, match=r"filter\.p = 0\.05 lies outside"):
        store.put(signers.sign(RARER, 2, by="profiles", bounds=2))
    store.put(signers.sign(RARER, 2, by="profiles", bounds=1))


def test_an_altered_version_is_not_believed_though_its_file_is_whole(lake_root, signers):
    store = VersionStore(lake_root)
    signed = signers.sign(MACHINE, 1)
    raw = SignedVersion(signed.statement, RARER.canonical_form(), signed.signatures)
    with pytest.raises(ProfileVersionError, match="not what was signed"):
        store.put(raw)


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 100])
def test_a_damaged_file_is_replaced_by_its_copy_and_without_one_says_so(lake_root, signers, damage):
    VersionStore(lake_root).put(signers.sign(MACHINE, 1))
    file = lake_root / "_profile_versions/machine/000001.json"
    copy = lake_root / "_copies/_profile_versions/machine/000001.json"
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert VersionStore(lake_root).version(ONE).profile == MACHINE
    assert file.read_bytes() == whole
    file.write_bytes(damage)
    copy.write_bytes(damage)
    with pytest.raises(DamagedLakeError):
        VersionStore(lake_root).version(ONE)


def test_a_channel_takes_only_versions_that_are_for_its_group(lake_root, signers):
    store = VersionStore(lake_root)
    with pytest.raises(ProfileVersionError, match="not in the lake"):
        store.enter_channel("default", ONE)
    store.put(signers.sign(MACHINE, 1))
    with pytest.raises(ProfileVersionError, match="not for other"):
        store.enter_channel("other", ONE)
    store.enter_channel("default", ONE)
    assert VersionStore(lake_root).groups_of(ONE) == ["default"]
    assert VersionStore(lake_root).was_in_channel("default", ONE)
    assert not store.was_in_channel("other", ONE)
    assert not store.was_in_channel("../default", ONE)


def test_a_lake_of_0_2_0_has_no_versions_and_the_bounds_that_ship(lake_root):
    store = VersionStore(lake_root)
    assert (store.names(), store.history("machine"), store.newest("machine")) == ([], [], None)
    assert store.bounds() == [DEFAULT_BOUNDS]

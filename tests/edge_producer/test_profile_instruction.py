"""Which version of its profile a device follows, and which attacks it names and refuses.

The rig: three versions of `machine`, signed by an operator or the policy role; `wanted` makes a document of
a group, `decided` asks a device that runs version 1 of it unless told otherwise.
"""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from edge_producer.trust.profile_instruction import ProfileFacts, VersionRules, decide_profile
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.errors import TrustError
from schemas.profile_bounds import DEFAULT_BOUNDS, ValueLimits
from schemas.profile_channel import ProfileChannel, WantedVersion
from schemas.profile_file import builtin_profiles, find_profile, parse_profile
from schemas.profile_statement import SignedVersion
from schemas.updates import Attack
from tests.simulators.profile_signers import ISSUED, ProfileSigners

TEXT = builtin_profiles()["machine"].read_text()
MACHINE = find_profile("machine")
NOW = ISSUED + timedelta(days=1)


def changed(old, new):
    assert old in TEXT
    return parse_profile(TEXT.replace(old, new, 1), "p")


RARER, SAFER = changed("p = 0.08", "p = 0.05"), changed("enter = 0.6", "enter = 0.55")
UNSAFE = changed('fail_safe = "slow_down"', 'fail_safe = "none"')
SIGNERS = ProfileSigners()
ONE, TWO, THREE = (
    SIGNERS.sign(MACHINE, 1),
    SIGNERS.sign(RARER, 2, by="profiles"),
    SIGNERS.sign(SAFER, 3, by="profiles"),
)
RULES = VersionRules(SIGNERS.keys, [DEFAULT_BOUNDS])
DEVICE = ProfileFacts("m-1", "default", MACHINE, 1, 0, 0, frozenset({"rotating_machine"}))
OF_TWO = replace(DEVICE, profile=RARER, number=2, highest_seq=7)


def wanted(target, *, baseline=None, cohort=EVERYBODY, **more):
    version = WantedVersion(target=target.statement, baseline=baseline and baseline.statement, cohort=cohort)
    return ProfileChannel(
        **{
            "group": "default", "seq": 7, "rollout_id": "p-1", "profiles": {"machine": version},
            "issued": ISSUED, "expires": ISSUED + timedelta(days=30), **more,
        }
    )  # fmt: skip


def decided(channel, *sent, facts=DEVICE, rules=RULES, now=NOW):
    return decide_profile(channel, sent, facts, rules, now)


def attack(channel, *sent, **more):
    with pytest.raises(TrustError) as caught:
        decided(channel, *sent, **more)
    return caught.value.attack


def test_a_device_follows_the_version_that_its_channel_names():
    found = decided(wanted(TWO), ONE, TWO)
    assert (found.version.number, found.version.profile, found.floor) == (2, RARER, 2)
    assert decided(wanted(TWO), ONE, TWO, facts=OF_TWO).version is None


def test_a_device_that_missed_versions_goes_to_the_newest_over_all_of_them():
    assert decided(wanted(THREE), THREE, ONE, TWO).version.number == 3


def test_a_device_of_a_file_takes_a_first_version_with_its_own_content_and_starts_under_it():
    assert decided(wanted(ONE), ONE, facts=replace(DEVICE, number=0)).version.number == 1


def test_only_the_cohort_changes_and_nobody_settles_before_all_do():
    channel = wanted(TWO, baseline=ONE, cohort=SaltedShare(devices=("m-2",)))
    assert decided(channel, ONE, TWO).version is None
    found = decided(channel, ONE, TWO, facts=replace(DEVICE, device_id="m-2"))
    assert (found.version.number, found.floor) == (2, 0)
    assert decided(wanted(TWO, cohort=NOBODY), ONE, TWO).version is None


def test_an_aborted_rollout_leads_back_to_the_baseline_and_a_settled_one_does_not():
    back = wanted(TWO, baseline=ONE, cohort=NOBODY, seq=8)
    assert decided(back, ONE, TWO, facts=OF_TWO).version.number == 1
    assert attack(back, ONE, TWO, facts=replace(OF_TWO, floor=2)) is Attack.BELOW_FLOOR


def test_another_profiles_versions_concern_nobody_else():
    pump = parse_profile(TEXT.replace('name = "machine"', 'name = "pump"', 1), "p")
    other = SIGNERS.sign(pump, 1)
    channel = wanted(TWO, profiles={"pump": WantedVersion(target=other.statement)})
    assert decided(channel, other).version is None
    with pytest.raises(ValueError, match="of other profiles"):
        wanted(TWO, profiles={"machine": WantedVersion(target=other.statement)})


def test_forged_versions_are_refused():
    stranger = SIGNERS.sign(RARER, 2, by="stranger")
    assert attack(wanted(stranger), ONE, stranger) is Attack.UNSIGNED_INSTRUCTION
    swapped = SignedVersion(TWO.statement, UNSAFE.canonical_form(), TWO.signatures)
    assert attack(wanted(TWO), ONE, swapped) is Attack.UNSIGNED_INSTRUCTION
    borrowed = SignedVersion(THREE.statement, THREE.content, TWO.signatures)
    assert attack(wanted(THREE), ONE, TWO, borrowed) is Attack.UNSIGNED_INSTRUCTION
    first = SIGNERS.sign(UNSAFE, 1, by="profiles")
    assert attack(wanted(first), first) is Attack.UNSIGNED_INSTRUCTION


def test_an_operator_cannot_change_safety_nor_leave_the_bounds_also_old_ones():
    unsafe = SIGNERS.sign(UNSAFE, 2, by="profiles")
    assert attack(wanted(unsafe), ONE, unsafe) is Attack.UNSIGNED_INSTRUCTION
    assert decided(wanted(SIGNERS.sign(UNSAFE, 2)), ONE, SIGNERS.sign(UNSAFE, 2)).version.number == 2
    narrow = DEFAULT_BOUNDS.model_copy(update={"seq": 2, "limits": {"filter.p": ValueLimits(least=0.06)}})
    rules = replace(RULES, bounds=[narrow, DEFAULT_BOUNDS])
    assert attack(wanted(TWO), ONE, TWO, rules=rules) is Attack.UNSIGNED_INSTRUCTION


def test_a_rolled_back_document_or_version_is_refused():
    assert attack(wanted(TWO, seq=6), ONE, TWO, facts=OF_TWO) is Attack.REPLAYED_CHANNEL
    assert attack(wanted(ONE, seq=8), ONE, facts=OF_TWO) is Attack.REPLAYED_CHANNEL
    assert attack(wanted(ONE, seq=8), ONE, facts=replace(OF_TWO, floor=2)) is Attack.BELOW_FLOOR


def test_what_is_for_another_group_is_refused():
    assert attack(wanted(TWO, group="other"), ONE, TWO) is Attack.MIX_AND_MATCH
    other = SIGNERS.sign(RARER, 2, by="profiles", groups=("other",))
    assert attack(wanted(other), ONE, other) is Attack.MIX_AND_MATCH


def test_an_expired_document_changes_nothing():
    assert attack(wanted(TWO), ONE, TWO, now=ISSUED + timedelta(days=30)) is Attack.FREEZE


def test_a_version_that_was_not_sent_is_not_guessed():
    assert attack(wanted(TWO), ONE) is Attack.MIX_AND_MATCH
    assert attack(wanted(TWO), TWO) is Attack.UNSIGNED_INSTRUCTION  # what it follows is missing


def test_of_two_contents_signed_under_one_number_the_one_that_is_named_counts():
    twin = SIGNERS.sign(SAFER, 2, by="profiles")
    assert attack(wanted(TWO), ONE, twin) is Attack.MIX_AND_MATCH


def test_an_incompatible_version_is_refused_whoever_signed_it():
    faster = SIGNERS.sign(changed("rate_hz = 512.0", "rate_hz = 256.0"), 2)
    assert attack(wanted(faster), ONE, faster) is Attack.UNSAFE_CONTENT


def test_ranges_are_taken_only_where_the_devices_own_golden_windows_score_the_same():
    wider = SIGNERS.sign(changed("max = 200.0\n", "max = 210.0\n"), 2)
    assert attack(wanted(wider), ONE, wider) is Attack.UNSAFE_CONTENT
    same = replace(RULES, scored=lambda _: np.ones(3))
    assert decided(wanted(wider), ONE, wider, rules=same).version.number == 2


def test_a_version_that_names_an_unknown_source_is_refused():
    unknown = SIGNERS.sign(changed('generator = "rotating_machine"', 'generator = "perpetual"'), 2)
    assert attack(wanted(unknown), ONE, unknown) is Attack.UNSAFE_CONTENT

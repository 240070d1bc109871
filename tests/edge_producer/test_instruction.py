"""What a device is told to run, at each bound: pure decisions over documents that are taken as verified."""

from datetime import UTC, datetime, timedelta

import pytest

from edge_producer.trust import DeviceFacts, VerifiedState, decide
from edge_producer.trust.verifier import VerifiedTarget
from schemas.channel_documents import (
    BROAD,
    CANARY,
    ChannelDocument,
    FleetPolicy,
    Release,
    TargetCustom,
    artifact_path,
)
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.errors import TrustError
from schemas.updates import Attack

NOW = datetime(2026, 6, 1, tzinfo=UTC)
FACTORY = Release(version="machine-0.00000000")
MODEL = Release(version="machine-4.11111111", sha256="1" * 64)
TICK = timedelta(microseconds=1)


def channel(ring=BROAD, seq=5, target=MODEL, **changes) -> ChannelDocument:
    document = ChannelDocument(
        group="site", ring=ring, seq=seq, rollout_id="r", target={"machine": target},
        baseline={"machine": FACTORY}, cohort=EVERYBODY, issued=NOW, expires=NOW + timedelta(days=1),
    )  # fmt: skip
    return document.model_copy(update=changes)


def policy_of(**changes) -> FleetPolicy:
    return FleetPolicy(seq=1, issued=NOW, expires=NOW + timedelta(days=1)).model_copy(update=changes)


def custom_of(**changes) -> TargetCustom:
    return TargetCustom(family="machine", version=MODEL.version, opset=17).model_copy(update=changes)


def verified(*channels: ChannelDocument, policy=None, custom=None, sha256=MODEL.sha256):
    signed = VerifiedTarget(10, sha256, custom or custom_of())
    listed = {artifact_path("machine", MODEL.version): signed}
    return VerifiedState({c.ring: c for c in channels}, policy or policy_of(), listed)


def facts(highest_seq=0, hardware="x86", max_opset=21, installed=FACTORY) -> DeviceFacts:
    return DeviceFacts(
        "dev-1", "site", hardware, ("machine",), highest_seq, {"machine": installed}, max_opset, "1.32.0"
    )


def attack_seen(state: VerifiedState, device: DeviceFacts | None = None, now=NOW) -> Attack | None:
    """What a decision calls the answer; None: it follows it."""
    try:
        decide(state, device or facts(), now)
    except TrustError as exc:
        return exc.attack
    return None


def test_a_device_is_told_its_release_and_what_of_it_changes():
    told = decide(verified(channel()), facts(), NOW)
    assert (told.channel, dict(told.wanted), told.changes) == (channel(), {"machine": MODEL}, ("machine",))
    settled = decide(verified(channel()), facts(installed=MODEL), NOW)
    assert (dict(settled.wanted), settled.changes) == ({"machine": MODEL}, ())


def test_a_family_that_the_device_does_not_run_is_none_of_its_changes():
    two = {"machine": MODEL, "pump": Release(version="pump-1.22222222", sha256="2" * 64)}
    told = decide(verified(channel().model_copy(update={"target": two, "baseline": two})), facts(), NOW)
    assert told.changes == ("machine",)


def test_documents_hold_until_the_instant_at_which_they_expire():
    short = {"expires": NOW + TICK}
    assert attack_seen(verified(channel(**short))) is None
    assert attack_seen(verified(channel(**short)), now=NOW + TICK) is Attack.FREEZE
    assert attack_seen(verified(channel(), policy=policy_of(**short))) is None
    assert attack_seen(verified(channel(), policy=policy_of(**short)), now=NOW + TICK) is Attack.FREEZE


def test_the_same_document_again_is_followed_and_an_older_one_is_not():
    assert attack_seen(verified(channel(seq=5)), facts(highest_seq=5)) is None
    assert attack_seen(verified(channel(seq=5)), facts(highest_seq=6)) is Attack.REPLAYED_CHANNEL


def test_no_document_is_fine_only_for_a_device_that_never_had_one():
    assert decide(verified(), facts(highest_seq=0), NOW).channel is None
    assert attack_seen(verified(), facts(highest_seq=1)) is Attack.REPLAYED_CHANNEL


@pytest.mark.parametrize(("floor", "seen"), [(3, None), (4, None), (5, Attack.BELOW_FLOOR)])
def test_a_release_at_the_floor_may_run_and_one_below_it_may_not(floor, seen):
    assert attack_seen(verified(channel(), policy=policy_of(floors={"machine": floor}))) is seen
    assert attack_seen(verified(channel(), policy=policy_of(floors={"pump": floor}))) is None


def test_only_a_revoked_release_is_revoked():
    assert (
        attack_seen(verified(channel(), policy=policy_of(revoked=(MODEL.sha256,)))) is Attack.REVOKED_CONTENT
    )
    assert attack_seen(verified(channel(), policy=policy_of(revoked=("2" * 64,)))) is None


def test_what_runs_already_is_held_to_neither_floor_nor_hardware():
    strict = policy_of(floors={"machine": 9}, revoked=(MODEL.sha256,))
    other = custom_of(hardware=("arm",), opset=99)
    assert attack_seen(verified(channel(), policy=strict, custom=other), facts(installed=MODEL)) is None


def test_a_factory_release_is_never_refused():
    back = channel(target=FACTORY)
    strict = policy_of(floors={"machine": 9})
    assert attack_seen(verified(back, policy=strict), facts(installed=MODEL)) is None


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"opset": 21}, None),
        ({"opset": 22}, Attack.WRONG_HARDWARE),
        ({"hardware": ("x86", "arm")}, None),
        ({"hardware": ("arm",)}, Attack.WRONG_HARDWARE),
        ({"hardware": ()}, None),
        ({"runtime": ">=1.32,<2"}, None),
        ({"runtime": "<1.32"}, Attack.WRONG_HARDWARE),
        ({"runtime": ""}, None),
        ({"family": "pump"}, Attack.MIX_AND_MATCH),
        ({"version": "machine-5.11111111"}, Attack.MIX_AND_MATCH),
    ],
)
def test_a_release_fits_only_the_hardware_runtime_and_name_that_were_signed(changes, seen):
    assert attack_seen(verified(channel(), custom=custom_of(**changes))) is seen


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"hardware": ("arm", "ppc")}, "refused: hardware x86: machine-1.00000001 runs on arm, ppc"),
        ({"runtime": ">=2"}, "refused: runtime onnxruntime 1.32.0: machine-1.00000001 runs on >=2"),
    ],
)
def test_a_refusal_names_what_the_device_is_and_what_the_release_runs_on(changes, why):
    with pytest.raises(TrustError) as refused:
        decide(verified(channel(), custom=custom_of(**changes)), facts(), NOW)
    assert str(refused.value).replace(MODEL.version, "machine-1.00000001") == why


def test_other_bytes_than_the_models_role_signed_are_mix_and_match():
    assert attack_seen(verified(channel(), sha256="3" * 64)) is Attack.MIX_AND_MATCH


def test_the_unfit_is_named_before_the_replayed_and_the_replayed_before_the_revoked():
    revoked = policy_of(revoked=(MODEL.sha256,))
    unfit = verified(channel(seq=1), policy=revoked, custom=custom_of(opset=22))
    assert attack_seen(unfit, facts(highest_seq=2)) is Attack.WRONG_HARDWARE
    assert (
        attack_seen(verified(channel(seq=1), policy=revoked), facts(highest_seq=2)) is Attack.REPLAYED_CHANNEL
    )


@pytest.mark.parametrize(
    ("pool", "followed"),
    [({"site": EVERYBODY}, CANARY), ({"site": NOBODY}, BROAD), ({"other": EVERYBODY}, BROAD), ({}, BROAD)],
)
def test_a_canary_document_binds_only_members_of_the_groups_pool(pool, followed):
    newer = channel(CANARY, seq=6)
    told = decide(verified(channel(BROAD, seq=5), newer, policy=policy_of(canary=pool)), facts(), NOW)
    assert told.channel.ring == followed


def test_the_newer_of_two_binding_documents_is_in_force_whichever_ring_it_is_of():
    everybody = policy_of(canary={"site": SaltedShare(devices=("dev-1",))})
    for canary_seq, broad_seq, ring in ((6, 5, CANARY), (5, 6, BROAD)):
        both = channel(CANARY, seq=canary_seq), channel(BROAD, seq=broad_seq)
        assert decide(verified(*both, policy=everybody), facts(), NOW).channel.ring == ring


def test_a_document_of_another_group_binds_nobody_here():
    assert decide(verified(channel(group="elsewhere")), facts(), NOW).channel is None


def test_a_bundle_of_an_expired_role_is_refused_for_that_reason_and_an_unlisted_one_as_unsigned():
    expired = {"machine": TrustError("expired", Attack.FREEZE)}
    state = VerifiedState({BROAD: channel()}, policy_of(), {}, expired)
    assert attack_seen(state) is Attack.FREEZE
    assert attack_seen(VerifiedState({BROAD: channel()}, policy_of(), {}, {"pump": expired["machine"]})) is (
        Attack.UNSIGNED_INSTRUCTION
    )
    with pytest.raises(TrustError) as caught:
        state.target("models/machine")
    assert caught.value.attack is Attack.UNSIGNED_INSTRUCTION

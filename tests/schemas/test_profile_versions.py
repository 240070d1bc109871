"""Versions of profiles: one content has one form; every change has a kind, and somebody who must sign it."""

import math
from fnmatch import fnmatchcase

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DecodeError, ProfileError
from schemas.profile_bounds import DEFAULT_BOUNDS, ValueLimits
from schemas.profile_changes import KINDS, diff, judge, kind_of
from schemas.profile_file import builtin_profiles, find_profile, parse_profile
from schemas.profile_versions import ProfileVersion, flat, parse_canonical
from schemas.version_names import VersionHeader, VersionName

TEXT = builtin_profiles()["machine_demo"].read_text()
MACHINE = find_profile("machine_demo")


def changed(*pairs):
    text = TEXT
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_profile(text, "p.toml")


def kinds(profile):
    return {c.path: c.kind for c in diff(MACHINE, profile)}


def test_the_digest_of_a_shipped_profile_is_that_of_its_canonical_form():
    assert MACHINE.digest() == ProfileVersion(1, MACHINE).sha256[:16]
    assert ProfileVersion(3, MACHINE).header.encode() == b"3." + MACHINE.digest().encode()


def test_a_profile_comes_back_from_its_canonical_form_and_from_no_other():
    form = MACHINE.canonical_form()
    assert parse_canonical(form) == MACHINE
    assert parse_canonical(form).canonical_form() == form
    for other in (form + b"\n", form.replace(b'"p":0.08', b'"p":8e-2'), b"{}", b"[", b"null"):
        with pytest.raises(ProfileError):
            parse_canonical(other)


def test_comments_order_and_spelt_out_defaults_make_no_other_version():
    spelt = TEXT.replace("[filter]", "[filter] # rates\nthinning_floor = 0.015625", 1)
    assert diff(MACHINE, parse_profile(spelt, "p.toml")) == []
    assert parse_profile(spelt, "p.toml").canonical_form() == MACHINE.canonical_form()


@pytest.mark.parametrize("text", ["pump", "pump@", "pump@0", "pump@01", "Pump@1", "a/../b@1", "pump@1\n", ""])
def test_what_names_no_version_is_refused(text):
    with pytest.raises(ProfileError):
        VersionName.parse(text)


@given(st.binary(max_size=40) | st.from_regex(rb"[0-9]{1,10}\.[0-9a-f]{15,17}", fullmatch=True))
def test_what_is_read_as_a_header_is_written_the_same(value):
    try:
        found = VersionHeader.parse(value)
    except DecodeError:
        return
    assert found.encode() == value
    assert found.number >= 1


def test_every_value_of_a_profile_has_a_kind_that_somebody_chose():
    unmatched = {
        path for path in flat(MACHINE.canonical()) if not any(fnmatchcase(path, p) for p, _ in KINDS)
    }
    assert {path.split(".")[0] for path in unmatched} == {"gates", "rollout", "simulate"}


def test_a_key_that_nobody_classified_is_guarded():
    assert kind_of("from_a_later_release.rate") == "guarded"


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("p = 0.08", "p = 0.05", "filter.p"),
        ("enter = 0.6", "enter = 0.7", "decision.rules.inspect.enter"),
        ("period_s = 5.0", "period_s = 2.5", "summaries.period_s"),
        ("min_effect = 3.0", "min_effect = 4.0", "drift.min_effect"),
        ("temperature_mean = 3.0", "temperature_mean = 4.0", "filter.deadband.temperature_mean"),
    ],
)
def test_rates_rules_and_periods_are_everyday_and_an_operators(old, new, path):
    profile = changed((old, new))
    assert kinds(profile) == {path: "everyday"}
    verdict = judge(MACHINE, profile)
    assert (verdict.compatible, verdict.authority, verdict.reasons) == (True, "operator", ())


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ('fail_safe = "slow_down"', 'fail_safe = "none"', "decision.fail_safe"),
        ('action = "stop"', 'action = "wait"', "decision.rules"),
        ("after_windows = 3", "after_windows = 3\nalert = false", "decision.rules.stop.alert"),
        (
            'unit = "degC"',
            'unit = "degC"\nleaves_device = "on_request"',
            "channels.temperature.leaves_device",
        ),
        ('unit = "degC"', 'unit = "degC"\nrequired = true', "channels.temperature.required"),
        ("period_s = 5.0", "period_s = 5.0\nsketches = true", "summaries.sketches"),
        ("min_recall = 0.8", "min_recall = 0.1", "gates.min_recall"),
        ("watch_windows = 6", "watch_windows = 1", "rollout.watch_windows"),
    ],
)
def test_what_touches_privacy_or_safety_takes_the_policy_role(old, new, path):
    profile = changed((old, new))
    assert kinds(profile)[path] == "guarded"
    verdict = judge(MACHINE, profile)
    assert (verdict.compatible, verdict.authority) == (True, "policy")
    assert any(path in reason for reason in verdict.reasons)


def test_an_everyday_change_beyond_the_bounds_takes_the_policy_role():
    verdict = judge(MACHINE, changed(("p = 0.08", "p = 0.9")))
    assert (verdict.compatible, verdict.authority) == (True, "policy")
    assert verdict.reasons == ("filter.p = 0.9 lies outside 0.001..0.5, which the policy sets",)


def test_a_value_beyond_the_bounds_that_does_not_change_may_stay():
    wide = changed(("p = 0.08", "p = 0.9"))
    both = changed(("p = 0.08", "p = 0.9"), ("min_effect = 3.0", "min_effect = 4.0"))
    assert judge(wide, both).authority == "operator"


@pytest.mark.parametrize("value", [None, True, "0.1", math.nan, [0.1, 0.9], 0.6])
def test_what_is_no_number_within_is_not_allowed(value):
    assert not ValueLimits(least=0.01, most=0.5).allow(value)


def test_without_a_threshold_the_policy_signs():
    raw = MACHINE.model_dump()
    raw["filter"]["threshold"] = None
    assert judge(MACHINE, type(MACHINE).model_validate(raw), DEFAULT_BOUNDS).authority == "policy"


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("rate_hz = 512.0", "rate_hz = 256.0", "sampling.rate_hz"),
        ("hop_samples = 512", "hop_samples = 256", "sampling.hop_samples"),
        ('unit = "degC"', 'unit = "K"', "channels.temperature.unit"),
        ('kinds = ["mean", "std"]', 'kinds = ["mean"]', "features.compute"),
        ('name = "machine"\ntask', 'name = "robust"\ntask', "model.name"),
    ],
)
def test_an_incompatible_change_says_so_and_what_to_do(old, new, path):
    verdict = judge(MACHINE, changed((old, new)), scored=lambda _: np.zeros(3))
    assert not verdict.compatible
    assert any(path in reason for reason in verdict.reasons)
    assert "another name" in verdict.reasons[-1]


def test_the_order_of_channels_is_part_of_the_raw_window():
    raw = MACHINE.model_dump()
    raw["channels"] = raw["channels"][::-1]
    assert not judge(MACHINE, type(MACHINE).model_validate(raw)).compatible


def test_a_range_is_compatible_only_where_golden_windows_score_the_same():
    profile = changed(("max = 200.0\n", "max = 210.0\n"))
    assert kinds(profile) == {"channels.vibration.max": "range"}
    scores = np.array([0.1, np.nan, 0.9])
    assert not judge(MACHINE, profile).compatible
    assert judge(MACHINE, profile, scored=lambda _: scores).compatible
    other = {200.0: scores, 210.0: scores + 1e-12}
    verdict = judge(MACHINE, profile, scored=lambda p: other[p.channels[0].max])
    assert not verdict.compatible
    assert "score differently" in verdict.reasons[0]


def test_what_is_absurd_is_the_policys_and_what_is_usual_an_operators():
    scores = np.zeros(2)
    absurd = judge(MACHINE, changed(("max = 200.0\n", "max = 210.0\n")), scored=lambda _: scores)
    usual = judge(
        MACHINE, changed(("max = 200.0\n", "max = 200.0\nusual_max = 9.0\n")), scored=lambda _: scores
    )
    assert (absurd.authority, usual.authority) == ("policy", "operator")


def test_two_rules_with_one_action_are_told_apart():
    raw = MACHINE.model_dump()
    raw["decision"]["rules"] = [*raw["decision"]["rules"], raw["decision"]["rules"][-1]]
    paths = flat(type(MACHINE).model_validate(raw).canonical())
    assert paths["decision.rules"] == ("inspect", "stop#1", "stop#2")

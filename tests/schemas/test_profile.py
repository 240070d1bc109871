"""Profiles: the shipped ones load, a wrong one says which key and what it wants."""

import pytest

from schemas.errors import ProfileError
from schemas.profile_file import builtin_profiles, find_profile, load_profile, parse_profile

GOOD = builtin_profiles()["machine_demo"].read_text()


@pytest.mark.parametrize("name", builtin_profiles())
def test_a_shipped_profile_loads_under_its_file_name(name):
    assert find_profile(name).name == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_hz = 512.0", "rate_hz = -1.0", "sampling.rate_hz"),
        ("rate_hz = 512.0", "rate_hzz = 1.0", "rate_hzz"),
        ('kinds = ["mean"]', 'kinds = ["meen"]', "meen"),
        ('channel = "temperature"', 'channel = "pressure"', "pressure"),
        ("leave = 0.45", "leave = 0.7", "must not exceed enter"),
        ("window_s = 5.0", "window_s = 7.0", "whole multiple"),
        ("temperature_mean = 3.0", "temperature_max = 3.0", "temperature_max"),
        ("p_min = 0.01", "p_min = 0.5", "p_min"),
        ('name = "machine_demo"', 'name = "../machine"', "name"),
        ("[sampling]", "[sampling", "TOML"),
    ],
)
def test_a_wrong_profile_names_the_key(old, new, message):
    assert old in GOOD
    with pytest.raises(ProfileError, match=message):
        parse_profile(GOOD.replace(old, new, 1), "p.toml")


def test_a_missing_profile_lists_the_shipped_ones(tmp_path):
    with pytest.raises(ProfileError, match="machine"):
        find_profile("maschine")
    with pytest.raises(ProfileError, match=r"absent\.toml: no such file"):
        load_profile(tmp_path / "absent.toml")


def test_a_feature_of_a_channel_that_never_leaves_the_device_is_refused():
    secret = GOOD.replace('unit = "degC"', 'unit = "degC"\nleaves_device = "never"', 1)
    with pytest.raises(ProfileError, match="never leaves the device"):
        parse_profile(secret, "p.toml")


@pytest.mark.parametrize("key", ["address", "url", "source", "name", "password"])
def test_a_profile_cannot_name_where_samples_come_from(key):
    """So one that is pushed cannot make a device connect anywhere: the address is its own setting."""
    with pytest.raises(ProfileError, match=f"source.{key}"):
        parse_profile(f'{GOOD}\n[source]\n{key} = "mqtt://attacker/t"\n', "pushed")

"""`edgeloop profile diff|history|show NAME@VERSION` on a lake in which versions were pushed."""

from pathlib import Path

import pytest

from feature_store.version_store import VersionStore
from schemas.profile_file import builtin_profiles, parse_profile
from tests.infra.cli import EdgeloopHere
from tests.simulators.profile_signers import ProfileSigners

TEXT = builtin_profiles()["machine"].read_text()


@pytest.fixture
def edgeloop(tmp_path: Path) -> EdgeloopHere:
    return EdgeloopHere(tmp_path / "state")


def a_file(tmp_path: Path, *pairs: tuple[str, str]) -> str:
    text = TEXT
    for old, new in pairs:
        text = text.replace(old, new, 1)
    path = tmp_path / "machine.toml"
    path.write_text(text)
    return str(path)


def pushed(edgeloop: EdgeloopHere) -> None:
    signers = ProfileSigners()
    store = VersionStore(edgeloop.state_dir / "lake")
    signers.register(store)
    first = parse_profile(TEXT, "p")
    store.put(signers.sign(first, 1, by="policy"))
    store.put(signers.sign(parse_profile(TEXT.replace("p = 0.08", "p = 0.05"), "p"), 2, by="profiles"))
    store.enter_channel("default", signers.sign(first, 1).statement.version)


def test_a_diff_names_each_value_its_kind_and_the_signer(edgeloop, tmp_path):
    path = a_file(tmp_path, ("p = 0.08", "p = 0.05"), ('fail_safe = "slow_down"', 'fail_safe = "none"'))
    found = edgeloop.json("profile", "diff", path, "machine")
    assert [(c["path"], c["before"], c["after"], c["kind"]) for c in found["changes"]] == [
        ("decision.fail_safe", "slow_down", "none", "guarded"),
        ("filter.p", 0.08, 0.05, "everyday"),
    ]
    assert (found["compatible"], found["authority"]) == (True, "policy")
    shown = edgeloop("profile", "diff", path).stdout
    assert "to be signed by: policy" in shown
    assert "decision.fail_safe touches privacy or safety" in shown


def test_an_incompatible_change_says_what_to_do(edgeloop, tmp_path):
    path = a_file(tmp_path, ("rate_hz = 512.0", "rate_hz = 256.0"))
    shown = edgeloop("profile", "diff", path).stdout
    assert "not compatible" in shown
    assert "give the profile another name" in shown


def test_a_profile_without_differences_is_the_same(edgeloop):
    assert "the same" in edgeloop("profile", "diff", "machine", "machine").stdout


def test_history_lists_versions_signers_groups_and_changes(edgeloop):
    pushed(edgeloop)
    one, two = edgeloop.json("profile", "history", "machine")
    assert (one["version"], one["signed_by"], one["channels"]) == ("machine@1", ["policy"], ["default"])
    assert (two["version"], two["signed_by"], two["changes"]) == ("machine@2", ["operator"], ["filter.p"])
    assert "machine@2" in edgeloop("profile", "history", "machine").stdout


def test_a_version_is_shown_and_compared_by_its_name(edgeloop, tmp_path):
    pushed(edgeloop)
    assert edgeloop.json("profile", "show", "machine@2")["filter"]["p"] == 0.05
    assert [c["path"] for c in edgeloop.json("profile", "diff", "machine@2", "machine@1")["changes"]] == [
        "filter.p"
    ]
    assert edgeloop.json("profile", "diff", a_file(tmp_path))["changes"][0]["before"] == 0.05


@pytest.mark.parametrize("name", ["machine@9", "machine@", "../x@1", "pump@1"])
def test_a_version_that_does_not_exist_is_refused_in_one_line(edgeloop, name):
    result = edgeloop("profile", "show", name)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr


def test_a_profile_without_versions_has_no_history(edgeloop):
    result = edgeloop("profile", "history", "machine")
    assert result.returncode == 1
    assert "no version" in result.stderr

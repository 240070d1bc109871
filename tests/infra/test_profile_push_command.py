"""`edgeloop profile push|bounds` on a founded trust repository; founding signs what ships."""

from pathlib import Path

import pytest

from feature_store.lake import Lake
from feature_store.version_store import VersionStore
from infra.stack import model_processes
from model_service import ModelSettings
from schemas.profile_file import builtin_profiles
from schemas.version_names import VersionName
from tests.infra.cli import EdgeloopHere

TEXT = builtin_profiles()["machine"].read_text()


@pytest.fixture
def founded(tmp_path: Path) -> EdgeloopHere:
    state = tmp_path / "state"
    settings = ModelSettings(root=state / "models", lake_root=state / "lake")
    Lake.open(settings.lake_root)
    model_processes.prepare(settings, lambda _: None)
    return EdgeloopHere(state)


def a_file(tmp_path: Path, old: str, new: str) -> str:
    assert old in TEXT
    path = tmp_path / "profile.toml"
    path.write_text(TEXT.replace(old, new, 1))
    return str(path)


def test_founding_signs_what_ships_and_a_push_follows_it(founded, tmp_path):
    assert [v["version"] for v in founded.json("profile", "history", "machine")] == ["machine@1"]
    pushed = founded.json("profile", "push", a_file(tmp_path, "p = 0.08", "p = 0.05"))
    assert (pushed["version"], pushed["new"], pushed["groups"]) == ("machine@2", True, ["default", "probes"])
    assert "has this content already" in founded("profile", "push", str(tmp_path / "profile.toml")).stdout
    assert founded.json("profile", "push", "machine@1")["version"] == "machine@3"


def test_what_touches_safety_is_refused_without_the_policy_role(founded, tmp_path):
    path = a_file(tmp_path, 'fail_safe = "slow_down"', 'fail_safe = "none"')
    refused = founded("profile", "push", path)
    assert refused.returncode == 1
    assert "decision.fail_safe touches privacy or safety" in refused.stderr
    assert founded.json("profile", "push", path, "--policy")["signed_by"] == "policy"


def test_ranges_follow_where_golden_windows_of_the_model_in_force_score_the_same(founded, tmp_path):
    range_ = "min = -200.0\nmax = 200.0"
    wider = a_file(tmp_path, range_, f"{range_}\nusual_max = 50.0")
    assert founded.json("profile", "push", wider)["version"] == "machine@2"
    refused = founded("profile", "push", a_file(tmp_path, range_, "min = -0.001\nmax = 0.001"), "--policy")
    assert refused.returncode == 1
    assert "golden windows would score differently" in refused.stderr
    assert "give the profile another name" in refused.stderr


def test_bounds_are_shown_and_set(founded, tmp_path):
    assert founded.json("profile", "bounds")["seq"] == 1
    assert (
        founded.json("profile", "bounds", "--limit", "filter.p=0.06..")["limits"]["filter.p"]["least"] == 0.06
    )
    assert founded("profile", "push", a_file(tmp_path, "p = 0.08", "p = 0.05")).returncode == 1
    assert founded("profile", "bounds", "--limit", "filter.p=9..1").returncode == 2
    assert founded("profile", "bounds", "--limit", "filter.p").returncode == 2


def test_a_later_start_only_says_that_another_shipped_profile_waits(founded, tmp_path):
    settings = ModelSettings(root=founded.state_dir / "models", lake_root=founded.state_dir / "lake")
    newer = Path(a_file(tmp_path, "p = 0.08", "p = 0.05"))
    said: list[str] = []
    model_processes.prepare(settings, said.append)
    assert said == []
    model_processes.prepare(settings, said.append, {"machine": newer})
    assert ["edgeloop profile push machine" in line for line in said] == [True]
    assert VersionStore(settings.lake_root).newest("machine") == VersionName("machine", 1)
    founded("profile", "push", str(newer))
    said.clear()
    for shipped in ({"machine": newer}, None):  # an older one was a version, too: a person chose another
        model_processes.prepare(settings, said.append, shipped)
    assert said == []

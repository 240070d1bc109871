"""`edgeloop trust` as a person uses it."""

from pathlib import Path

from tests.infra.cli import EdgeloopHere


def test_a_person_makes_looks_at_renews_and_rotates_the_keys(tmp_path: Path):
    edgeloop = EdgeloopHere(tmp_path / "state")
    made = edgeloop.json("trust", "init", "--family", "machine", "--group", "site=0.25")
    assert Path(made["offline_keys"]).is_dir()
    roles = {r["role"]: r for r in edgeloop.json("trust", "status")}
    assert (roles["root"]["threshold"], len(roles["root"]["keys"])) == (2, 3)
    assert [k["holder"] for k in roles["models-machine"]["keys"]] == ["trainer", "gate"]
    assert edgeloop.json("trust", "renew")["renewed"] == ["snapshot", "timestamp"]
    key_id = edgeloop.json("trust", "rotate", "channels-broad", "guard")["key_id"]
    found = {r["role"]: r for r in edgeloop.json("trust", "status")}["channels-broad"]["keys"]
    assert {k["holder"]: k["key_id"] for k in found}["guard"] == key_id


def test_a_person_changes_what_no_online_key_may(tmp_path: Path):
    edgeloop = EdgeloopHere(tmp_path / "state")
    edgeloop.json("trust", "init", "--family", "machine", "--group", "site=0.25")
    digest = "a" * 64
    policy = edgeloop.json(
        "trust", "policy", "--floor", "machine=2", "--revoke", digest, "--canary", "site=dev-1,dev-2"
    )
    assert (policy["floors"], policy["revoked"]) == ({"machine": 2}, [digest])
    assert policy == edgeloop.json("trust", "policy")
    lower = edgeloop("trust", "policy", "--floor", "machine=1")
    assert (lower.returncode, "never falls" in lower.stderr) == (1, True)
    assert edgeloop("trust", "policy", "--floor", "machine").returncode == 2


def test_offline_keys_that_were_taken_away_are_asked_for(tmp_path: Path):
    edgeloop = EdgeloopHere(tmp_path / "state")
    edgeloop.json("trust", "init", "--family", "machine")
    stick = tmp_path / "stick"
    (tmp_path / "state" / "models" / "offline-keys").rename(stick)
    (stick / "PASSPHRASE").rename(tmp_path / "passphrase")
    missing = edgeloop("trust", "rotate", "root", "root-1")
    assert (missing.returncode, "no passphrase" in missing.stderr) == (1, True)
    brought = ["--offline-keys", str(stick), "--passphrase-file", str(tmp_path / "passphrase")]
    assert edgeloop("trust", "rotate", "root", "root-1", *brought).returncode == 0


def test_a_stack_without_keys_says_how_to_make_them(tmp_path: Path):
    result = EdgeloopHere(tmp_path / "state")("trust", "status")
    assert (result.returncode, "edgeloop trust init" in result.stderr) == (1, True)

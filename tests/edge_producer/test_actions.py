"""Laws of local actions."""

import pytest

from edge_producer.acting.action_order import ActionOrder
from edge_producer.actions import ActionRunner, load_actions
from schemas.errors import ProfileError
from tests.waiting import wait_until


def runner(tmp_path, text):
    path = tmp_path / "actions.toml"
    path.write_text(text)
    return ActionRunner(load_actions(path))


def counted(subject, name, n=1):
    wait_until(lambda: subject.totals().get(name) == n, 10, f"{name} = {n}")


def test_a_mapped_action_runs_with_what_it_needs_to_know(tmp_path):
    out = tmp_path / "out"
    script = f'printf "%s %s %s" "$EDGELOOP_DEVICE_ID" "$EDGELOOP_ACTION" "$EDGELOOP_SCORE" > {out}'
    subject = runner(tmp_path, f"[actions]\nstop = ['sh', '-c', '{script}']")
    subject.start(ActionOrder("d-1", "stop", 0.5))
    counted(subject, "done")
    assert out.read_text() == "d-1 stop 0.5"


def test_an_unmapped_action_is_only_recorded(tmp_path):
    subject = ActionRunner(load_actions(tmp_path / "absent.toml"))
    subject.start(ActionOrder("d-1", "stop", None))
    assert subject.totals() == {"recorded": 1}


def test_failures_and_hanging_commands_are_counted_and_block_nobody(tmp_path):
    text = (
        "timeout_s = 0.2\n[actions]\nbad = ['false']\nmissing = ['/does/not/exist']\nslow = ['sleep', '60']"
    )
    subject = runner(tmp_path, text)
    for device, action in (("d-1", "bad"), ("d-2", "missing"), ("d-3", "slow")):
        subject.start(ActionOrder(device, action, None))
    counted(subject, "failed", 2)
    counted(subject, "timed_out")


def test_the_newest_action_wins_while_one_runs(tmp_path):
    gate, out = tmp_path / "gate", tmp_path / "out"
    wait = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    subject = runner(
        tmp_path,
        f"[actions]\nfirst = ['sh', '-c', '{wait}']\nsecond = ['false']\nthird = ['touch', '{out}']",
    )
    for action in ("first", "second", "third"):
        subject.start(ActionOrder("d-1", action, None))
        wait_until(lambda: subject.totals().get("started"), 10, "the first command")
    gate.touch()
    counted(subject, "done", 2)
    assert out.exists()
    assert subject.totals()["superseded"] == 1


def test_a_malformed_file_is_refused(tmp_path):
    with pytest.raises(ProfileError, match=r"actions\.toml"):
        runner(tmp_path, "[actions]\nstop = 'not a list'")

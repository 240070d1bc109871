"""docs/writing-a-decision.md and the example actuator do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from edge_producer import ActuatorRequest, DecisionRequest
from edge_producer.acting.action_order import ActionOrder, Receipt, order_line
from edge_producer.acting.called_actuator import load_actuator
from edge_producer.actions import load_actions
from edge_producer.deciding.answer_check import LARGEST_STATE, check_answer
from edge_producer.deciding.decision_function import load_decision_function, why_parameters_refused
from schemas.profile import Profile
from tests.edge_producer.spool_rig import START, bench_profile
from tests.simulators.installed_jobs import install
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "writing-a-decision.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TOML = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
LINES = re.findall(r"^    (\{.*\})$", PAGE, re.MULTILINE)
EXAMPLES = (ROOT / "examples" / "README.md").read_text(encoding="utf-8").partition("`log_actuator.py`")[2]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose packages are found."""
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("edgeloop_green", "pump_relay"):
        sys.modules.pop(name, None)


def test_the_function_of_the_page_decides_as_the_page_says(site):
    points = tomllib.loads(TOML[0])["project"]["entry-points"]["edgeloop.decisions"]
    [(name, target)] = points.items()
    install(site, *target.split(":")[:1], CODE[0], target.split(":")[1], name, group="edgeloop.decisions")
    content = bench_profile().canonical()
    content["decision"] |= tomllib.loads(TOML[1])["decision"]
    used = Profile.model_validate(content)
    decide = load_decision_function(used.decision.function or "", "d-1", used)
    state, greens = None, []
    for k, queue in enumerate((2.0, 12.0, 12.0, 12.0)):
        at = START + timedelta(seconds=k)
        plan = {"green_s": 50.0} if k == 3 else {}
        request = DecisionRequest("d-1", at, {"queue_mean": queue}, {"score": 0.1}, "none", plan, state)
        found = check_answer(used.decision, decide(request))
        state = json.loads(found.state)
        greens.append((found.action, found.numbers["green_s"], found.clipped))
    assert greens == [
        ("green", 20.0, ()), ("green", 30.0, ()), ("green", 20.0, ()), ("green", 60.0, ("green_s",))
    ]  # fmt: skip
    assert "no green time" in why_parameters_refused(used, "d-1", {"green_s": 90})
    assert f"{LARGEST_STATE // 1024} KiB" in PAGE


def test_the_lines_of_the_page_are_those_that_are_spoken():
    order, answer = LINES
    told = ActionOrder("d-1", "green", 0.2, "decision", {"green_s": 20.0})
    assert order_line(told, 7, 30.0).decode() == order + "\n"
    assert Receipt.from_line(answer.encode()) == Receipt(7, "", 81234567890123)


def test_the_actuator_of_the_page_is_found_with_its_options(site):
    [target] = re.findall(r'`relay = "([^"]+)"`', PAGE)
    module, name = target.split(":")
    install(site, module, CODE[1], name, "relay", group="edgeloop.actuators")
    for k, text in enumerate(TOML[2:]):
        (site / f"{k}.toml").write_text(text)
        place = load_actions(site / f"{k}.toml").actuator
        assert place is not None
    relay = load_actuator("relay")(ActuatorRequest(place.options, place.timeout_s))
    assert relay.pin == 17
    relay.carry_out(ActionOrder("d-1", "go"))
    relay.close()


def commands(folder: Path) -> list[list[str]]:
    """The lines of the examples' page, as this test runs them."""
    text = EXAMPLES.replace("\\\n", " ").replace("/tmp/pump.sock", str(folder / "a.sock"))
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    python = {"python": [sys.executable], "edgeloop-edge": [sys.executable, "-m", "edge_producer"]}
    split = [["sh", "-c", line] if ">" in line else shlex.split(line) for line in lines]
    return [[*python.get(words[0], words[:1]), *words[1:]] for words in split]


def test_the_example_actuator_is_told_what_the_device_decides(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGE_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    serve, write, run, show, status = commands(tmp_path)
    with subprocess.Popen(serve, cwd=tmp_path) as server:
        try:
            wait_until((tmp_path / "a.sock").exists, 60, "the actuator")
            subprocess.run(write, cwd=tmp_path, check=True)
            ran = subprocess.run(run, cwd=tmp_path, env=environment, check=False, timeout=150)
            shown = subprocess.run(show, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
            said = subprocess.run(
                status, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
            )
        finally:
            server.send_signal(signal.SIGTERM)
    orders = [json.loads(line) for line in shown.splitlines()]
    assert ran.returncode == 1
    assert [o["device"] for o in orders] == ["m-1"] * len(orders)
    assert (orders[0]["why"], orders[-1]["action"], orders[-1]["why"]) == ("decision", "slow_down", "stop")
    assert re.search(r"actuator \S+a\.sock: \w+, \d+ received", said.stdout)
    assert "from sample to receipt" in said.stdout

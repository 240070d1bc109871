"""Laws of `edgeloop-edge`: a setting may be given in three ways, and a device speaks for itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from edge_producer.__main__ import main
from edge_producer.command_line import parse_arguments, setting_texts
from edge_producer.edge_status import status_lines
from edge_producer.settings import EdgeSettings, load_settings
from edge_producer.status_file import read_status
from tests.edge_producer.source_rigs import profile
from tests.waiting import wait_until

NO_BROKER = ["--bootstrap-servers", "127.0.0.1:1", "--drain-timeout-s", "0.1", "--stop-timeout-s", "0.1"]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in [n for n in os.environ if n.upper().startswith("EDGE_")]:
        monkeypatch.delenv(name)


def test_a_flag_goes_before_the_file_and_the_file_before_the_variable(monkeypatch, tmp_path):
    config = tmp_path / "edge.toml"
    config.write_text(
        f'state_dir = "{tmp_path}"\ndevices = ["a", "b"]\nprofile = "machine"\nlinger_s = 2.5\n'
    )
    monkeypatch.setenv("EDGE_LINGER_S", "9")
    monkeypatch.setenv("EDGE_PROFILE", "other")
    monkeypatch.setenv("EDGE_STALL_S", "7")
    command = parse_arguments(["run", "--config", str(config), "--profile", "pump", "--source", "-"])
    read = load_settings(command.given)
    assert (read.profile, read.source, read.linger_s, read.stall_s) == ("pump", "-", 2.5, 7.0)
    assert read.devices == ("a", "b")
    monkeypatch.setenv("EDGE_CONFIG", str(config))
    assert load_settings(parse_arguments(["run"]).given).linger_s == 2.5


def test_what_is_wrong_is_named_by_where_it_was_given(monkeypatch, tmp_path):
    config = tmp_path / "edge.toml"
    config.write_text("stall_s = -1\n")
    monkeypatch.setenv("EDGE_SPEED", "fast")
    command = parse_arguments(["run", "--config", str(config), "--linger-s", "soon"])
    with pytest.raises(ValueError, match="EDGE_SPEED: ") as error:
        load_settings(command.given)
    assert "--linger-s: " in str(error.value)
    assert "edge.toml: stall_s: " in str(error.value)


def test_a_misspelt_line_of_the_file_is_refused(tmp_path):
    (tmp_path / "edge.toml").write_text('sauce = "-"\n')
    with pytest.raises(ValueError, match="unknown settings sauce"):
        parse_arguments(["run", "--config", str(tmp_path / "edge.toml")])


def test_every_setting_is_explained_and_no_password_is_a_flag(capsys):
    assert set(setting_texts()) >= set(EdgeSettings.model_fields) - {"name"}
    assert main(["run", "--help"]) == 0
    text = capsys.readouterr().out
    missing = [n for n in EdgeSettings.model_fields if f"--{n.replace('_', '-')} " not in text]
    assert missing == ["source_password"]


def test_without_a_folder_the_devices_own_in_the_users_is_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert main(["status"]) == 2  # neither a device nor a folder
    assert main(["status", "--devices", "pump-7,pump-8"]) == 1
    assert str(tmp_path / "edgeloop-edge" / "pump-7") in capsys.readouterr().err
    monkeypatch.setenv("EDGE_DEVICES", '["pump-9"]')
    assert main(["status"]) == 1
    assert str(tmp_path / "edgeloop-edge" / "pump-9") in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["walk"], ["run", "--sour", "-"], ["update"], ["relearn"]])
def test_what_is_no_command_is_misuse(argv):
    assert main(argv) == 2


def test_a_source_that_sets_its_own_pace_takes_no_other(tmp_path):
    given = {"state_dir": tmp_path, "profile": "p", "devices": ("d",), "source": "-"}
    for wrong in ({"pace": "flat_out"}, {"speed": 2.0}):
        with pytest.raises(ValueError, match="sets its own pace"):
            EdgeSettings(**given, **wrong)


def run_edge(folder, *arguments, feed=b""):
    """The device's command in a process of its own."""
    argv = [sys.executable, "-m", "edge_producer", *arguments, "--state-dir", str(folder / "edge")]
    return subprocess.run(argv, input=feed, capture_output=True, timeout=120, check=False)


def test_lines_of_the_standard_input_are_sensed_and_the_status_says_so_afterwards(tmp_path):
    made = profile(source={"time_field": ""}, replay={"time_column": ""})
    dumped = made.model_dump(mode="json", include={"name", "channels", "sampling", "features", "drift"})
    (tmp_path / "plant.toml").write_text(toml(dumped))
    lines = b'{"heat": 20, "load": 1}\n{broken\n{"heat": 21, "load": 2}\n'
    given = ["--profile", str(tmp_path / "plant.toml"), "--devices", "d1", *NO_BROKER]
    ran = run_edge(tmp_path, "run", "--source", "-", *given, feed=lines)
    assert ran.returncode == 1, ran.stderr.decode()  # sensed, but there is no broker to send to
    shown = run_edge(tmp_path, "status")
    assert shown.returncode == 0
    assert "source standard input: ended" in shown.stdout.decode()
    assert "1 malformed" in shown.stdout.decode()
    status = json.loads(run_edge(tmp_path, "status", "--json").stdout)
    assert (status["source"]["payloads"], status["source_state"]["phase"]) == (3, "ended")


def test_what_tail_follows_is_sensed_as_it_is_written(tmp_path):
    """``tail -f | edgeloop-edge run --source -``, as the page says."""
    made = profile(source={"time_field": ""}, sampling={"rate_hz": 20.0})
    dumped = made.model_dump(mode="json", include={"name", "channels", "sampling", "features", "drift"})
    (tmp_path / "plant.toml").write_text(toml(dumped))
    log = tmp_path / "pump.jsonl"
    log.write_text('{"heat": 20, "load": 1}\n')
    edge = [
        sys.executable,
        "-m",
        "edge_producer",
        "run",
        "--source",
        "-",
        "--state-dir",
        str(tmp_path / "edge"),
    ]
    more = [
        "--profile",
        str(tmp_path / "plant.toml"),
        "--devices",
        "d1",
        "--bootstrap-servers",
        "127.0.0.1:1",
    ]
    with subprocess.Popen(["tail", "-n", "+1", "-f", str(log)], stdout=subprocess.PIPE) as tail:
        process = subprocess.Popen([*edge, *more, *NO_BROKER], stdin=tail.stdout)

        def payloads() -> int:
            return (read_status(tmp_path / "edge" / "status.json") or {}).get("source", {}).get("payloads", 0)

        try:
            for number in (1, 2):
                wait_until(lambda n=number: payloads() >= n, 60, "a line")
                with log.open("a") as file:
                    file.write('{"heat": 21, "load": 2}\n')
        finally:
            process.terminate()
            process.wait(60)
            tail.kill()


def test_a_device_that_never_ran_has_no_status(tmp_path):
    ran = run_edge(tmp_path, "status")
    assert ran.returncode == 1
    assert b"nothing has run there" in ran.stderr


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("modbus://10.0.0.1", "unknown source 'modbus'; there are: simulate, replay, -, mqtt"),
        ("mqtt://10.0.0.1", "no topic for vibration"),
    ],
)
def test_what_can_never_work_is_refused_at_the_start(tmp_path, source, message):
    ran = run_edge(tmp_path, "run", "--source", source, "--profile", "machine", "--devices", "d1")
    assert ran.returncode == 1
    assert message in ran.stderr.decode()


def test_a_status_of_a_failing_source_says_why_and_what_was_not_used():
    state = {"address": "mqtt://h:1/t", "phase": "failed", "error": "gone", "restarts": 3, "silent_s": 4.25}
    status = {
        "name": "edge", "phase": "running", "profile": "p", "updated": "2026-03-01T12:00:00+00:00",
        "decisions": {"d1": "stop"}, "books": {"sensed": 5, "acked": 3}, "queue": {"unsent": 1},
        "online": False, "waits_because": "", "source": {"samples": 9, "late": 2, "malformed": 0},
        "source_state": state,
    }  # fmt: skip
    assert list(status_lines(status, datetime(2026, 3, 1, 12, 0, 2, tzinfo=UTC))) == [
        "edge: running, profile p, as of 2 s ago",
        "  d1: decides stop",
        "source mqtt://h:1/t: failed, 9 samples, silent for 4.2 s, opened again 3 times",
        "  failed: gone",
        "  counted: 2 late",
        "rows: 5 sensed, 3 received by the cloud, 1 messages wait",
        "broker: not reached: rows wait in the spool",
    ]


def toml(given):
    """A profile as its file: tables of plain values."""
    lines = [f"name = {json.dumps(given['name'])}"]
    for name in ("sampling", "drift"):
        lines += [f"[{name}]", *(f"{k} = {json.dumps(v)}" for k, v in given[name].items() if v is not None)]
    for channel in given["channels"]:
        lines += ["[[channels]]", *(f"{k} = {json.dumps(v)}" for k, v in channel.items() if v is not None)]
    lines += ["[features]", 'set = "plant"', "[[features.compute]]", 'channel = "heat"', 'kinds = ["mean"]']
    return "\n".join(lines) + "\n"

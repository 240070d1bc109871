"""Plug-ins of configurations run in a child: what they take beyond their bounds ends them, not us."""

import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from model_service.limited_plug_ins import LimitedPlugIns, PlugInEndedError, PlugInLimits
from model_service.rollout.config_spans import HARM_P, Rise, last_look
from model_service.training.config_interface import TRAINERS, ComputedConfig
from schemas.errors import DatasetError

SOURCE = """
import datetime, os, pathlib, time
import numpy as np
from model_service.training.config_interface import ComputedConfig

calls = []


def fine(given):
    calls.append(given)
    print("noise on the standard output")
    values = {"list": np.arange(3.0), "whole": np.int64(7), "given": given, "calls": len(calls)}
    return ComputedConfig(values, datetime.datetime(2026, 5, 4, tzinfo=datetime.timezone.utc))


def greedy(_):
    return ComputedConfig({"size": len(bytearray(8 * 1024**3))})


def ends(_):
    os._exit(3)


def forks(folder):
    if os.fork() == 0:
        time.sleep(5)
        pathlib.Path(folder, "ended by itself").touch()
        os._exit(0)
    return ComputedConfig({})


def endless(_):
    while True:
        pass


def strange(_):
    return ComputedConfig({"what": object()})
"""
NAMES = ("fine", "greedy", "ends", "endless", "strange", "forks")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    (folder / "bounded_plan.py").write_text(SOURCE)
    distribution = folder / "bounded_plan-0.1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: bounded_plan\nVersion: 0.1.0\n")
    points = "".join(f"{name} = bounded_plan:{name}\n" for name in NAMES)
    (distribution / "entry_points.txt").write_text(f"[{TRAINERS}]\n{points}broken = bounded_plan:none\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))


def call(plug_ins, name, given=1):
    return plug_ins.call(TRAINERS, name, "profile p", ComputedConfig, given)


def test_answers_come_back_as_json_and_what_a_function_does_wrong_as_its_words(installed):
    with LimitedPlugIns(PlugInLimits(memory_mb=1024)) as plug_ins:
        found = call(plug_ins, "fine", (1, 2))
        assert found["parameters"] == {"list": [0.0, 1.0, 2.0], "whole": 7, "given": [1, 2], "calls": 1}
        assert datetime.fromisoformat(found["valid_from"]) == datetime(2026, 5, 4, tzinfo=UTC)
        for name, says in (
            ("greedy", "MemoryError"),
            ("strange", "TypeError: object is no value of JSON"),
            ("broken", "cannot be loaded"),
            ("absent", "profile p names 'absent' of edgeloop.configs, which is not installed here"),
        ):
            with pytest.raises(DatasetError, match=says):
                call(plug_ins, name)
        assert call(plug_ins, "fine")["parameters"]["calls"] == 2  # the same process, unharmed
        with pytest.raises(PlugInEndedError, match="exit code 3"):
            call(plug_ins, "ends")
        assert call(plug_ins, "fine")["parameters"]["calls"] == 1  # a new one
    assert "bounded_plan" not in sys.modules


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (PlugInLimits(cpu_s=0), "it used 0 s of CPU"),
        (PlugInLimits(wall_s=0.2), r"no answer within 0\.2 s"),
    ],
)
def test_what_takes_too_long_is_ended(installed, limits, says):
    with LimitedPlugIns(limits) as plug_ins, pytest.raises(PlugInEndedError, match=says):
        call(plug_ins, "endless")


def test_a_process_that_a_plug_in_leaves_behind_is_ended_with_it_and_not_waited_for(installed, tmp_path):
    with LimitedPlugIns() as plug_ins:
        assert call(plug_ins, "forks", str(tmp_path))["parameters"] == {}
    assert not (tmp_path / "ended by itself").exists()


# -- how often the built-in judge looks for harm -------------------------------------------------

NOON, MINUTE = datetime(2026, 5, 4, 12, tzinfo=UTC), timedelta(minutes=1)


def test_a_look_for_harm_is_the_same_whenever_it_is_asked_for_and_their_levels_add_up():
    seen = {}
    for n in (*range(1, 64), *range(64, 4 * 1440, 7)):
        look = last_look(NOON, NOON + n * MINUTE, MINUTE)
        assert look.span.end <= NOON + n * MINUTE
        assert seen.setdefault(look.number, look.span) == look.span
    assert sorted(seen) == list(range(1, len(seen) + 1))
    for looks in (1, 4):
        assert looks * sum(look_of(k).level(looks) for k in range(1, 500)) <= HARM_P
    assert last_look(NOON, NOON, MINUTE) is None


def look_of(number):
    return last_look(NOON, NOON + MINUTE, MINUTE)._replace(number=number)


def test_asked_for_days_no_change_is_called_harm_no_oftener_than_the_level_says():
    """Spans that differ by chance, the same at every look; at one uncorrected level a tenth would be harm."""
    rng, levels = np.random.default_rng(5), [look_of(k).level(1) for k in range(1, 15)]
    rollouts, harmed, uncorrected = 2000, 0, 0
    for _ in range(rollouts):
        earlier = rng.normal(size=7)
        error = float(earlier.std(ddof=1) * np.sqrt(1 + 1 / 7))
        rises = [Rise(float(x - earlier.mean()), error, 7) for x in rng.normal(size=14)]
        harmed += any(r.least(p) > 0 for r, p in zip(rises, levels, strict=True))
        uncorrected += any(r.least(HARM_P) > 0 for r in rises)
    assert harmed <= HARM_P * rollouts * 1.4
    assert uncorrected > 0.1 * rollouts

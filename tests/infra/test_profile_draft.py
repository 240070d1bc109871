"""Laws of `profile init`: a draft parses, replays at once and keeps real values."""

from __future__ import annotations

import runpy
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from infra.drafting.channel_range import possible_range
from infra.drafting.profile_draft import Draft, choose_shape, draft, outgrows_float32, plausible_range, slug
from infra.reading.dialect import find_dialect
from schemas.errors import SourceError
from schemas.profile_file import parse_profile
from tests.edge_producer.recordings import I94, NAB, UR3, recording
from tests.infra.cli import EdgeloopHere
from tests.infra.recording_alarms import LONG, Replayed, in_quarter, replayed

EXAMPLES = Path(__file__).parents[2] / "examples"
START = datetime(2026, 1, 1, tzinfo=UTC)


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "file.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_the_example_is_drafted_replayed_and_its_cavitation_found():
    path = EXAMPLES / "pump.csv"
    made = draft(path)
    assert made.profile.channel_names == ("pressure", "flow", "motor_current")
    assert [c.unit for c in made.profile.channels] == ["bar", "m3/h", "A"]
    assert made.profile.replay.time_format == "%d.%m.%Y %H:%M:%S"
    assert made.skipped == {"mode": "text"}
    counts, started, *_ = replayed(path, made)
    refused = ("duplicate", "out_of_order", "unreadable_time", "malformed")
    assert counts["rows"] == counts["samples"] + sum(counts[name] for name in refused)
    assert (counts["rows"], counts["duplicate"], counts["blank"]) == (2000, 1, 4)
    assert (counts["unparsable"], counts["absurd"]) == (0, 1)
    assert started == ["inspect", "none"]


def test_the_example_is_what_its_script_writes():
    made = runpy.run_path(str(EXAMPLES / "make_pump.py"))["lines"]()
    assert (EXAMPLES / "pump.csv").read_text(encoding="utf-8") == "\n".join(made) + "\n"


def test_the_text_parses_to_the_profile_and_says_what_was_left_out(tmp_path):
    text = "time,a,b\n" + "".join(f"2024-01-01 00:00:{i:02d},{i % 7}.5,x\n" for i in range(60))
    made = draft(written(tmp_path, text), name="My File")
    assert parse_profile(made.text, "text") == made.profile
    assert made.profile.name == "my_file"
    assert "# Not a channel: b: text" in made.text


def test_hostile_headers_stay_in_their_place(tmp_path):
    header = '"ti""me\n[x]",9 Größe (m/s²),ÄÖ,class = "x",class'
    rows = "".join(
        f"2024-01-01 00:00:{i:02d},{i % 7}.5,{i * i % 11}.25,{i % 5}.1,{i % 3}.1\n" for i in range(60)
    )
    made = draft(written(tmp_path, header.replace("\n", " ") + "\n" + rows))
    assert made.profile.channel_names == ("c_9_gr_e", "channel", "class_x", "class")
    assert made.profile.channels[0].unit == "m/s²"
    assert replayed(tmp_path / "file.csv", made).counts["samples"] == 60


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([str(i) for i in range(1, 61)], "a counter"),
        (["7.5"] * 60, "always 7.5"),
        (["True", "False"] * 30, "true or false"),
        (["0", "1", "1"] * 20, "true or false"),
        (["3", "4"] * 30, "a flag: only two values"),
        (["ok", "bad", "worse"] * 20, "text"),
        (["1.5", "", ""] * 20, "mostly blank"),
    ],
)
def test_columns_that_measure_nothing_are_left_out_with_the_reason(tmp_path, cells, reason):
    rows = "".join(f"2024-01-01 00:00:{i:02d},{i % 7}.5,{cell}\n" for i, cell in enumerate(cells))
    made = draft(written(tmp_path, "time,good,odd\n" + rows))
    assert made.skipped == {"odd": reason}


def test_a_label_is_left_out_by_its_name(tmp_path):
    rows = "".join(f"2024-01-01 00:00:{i:02d},{i % 7}.5,{i * 7 % 3}\n" for i in range(60))
    made = draft(written(tmp_path, "time,good,fault_class\n" + rows))
    assert made.skipped == {"fault_class": "a label by its name"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_the_encoding_is_found(tmp_path, encoding):
    rows = "".join(f"2024-01-01 00:00:{i:02d},{i % 7}.5\n" for i in range(60))
    path = written(tmp_path, "Zeit,Wärme\n" + rows, encoding)
    made = draft(path)
    assert made.profile.replay.columns == {"w_rme": "Wärme"}
    assert replayed(path, made).counts["samples"] == 60


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["a;b;c\n", "1,5;2,5;3,5\n", "1,5;2,5;3,5\n"], ";"),
        (["a,b\n", "1.5,x;y\n"], ","),
        (["a\tb\n", "1,5\t2\n"], "\t"),
        (["a|b|c\n", "1|2|3\n"], "|"),
        (["a;b\n", "1;2\n", "1;2;3\n"], ";"),
        (["t,v\n", '"1;2",3\n'], ","),
    ],
)
def test_the_delimiter_is_the_one_the_header_agrees_with(lines, delimiter):
    assert find_dialect([line.rstrip("\n") for line in lines]).delimiter == delimiter


@pytest.mark.parametrize(
    ("times", "time_format"),
    [
        ("2024-01-{d:02d}T00:00:00Z", "iso"),
        ("{d:02d}.01.2024 10:00", "%d.%m.%Y %H:%M"),
        ("01/{e:02d}/2024 10:00:00", "%m/%d/%Y %H:%M:%S"),
        ("{e:02d}/01/2024 10:00:00", "%d/%m/%Y %H:%M:%S"),
        ("2024/01/{d:02d} 10:00:00", "%Y/%m/%d %H:%M:%S"),
        ("17040672{d:02d}", "epoch_s"),
        ("17040672{d:02d}000", "epoch_ms"),
    ],
)
def test_the_time_column_and_its_format_are_found(tmp_path, times, time_format):
    """Days up to 12 would leave day and month open: one is later."""
    rows = "".join(f"{d % 5}.5,{times.format(d=d, e=d + 3)}\n" for d in range(1, 13))
    made = draft(written(tmp_path, "value,time\n" + rows))
    assert not made.record.doubts
    assert (made.profile.replay.time_column, made.profile.replay.time_format) == ("time", time_format)


def test_a_file_without_times_is_a_sample_a_second_and_says_so(tmp_path):
    made = draft(written(tmp_path, "a\n" + "".join(f"{i * 7 % 11}.5\n" for i in range(50))))
    assert made.profile.replay.time_column == ""
    assert "is a guess" in made.text
    assert replayed(tmp_path / "file.csv", made).counts["samples"] == 50


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "no rows"),
        ("time,b\n2024-01-01,x\n2024-01-02,y\n2024-01-03,z\n", "no column of changing numbers; b: text"),
    ],
)
def test_a_file_that_gives_no_profile_says_why(tmp_path, text, message):
    with pytest.raises(SourceError, match=message):
        draft(written(tmp_path, text))


def test_absurd_values_fall_out_and_real_extremes_stay():
    rng = np.random.default_rng(0)
    kelvin = np.concatenate([rng.normal(281, 12, 40_000), np.zeros(10)])
    low, high = plausible_range(kelvin)
    assert 0 < low < kelvin[kelvin > 0].min()
    assert kelvin.max() < high < 400
    rain = np.concatenate([np.zeros(40_000), rng.exponential(3, 3000), [40.0, 55.6, 9831.3]])
    low, high = plausible_range(rain)
    assert low == 0
    assert 55.6 < high < 1000


@pytest.mark.parametrize(
    ("unit", "usual", "possible"),
    [
        ("degC", (18, 22), (-273.15, 3000)),
        ("°C", (18, 22), (-273.15, 3000)),
        ("%", (20, 60), (-10, 110)),
        ("%", (20, 400), (-40, 4000)),  # of one core of several
        ("K", (230, 310), (0.1, 3300)),
        ("bar", (4, 6), (-0.6, 60)),
        ("", (-3, 5), (-50, 50)),
        ("A", (-5, -2), (-50, 0.5)),
    ],
)
def test_what_can_be_comes_from_physics_or_is_generous(unit, usual, possible):
    assert possible_range(unit, *usual) == possible


def test_a_draft_of_one_pump_blanks_no_sister_pump(tmp_path):
    """Others run at other levels: with ranges of one file 708 of 846 rows were lost."""
    rng, levels = np.random.default_rng(3), (1.0, 2.0, 0.5, 3.0, 0.0)
    values = rng.normal(5.0, 0.3, 500)
    made = draft(
        written(tmp_path, "\n".join(["at,pressure (bar)", *(f"{k},{v:.3f}" for k, v in enumerate(values))]))
    )
    [channel] = made.profile.channels
    for level in levels:
        sister = level * values
        assert ((sister >= channel.min) & (sister <= channel.max)).all()
    low, high = channel.usual
    assert low < values.min() < values.max() < high < 10


def test_a_fault_at_the_end_of_calm_weeks_is_not_called_absurd_and_is_pointed_at(tmp_path):
    rng = np.random.default_rng(4)
    values = [*rng.normal(20, 0.05, 5_000), 95, 96, 97, 98]
    made = draft(
        written(tmp_path, "\n".join(["at,bearing_temp", *(f"{k},{v:.3f}" for k, v in enumerate(values))]))
    )
    assert made.profile.channels[0].max > 98
    assert made.unusual == {"bearing_temp": 4}
    assert "4 values lie outside: faults or nonsense?" in made.text


def test_a_counter_whose_steps_float32_cannot_hold_is_drafted_wider(tmp_path):
    rows = "".join(f"2024-01-01 00:00:{i:02d},{18228934 + i * i % 7 / 4:.3f},{i % 7}.5\n" for i in range(60))
    made = draft(written(tmp_path, "time,energy,heat\n" + rows))
    assert [c.dtype for c in made.profile.channels] == ["float64", "float32"]
    assert not outgrows_float32(np.array([1e9, 2e9]))


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
@pytest.mark.parametrize("sign", [1, -1])
def test_ranges_hold_at_any_scale_and_sign(scale, sign):
    values = sign * scale * np.random.default_rng(1).uniform(1, 3, 2000)
    low, high = plausible_range(values)
    assert low <= values.min() < values.max() <= high
    assert high - low < 4 * (values.max() - values.min())


@pytest.mark.parametrize(
    ("step_s", "window", "hop"),
    [(3600.0, 1, 1), (10.0, 1, 1), (1.0, 10, 5), (0.1, 100, 50), (1 / 512, 512, 512), (1e-6, 4096, 4096)],
)
def test_windows_suit_the_rate(step_s, window, hop):
    shape = choose_shape(step_s, 100_000)
    assert (shape.window, shape.hop) == (window, hop)


def test_names_are_allowed_and_not_taken_twice():
    assert slug("Temp (°C)", []) == "temp_c"
    assert slug("Temp (°C)", ["temp_c"]) == "temp_c_2"
    assert slug("9", []) == "c_9"
    assert slug("°", []) == "channel"


@cache
def replayed_recording(name: str) -> tuple[Draft, Replayed]:
    """A recording's draft, and what came of its replay; each is replayed once."""
    path = recording(name)
    made = draft(path)
    return made, replayed(path, made)


@pytest.mark.sliced(one_of=2)
@pytest.mark.recordings
@pytest.mark.parametrize(
    ("name", "rows", "samples", "channels", "absurd"),
    [(NAB, 22_695, 22_683, 1, 0), (UR3, 7_409, 7_409, 19, 0), (I94, 48_204, 40_575, 5, 1)],
)
def test_real_recordings_replay_at_once(name, rows, samples, channels, absurd):
    made, found = replayed_recording(name)
    counts = found.counts
    assert len(made.profile.channels) == channels
    assert (counts["rows"], counts["samples"], counts["absurd"]) == (rows, samples, absurd)


@pytest.mark.recordings
def test_the_failing_machine_is_noticed():
    _, found = replayed_recording(NAB)
    assert "inspect" in found.started


@pytest.mark.recordings
@pytest.mark.parametrize("name", LONG.values(), ids=LONG)
def test_a_frozen_reference_does_not_alarm_ever_more_often(name):
    """Of recordings longer than thirty days."""
    _, found = replayed_recording(name)
    assert 0 < found.per_day(3) <= 2 * found.per_day(0)


def test_a_sound_machine_with_a_fault_every_other_day_alarms_no_more_often_in_the_end_than_at_first(tmp_path):
    """Of forty days with a daily cycle and a slow wander; a stand-in where the recordings are absent."""
    rng, hours = np.random.default_rng(3), np.arange(40 * 24 * 2) / 2
    value = 60 + 3 * np.sin(2 * np.pi * hours / 24) + 3 * np.sin(2 * np.pi * hours / 960)
    value += rng.normal(0, 1, len(hours))
    faults = np.arange(8, len(hours), 96) + rng.integers(0, 48, 20)
    value[(faults[:, None] + np.arange(4)).ravel()] += 60
    at = [START - timedelta(days=60, hours=-h) for h in hours]
    text = "".join(f"{t:%Y-%m-%d %H:%M:%S},{v:.3f}\n" for t, v in zip(at, value, strict=True))
    path = written(tmp_path, f"time,temperature\n{text}")
    alarms = replayed(path, draft(path)).alarms
    first, last = in_quarter(alarms, 0), in_quarter(alarms, 3)
    assert first >= 5
    assert 5 <= last <= 2 * first


def test_the_command_writes_a_profile_that_holds_and_replaces_none_unasked(tmp_path):
    edgeloop, target = EdgeloopHere(tmp_path / "state"), tmp_path / "pump.toml"
    arguments = ("profile", "init", str(EXAMPLES / "pump.csv"), "-o", str(target))
    assert edgeloop.json(*arguments)["skipped"] == {"mode": "text"}
    assert edgeloop.json("profile", "check", str(target))["ok"] is True
    again = edgeloop(*arguments)
    assert again.returncode == 1
    assert "--force" in again.stderr
    assert edgeloop(*arguments, "--force").returncode == 0


def test_a_profile_is_named_after_the_file_that_it_is_written_to(tmp_path):
    """`profile init history.csv -o pump.toml` drafted a profile named history."""
    edgeloop, target = EdgeloopHere(tmp_path / "state"), tmp_path / "Feed pump.toml"
    arguments = ("profile", "init", str(EXAMPLES / "pump.csv"), "-o", str(target))
    assert edgeloop.json(*arguments)["name"] == "feed_pump"
    assert edgeloop.json(*arguments, "--force", "--name", "other")["name"] == "other"

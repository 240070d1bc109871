"""Laws of further files that were read wrongly in silence: each is read right, or a person is asked."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from infra.drafting.profile_draft import draft
from infra.reading.reading_options import ReadingOptions
from infra.reading.recording_reader import ReadingWishes, ReadRecording, read_recording
from infra.reading.replay_wishes import init_wishes, replay_wishes
from infra.reading.time_choice import TimeWishes
from schemas.errors import SourceError
from tests.infra.cli import EdgeloopHere
from tests.infra.written_files import read, rows_of

START = datetime(2023, 5, 4, 6, tzinfo=UTC)
TIMES = [START + timedelta(minutes=i) for i in range(240)]
VALUES = [round(20 + i * 37 % 101 / 25, 2) for i in range(240)]


def put(folder: Path, head: str, line: Callable[[int], str], rows: int = 240) -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join([head, *(line(i) for i in range(rows))]) + "\n")
    return path


def stamp(i: int) -> str:
    return f"{TIMES[i]:%Y-%m-%d %H:%M:%S}"


def asked(found: ReadRecording) -> str:
    return "; ".join(d.line() for d in found.record.doubts)


@pytest.mark.parametrize("step", [60, 0.25])
@pytest.mark.parametrize("name", ["tow", "ticks", "n"])
def test_a_column_that_rises_evenly_may_be_the_time_and_is_asked_for(tmp_path, name, step):
    path = put(tmp_path, f"week,{name},a", lambda i: f"2260,{367_200 + i * step},{VALUES[i]}")
    assert f"--time-column {name} or --time-column none" in asked(read(path))


def test_the_number_of_a_row_is_no_time(tmp_path):
    path = put(tmp_path, "n,a", lambda i: f"{i + 1},{VALUES[i]}")
    assert not asked(read(path))
    uneven = put(tmp_path, "energy,a", lambda i: f"{1000 + i * 3 + i % 2},{VALUES[i]}")
    assert not asked(read(uneven))


def test_minutes_since_1970_are_no_seconds_since_a_start(tmp_path):
    path = put(tmp_path, "time,a", lambda i: f"{int(TIMES[i].timestamp()) // 60},{VALUES[i]}")
    assert "--time-format epoch_min or --time-format relative_s" in asked(read(path))
    said = read(path, ReadingWishes(time=TimeWishes(("time",), "epoch_min")))
    assert rows_of(said)[0] == TIMES
    since_start = put(tmp_path, "time,a", lambda i: f"{100 + i},{VALUES[i]}")
    assert not asked(read(since_start))


@pytest.mark.parametrize("said", ["epoch_minutes", "ISO8601", "dayfirst"])
def test_a_time_format_that_nobody_knows_is_refused_and_not_ignored(tmp_path, said):
    path = put(tmp_path, "time,a", lambda i: f"{stamp(i)},{VALUES[i]}")
    with pytest.raises(SourceError, match="no such format; there are iso, day_first"):
        init_wishes(ReadingOptions(time_format=said))
    refused = EdgeloopHere(tmp_path / "state")("profile", "init", str(path), "--time-format", said)
    assert refused.returncode == 1
    assert "no such format" in refused.stderr


def test_a_format_without_a_year_does_not_put_rows_into_1900_in_silence(tmp_path):
    path = put(tmp_path, "time,a", lambda i: f"{TIMES[i]:%d.%m. %H:%M},{VALUES[i]}")
    found = read(path, ReadingWishes(time=TimeWishes(("time",), "%d.%m. %H:%M")))
    assert "tells no year" in asked(found)
    assert "--force" in asked(found)


@pytest.mark.parametrize("name", ["  HH", "HH", "hr", "Std", "H"])
def test_a_date_of_digits_beside_the_hour_of_the_day_is_one_time(tmp_path, name):
    hours = [START.replace(hour=0) + timedelta(hours=i) for i in range(240)]
    head = f"# STN,YYYYMMDD,{name},   T"
    path = put(tmp_path, head, lambda i: f"  260,{hours[i]:%Y%m%d},{hours[i].hour + 1:5},{150 + i % 40:5}")
    found = read(path)
    assert not asked(found)
    assert rows_of(found)[0] == [h + timedelta(hours=1) for h in hours]


@pytest.mark.parametrize("units", [("C", "F"), ("°C", "K"), ("bar", "psi")])
@pytest.mark.parametrize("name", ["unit", "Einheit", "x"])
def test_units_that_change_from_row_to_row_are_asked_for(tmp_path, name, units):
    path = put(tmp_path, f"time,a,{name}", lambda i: f"{stamp(i)},{VALUES[i]},{units[i >= 120]}")
    assert f"'{name}' names 2 units" in asked(read(path))


@pytest.mark.parametrize("words", [("A", "B"), ("ok", "off"), ("C", "C")])
def test_other_words_are_no_units(tmp_path, words):
    path = put(tmp_path, "time,a,mode", lambda i: f"{stamp(i)},{VALUES[i]},{words[i >= 120]}")
    assert not asked(read(path))


@pytest.mark.parametrize("code", ["-9999", "-999.9", "65535", "1e30"])
def test_a_column_that_holds_only_a_code_has_no_values(tmp_path, code):
    path = put(tmp_path, "time,dead,a", lambda i: f"{stamp(i)},{code},{VALUES[i]}")
    found = read(path)
    [column] = [c for c in found.columns if c.name == "dead"]
    assert np.isnan(column.values).all()
    assert "every cell is" in next(c.why for c in found.record.columns if c.name == "dead")
    steady = put(tmp_path, "time,setpoint,a", lambda i: f"{stamp(i)},999,{VALUES[i]}")
    assert not np.isnan(read(steady).columns[0].values).any()


def test_a_run_of_zeros_far_from_the_rest_is_said(tmp_path):
    path = put(tmp_path, "time,p", lambda i: f"{stamp(i)},{0 if 100 <= i < 112 else 1000 + VALUES[i]}")
    assert any("0 stands 12 times" in n and "--missing 0" in n for n in read(path).record.notes)


def test_devices_that_are_numbered_with_a_decimal_point_are_named(tmp_path):
    path = put(tmp_path, "time,unit,a", lambda i: f"{stamp(i // 3)},{i % 3 + 1}.0,{VALUES[i] + i % 3 * 9}")
    assert "--device-column unit" in asked(read(path))


def test_quantities_in_rows_of_their_own_are_not_called_devices_alone(tmp_path):
    tags = ("TI-101", "PI-202", "FI-3")
    path = put(
        tmp_path, "time,tag,value", lambda i: f"{stamp(i // 3)},{tags[i % 3]},{VALUES[i] * 10 ** (i % 3)}"
    )
    assert "a column for each quantity" in asked(read(path))


@pytest.mark.parametrize("place", ["middle", "end"])
def test_a_row_that_lacks_a_cell_in_the_middle_is_not_read_as_if_it_lacked_the_last(tmp_path, place):
    def line(i):
        cells = [stamp(i), VALUES[i], VALUES[i] + 200, VALUES[i] + 900]
        if i % 60 == 7:
            del cells[1 if place == "middle" else 3]
        return ",".join(map(str, cells))

    found = read(put(tmp_path, "time,a,b,c", line))
    lost = 4 if place == "middle" else 0
    assert (found.record.used, found.record.dropped.get("malformed", 0)) == (240 - lost, lost)
    assert np.nanmax(rows_of(found)[1][:, 0]) < 30


@pytest.mark.parametrize(
    "names", [("local_time", "utc_time"), ("time", "timestamp (UTC)"), ("time", "GMT time")]
)
@pytest.mark.parametrize("zone", ["", "+00:00"])
def test_of_two_clocks_the_one_whose_zone_is_known_counts_and_the_other_is_said(tmp_path, names, zone):
    shift = timedelta(hours=2)
    head = f"{names[0]},{names[1] if not zone else 'measured time'},a"
    path = put(tmp_path, head, lambda i: f"{TIMES[i] + shift:%Y-%m-%d %H:%M:%S},{stamp(i)}{zone},{VALUES[i]}")
    found = read(path)
    assert rows_of(found)[0] == TIMES
    assert any(n.startswith(names[0]) and "holds times too" in n for n in found.record.notes)


@pytest.mark.parametrize("other", ["°F", "K", "°C"])
def test_files_whose_units_rows_differ_are_not_read_as_one(tmp_path, other):
    for number, unit in enumerate(["°C", other]):
        lines = [f"{TIMES[i] + timedelta(days=number):%Y-%m-%d %H:%M:%S},{VALUES[i]}" for i in range(240)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["time,temp", f"-,{unit}", *lines]) + "\n")
    files = [tmp_path / f"{n}.csv" for n in range(2)]
    if other == "°C":
        assert read_recording(files, ReadingWishes(), datetime(2026, 1, 1, tzinfo=UTC)).record.used == 480
    else:
        with pytest.raises(SourceError, match="states 'temp' in"):
            read_recording(files, ReadingWishes(), datetime(2026, 1, 1, tzinfo=UTC))


def test_a_fault_in_a_row_whose_last_cells_were_left_out_is_kept(tmp_path):
    def line(i):
        fault = i % 60 == 7
        return f"{stamp(i)},{VALUES[i] + 70 * fault},{VALUES[i] + 200}" + ("" if fault else f",{VALUES[i]}")

    found = read(put(tmp_path, "time,a,b,c", line))
    assert found.record.used == 240
    assert np.nanmax(rows_of(found)[1][:, 0]) > 85


def test_names_in_two_lines_belong_together_where_the_upper_one_has_groups(tmp_path):
    head = "time,Pump1,,Pump2,\n,temp,flow,temp,flow"
    path = put(tmp_path, head, lambda i: f"{stamp(i)},{VALUES[i]},5.5,{VALUES[i]},{i % 7}.5")
    assert [c.name for c in read(path).columns] == ["Pump1 temp", "Pump1 flow", "Pump2 temp", "Pump2 flow"]
    units = put(tmp_path, "time,temp,\n-,°C,bar", lambda i: f"{stamp(i)},{VALUES[i]},{i % 7}.5")
    assert [c.unit for c in read(units).columns] == ["°C"]


@pytest.mark.parametrize(
    ("name", "cells", "says"),
    [
        ("tz", ["+02:00"], "--timezone Etc/GMT-2"),
        ("timezone", ["Europe/Berlin"], "--timezone Europe/Berlin"),
        ("utc_offset", ["-0500"], "--timezone Etc/GMT+5"),
        ("offset", ["+01:00", "+02:00"], "times that carry their offset"),
        ("tz", ["UTC"], ""),
        ("tz", ["+00:00"], ""),
        ("state", ["CET"], ""),
    ],
)
def test_a_zone_in_a_column_of_its_own_is_not_passed_over(tmp_path, name, cells, says):
    path = put(
        tmp_path, f"time,{name},a", lambda i: f"{stamp(i)},{cells[i >= 120 and len(cells) - 1]},{VALUES[i]}"
    )
    said = asked(read(path))
    assert (says in said) if says else (said == "")
    assert not asked(read(path, ReadingWishes(timezone="UTC", zone_said=True)))


FRACTIONS = {
    "hours": ("date,hour", lambda t: f"{t:%Y-%m-%d},{t.hour + t.minute / 60:.4f}"),
    "days of the year": (
        "year,doy",
        lambda t: f"{t.year},{t.timetuple().tm_yday + (t.hour * 60 + t.minute) / 1440:.6f}",
    ),
    "days of the month": (
        "year,month,day",
        lambda t: f"{t.year},{t.month},{t.day + t.hour / 24 + t.minute / 1440:.6f}",
    ),
}


@pytest.mark.parametrize("form", FRACTIONS)
def test_hours_and_days_with_a_fraction_are_read_to_the_second(tmp_path, form):
    head, written = FRACTIONS[form]
    found = read(put(tmp_path, f"{head},a", lambda i: f"{written(TIMES[i])},{VALUES[i]}"))
    assert not asked(found)
    assert rows_of(found)[0] == TIMES


def test_years_with_a_fraction_are_no_seconds(tmp_path):
    path = put(tmp_path, "time,a", lambda i: f"{2023 + i / 8766:.8f},{VALUES[i]}")
    assert "years with a fraction" in asked(read(path))


@pytest.mark.parametrize(
    ("name", "units"), [("msec", 1000), ("Milliseconds", 1000), ("us", 10**6), ("nsec", 10**9)]
)
@pytest.mark.parametrize("seconds", ["written", "epoch", "day first"])
def test_parts_of_a_second_in_a_column_of_their_own_belong_to_the_time(tmp_path, name, units, seconds):
    times = [START + timedelta(milliseconds=100 * i) for i in range(240)]
    written = {
        "written": lambda t: f"{t:%Y-%m-%d %H:%M:%S}",
        "epoch": lambda t: f"{int(t.timestamp())}",
        "day first": lambda t: f"{t.replace(day=14):%d/%m/%Y %H:%M:%S}",
    }[seconds]
    path = put(
        tmp_path, f"time,{name},a", lambda i: f"{written(times[i])},{i % 10 * units // 10},{VALUES[i]}"
    )
    found = read(path)
    expected = [t.replace(day=14) for t in times] if seconds == "day first" else times
    assert not asked(found)
    assert rows_of(found)[0] == expected
    made = draft(path).profile
    assert rows_of(read(path, replay_wishes(made, ReadingOptions())))[0] == expected


def test_a_measurement_in_milliseconds_is_no_part_of_the_time(tmp_path):
    path = put(tmp_path, "time,ms,a", lambda i: f"{stamp(i)},{i % 90},{VALUES[i]}")
    assert [c.name for c in read(path).columns] == ["ms", "a"]

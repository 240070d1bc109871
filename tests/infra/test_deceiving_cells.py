"""Laws of cells that deceive: fractions of an hour, a second line of names, missing units and cells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.reading.recording_reader import ReadingWishes
from tests.infra.written_files import read, rows_of

START = datetime(2021, 3, 1, tzinfo=UTC)


def written(folder: Path, lines: list[str]) -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def by_minute(cells: list[str], head: str) -> list[str]:
    return [
        head,
        *(f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{cell}" for i, cell in enumerate(cells)),
    ]


@pytest.mark.parametrize(
    ("head", "step"),
    [("hour", timedelta(hours=1)), ("hour,minute", timedelta(minutes=7))],
)
def test_a_fraction_of_an_hour_or_a_minute_is_no_rounding(tmp_path, head, step):
    first = START + (timedelta(minutes=30) if head == "hour" else timedelta(seconds=30))
    times = [first + i * step for i in range(48)]
    cells = [
        f"{t.hour + t.minute / 60:g}" if head == "hour" else f"{t.hour},{t.minute + t.second / 60:g}"
        for t in times
    ]
    lines = [f"{t:%Y,%m,%d},{c},{i}" for i, (t, c) in enumerate(zip(times, cells, strict=True))]
    assert rows_of(read(written(tmp_path, [f"year,month,day,{head},a", *lines])))[0] == times


def test_a_minute_that_stands_for_no_value_moves_no_row(tmp_path):
    lines = [f"2021,3,1,{20 + i // 60},{-999 if i == 70 else i % 60},{i}" for i in range(120)]
    found = read(written(tmp_path, ["year,month,day,hour,minute,a", *lines]))
    assert found.record.dropped["unreadable_time"] == 1
    assert rows_of(found)[0][-1] == START + timedelta(hours=21, minutes=59)


def test_a_second_line_of_names_in_another_order_is_asked_about(tmp_path):
    first, second = by_minute(["20,50"] * 30, "time,a,b"), by_minute(["50,20"] * 60, "")[31:]
    found = read(written(tmp_path, [*first, "time,b,a", *second]))
    assert "another order" in found.record.doubts[0].what
    again = read(written(tmp_path, [*first, "time,a,b", *second]))
    assert not again.record.doubts


def test_cells_without_a_unit_among_others_with_one_are_asked_about(tmp_path):
    cells = ["900", "950", "1.1k", "1.2k"] * 10
    doubts = read(written(tmp_path, by_minute(cells, "time,flow"))).record.doubts
    assert "20 of 40 cells carry no unit, the others 'k'" in doubts[0].what
    zeros = ["0" if i % 2 else f"{i} bar" for i in range(60)]
    assert not read(written(tmp_path, by_minute(zeros, "time,flow"))).record.doubts
    stated = ["9" if i % 2 else f"{i} bar" for i in range(60)]
    assert not read(written(tmp_path, by_minute(stated, "time,flow [bar]"))).record.doubts


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("time (UTC+2)", "--timezone Etc/GMT-2"),
        ("Date/Time GMT-05:00", "--timezone Etc/GMT+5"),
        ("Timestamp [CET]", "--timezone Etc/GMT-1"),
        ("Time (Europe/Berlin)", "--timezone Europe/Berlin"),
        ("time (UTC)", ""),
        ("time (local)", ""),
        ("time_utc", ""),
    ],
)
def test_a_zone_in_the_name_of_the_time_is_asked_about(tmp_path, name, option):
    path = written(tmp_path, by_minute([f"{i}.5" for i in range(30)], f"{name},a"))
    doubts = read(path).record.doubts
    assert [d.options[0] for d in doubts] == ([option] if option else [])
    zone = option.removeprefix("--timezone ") or "UTC"
    assert not read(path, ReadingWishes(timezone=zone, zone_said=True)).record.doubts


def test_a_cell_that_blanks_do_not_show_puts_no_number_into_another_column(tmp_path):
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%dT%H:%M:%S}  {i}  {30 + i}" for i in range(60)]
    lines[40] = f"{lines[40].split()[0]}      70"
    lines[50] = lines[50].split()[0]
    found = read(written(tmp_path, ["time  a  b", *lines]))
    assert found.record.dropped["malformed"] == 1
    assert len(rows_of(found)[0]) == 59


def test_a_year_has_no_day_366_unless_it_is_a_leap_year(tmp_path):
    lines = [f"{year},{day},{day % 7}.5" for year in (2020, 2021) for day in range(1, 367)]
    found = read(written(tmp_path, ["year,doy,a", *lines]))
    assert found.record.dropped["unreadable_time"] == 1
    assert rows_of(found)[0][365] == datetime(2020, 12, 31, tzinfo=UTC)

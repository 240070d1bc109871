"""Laws of times that deceive: short years, clocks without the hour or the half of the day, resets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.reading.recording_reader import ReadingWishes, ReadRecording
from infra.reading.time_choice import TimeWishes
from tests.infra.written_files import read, rows_of

DAY = datetime(2017, 3, 1, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def written(folder: Path, times: list[str], head: str = "time,a") -> Path:
    path = folder / "file.csv"
    path.write_text("\n".join([head, *(f"{t},{20 + i % 7}.{i % 10}" for i, t in enumerate(times))]) + "\n")
    return path


def instants(count: int, step: timedelta = MINUTE, start: datetime = DAY) -> list[datetime]:
    return [start + i * step for i in range(count)]


def options(found: ReadRecording) -> str:
    return " ".join(o for d in found.record.doubts for o in d.options)


def as_said(path: Path, form: str) -> ReadRecording:
    return read(path, ReadingWishes(time=TimeWishes(None, form)))


@pytest.mark.parametrize(
    ("form", "step"),
    [
        ("%y%m%d", timedelta(days=1)),
        ("%y%m%d%H", HOUR),
        ("%y%m%d%H%M", MINUTE),
        ("%y%m%d%H%M%S", MINUTE),
        ("%d%m%y%H%M", MINUTE),
        ("%m%d%Y%H%M", MINUTE),
        ("%d%m%Y", timedelta(days=1)),
    ],
)
@pytest.mark.parametrize(
    "start", [DAY, datetime(2019, 12, 30, 20, tzinfo=UTC), datetime(2009, 1, 30, tzinfo=UTC)]
)
def test_digits_of_a_date_are_read_where_they_carry(tmp_path, form, step, start):
    times = instants(3000 if step == MINUTE else 300, step, start)
    times = [t.replace(hour=0) for t in times] if "%H" not in form else times
    found = read(written(tmp_path, [f"{t:{form}}" for t in times]))
    assert (rows_of(found)[0], found.record.doubts) == (times, ())


@pytest.mark.parametrize("form", ["%y%m%d%H%M", "%d%m%y%H%M", "%y%m%d%H%M%S", "%y%m%d%H"])
def test_digits_that_nothing_tells_from_a_count_are_asked_for(tmp_path, form):
    step = HOUR if form.endswith("%H") else MINUTE
    times = instants(15, step)
    path = written(tmp_path, [f"{t:{form}}" for t in times])
    said = options(read(path))
    assert f"--time-format {form}" in said
    assert "epoch" in said or "relative" in said
    found = as_said(path, form)
    assert (rows_of(found)[0], found.record.doubts) == (times, ())


@pytest.mark.parametrize("step_s", [1, 7, 10, 60, 3600, 86_400])
@pytest.mark.parametrize("rows", [10, 300])
def test_seconds_since_1970_stay_seconds_whatever_date_their_digits_are_like(tmp_path, step_s, rows):
    """1,712,010,000 might be a day of 2017, were it not for the next rows."""
    start = datetime(2024, 4, 1, 22, 20, tzinfo=UTC)
    times = instants(rows, timedelta(seconds=step_s), start)
    found = read(written(tmp_path, [str(int(t.timestamp())) for t in times]))
    if found.record.doubts:
        assert "--time-format epoch_s" in options(found)
    else:
        assert rows_of(found)[0] == times


def test_a_zero_that_a_number_lost_is_no_other_date(tmp_path):
    times = instants(3000, MINUTE, datetime(2009, 12, 30, tzinfo=UTC))
    path = written(tmp_path, [str(int(f"{t:%y%m%d%H%M}")) for t in times])
    assert rows_of(read(path))[0] == rows_of(as_said(path, "%y%m%d%H%M"))[0] == times


@pytest.mark.parametrize("mark", [".", ","])
@pytest.mark.parametrize("tenths", [3000, 90_000])
def test_minutes_and_seconds_are_no_hours_and_minutes(tmp_path, mark, tenths):
    """As a spreadsheet exports times by its format mm:ss.0: the hour is lost, and the minutes begin anew."""
    times = [f"{i // 600 % 60:02d}:{i // 10 % 60:02d}{mark}{i % 10}" for i in range(0, tenths, 7)]
    path = tmp_path / "file.csv"
    path.write_text("time;a\n" + "".join(f"{t};{20 + i % 7}\n" for i, t in enumerate(times)))
    found = read(path)
    got = rows_of(found)[0]
    assert [t - got[0] for t in got] == [i * timedelta(seconds=0.7) for i in range(len(times))]
    assert (found.record.recorded, found.record.doubts) == (False, ())


def test_a_point_behind_the_minute_of_a_date_is_no_second(tmp_path):
    path = written(tmp_path, [f"2021-03-01 00:{i:02d}.5" for i in range(60)])
    assert "--time-format" in options(read(path))


def test_a_date_beside_minutes_without_an_hour_is_asked_for(tmp_path):
    rows = [f"2021-03-0{1 + i // 900},{i // 60 % 60:02d}:{i % 60:02d}.0" for i in range(3600)]
    path = written(tmp_path, rows, "date,time,a")
    assert "--time-column time" in options(read(path))


def test_two_fields_that_may_begin_with_the_hour_or_the_minute_are_asked_for(tmp_path):
    path = written(tmp_path, [f"{i // 60:02d}:{i % 60:02d}" for i in range(300)])
    assert "--time-format %H:%M --time-format %M:%S" in options(read(path))
    for form, rate in (("%H:%M", 1 / 60), ("%M:%S", 1)):
        found = as_said(path, form)
        assert (found.record.recorded, found.record.rate_hz) == (False, pytest.approx(rate))
        assert not found.record.doubts
    later = written(tmp_path, [f"{6 + i // 60:02d}:{i % 60:02d}" for i in range(300)])
    assert (read(later).record.rate_hz, read(later).record.doubts) == (pytest.approx(1 / 60), ())

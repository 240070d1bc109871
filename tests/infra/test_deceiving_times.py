"""Laws of times that deceive: short years, clocks without the hour or the half of the day, resets."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise
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
        ("%y%j", timedelta(days=1)),
        ("%Y%j%H", HOUR),
    ],
)
@pytest.mark.parametrize(
    "start", [DAY, datetime(2019, 12, 30, 20, tzinfo=UTC), datetime(2009, 1, 30, tzinfo=UTC)]
)
def test_digits_of_a_date_are_read_where_they_carry(tmp_path, form, step, start):
    times = instants(3000 if step == MINUTE else 600, step, start)
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


HALVES = ["%Y-%m-%d %I:%M:%S", "%m/%d/%Y %I:%M", "%d.%m.%Y %I.%M"]


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("form", HALVES)
@pytest.mark.parametrize("hour", [0, 5, 13, 23])
@pytest.mark.parametrize("newest_first", [False, True])
def test_afternoons_of_a_clock_of_twelve_hours_follow_their_mornings(tmp_path, form, hour, newest_first):
    times = instants(600, 30 * MINUTE, datetime(2021, 3, 5, hour, tzinfo=UTC))
    rows = [f"{t:{form}}" for t in times]
    found = read(written(tmp_path, rows[::-1] if newest_first else rows))
    assert (rows_of(found)[0], found.record.doubts) == (times, ())
    assert found.time is not None
    assert found.time.format in ("written", "day_first", "month_first")  # no format that reads no afternoon
    again = as_said(tmp_path / "file.csv", form)
    assert (rows_of(again)[0], again.record.doubts) == (times, ())


def test_each_device_has_its_own_mornings(tmp_path):
    times = instants(200, 30 * MINUTE, datetime(2021, 3, 14, 5, tzinfo=UTC))
    path = tmp_path / "file.csv"
    lines = [f"{t:%Y-%m-%d %I:%M},{d},{i % 17}.5" for d in "ab" for i, t in enumerate(times)]
    path.write_text("time,device,v\n" + "\n".join(lines) + "\n")
    found = read(path, ReadingWishes(device_column="device"))
    assert [rows_of(found, d)[0] for d in "ab"] == [times, times]


@pytest.mark.parametrize("shuffled", [False, True])
def test_halves_of_a_day_that_the_order_of_rows_does_not_tell_are_asked_for(tmp_path, shuffled):
    times = instants(300, 30 * MINUTE, datetime(2021, 3, 14, 5, tzinfo=UTC))
    rows = sorted(f"{t:%Y-%m-%d %I:%M:%S}" for t in times)
    if shuffled:
        random.Random(1).shuffle(rows)
    path = written(tmp_path, rows)
    assert "--time-format '%Y-%m-%d %H:%M:%S'" in options(read(path))
    assert not any("twelve" in d.what for d in as_said(path, "%Y-%m-%d %H:%M:%S").record.doubts)


def test_mornings_alone_are_hours_as_they_are_written(tmp_path):
    times = [DAY + timedelta(days=d, hours=8) + i * 10 * MINUTE for d in range(10) for i in range(30)]
    found = read(written(tmp_path, [f"{t:%Y-%m-%d %H:%M:%S}" for t in times]))
    assert (rows_of(found)[0], found.record.doubts) == (times, ())


@pytest.mark.parametrize("late", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("year", [1970, 2000, 2010])
def test_a_clock_that_lost_its_time_is_doubted_at_any_share_of_the_rows(tmp_path, late, year):
    lost = round(300 * late)
    times = [*instants(300 - lost), *instants(lost, MINUTE, datetime(year, 1, 1, tzinfo=UTC))]
    found = read(written(tmp_path, [f"{t:%Y-%m-%d %H:%M:%S}" for t in times]))
    assert f"{min(lost, 300 - lost)} rows lie more than" in found.record.doubts[0].what


def test_a_row_each_year_is_no_clock_that_lost_its_time(tmp_path):
    times = [DAY.replace(year=1970 + 3 * i) for i in range(18)]
    assert not read(written(tmp_path, [f"{t:%Y-%m-%d}" for t in times])).record.doubts


def counted(counts: list[int]) -> list[str]:
    return [f"{DAY + timedelta(seconds=s):%Y-%m-%d %H:%M:%S}" for s, n in enumerate(counts) for _ in range(n)]


@pytest.mark.parametrize(
    "counts",
    [[3] * 30 + [7] * 30, [8, 14, 11, 9, 13] * 12, [1, 2, 1] * 30, [0, 5, 2, 6] * 20, [2, 5] * 30],
)
@pytest.mark.parametrize("newest_first", [False, True])
def test_rows_of_a_second_at_an_uneven_rate_are_spread_by_their_own_count(tmp_path, counts, newest_first):
    rows = counted(counts)
    path = written(tmp_path, rows[::-1] if newest_first else rows)
    found = read(path)
    times = [DAY + timedelta(seconds=s + i / n) for s, n in enumerate(counts) for i in range(n)]
    assert found.record.doubts == ()
    got = rows_of(found)[0]
    assert all(abs(a - b) < timedelta(milliseconds=500) for a, b in zip(got, times, strict=True))
    assert [t.replace(microsecond=0) for t in got] == [t.replace(microsecond=0) for t in times]
    assert len(set(got)) == len(rows)
    places = found.devices[""].places
    assert places.tolist() == (list(range(len(rows)))[:: -1 if newest_first else 1])


@pytest.mark.parametrize("counts", [[1] * 40 + [400] + [1] * 40, [3] * 40 + [400] + [3] * 40])
def test_a_clock_that_stood_still_spreads_no_rows(tmp_path, counts):
    assert any(
        "time of another row" in d.what for d in read(written(tmp_path, counted(counts))).record.doubts
    )


def test_rows_that_stand_apart_in_the_file_are_not_spread_over_a_time(tmp_path):
    found = read(written(tmp_path, counted([3] * 30) * 2))
    assert any("time of another row" in d.what for d in found.record.doubts)


@pytest.mark.parametrize("changes", [2, 20, 300])
@pytest.mark.parametrize("joined", [False, True])
def test_day_and_month_that_change_places_within_a_file_are_asked_for(tmp_path, changes, joined):
    """Cells that are no dates under either order: none is right, and the few are not dropped in silence."""
    times = instants(600, timedelta(hours=8), datetime(2021, 1, 13, tzinfo=UTC))
    forms = ["%m/%d/%Y" if i < 600 - changes else "%d/%m/%Y" for i in range(600)]
    rows = [f"{t:{f}}{',' if joined else ' '}{t:%H:%M}" for t, f in zip(times, forms, strict=True)]
    said = read(written(tmp_path, rows, "date,time,a" if joined else "time,a")).record.doubts[0]
    assert "changes its order of day and month" in said.what
    assert "--time-format month_first" in said.options


def test_a_short_year_that_may_stand_first_is_offered(tmp_path):
    times = instants(60, MINUTE, datetime(2021, 3, 1, tzinfo=UTC))
    path = written(tmp_path, [f"{t:%y/%m/%d}" for t in times])
    assert "--time-format %y/%m/%d" in options(read(path))
    path = written(tmp_path, [f"{t:%y/%m/%d %H:%M}" for t in times])
    assert "--time-format '%y/%m/%d %H:%M'" in options(read(path))
    found = as_said(path, "%y/%m/%d %H:%M")
    assert (rows_of(found)[0], found.record.doubts) == (times, ())


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000])
@pytest.mark.parametrize("name", ["id", "row", "event_no"])
def test_times_under_a_counters_name_are_named_and_read_when_they_are_said(tmp_path, unit, name):
    times = instants(60)
    path = written(tmp_path, [str(int(t.timestamp()) * unit) for t in times], f"{name},a")
    assert f"--time-column {name}" in options(read(path))
    found = read(path, ReadingWishes(time=TimeWishes((name,), "")))
    assert (rows_of(found)[0], found.record.doubts) == (times, ())
    assert not read(path, ReadingWishes(time=TimeWishes((), ""))).record.doubts


@pytest.mark.parametrize("rows", [20, 60, 61])
def test_a_file_joined_with_itself_says_how_many_rows_repeat_and_no_change_of_clocks(tmp_path, rows):
    times = instants(rows) * 2
    path = tmp_path / "file.csv"
    path.write_text("time,a\n" + "".join(f"{t:%Y-%m-%d %H:%M:%S},{20 + t.minute / 10}\n" for t in times))
    found = read(path)
    assert (found.record.used, found.record.doubts) == (rows, ())
    assert any(f"{rows} rows repeat an earlier one" in n for n in found.record.notes)
    assert not any("clock" in n for n in found.record.notes)


@pytest.mark.parametrize("form", ["%H%M", "%H%M%S"])
@pytest.mark.parametrize("rows", [300, 3000])
def test_digits_of_a_time_of_day_carry_at_sixty_and_count_no_seconds(tmp_path, form, rows):
    times = instants(rows, MINUTE, datetime(2021, 3, 14, tzinfo=UTC))
    found = read(written(tmp_path, [f"{t:{form}}" for t in times]))
    got = rows_of(found)[0]
    assert [t - got[0] for t in got] == [t - times[0] for t in times]
    split = written(tmp_path, [f"{t:%y%m%d},{t:{form}}" for t in times], "date,time,a")
    found = as_said(split, "%y%m%d") if read(split).record.doubts else read(split)
    assert (rows_of(found)[0], found.record.doubts) == (times, ())
    assert found.time is not None
    kept = ReadingWishes(time=TimeWishes(found.time_columns, found.time.format))
    assert rows_of(read(split, kept))[0] == times  # as a replay with the drafted profile


@pytest.mark.parametrize("bits", [16, 32])
def test_a_counter_of_milliseconds_that_runs_over_goes_on(tmp_path, bits):
    path = written(tmp_path, [str((2**bits - 9_000 + 100 * i) % 2**bits) for i in range(300)], "millis,a")
    found = read(path)
    times = rows_of(found)[0]
    assert found.record.doubts == ()
    assert {b - a for a, b in pairwise(times)} == {timedelta(milliseconds=100)}


def test_a_count_that_begins_anew_is_asked_for(tmp_path):
    path = written(tmp_path, [str(i if i < 200 else i - 150) for i in range(300)], "seconds,a")
    assert "begins anew 1 time" in read(path).record.doubts[0].what


@pytest.mark.parametrize("cells", ["{y}-{n:02d}", "{y}-W{n:02d}", "{y} Q{n}"])
def test_months_weeks_and_quarters_are_no_rows_a_second(tmp_path, cells):
    rows = [cells.format(y=2010 + i // 4, n=i % 4 + 1) for i in range(40)]
    assert "--time-column none" in options(read(written(tmp_path, rows, "period,a")))

"""Laws of the reader: what a file says is what comes out, or the reader says that it does not know."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.reading.measured_column import ColumnWishes
from infra.reading.recording_reader import ReadingWishes
from infra.reading.time_choice import TimeWishes
from schemas.errors import SourceError
from tests.infra.written_files import NOW, SPLIT, START, TIMES, Written, read, rows_of, truth, write

ABOVE = {
    "nothing": (),
    "remarks": ("# logger 7", "# firmware 1.2, site north"),
    "lines of text": ("Station North", "exported 2024-05-01", ""),
    "a logger's line": ('"TOA5","ST1","CR1000","1234","CR1000.Std.32","CPU:a.CR1","999","Tbl"',),
}


def check(form: Written, folder: Path, seed: int = 0, wishes: ReadingWishes | None = None) -> None:
    found = read(write(folder, form, seed), wishes)
    times, values = truth(form, seed)
    got, read_values = rows_of(found)
    assert not found.record.doubts, found.record.doubts
    assert got == times
    np.testing.assert_allclose(read_values, values, rtol=0, atol=1e-9)
    assert found.record.rows == found.record.used == form.rows


@pytest.mark.sliced(one_of=3)
@pytest.mark.parametrize("order", ["rising", "newest first", "mixed"])
@pytest.mark.parametrize("time", [*TIMES, *SPLIT])
def test_every_way_to_write_a_time_is_read_in_any_order_of_rows(tmp_path, time, order):
    check(Written(time=time, order=order), tmp_path)


@pytest.mark.parametrize("time", ["iso", "epoch ms", "day first", "14 digits", "month's name"])
def test_a_time_needs_no_name(tmp_path, time):
    check(Written(time=time, time_name=""), tmp_path)
    check(Written(time=time, time_name="x"), tmp_path)


@given(
    st.builds(
        Written,
        time=st.sampled_from([*TIMES, *SPLIT]),
        delimiter=st.sampled_from([",", ";", "\t", "|"]),
        decimal=st.sampled_from([".", ","]),
        grouped=st.sampled_from(["", "'", "\u202f"]),
        minus=st.sampled_from(["-", "\u2212"]),
        encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"]),
        line_end=st.sampled_from(["\n", "\r\n"]),
        above=st.sampled_from(list(ABOVE.values())),
        units=st.booleans(),
        order=st.sampled_from(["rising", "newest first", "mixed"]),
        ending=st.sampled_from([".csv", ".txt", ".csv.gz"]),
        quoted=st.booleans(),
        trailing=st.booleans(),
    ),
    st.integers(0, 5),
)
@example(Written(time="month's name first", delimiter=";", decimal=",", quoted=True), 0)
@example(Written(time="ctime", delimiter=";", decimal=",", above=ABOVE["a logger's line"]), 0)
@settings(max_examples=60, deadline=None)
def test_any_dialect_with_any_time_and_any_numbers_reads_as_it_was_written(form, seed):
    with TemporaryDirectory() as folder:
        check(form, Path(folder), seed)


@pytest.mark.parametrize("mark", [",", "."])
def test_thousands_and_decimals_of_any_country_are_told_apart(tmp_path, mark):
    other = "," if mark == "." else "."
    check(Written(decimal=mark, grouped=other, delimiter=";"), tmp_path)
    check(Written(decimal=mark, grouped=other, quoted=True), tmp_path)


@pytest.mark.parametrize(
    ("cells", "delimiter", "values"),
    [
        (["52,006", "52,153"], ",", [52006, 52153]),
        (["5,454", "0,398"], ";", [5.454, 0.398]),
        (["1,234", "999"], "\t", [1234, 999]),
        (["2.004", "3.125"], ",", [2.004, 3.125]),
        (["5,454", "9,398"], "\t", None),
        (["2.004", "3.125"], ";", None),
    ],
)
def test_three_digits_behind_a_mark_are_decided_by_evidence_or_asked_for(tmp_path, cells, delimiter, values):
    path = tmp_path / "file.csv"
    times = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S}" for i in range(2)]
    lines = [f'"{t}"{delimiter}"{c}"' for t, c in zip(times, cells, strict=True)]
    path.write_text(f"time{delimiter}a\n" + "\n".join(lines))
    found = read(path)
    if values is None:
        assert "--decimal" in found.record.doubts[0].options[0]
    else:
        assert (found.columns[0].values.tolist(), found.record.doubts) == (values, ())


def test_cells_may_stand_apart_by_blanks(tmp_path):
    times, values = truth(Written())
    lines = ["date       time      druck    fluss"]
    lines += [f"{t:%Y-%m-%d %H:%M:%S}   {a:10.2f} {b:12.2f}" for t, (a, b) in zip(times, values, strict=True)]
    path = tmp_path / "file.txt"
    path.write_text("\n".join(lines))
    got, found = rows_of(read(path))
    assert got == times
    np.testing.assert_allclose(found, values)


def test_a_file_may_have_no_names_at_all(tmp_path):
    times, values = truth(Written())
    path = tmp_path / "file.csv"
    path.write_text(
        "".join(f"{t:%Y-%m-%d %H:%M:%S},{a},{b}\n" for t, (a, b) in zip(times, values, strict=True))
    )
    found = read(path)
    assert [c.name for c in found.columns] == ["column_2", "column_3"]
    assert rows_of(found)[0] == times


@pytest.mark.parametrize("time", ["%d/%m/%Y", "%m/%d/%y", "%d-%m-%Y %H:%M"])
def test_day_and_month_that_nothing_tells_apart_are_asked_for(tmp_path, time):
    """Twelve days of one month, or one day: the other reading is as good."""
    start = START.replace(month=4, day=1)
    steps = (
        [timedelta(minutes=i) for i in range(60)] if "%H" in time else [timedelta(days=i) for i in range(12)]
    )
    path = tmp_path / "file.csv"
    path.write_text("time,a\n" + "".join(f"{(start + s):{time}},{i}.5\n" for i, s in enumerate(steps)))
    found = read(path)
    assert list(found.record.doubts[0].options)[:2] == [
        "--time-format day_first",
        "--time-format month_first",
    ]
    order = "day_first" if time.startswith("%d") else "month_first"
    decided = read(path, ReadingWishes(time=TimeWishes(None, order)))
    assert not decided.record.doubts
    assert [t.date() for t in rows_of(decided)[0]] == [(start + s).date() for s in steps]


def test_a_time_that_cannot_be_read_is_said_and_never_today(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("timestamp,a\n" + "".join(f"Q{i}/x{i:03d},{i}.5\n" for i in range(60)))
    doubt = read(path).record.doubts[0]
    assert "timestamp" in doubt.what
    assert "--time-format" in doubt.options


def test_a_format_that_is_named_decides(tmp_path):
    """A counter without a unit is asked for; what is said applies to the time alone."""
    path = tmp_path / "file.csv"
    path.write_text("a,timer\n" + "".join(f"{i}.5,{i * 10}\n" for i in range(60)))
    assert "--time-format relative_ms" in read(path).record.doubts[0].options
    found = read(path, ReadingWishes(time=TimeWishes(None, "relative_ms")))
    assert not found.record.doubts
    assert (found.time_columns, found.record.rate_hz) == (("timer",), pytest.approx(100))
    lines = "".join(f"{i}.5,0{i // 24 + 1}032021 {i % 24:02d}:00\n" for i in range(72))
    path.write_text("a,when\n" + lines)
    assert read(path).record.doubts
    found = read(path, ReadingWishes(time=TimeWishes(("when",), "%d%m%Y %H:%M")))
    first = START.replace(month=3, day=1, hour=0)
    assert rows_of(found)[0] == [first + timedelta(hours=i) for i in range(72)]


def test_rows_of_a_second_are_spread_over_it(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(
        "time,a\n" + "".join(f"2021-03-01 00:00:{i // 10:02d},{i % 17}.25\n" for i in range(3, 400))
    )
    found = read(path)
    times, values = rows_of(found)
    assert found.record.rate_hz == pytest.approx(10)
    assert [t - times[0] for t in times] == [timedelta(seconds=i / 10) for i in range(397)]
    assert values[:, 0].tolist() == [i % 17 + 0.25 for i in range(3, 400)]


def test_seconds_since_a_start_give_the_rate_and_end_now(tmp_path):
    path = tmp_path / "file.csv"
    path.write_text("Time (s),a\n" + "".join(f"{i / 100:.2f},{i % 17}.25\n" for i in range(400)))
    found = read(path)
    times, _ = rows_of(found)
    assert (found.record.recorded, found.record.rate_hz) == (False, pytest.approx(100))
    assert times[-1] == NOW
    assert found.columns[0].name == "a"


def long_file(folder: Path, devices: int, interleaved: bool) -> Path:
    rows = [(START + timedelta(minutes=i), d) for i in range(40) for d in range(devices)]
    if not interleaved:
        rows.sort(key=lambda r: (r[1], r[0]))
    lines = [f"{t:%Y-%m-%d %H:%M:%S},unit {d},{10 * d + t.minute / 100:.2f}" for t, d in rows]
    path = folder / "long.csv"
    path.write_text("time,machine,heat\n" + "\n".join(lines))
    return path


@pytest.mark.parametrize("interleaved", [True, False])
def test_several_devices_are_found_proposed_and_read_apart(tmp_path, interleaved):
    path = long_file(tmp_path, 5, interleaved)
    assert read(path).record.doubts[0].options == ("--device-column machine",)
    found = read(path, ReadingWishes(device_column="machine"))
    assert not found.record.doubts
    assert {d: len(r.us) for d, r in found.devices.items()} == {f"unit {d}": 40 for d in range(5)}
    for d in range(5):
        times, values = rows_of(found, f"unit {d}")
        assert times == [START + timedelta(minutes=i) for i in range(40)]
        assert (values[:, 0] // 10 == d).all()


def test_several_files_are_one_recording_and_overlapping_ones_are_several_devices(tmp_path):
    whole = Written(rows=90)
    times, values = truth(whole)
    for i in (2, 0, 1):
        rows = [f"{times[j]:%Y-%m-%d %H:%M:%S},{values[j, 0]}\n" for j in range(30 * i, 30 * i + 30)]
        (tmp_path / f"part{i}.csv").write_text("time,druck\n" + "".join(rows))
    got, found = rows_of(read(tmp_path))
    assert got == times
    assert found[:, 0].tolist() == values[:, 0].tolist()
    for i in range(3):
        rows = [f"{times[j]:%Y-%m-%d %H:%M:%S},{values[j, 0] + i}\n" for j in range(30)]
        (tmp_path / f"part{i}.csv").write_text("time,druck\n" + "".join(rows))
    assert read(tmp_path).record.doubts[0].options == ("--device-column @file",)
    assert set(read(tmp_path, ReadingWishes(device_column="@file")).devices) == {"part0", "part1", "part2"}


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize("code", ["-200", "-999", "-9999.0", "9999", "65535", "-99.9"])
@pytest.mark.parametrize("share", [0.01, 0.04, 0.5, 0.9])
@pytest.mark.parametrize("rows", [300, 5000])
def test_a_sentinel_is_no_value_at_any_share_and_length(tmp_path, code, share, rows):
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(20, 3, rows), 2)
    gone = rng.random(rows) < share
    cells = [code if g else f"{v}" for g, v in zip(gone, values, strict=True)]
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{c}" for i, c in enumerate(cells)]
    path.write_text("time,heat\n" + "\n".join(lines))
    found = read(path)
    got = found.columns[0].values
    np.testing.assert_array_equal(np.isnan(got), gone)
    np.testing.assert_allclose(got[~gone], values[~gone])
    assert found.columns[0].cells["sentinel"] == gone.sum()


def test_minus_one_is_no_value_far_from_many_others_and_a_value_among_them(tmp_path):
    path = tmp_path / "file.csv"
    for level, gone in ((20, True), (0, False)):
        cells = ["-1" if i % 10 == 0 else f"{level + i % 37 / 10}" for i in range(200)]
        lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{c}" for i, c in enumerate(cells)]
        path.write_text("time,heat\n" + "\n".join(lines))
        assert np.isnan(read(path).columns[0].values).any() == gone


def test_a_machine_that_stands_still_and_a_fault_that_holds_are_no_sentinels(tmp_path):
    values = [0.0] * 100 + [50 + i % 7 / 10 for i in range(200)] + [95.0] * 30
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{v}" for i, v in enumerate(values)]
    path.write_text("time,flow\n" + "\n".join(lines))
    assert read(path).columns[0].values.tolist() == values


def test_cells_in_another_unit_are_converted_and_counted(tmp_path):
    cells = [f"{20 + i / 10:.1f} °C" if i % 4 else f"{(20 + i / 10) * 9 / 5 + 32:.2f} °F" for i in range(60)]
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{c}" for i, c in enumerate(cells)]
    path.write_text("time,heat\n" + "\n".join(lines), encoding="utf-8")
    column = read(path).columns[0]
    np.testing.assert_allclose(column.values, [20 + i / 10 for i in range(60)], atol=0.01)
    assert column.cells["converted"] == 15
    assert column.unit == "°c"


def test_a_unit_that_the_profile_does_not_declare_is_converted_or_doubted(tmp_path):
    form = Written(units=True)
    path = write(tmp_path, form)
    wishes = ReadingWishes(columns=ColumnWishes(only=("druck",), units={"druck": "bar"}))
    found = read(path, wishes)
    np.testing.assert_allclose(rows_of(found)[1][:, 0], truth(form)[1][:, 0] / 1000)
    other = ReadingWishes(columns=ColumnWishes(only=("druck",), units={"druck": "degC"}))
    assert "hPa" in read(path, other).record.doubts[0].what


def test_words_among_numbers_are_counted_and_beyond_a_few_per_cent_asked_for(tmp_path):
    for bad, stops in ((2, False), (10, True)):
        cells = ["Bad" if i < bad else "n/a" if i < bad + 5 else f"{i}.5" for i in range(100)]
        path = tmp_path / "file.csv"
        lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{c}" for i, c in enumerate(cells)]
        path.write_text("time,heat\n" + "\n".join(lines))
        found = read(path)
        assert (found.columns[0].cells["unreadable"], found.columns[0].cells["blank"]) == (bad, 5)
        assert any("--missing bad" in d.options for d in found.record.doubts) == stops
    assert not read(path, ReadingWishes(columns=ColumnWishes(missing=("Bad",)))).record.doubts


def test_flags_states_and_texts_are_channels_when_wanted(tmp_path):
    path = tmp_path / "file.csv"
    lines = [
        f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{i % 2},{('auto', 'hand')[i % 2]},{i}.5"
        for i in range(60)
    ]
    path.write_text("time,on,mode,heat\n" + "\n".join(lines))
    assert [c.name for c in read(path).columns] == ["heat"]
    found = read(path, ReadingWishes(columns=ColumnWishes(keep=("on", "mode"))))
    assert [c.name for c in found.columns] == ["on", "mode", "heat"]
    assert found.columns[0].values.tolist() == [i % 2 for i in range(60)]
    assert found.columns[1].codes == {"auto": 0.0, "hand": 1.0}


def test_ragged_rows_lose_nothing_that_fits_and_say_what_does_not(tmp_path):
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{i}.5,{i}.25" for i in range(100)]
    lines[10] = lines[10].rsplit(",", 1)[0]
    lines[20] += ",7,8"
    path.write_text("time,a,b\n" + "\n".join(lines))
    found = read(path)
    assert (found.record.rows, found.record.used) == (100, 99)
    assert found.record.dropped["malformed"] == 1
    assert found.columns[1].cells["blank"] == 1


def test_a_quote_that_nobody_closes_swallows_no_rows_and_cells_of_several_lines_stay_whole(tmp_path):
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{i}.5,ok" for i in range(100)]
    lines[40] = lines[40].replace(",ok", ',"ok')
    path.write_text("time,a,note\n" + "\n".join(lines))
    assert rows_of(read(path))[1][:, 0].tolist() == [i + 0.5 for i in range(100)]
    lines = [
        f'{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{i}.5,"one\nof, three\nlines"' for i in range(100)
    ]
    path.write_text("time,a,note\n" + "\n".join(lines))
    assert rows_of(read(path))[1][:, 0].tolist() == [i + 0.5 for i in range(100)]


def test_very_long_fields_are_read_and_a_line_without_rows_is_refused(tmp_path):
    path = tmp_path / "file.csv"
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{i}.5,{'x' * 200_000}" for i in range(20)]
    path.write_text("time,a,picture\n" + "\n".join(lines))
    assert rows_of(read(path))[1][:, 0].tolist() == [i + 0.5 for i in range(20)]
    path.write_text('{"rows":[' + ",".join(f'{{"t":{i},"v":{i}.5}}' for i in range(20_000)) + "]}")
    with pytest.raises(SourceError, match="no table of rows"):
        read(path)


@pytest.mark.parametrize("encoding", ["cp1252", "iso-8859-15", "cp1251", "shift_jis", "utf-8"])
def test_the_encoding_is_found_over_the_whole_file(tmp_path, encoding):
    """The only letters beyond ASCII stand at the end of a long file."""
    word = {"cp1251": "температура воздуха снаружи", "shift_jis": "外気温度センサー測定値"}.get(
        encoding, "Größe"
    )
    lines = [
        f"{START + timedelta(seconds=i):%Y-%m-%d %H:%M:%S},{i % 9}.5,{word if i > 89_990 else 'x'}"
        for i in range(90_000)
    ]
    path = tmp_path / "file.csv"
    path.write_bytes(("time,a,note\n" + "\n".join(lines)).encode(encoding))
    assert read(path).record.used == 90_000


PARQUET = {
    "int8": pa.int8(), "int64": pa.int64(), "uint16": pa.uint16(), "uint64": pa.uint64(),
    "half": pa.float16(),
    "float": pa.float32(), "double": pa.float64(), "decimal": pa.decimal128(12, 3),
    "wide": pa.decimal256(40, 3),
    "text": pa.string(), "large": pa.large_string(), "coded": pa.dictionary(pa.int32(), pa.string()),
}  # fmt: skip


@pytest.mark.parametrize("kind", PARQUET)
def test_parquet_of_every_numeric_type_reads_as_its_values(tmp_path, kind):
    values = [i * 3 % 50 for i in range(60)]
    times = pa.array([START + timedelta(minutes=i) for i in range(60)], pa.timestamp("us", "UTC"))
    cells = pa.array(values, pa.int64()).cast(
        pa.string() if kind in ("text", "large", "coded") else pa.float64()
    )
    cells = cells.dictionary_encode() if kind == "coded" else cells.cast(PARQUET[kind])
    pq.write_table(pa.table({"time": times, "v": cells}), tmp_path / "r.parquet")
    assert rows_of(read(tmp_path / "r.parquet"))[1][:, 0].tolist() == values


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_of_every_temporal_type_reads_as_its_instants(tmp_path, unit, zone):
    times = pa.array([START + timedelta(minutes=i) for i in range(60)], pa.timestamp("us", "UTC"))
    cells = times.cast(pa.timestamp("us", zone)).cast(pa.timestamp(unit, zone))
    pq.write_table(pa.table({"when": cells, "v": [float(i % 7) for i in range(60)]}), tmp_path / "r.parquet")
    assert rows_of(read(tmp_path / "r.parquet"))[0] == [START + timedelta(minutes=i) for i in range(60)]


def test_parquet_dates_and_times_of_day_are_joined(tmp_path):
    times = [START + timedelta(minutes=i) for i in range(400)]
    table = pa.table(
        {
            "day": pa.array([t.date() for t in times], pa.date32()),
            "time": pa.array([t.time() for t in times], pa.time64("us")),
            "v": [float(i % 7) for i in range(400)],
        }
    )
    pq.write_table(table, tmp_path / "r.parquet")
    assert rows_of(read(tmp_path / "r.parquet"))[0] == times


def test_local_times_are_read_in_the_zone_that_is_named(tmp_path):
    check_form = Written(time="iso")
    path = write(tmp_path, check_form)
    found = read(path, replace(ReadingWishes(), timezone="Asia/Tokyo"))
    assert rows_of(found)[0] == [t - timedelta(hours=9) for t in truth(check_form)[0]]

"""Laws of files that deceive: right values, or a stop that names what decides; nothing wrong in silence."""

from __future__ import annotations

import io
import shlex
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.reading.measured_column import ColumnWishes, MeasuredColumn
from infra.reading.recording_reader import ReadingWishes
from infra.reading.time_choice import TimeWishes
from schemas.errors import SourceError
from tests.infra.workbooks import write_workbook
from tests.infra.written_files import START, read, rows_of

TIMES = [START + timedelta(minutes=i) for i in range(100)]
VALUES = [round(20.01 + i * 37 % 23 / 10, 2) for i in range(100)]
DAY_S = 86_400


def put(folder: Path, lines: list[str], head: str = "time,a", name: str = "file.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
    return path


def since(origin: datetime, unit_s: float, digits: int = 0) -> list[str]:
    return [f"{(t - origin).total_seconds() / unit_s:.{digits}f}" for t in TIMES]


def timed(times: list[str]) -> list[str]:
    return [f"{t},{v}" for t, v in zip(times, VALUES, strict=True)]


@pytest.mark.parametrize(
    ("origin", "unit_s", "digits"),
    [
        (datetime(1899, 12, 30, tzinfo=UTC), DAY_S, 8),
        (datetime(1, 1, 1, tzinfo=UTC), DAY_S, 8),
        (None, DAY_S, 8),
    ],
    ids=["spreadsheet", "MATLAB", "Julian"],
)
def test_days_since_another_instant_are_read(tmp_path, origin, unit_s, digits):
    """MATLAB counts 1 January of the year 1 as day 367; Julian days begin at noon."""
    if origin is None:
        days = [f"{float(d) + 2_415_018.5:.8f}" for d in since(datetime(1899, 12, 30, tzinfo=UTC), DAY_S, 8)]
    else:
        days = since(origin, unit_s, digits)
        days = [f"{float(d) + 367:.8f}" for d in days] if origin.year == 1 else days
    assert rows_of(read(put(tmp_path, timed(days))))[0] == TIMES


def test_whole_days_of_a_spreadsheet_are_dates_and_never_seconds(tmp_path):
    days = [str(44_253 + i) for i in range(100)]
    first = datetime(2021, 2, 26, tzinfo=UTC)
    found = read(put(tmp_path, timed(days), "date,a"))
    assert rows_of(found)[0] == [first + timedelta(days=i) for i in range(100)]
    assert "--time-format excel" in read(put(tmp_path, timed(days))).record.doubts[0].options


@pytest.mark.parametrize(("form", "year"), [("filetime", 1601), ("dotnet", 1)])
def test_ticks_that_might_be_nanoseconds_are_asked_for(tmp_path, form, year):
    origin = datetime(year, 1, 1, tzinfo=UTC)
    ticks = [str((t - origin) // timedelta(microseconds=1) * 10) for t in TIMES]
    path = put(tmp_path, timed(ticks))
    assert f"--time-format {form}" in read(path).record.doubts[0].options
    assert rows_of(read(path, ReadingWishes(time=TimeWishes(None, form))))[0] == TIMES


def test_a_recording_never_ends_in_the_future_in_silence(tmp_path):
    """Seconds since 1904 end in 2087; modified Julian days look like a spreadsheet's of 2062."""
    seconds = since(datetime(1904, 1, 1, tzinfo=UTC), 1)
    days = since(datetime(1858, 11, 17, tzinfo=UTC), DAY_S, 8)
    for cells, form in ((seconds, "since_1904"), (days, "mjd")):
        path = put(tmp_path, timed(cells))
        assert any("in the future" in d.what for d in read(path).record.doubts)
        found = read(path, ReadingWishes(time=TimeWishes(None, form)))
        assert (rows_of(found)[0], found.record.doubts) == (TIMES, ())


def test_seconds_before_1970_are_read_when_named(tmp_path):
    path = put(tmp_path, timed([str(i * 60 - 3000) for i in range(100)]), "timestamp,a")
    assert "--time-format epoch_s" in read(path).record.doubts[0].options
    found = read(path, ReadingWishes(time=TimeWishes(None, "epoch_s")))
    assert rows_of(found)[0][0] == datetime(1969, 12, 31, 23, 10, tzinfo=UTC)


def test_a_clock_that_was_not_set_yet_is_doubted(tmp_path):
    times = [f"1970-01-01 00:00:{i:02d}" if i < 3 else f"{t:%Y-%m-%d %H:%M:%S}" for i, t in enumerate(TIMES)]
    assert "3 rows lie more than ten years" in read(put(tmp_path, timed(times))).record.doubts[0].what


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("head", ["time", "n", ""])
def test_decimal_commas_between_commas_are_refused(tmp_path, columns, head):
    values = [",".join([str(v).replace(".", ",")] * columns) for v in VALUES]
    firsts = list(map(str, range(100))) if head == "n" else [f"{t:%Y-%m-%d %H:%M:%S}" for t in TIMES]
    lines = [f"{f},{v}" for f, v in zip(firsts, values, strict=True)]
    names = [head, *["a", "b"][:columns]] if head else []
    path = put(tmp_path, lines if head else lines[1:], ",".join(names) or lines[0])
    with pytest.raises(SourceError, match="decimal commas"):
        read(path)


def test_a_line_of_names_is_not_shifted_over_the_rows(tmp_path):
    """A cell that is cut in two makes each row one cell longer; blanks between date and clock do as well."""
    iso = [f"{t:%Y-%m-%d %H:%M:%S}" for t in TIMES]
    cut = [f'{t},{v},"say \\"hi\\", ok"' for t, v in zip(iso, VALUES, strict=True)]
    with pytest.raises(SourceError, match="4 cells, the line of names 3"):
        read(put(tmp_path, cut, "time,a,note"))
    blanks = [f"{t} {v}" for t, v in zip(iso, VALUES, strict=True)]
    times, values = rows_of(read(put(tmp_path, blanks, "time a")))
    assert (times, values[:, 0].tolist()) == (TIMES, VALUES)


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("head", ["device", "machine_id"])
def test_devices_whose_rows_share_no_time_are_found_by_the_columns_name(tmp_path, head, interleaved):
    step = timedelta(seconds=5) if interleaved else timedelta(days=1)
    lines = [
        f"{START + timedelta(minutes=i) + d * step:%Y-%m-%d %H:%M:%S},{d + 1},{10 * d + i / 100}"
        for i in range(40)
        for d in range(3)
    ]
    path = put(tmp_path, lines, f"time,{head},a")
    assert f"--device-column {head}" in read(path).record.doubts[0].options
    assert len(read(path, ReadingWishes(device_column=head)).devices) == 3
    one = read(path, ReadingWishes(device_column="none"))
    assert (list(one.devices), one.record.doubts, one.record.used) == ([""], (), 120)


def test_a_column_that_answers_yes_or_no_names_no_devices(tmp_path):
    iso = [f"{t:%Y-%m-%d %H:%M:%S},{'yes' if i % 3 else 'no'}" for i, t in enumerate(TIMES)]
    lines = [f"{t},{v}" for t, v in zip(iso, VALUES, strict=True)]
    assert not read(put(tmp_path, lines, "time,Robot_ProtectiveStop,a")).record.doubts
    assert not read(put(tmp_path, lines, "time,robot,a")).record.doubts


@pytest.mark.parametrize("name", ["pump", "Pump", "engine"])
def test_a_flag_that_says_whether_a_machine_runs_names_no_devices(tmp_path, name):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{v},{i // 10 % 2}" for i, (t, v) in
             enumerate(zip(TIMES, VALUES, strict=True))]  # fmt: skip
    path = put(tmp_path, lines, f"time,a,{name}")
    assert read(path).record.doubts == ()
    found = read(path, ReadingWishes(columns=ColumnWishes(keep=(name,))))
    assert ([c.name for c in found.columns], found.record.doubts) == (["a", name], ())


def test_a_column_that_is_kept_names_no_devices(tmp_path):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{v},{1 + i // 10 % 3}" for i, (t, v) in
             enumerate(zip(TIMES, VALUES, strict=True))]  # fmt: skip
    path = put(tmp_path, lines, "time,a,machine")
    assert "--device-column machine" in read(path).record.doubts[0].options
    assert not read(path, ReadingWishes(columns=ColumnWishes(keep=("machine",)))).record.doubts


@pytest.mark.parametrize("name", ["temp", "pump_temp", "flow"])
def test_measured_numbers_tell_no_devices_apart(tmp_path, name):
    lines = [f"{TIMES[i // 2]:%Y-%m-%d %H:%M:%S},{20 + 10 * (i % 2) + i % 3}" for i in range(200)]
    found = read(put(tmp_path, lines, f"time,{name}"))
    assert not any(name in o for d in found.record.doubts for o in d.options)
    numbered = [f"{line},{i % 2 + 1}" for i, line in enumerate(lines)]
    assert (
        "--device-column unit" in read(put(tmp_path, numbered, f"time,{name},unit")).record.doubts[0].options
    )


@pytest.mark.parametrize(("each", "step_s"), [(2, 60), (3, 1), (12, 60)])
def test_rows_of_a_time_that_keep_their_own_levels_may_be_of_several_devices(tmp_path, each, step_s):
    def rows(level: float) -> list[str]:
        times = [START + timedelta(seconds=i // each * step_s) for i in range(60 * each)]
        return [
            f"{t:%Y-%m-%d %H:%M:%S},{20 + level * (i % each) + VALUES[i % 100] / 9:.2f}"
            for i, t in enumerate(times)
        ]

    doubt = read(put(tmp_path, rows(10))).record.doubts[0]
    assert "several devices without a name" in doubt.what
    assert not read(tmp_path / "file.csv", ReadingWishes(device_column="none")).record.doubts
    assert not read(put(tmp_path, rows(0))).record.doubts


@pytest.mark.parametrize("name", ["group", "n"])
def test_numbers_that_each_time_has_once_tell_devices_apart_under_any_name(tmp_path, name):
    lines = [f"{TIMES[i // 3]:%Y-%m-%d %H:%M:%S},{i % 3 + 1},{VALUES[i % 100]}" for i in range(300)]
    assert f"--device-column {name}" in read(put(tmp_path, lines, f"time,{name},a")).record.doubts[0].options


def test_zero_and_one_that_take_turns_name_two_machines(tmp_path):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{i % 2},{VALUES[i]}" for i, t in enumerate(TIMES)]
    assert "--device-column machine" in read(put(tmp_path, lines, "time,machine,a")).record.doubts[0].options


@pytest.mark.parametrize("codes", [("-999", "-888"), ("-9999", "9999"), ("-99", "-999", "65535")])
def test_several_codes_of_one_column_are_all_no_values(tmp_path, codes):
    cells = [codes[i // 10 % len(codes)] if i % 10 == 3 else str(v) for i, v in enumerate(VALUES)]
    assert column(tmp_path, cells).cells["sentinel"] == 10


def test_every_word_among_numbers_is_named_in_the_option(tmp_path):
    cells = [f"{101 + i % 3} kPa" if i % 2 else f"{v} A" for i, v in enumerate(VALUES)]
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{c}" for t, c in zip(TIMES, cells, strict=True)]
    (option,) = [o for o in read(put(tmp_path, lines)).record.doubts[0].options if "--missing" in o]
    assert sorted(shlex.split(option)) == ["--missing"] * 3 + ["101 kpa", "102 kpa", "103 kpa"]


def column(folder: Path, cells: list[str]) -> MeasuredColumn:
    lines = [f"{START + timedelta(minutes=i):%Y-%m-%d %H:%M:%S},{c}" for i, c in enumerate(cells)]
    return read(put(folder, lines)).columns[0]


@pytest.mark.parametrize("code", ["-999", "9999", "-127", "-200", "65535"])
def test_a_known_code_beside_one_constant_is_no_value(tmp_path, code):
    found = column(tmp_path, [code if i % 5 == 0 else "21" for i in range(50)])
    assert found.cells["sentinel"] == 10
    assert set(found.values[np.isfinite(found.values)]) == {21.0}


@pytest.mark.parametrize(("one", "other"), [("999", "1000"), ("-200", "200"), ("-1", "20")])
def test_two_values_that_are_no_code_and_a_measure_both_stay(tmp_path, one, other):
    found = column(tmp_path, [one if i % 5 == 0 else other for i in range(50)])
    assert found.cells["sentinel"] == 0


def test_a_large_code_that_stands_once_is_no_value(tmp_path):
    found = column(tmp_path, ["-9999" if i == 3 else str(v) for i, v in enumerate(VALUES)])
    assert found.cells["sentinel"] == 1
    found = column(tmp_path, ["-9999" if i == 3 else str(v * 400) for i, v in enumerate(VALUES)])
    assert found.cells["sentinel"] == 0


@pytest.mark.parametrize("rows", [30, 2000])
@pytest.mark.parametrize(("odd", "level"), [("300", 20), ("0", 1013), ("85", 20), ("-40", 20)])
def test_a_value_that_repeats_far_from_the_rest_is_said_with_the_option(tmp_path, odd, level, rows):
    """It may be a fault, so it stays; whoever reads the record decides."""
    cells = [odd if i in (3, rows // 2) else f"{level + i * 37 % 23 / 10}" for i in range(rows)]
    found = column(tmp_path, cells)
    assert f"--missing {odd}" in found.note
    assert (found.values == float(odd)).sum() == 2
    assert any(f"--missing {odd}" in n for n in read(tmp_path / "file.csv").record.notes)
    again = read(tmp_path / "file.csv", ReadingWishes(columns=ColumnWishes(missing=(odd,))))
    assert (again.columns[0].cells["blank"], again.columns[0].note) == (2, "")


def test_a_known_code_among_values_as_large_is_said_where_it_repeats_as_none_does(tmp_path):
    cells = ["-200" if i % 20 == 3 else f"{300 * np.sin(i):.3f}" for i in range(400)]
    assert "--missing -200" in column(tmp_path, cells).note


def test_a_fault_that_holds_and_values_near_the_rest_are_not_unusual(tmp_path):
    held = [f"{20 + i % 7 / 10}" for i in range(200)] + ["95"] * 30
    assert column(tmp_path, held).note == ""
    assert column(tmp_path, [str(v) for v in VALUES]).note == ""


def test_capitals_tell_megawatts_from_milliwatts(tmp_path):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{v} {'MW' if i % 2 else 'mW'}" for i, (t, v) in
             enumerate(zip(TIMES, VALUES, strict=True))]  # fmt: skip
    found = read(put(tmp_path, lines))
    assert found.columns[0].cells["read"] == 50
    assert "50 of 100 cells" in found.record.doubts[0].what


@pytest.mark.parametrize("cell", ["1.2.{}", "10.0.0.{}"])
def test_versions_and_addresses_are_texts(tmp_path, cell):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{v},{cell.format(i)}" for i, (t, v) in
             enumerate(zip(TIMES, VALUES, strict=True))]  # fmt: skip
    found = read(put(tmp_path, lines, "time,a,note"))
    assert ([c.name for c in found.columns], found.record.doubts) == (["a"], ())


def test_whole_numbers_that_float64_cannot_hold_are_said(tmp_path):
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{9_007_199_254_740_993 + 2 * i}" for i, t in enumerate(TIMES)]
    assert any("are rounded" in n for n in read(put(tmp_path, lines)).record.notes)


def test_an_option_that_is_proposed_can_be_copied_into_a_shell(tmp_path):
    cells = ["***" if i % 10 == 3 else str(v) for i, v in enumerate(VALUES)]
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{c}" for t, c in zip(TIMES, cells, strict=True)]
    assert "--missing '***'" in read(put(tmp_path, lines)).record.doubts[0].options


@pytest.mark.parametrize("rows", [1, 2])
def test_a_file_of_a_row_or_two_is_read(tmp_path, rows):
    found = read(put(tmp_path, timed([f"{t:%Y-%m-%d %H:%M:%S}" for t in TIMES])[:rows]))
    assert rows_of(found)[0] == TIMES[:rows]


def test_numbers_in_single_quotes_and_with_fortrans_exponents_are_numbers(tmp_path):
    lines = [
        f"'{t:%Y-%m-%d %H:%M:%S}','{v:.4e}'".replace("e", "D") for t, v in zip(TIMES, VALUES, strict=True)
    ]
    times, values = rows_of(read(put(tmp_path, lines, "'time','a'")))
    assert times == TIMES
    np.testing.assert_allclose(values[:, 0], VALUES, rtol=1e-4)


def test_parquet_with_doubled_names_and_columns_without_numbers_is_read(tmp_path):
    at = pa.array(TIMES, pa.timestamp("us", "UTC"))
    arrays = [at, pa.array(VALUES), pa.array([v + 1 for v in VALUES]), pa.nulls(100), pa.array([[1]] * 100)]
    pq.write_table(
        pa.Table.from_arrays(arrays, names=["time", "a", "a", "b", "list"]), tmp_path / "f.parquet"
    )
    found = read(tmp_path / "f.parquet")
    assert [(c.name, c.values.tolist()) for c in found.columns] == [("a", VALUES)]
    assert found.skipped["b"] == "empty"
    assert any("list" in d.value for d in found.record.decisions)


def test_a_workbook_or_an_archive_is_known_by_what_it_holds(tmp_path):
    rows: list[list[object]] = [
        ["time", "a"],
        *[[t.replace(tzinfo=None), v] for t, v in zip(TIMES, VALUES, strict=True)],
    ]
    book = write_workbook(tmp_path / "log.xlsx", rows)
    assert rows_of(read(book.rename(tmp_path / "log.csv")))[0] == TIMES
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("log.csv", "time,a\n" + "\n".join(timed([f"{t:%Y-%m-%d %H:%M:%S}" for t in TIMES])))
        archive.writestr("__MACOSX/._log.csv", "x")
    (tmp_path / "log.zip").write_bytes(packed.getvalue())
    assert rows_of(read(tmp_path / "log.zip"))[0] == TIMES


@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("names", [[f"{p}{i}" for i in range(8)] for p in ("c", "s10", "T")])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_names_that_are_mostly_digits_are_names_whatever_stands_around_them(tmp_path, mark, names, quoted):
    rng = np.random.default_rng(3)
    head = mark.join(f'"{n}"' if quoted else n for n in ["time", *names])
    lines = [
        mark.join([f"2024-03-01 00:{i // 60:02}:{i % 60:02}", *(f"{v:.2f}" for v in rng.normal(20, 1, 8))])
        for i in range(300)
    ]
    path = tmp_path / "file.csv"
    path.write_text("\n".join([head, *lines]) + "\n")
    found = read(path)
    assert [c.name for c in found.columns] == names
    assert found.record.used == 300
    assert not found.record.doubts

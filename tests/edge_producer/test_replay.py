"""Laws of replay: nothing in a recording is dropped in silence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.sources import ReplaySource
from edge_producer.sources.framing import Framed, Framer
from edge_producer.window import Window
from schemas.errors import SourceError
from schemas.profile import Profile, Sampling
from schemas.row_schemas import TimeQuality
from tests.edge_producer.recordings import I94, NAB, UR3, recording

START = datetime(2026, 1, 1, tzinfo=UTC)


def profile(window: int = 1, hop: int = 1, rate_hz: float = 1.0, **replay: object) -> Profile:
    channels = [
        {"name": "heat", "unit": "degC", "min": -50, "max": 150},
        {"name": "load", "unit": "A", "min": 0, "max": 10},
    ]
    return Profile.model_validate(
        {
            "name": "bench",
            "channels": channels,
            "sampling": {"rate_hz": rate_hz, "window_samples": window, "hop_samples": hop},
            "features": {"set": "bench", "compute": [{"channel": "heat", "kinds": ["mean"]}]},
            "replay": {"time_column": "time", **replay},
        }
    )


def source(path: Path, text: str | bytes, used: Profile) -> ReplaySource:
    path = path / "r.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ReplaySource(path, used, "d1", START)


def taken(subject: ReplaySource) -> tuple[list[Window], dict[str, int]]:
    windows = list(subject.windows())
    counts = dict(subject.counts)
    check(counts)
    return windows, counts


def check(counts: dict[str, int]) -> None:
    refused = ("duplicate", "out_of_order", "unreadable_time", "malformed")
    assert counts["rows"] == counts["samples"] + sum(counts[name] for name in refused)
    assert counts["samples"] == counts["in_windows"] + counts["outside_windows"]


def column(windows: list[Window], place: int = 0) -> list[float | None]:
    values = [float(w.samples[-1, place]) for w in windows]
    return [None if np.isnan(v) else round(v, 4) for v in values]


def test_rows_become_windows_with_their_recorded_time(tmp_path):
    text = "time,heat,load\n2020-05-01 10:00:00,20.5,1\n2020-05-01 10:00:01,21,2\n"
    windows, counts = taken(source(tmp_path, text, profile()))
    assert column(windows) == [20.5, 21.0]
    assert windows[1].end == datetime(2020, 5, 1, 10, 0, 1, tzinfo=UTC)
    assert (windows[1].due_s, windows[1].mono_ns) == (1.0, 1_000_000_000)
    assert {w.time_quality for w in windows} == {TimeQuality.RECORDED}
    assert counts["rows"] == 2


def test_windows_are_cut_by_window_and_hop(tmp_path):
    rows = "".join(f"{START + timedelta(seconds=i)},{i},1\n" for i in range(11))
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", profile(window=4, hop=3)))
    assert [w.samples[:, 0].tolist() for w in windows] == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert (counts["in_windows"], counts["outside_windows"]) == (10, 1)


def test_a_hop_longer_than_the_window_skips_samples_and_says_so(tmp_path):
    rows = "".join(f"{START + timedelta(seconds=i)},{i},1\n" for i in range(11))
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", profile(window=2, hop=5)))
    assert [w.samples[:, 0].tolist() for w in windows] == [[0, 1], [5, 6]]
    assert (counts["in_windows"], counts["outside_windows"]) == (4, 7)


def test_each_odd_row_is_counted_under_its_own_name(tmp_path):
    text = (
        "time,heat,load\n"
        "2020-05-01 10:00:00,20,1\n"
        "2020-05-01 10:00:00,99,1\n"  # same time: the first is kept
        "2020-05-01 09:59:00,98,1\n"  # before the one before
        "yesterday,97,1\n"
        "2020-05-01 10:00:01,21\n"  # a cell short
        "2020-05-01 10:00:01,21,2\n"
        "2020-05-01 10:00:02,22,3\n"
        "2020-05-01 10:00:03,23,3\n"
    )
    windows, counts = taken(source(tmp_path, text, profile()))
    assert column(windows) == [20, 21, 22, 23]
    found = {k: counts[k] for k in ("rows", "duplicate", "out_of_order", "unreadable_time", "malformed")}
    assert found == {"rows": 8, "duplicate": 1, "out_of_order": 1, "unreadable_time": 1, "malformed": 1}


def test_each_odd_cell_becomes_a_missing_sample_and_is_counted(tmp_path):
    cells = ["20", "", "n/a", "NA", " 21 ", "9831", "-60", "+22.5", "inf", "1e1"]
    rows = "".join(f"{START + timedelta(seconds=i)},{c},1\n" for i, c in enumerate(cells))
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", profile()))
    inf = float("inf")  # outside the range: missing to every model, with its side on record
    assert column(windows) == [20, None, None, None, 21, inf, -inf, 22.5, inf, 10]
    assert (counts["blank"], counts["unparsable"], counts["absurd"]) == (2, 1, 3)


def test_short_gaps_are_filled_as_missing_and_long_ones_break_the_window(tmp_path):
    seconds = [0, 1, 2, 5, 6, 7, 20, 21, 22, 23, 24]
    rows = "".join(f"{START + timedelta(seconds=s)},{s},1\n" for s in seconds)
    used = profile(window=4, hop=2, max_gap_steps=3)
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", used))
    got = [[None if np.isnan(x) else int(x) for x in w.samples[:, 0]] for w in windows]
    assert got == [[0, 1, 2, None], [2, None, None, 5], [None, 5, 6, 7], [20, 21, 22, 23]]
    assert windows[0].end == START + timedelta(seconds=3)
    assert (counts["gaps"], counts["breaks"], counts["filled"]) == (2, 1, 2)


def test_windows_of_one_sample_never_hold_an_invented_one(tmp_path):
    rows = "".join(f"{START + timedelta(seconds=s)},{s},1\n" for s in (0, 2, 3, 9))
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", profile()))
    assert column(windows) == [0, 2, 3, 9]
    assert (counts["gaps"], counts["filled"]) == (2, 0)


def test_decimal_commas_semicolons_and_repeated_empty_headers_are_read(tmp_path):
    text = "time;heat;load ;;;\n2020-05-01T10:00:00.250Z;20,5;-1e-3;;;\n2020-05-01T10:00:01.250Z;1.5;2,0;;;\n"
    used = profile(delimiter=";", decimal=",")
    windows, counts = taken(source(tmp_path, text, used))
    assert column(windows) == [20.5, None]
    assert counts["unparsable"] == 1  # 1.5 is not 15
    assert windows[0].end == datetime(2020, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC)


@pytest.mark.parametrize(
    ("time_format", "cell", "expected"),
    [
        ("iso", "2020-05-01T10:00:00+02:00", datetime(2020, 5, 1, 8, tzinfo=UTC)),
        ("iso", "2020-05-01", datetime(2020, 5, 1, 4, tzinfo=UTC)),
        ("%d.%m.%Y %H:%M", "01.05.2020 10:00", datetime(2020, 5, 1, 14, tzinfo=UTC)),
        (
            "%d/%m/%Y %H:%M:%S.%f",
            "01/05/2020 10:00:00.5",
            datetime(2020, 5, 1, 14, 0, 0, 500_000, tzinfo=UTC),
        ),
        ("%m/%d/%Y %I:%M %p", "05/01/2020 10:00 PM", datetime(2020, 5, 2, 2, tzinfo=UTC)),
        ("epoch_s", "1588327200.5", datetime(2020, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("epoch_ms", "1588327200250", datetime(2020, 5, 1, 10, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_times_are_read_in_any_format_and_zone(tmp_path, time_format, cell, expected):
    used = profile(time_format=time_format, timezone="America/New_York")
    windows, _ = taken(source(tmp_path, f"time,heat,load\n{cell},1,1\n", used))
    assert [w.end for w in windows] == [expected]


def test_local_times_that_happen_twice_or_never_are_counted(tmp_path):
    cells = ["2021-10-31 01:30:00", "2021-10-31 02:30:00", "2022-03-27 02:30:00", "2022-03-27 03:45:00"]
    rows = "".join(f"{c},1,1\n" for c in cells)
    used = profile(timezone="Europe/Berlin")
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", used))
    assert counts["unclear_time"] == 2
    assert windows[1].end == datetime(2021, 10, 31, 0, 30, tzinfo=UTC)


def test_without_a_time_column_samples_follow_the_start_at_the_nominal_rate(tmp_path):
    used = profile(time_column="", rate_hz=4.0)
    windows, _ = taken(source(tmp_path, "heat,load\n1,1\n2,2\n", used))
    assert [w.end for w in windows] == [START, START + timedelta(milliseconds=250)]
    assert {w.time_quality for w in windows} == {TimeQuality.UNKNOWN}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_other_encodings_are_read_when_named(tmp_path, encoding):
    text = "time,wärme,load\n2020-05-01 10:00:00,20.5,1\n".encode(encoding)
    used = profile(encoding=encoding, columns={"heat": "wärme"})
    windows, _ = taken(source(tmp_path, text, used))
    assert column(windows) == [20.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"time,heat,load\n", "has a header but no rows"),
        (b"time,temp,load\n2020-05-01,1,1\n", "no column 'heat'; there are: 'time', 'temp', 'load'"),
        (b"time;heat;load\n2020-05-01;1;1\n", "delimiter"),
        ("time,wärme,heat,load\n2020-05-01,1,1,1\n".encode("cp1252"), 'replay.encoding = "cp1252"'),
        ("time,heat,load\n2020-05-01,é,1\n".encode("cp1252"), 'replay.encoding = "cp1252"'),
        ("time,heat,load\n2020-05-01,1,1\n".encode("utf-16"), 'replay.encoding = "utf-16"'),
        (b'time,heat,load\n2020-05-01,"1,5",1\n2020-05-02,"2,5",1\n', 'replay.decimal = ","'),
        (b"time,heat,load\n1/5/2020,1,1\n", "replay.time_format"),
    ],
)
def test_a_file_that_does_not_suit_says_what_to_do(tmp_path, text, message):
    with pytest.raises(SourceError) as error:
        list(source(tmp_path, text, profile()).windows())
    assert message in str(error.value)


def test_a_missing_file_and_an_unknown_zone_are_named(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        list(ReplaySource(tmp_path / "none.csv", profile(), "d1", START).windows())
    with pytest.raises(SourceError, match="Mars"):
        list(source(tmp_path, "time,heat,load\n2020-05-01,1,1\n", profile(timezone="Mars/Olympus")).windows())


def test_parquet_reads_as_the_csv_of_the_same_rows(tmp_path):
    times = [START + timedelta(seconds=i) for i in range(5)]
    table = pa.table({"load": [1, 2, None, 99, 3], "time": times, "heat": [1.5, 2.5, 3.5, 4.5, None]})
    pq.write_table(table, tmp_path / "r.parquet")
    windows, counts = taken(ReplaySource(tmp_path / "r.parquet", profile(), "d1", START))
    assert column(windows) == [1.5, 2.5, 3.5, 4.5, None]
    assert column(windows, 1) == [1, 2, None, float("inf"), 3]
    assert (counts["rows"], counts["blank"], counts["absurd"]) == (5, 2, 1)
    assert windows[-1].end == times[-1]


def test_blocks_do_not_show(tmp_path):
    """A file of several read blocks gives the windows of one."""
    count = 60_000
    rows = "".join(f"{1_600_000_000 + i},{i % 97},{i % 10}.25\n" for i in range(count))
    used = profile(window=7, hop=3, time_format="epoch_s")
    windows, counts = taken(source(tmp_path, f"time,heat,load\n{rows}", used))
    assert (tmp_path / "r.csv").stat().st_size > 2**20
    assert len(windows) == (count - 7) // 3 + 1
    assert all(w.samples[0, 0] == (3 * k) % 97 for k, w in enumerate(windows))
    assert counts["gaps"] == 0


def framed_by(us: np.ndarray, window: int, hop: int, cut: int) -> tuple[Framer, list[Framed]]:
    """Windows of rows whose value is their second, handed in ``cut`` at a time."""
    values = (us[:, None] // 1_000_000).astype(np.float32)
    framer = Framer(Sampling(rate_hz=1.0, window_samples=window, hop_samples=hop), 4.0, 1)
    framed = []
    for first in range(0, len(us), cut):
        framed += list(framer.push(us[first : first + cut], values[first : first + cut]))
    framer.finish()
    return framer, framed


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.sampled_from([-2, 0, 1, 1, 1, 1, 2, 3, 9]), max_size=60),
    window=st.integers(1, 6),
    hop=st.integers(1, 7),
    alone=st.lists(st.booleans(), min_size=61, max_size=61),
)
def test_single_rows_among_blocks_are_framed_as_all_at_once_and_the_last_one_that_lacks_is_told(
    steps, window, hop, alone
):
    us = np.cumsum(np.array([0, *steps], dtype=np.int64)) * 1_000_000
    values = (us[:, None] // 1_000_000).astype(np.float32)
    framer = Framer(Sampling(rate_hz=1.0, window_samples=window, hop_samples=hop), 4.0, 1)
    framed: list[Framed] = []
    for k, second in enumerate(us.tolist()):
        lacked, begun = framer.lacks, len(framed)
        counted = dict(framer.counts)
        preview = framer.preview()
        assert framer.counts == counted
        row = values[k].tolist()
        framed += framer.push_row(second, row) if alone[k] else framer.push(us[k : k + 1], values[k : k + 1])
        if k and second == us[:k].max() + 1_000_000:
            assert (lacked == 1) == (len(framed) > begun)
            if preview is not None:
                assert preview.end_us == second
                assert preview.samples[:-1].tobytes() == framed[-1].samples[:-1].tobytes()
                assert preview.samples[-1] == us[:k].max() // 1_000_000
            assert (preview is None) == (lacked != 1 or window == 1)
    framer.finish()
    expected, at_once = framed_by(us, window, hop, len(us))
    assert [(f.end_us, f.samples.tobytes()) for f in framed] == [
        (f.end_us, f.samples.tobytes()) for f in at_once
    ]
    assert framer.counts == expected.counts


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.sampled_from([-2, 0, 1, 1, 1, 1, 2, 3, 9]), max_size=60),
    window=st.integers(1, 6),
    hop=st.integers(1, 7),
    cut=st.integers(1, 20),
)
def test_every_row_is_in_a_window_or_accounted_for_and_no_window_spans_a_break(steps, window, hop, cut):
    us = np.cumsum(np.array([0, *steps], dtype=np.int64)) * 1_000_000
    framer, framed = framed_by(us, window, hop, cut)
    at_once = framed_by(us, window, hop, len(us))[1]
    assert [f.samples.tobytes() for f in framed] == [f.samples.tobytes() for f in at_once]
    counts = framer.counts
    assert len(us) == counts["samples"] + counts["duplicate"] + counts["out_of_order"]
    assert counts["samples"] == counts["in_windows"] + counts["outside_windows"]
    framed_values = {int(x) for f in framed for x in f.samples[np.isfinite(f.samples)]}
    assert len(framed_values) == counts["in_windows"]
    for f in framed:
        present = f.samples[:, 0]
        line = f.end_us / 1e6 - np.arange(window)[::-1]
        assert (np.isnan(present) | (present == line)).all()


@pytest.mark.recordings
def test_the_machine_temperature_recording_is_taken_whole():
    used = profile_of("value", time_column="timestamp", rate_hz=1 / 300)
    windows, counts = taken(ReplaySource(recording(NAB), used, "d1", START))
    assert counts["rows"] == 22_695
    assert (counts["duplicate"], counts["out_of_order"]) == (1, 11)
    assert len(windows) == counts["samples"] == 22_683


@pytest.mark.recordings
def test_the_traffic_recording_is_taken_whole_with_its_duplicates_and_absurd_values():
    columns = {"temp": "temp", "rain": "rain_1h"}
    used = profile_of("temp", "rain", time_column="date_time", rate_hz=1 / 3600, columns=columns)
    _, counts = taken(ReplaySource(recording(I94), used, "d1", START))
    assert (counts["rows"], counts["duplicate"], counts["samples"]) == (48_204, 7_629, 40_575)
    assert counts["absurd"] == 11  # 10 times 0 K, once 9831 mm of rain


@pytest.mark.recordings
def test_the_cobot_recording_is_taken_whole_across_its_long_gap():
    columns = {"current": "Current_J0", "heat": "Temperature_J1"}
    used = profile_of(
        "current", "heat", time_column="Timestamp", rate_hz=1.0, columns=columns, delimiter=";", decimal=","
    )
    windows, counts = taken(ReplaySource(recording(UR3), used, "d1", START))
    assert (counts["rows"], counts["samples"], counts["unparsable"]) == (7_409, 7_409, 0)
    assert max(b.due_s - a.due_s for a, b in pairwise(windows)) > 5 * 3600


def profile_of(*channels: str, rate_hz: float, **replay: object) -> Profile:
    limits = {"temp": (200, 330), "rain": (0, 100)}
    return Profile.model_validate(
        {
            "name": "recorded",
            "channels": [
                {
                    "name": c,
                    "unit": "?",
                    "min": limits.get(c, (-500, 0))[0],
                    "max": limits.get(c, (0, 500))[1],
                }
                for c in channels
            ],
            "sampling": {"rate_hz": rate_hz, "window_samples": 1, "hop_samples": 1},
            "features": {"set": "recorded", "compute": [{"channel": channels[0], "kinds": ["last"]}]},
            "replay": replay,
        }
    )

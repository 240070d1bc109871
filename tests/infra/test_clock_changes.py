"""Laws of local times where clocks are set: the order of rows decides, or a person does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.reading.decision_record import Doubt
from infra.reading.recording_reader import ReadingWishes, ReadRecording
from tests.infra.written_files import read, rows_of

BERLIN = ZoneInfo("Europe/Berlin")
NAMED = ReadingWishes(timezone="Europe/Berlin", zone_said=True)
AUTUMN = datetime(2021, 10, 30, 22, 0, tzinfo=UTC)
"""Three hours before the clock is set back: 02:00 to 03:00 happens twice."""


def instants(step_s: int, count: int, start: datetime = AUTUMN) -> list[datetime]:
    return [start + i * timedelta(seconds=step_s) for i in range(count)]


def recording(folder: Path, times: list[datetime], zone: ZoneInfo = BERLIN, devices: int = 1) -> Path:
    """A line of wall clock time for each instant and device."""
    lines = [
        f"{t.astimezone(zone):%Y-%m-%d %H:%M:%S},{d},{i % 17}.{d}5"
        for i, t in enumerate(times)
        for d in range(devices)
    ]
    path = folder / "file.csv"
    path.write_text("time,unit,a\n" + "\n".join(lines) + "\n")
    return path


def doubts(found: ReadRecording) -> str:
    return "; ".join(map(Doubt.line, found.record.doubts))


@pytest.mark.parametrize("step_s", [1, 600, 1800, 3600])
@pytest.mark.parametrize("newest_first", [False, True])
def test_rows_in_order_tell_the_second_pass_from_the_first(tmp_path, step_s, newest_first):
    times = instants(step_s, 20_000 if step_s == 1 else 100)
    path = recording(tmp_path, times[::-1] if newest_first else times)
    found = read(path, NAMED)
    assert rows_of(found)[0] == times
    assert not found.record.doubts
    assert any(d.what == "clock set back" for d in found.record.decisions)


def test_each_device_has_its_own_order(tmp_path):
    times = instants(600, 100)
    found = read(
        recording(tmp_path, times, devices=3),
        ReadingWishes(timezone="Europe/Berlin", zone_said=True, device_column="unit"),
    )
    assert [rows_of(found, str(d))[0] for d in range(3)] == [times] * 3


@given(st.integers(0, 40), st.integers(45, 60))
@settings(max_examples=25, deadline=None)
def test_a_recording_may_begin_or_end_within_the_hour(tmp_path_factory, first, last):
    """Its rows are consecutive, so what it has of the hour is on one side of the fall, or on both."""
    times = instants(600, 60)[first:last]
    found = read(recording(tmp_path_factory.mktemp("recording"), times), NAMED)
    assert rows_of(found)[0] == times
    assert not found.record.doubts


def test_an_hour_that_the_rows_pass_once_is_asked_for(tmp_path):
    second = AUTUMN + timedelta(hours=3), AUTUMN + timedelta(hours=4)
    times = [t for t in instants(600, 100) if not second[0] <= t < second[1]]
    said = doubts(read(recording(tmp_path, times), NAMED))
    assert "6 local times happen twice in Europe/Berlin" in said
    assert "--timezone" in said


def test_times_that_never_happen_are_asked_for(tmp_path):
    spring = datetime(2021, 3, 27, 22, 0, tzinfo=UTC)
    times = instants(600, 100, spring)
    assert rows_of(read(recording(tmp_path, times), NAMED))[0] == times
    said = doubts(read(recording(tmp_path, times, ZoneInfo("Etc/GMT-1")), NAMED))
    assert "6 local times never happen in Europe/Berlin" in said


@pytest.mark.parametrize("step_s", [600, 3600])
def test_a_clock_that_is_set_back_is_noticed_though_nobody_named_its_zone(tmp_path, step_s):
    path = recording(tmp_path, instants(step_s, 200))
    assert "--timezone Europe/Berlin" in doubts(read(path))
    assert "--timezone America/New_York" in doubts(
        read(
            recording(
                tmp_path,
                instants(step_s, 200, datetime(2021, 11, 7, tzinfo=UTC)),
                ZoneInfo("America/New_York"),
            )
        )
    )
    utc = read(path, ReadingWishes(zone_said=True))
    assert "--timezone" not in doubts(utc)


def test_a_step_back_that_no_zone_explains_is_noted(tmp_path):
    times = instants(600, 1000, datetime(2021, 2, 1, tzinfo=UTC))
    times[500:] = [t - timedelta(hours=1) for t in times[500:]]
    found = read(recording(tmp_path, times, ZoneInfo("UTC")))
    assert any("step back by an hour" in n for n in found.record.notes)
    assert "was the clock set" in doubts(found)
    assert found.record.dropped["duplicate"] == 6

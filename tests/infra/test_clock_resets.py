"""Laws of clocks that are set within a recording: rows whose order is clear are sorted, others asked for."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.reading.recording_reader import ReadingWishes, ReadRecording, read_recording
from tests.infra.written_files import read, rows_of

START = datetime(2024, 6, 15, 9, 0, 3, tzinfo=UTC)
STEP = timedelta(minutes=10)


def times(count: int = 1000, step: timedelta = STEP) -> list[datetime]:
    return [START + i * step for i in range(count)]


def recording(folder: Path, at: list[datetime], name: str = "log.csv") -> Path:
    path = folder / name
    lines = [f"{t:%Y-%m-%d %H:%M:%S},{20 + i * 37 % 101 / 8}" for i, t in enumerate(at)]
    path.write_text("time,heat\n" + "\n".join(lines) + "\n")
    return path


def asked(found: ReadRecording) -> str:
    return "; ".join(d.line() for d in found.record.doubts)


BACK = {
    "an hour": timedelta(hours=1),
    "an hour and some seconds": timedelta(hours=1, seconds=17),
    "three days": timedelta(days=3),
    "half a year, to New Year": START + 500 * STEP - datetime(2024, 1, 1, tzinfo=UTC),
}


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("back", BACK.values(), ids=BACK)
def test_a_clock_that_is_set_back_within_a_recording_is_asked_for(tmp_path, back, newest_first):
    at = times()
    at[500:] = [t - back for t in at[500:]]
    found = read(recording(tmp_path, at[::-1] if newest_first else at))
    assert "was the clock set" in asked(found)
    assert "--force" in asked(found)


@pytest.mark.parametrize("rows", [1, 40])
def test_a_clock_that_is_far_ahead_for_a_while_is_asked_for(tmp_path, rows):
    at = times()
    at[300 : 300 + rows] = [t + timedelta(days=200) for t in at[300 : 300 + rows]]
    said = asked(read(recording(tmp_path, at)))
    assert f"{rows} row" in said
    assert "on their wrong side in the file" in said


def test_rows_of_two_machines_one_after_the_other_are_asked_for(tmp_path):
    first, second = times(400), [t + timedelta(seconds=77) for t in times(400)]
    said = asked(read(recording(tmp_path, first + second)))
    assert "pass the same stretch again" in said
    one, other = recording(tmp_path, first, "a.csv"), recording(tmp_path, second, "b.csv")
    both = read_recording([one, other], ReadingWishes(), datetime(2026, 1, 1, tzinfo=UTC))
    assert "--device-column @file" in asked(both)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_pieces_that_fit_together_are_sorted_whatever_their_order(tmp_path_factory, data):
    at = times(400)
    cuts = sorted(data.draw(st.sets(st.integers(1, 399), max_size=6)))
    pieces = [at[a:b] for a, b in zip([0, *cuts], [*cuts, 400], strict=True)]
    mixed = [t for piece in data.draw(st.permutations(pieces)) for t in piece]
    found = read(recording(tmp_path_factory.mktemp("pieces"), mixed))
    assert not asked(found)
    assert rows_of(found)[0] == at


@pytest.mark.parametrize("seed", range(5))
def test_late_rows_and_late_blocks_are_sorted(tmp_path, seed):
    rng, at = random.Random(seed), times(2000)
    mixed = list(at)
    for _ in range(12):
        i, size = rng.randrange(1500), rng.choice([1, 1, 2, 30])
        block = mixed[i : i + size]
        del mixed[i : i + size]
        later = i + rng.randrange(1, 200)
        mixed[later:later] = block
    found = read(recording(tmp_path, mixed))
    assert not asked(found)
    assert rows_of(found)[0] == at


def test_a_shuffled_file_with_a_gap_of_months_is_sorted(tmp_path):
    at = times(300) + [t + timedelta(days=90) for t in times(300)]
    mixed = list(at)
    random.Random(3).shuffle(mixed)
    found = read(recording(tmp_path, mixed))
    assert not asked(found)
    assert rows_of(found)[0] == at


def test_months_in_files_of_their_own_are_sorted_in_any_order_of_the_files(tmp_path):
    months = [[t + timedelta(days=60 * m) for t in times(200)] for m in range(3)]
    files = [recording(tmp_path, m, f"{i}.csv") for i, m in enumerate(months)]
    found = read_recording([files[i] for i in (2, 0, 1)], ReadingWishes(), datetime(2026, 1, 1, tzinfo=UTC))
    assert not asked(found)
    assert np.all(np.diff(found.devices[""].us) > 0)
    assert found.record.used == 600

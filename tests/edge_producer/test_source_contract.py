"""What every source promises, whichever it is: one suite for all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from edge_producer.window import Window, WindowSource
from tests.edge_producer.source_rigs import START, Published, Row, at, opened, profile, sensed

KINDS = ["replay", "stdin_table", "stdin_json", "own", "mqtt_3.1.1", "mqtt_5"]
TABLES = ["replay", "stdin_table"]
Reading = Callable[..., tuple[list[Window], dict[str, int]]]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def read(kind, tmp_path, mqtt_brokers) -> Reading:
    """Gives a source of one kind some rows, and returns its windows and counts."""

    def read(rows: list[Row], **sections) -> tuple[list[Window], dict[str, int]]:
        used = profile(**sections)
        source: WindowSource
        if kind.startswith("mqtt_"):
            source = Published(mqtt_brokers(kind.removeprefix("mqtt_")), rows, used, tmp_path)
        else:
            source = opened(kind, rows, used, tmp_path)
        before: dict[str, int] = dict(source.counts)
        windows = sensed(source)
        after = dict(source.counts)
        assert all(after[name] >= n for name, n in before.items()), "counts only grow"
        return windows, after

    return read


def shown(windows: list[Window]) -> list[tuple[float, list[list[float | None]]]]:
    """Each window as the step at which it ends, and its samples."""
    return [
        (
            (w.end - START) / (at(1) - START),
            [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in w.samples],
        )
        for w in windows
    ]


def test_samples_become_windows_in_their_order(read):
    windows, counts = read([(k, 20 + k, k) for k in range(5)])
    assert shown(windows) == [(k + 1, [[20 + k, k], [21 + k, k + 1]]) for k in range(4)]
    assert all(a.due_s <= b.due_s and a.mono_ns <= b.mono_ns for a, b in pairwise(windows))
    assert {(w.device_id, w.samples.dtype, w.end.utcoffset()) for w in windows} == {
        ("d1", np.dtype("float32"), START.utcoffset())
    }
    assert counts["samples"] == 5


def test_a_sample_that_comes_twice_counts_once_and_the_first_is_kept(read):
    windows, counts = read([(0, 20, 1), (1, 21, 2), (1, 99, 9), (2, 22, 3)])
    assert shown(windows) == [(1, [[20, 1], [21, 2]]), (2, [[21, 2], [22, 3]])]
    assert counts["duplicate"] > 0


def test_a_sample_that_comes_after_its_window_changes_nothing_and_is_counted(read):
    windows, counts = read([(0, 20, 1), (1, 21, 2), (2, 22, 3), (0.4, 99, 9), (3, 23, 4)])
    assert shown(windows) == [(1, [[20, 1], [21, 2]]), (2, [[21, 2], [22, 3]]), (3, [[22, 3], [23, 4]])]
    assert counts.get("late", 0) + counts["out_of_order"] > 0


def test_an_instant_without_a_sample_is_missing_in_its_windows(read):
    windows, counts = read([(0, 20, 1), (1, 21, 2), (3, 23, 4), (4, 24, 5)])
    gap = [None, None]
    assert shown(windows) == [
        (1, [[20, 1], [21, 2]]),
        (2, [[21, 2], gap]),
        (3, [gap, [23, 4]]),
        (4, [[23, 4], [24, 5]]),
    ]
    assert counts.get("missing", 0) + counts["filled"] > 0


def test_a_value_that_is_none_or_no_number_is_missing_and_counted(read):
    windows, counts = read([(0, 20, 1), (1, "NA", 2), (2, 22, "wet"), (3, 23, 4)])
    assert shown(windows)[0] == (1, [[20, 1], [None, 2]])
    assert shown(windows)[1] == (2, [[None, 2], [22, None]])
    assert (counts["blank"], counts["unparsable"]) == (1, 1)


def test_a_value_outside_its_range_is_an_infinity_of_its_side(read):
    windows, counts = read([(0, 20, 1), (1, 9831, 2), (2, -400, 3)])
    assert windows[-1].samples[:, 0].tolist() == [float("inf"), float("-inf")]
    assert counts["absurd"] == 2


def test_what_cannot_be_read_is_counted_and_the_rest_goes_on(read):
    windows, counts = read([(0, 20, 1), "{broken", (1, 21, 2), "1,2,3,4,5,6", (2, 22, 3)])
    assert shown(windows) == [(1, [[20, 1], [21, 2]]), (2, [[21, 2], [22, 3]])]
    assert counts["malformed"] + counts["unreadable_time"] == 2


def test_a_sample_whose_time_cannot_be_read_is_not_used_and_counted(kind, read):
    broken = "soon,99,9" if kind in TABLES else '{"t": "soon", "heat": 99, "load": 9}'
    windows, counts = read([(0, 20, 1), broken, (1, 21, 2)])
    assert shown(windows) == [(1, [[20, 1], [21, 2]])]
    assert counts["unreadable_time"] == 1


def test_windows_overlap_and_skip_as_the_profile_says(read):
    rows = [(k, k, k % 50) for k in range(11)]
    windows, counts = read(rows, sampling={"window_samples": 2, "hop_samples": 5})
    assert [w.samples[:, 0].tolist() for w in windows] == [[0, 1], [5, 6]]
    assert (counts["in_windows"], counts["outside_windows"]) == (4, 7)

"""What every source promises, whichever it is: one suite for all of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edge_producer.settings import EdgeSettings
from edge_producer.sources import Scenario, SimulateSource
from edge_producer.sources.mqtt_address import MqttAddress, routes
from edge_producer.sources.mqtt_source import INBOX_BYTES, MqttSource
from edge_producer.sources.source_access import SourceAccess
from edge_producer.window import Window, WindowSource
from schemas.profile import Profile
from schemas.profile_file import find_profile
from tests.edge_producer.source_rigs import (
    START,
    Row,
    Watched,
    at,
    breakable,
    opened,
    profile,
    published,
    reported,
    sensed,
    told,
)
from tests.waiting import wait_until

KINDS = ["replay", "stdin_table", "stdin_json", "own", "mqtt_3.1.1", "mqtt_5", "opcua", "sparkplug"]
LIVE = KINDS[1:]
TABLES = ["replay", "stdin_table"]
MACHINE = find_profile("machine")
FLEET = ("m1", "m2", "m3")
Reading = Callable[..., tuple[list[Window], dict[str, int]]]


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def made(mqtt_brokers, opcua_places) -> Callable[[str, list[Row], Profile, Path], WindowSource]:
    """Makes sources of any kind."""
    return partial(source_of, brokers=mqtt_brokers, places=opcua_places)


def source_of(kind: str, rows: list[Row], used: Profile, folder: Path, *, brokers, places) -> WindowSource:
    if kind == "simulate":
        return SimulateSource(MACHINE, FLEET, Scenario(seed=1, start=START), START, 4.0)
    if kind.startswith("mqtt_"):
        return published(brokers(kind.removeprefix("mqtt_")), rows, used, folder)
    if kind == "opcua":
        return reported(*places(), rows, used, folder)
    if kind == "sparkplug":
        return told(brokers("3.1.1"), rows, used, folder)
    return opened(kind, rows, used, folder)


@pytest.fixture
def read(kind, tmp_path, made) -> Reading:
    """Gives a source of one kind some rows, and returns its windows and counts."""

    def read(rows: list[Row], **sections) -> tuple[list[Window], dict[str, int]]:
        source = made(kind, rows, profile(**sections), tmp_path)
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


def test_a_sensor_that_repeats_one_value_for_too_long_is_missing_and_counted(read):
    windows, counts = read([(k, 20, k) for k in range(6)], align={"stuck_s": 25.0})
    assert shown(windows)[-1] == (5, [[None, 4], [None, 5]])
    assert counts["stuck"] == 3


@pytest.mark.parametrize("kind", LIVE)
def test_a_clock_that_was_set_is_followed_and_no_window_spans_it(read):
    rows = [(k, 20 + k, k) for k in (0, 1, 9000, 2, -5000, -4999, -4998, -4997)]
    windows, counts = read(rows)
    ends = [end for end, _ in shown(windows)]
    assert ends == [1, 2, -4997]
    assert counts["clock_steps"] == 1
    assert counts["ahead"] > 0


MANY = {"replay": 120_000}
"""Rows, 20,000 by default: far more than a source may take in before they are asked for."""
DROPS = [kind for kind in KINDS if kind.startswith("mqtt_")]
REPORTS = ["opcua", "sparkplug"]
"""They drop too: their files have the law on it."""
WAITS = [kind for kind in KINDS if kind not in (*DROPS, *REPORTS)]
LOSES_ITS_CONNECTION = ["own", *REPORTS, *DROPS]


@pytest.mark.parametrize("kind", WAITS)
def test_a_source_that_has_more_than_the_device_takes_waits_and_loses_nothing(kind, tmp_path, made):
    many = MANY.get(kind, 20_000)
    rows: list[Row] = [(k, k % 97, k % 13) for k in range(many)]
    used = profile(sampling={"window_samples": 2, "hop_samples": 100})
    source = made(kind, rows, used, tmp_path)
    with closing(source.windows()) as items:
        windows = [next(item for item in items if isinstance(item, Window))]
        wait_until(lambda: settled(source), what="a source that is ahead")
        assert taken(source) < many
        windows += [item for item in items if isinstance(item, Window)]
    assert len(windows) == many // 100
    assert source.counts["samples"] == many
    assert source.counts.get("overrun", 0) == 0


def taken(source: WindowSource) -> int:
    """Rows that a source has taken in."""
    return max(source.counts.get(name, 0) for name in ("rows", "payloads"))


def settled(source: WindowSource) -> bool:
    """Whether it takes in no more."""
    before = taken(source)
    return before > 0 and all(taken(source) == before for _ in range(20_000))


@pytest.mark.parametrize("kind", DROPS)
def test_a_topic_that_floods_is_bounded_and_counted_and_starves_no_other(kind, tmp_path, mqtt_brokers):
    """The device reads nothing meanwhile; of the flood it then has the newest, of all others everything."""
    broker, topic = mqtt_brokers(kind.removeprefix("mqtt_")), f"flood/{secrets.token_hex(4)}"
    source = subscribed(f"{broker.address}/{topic}/+?version={broker.version}", tmp_path)
    samples = source.samples()
    with ThreadPoolExecutor(1) as elsewhere, closing(source), broker.publisher() as publisher:
        first = elsewhere.submit(next, samples)
        wait_until(lambda: source.counts["subscribed"], what="the subscription")
        publisher.give(f"{topic}/load", "0")
        assert first.result(60).values == {"load": 0}
        for n in range(60):
            publisher.give(f"{topic}/heat", f"{n}{' ' * 250_000}")
            publisher.give(f"{topic}/load", f"{n % 20}")
        too_much = 60 * 250_000 - INBOX_BYTES
        wait_until(lambda: source.counts["overrun"] * 250_000 >= too_much, 60, "all of the flood")
        publisher.give(f"{topic}/load", "49")
        found: list[Mapping[str, float]] = []
        while not found or found[-1] != {"load": 49}:
            found.append(next(samples).values)
    samples.close()
    heat, load = ([v[name] for v in found if name in v] for name in ("heat", "load"))
    assert load == [*(n % 20 for n in range(60)), 49]
    assert heat == list(range(60 - len(heat), 60))
    assert len(heat) + source.counts["overrun"] == 60
    assert len(heat) * 250_000 <= INBOX_BYTES


def subscribed(address: str, folder: Path) -> MqttSource:
    settings = EdgeSettings(state_dir=folder, profile="plant", devices=("d1",), source=address)
    found, used = MqttAddress.parse(address), profile(source={"time_field": ""})
    return MqttSource(found, routes(found, used, ("d1",)), used, SourceAccess.of(settings))


@pytest.mark.parametrize("kind", LOSES_ITS_CONNECTION)
def test_a_source_that_was_lost_is_opened_again_and_goes_on(kind, tmp_path, mqtt_brokers, opcua_places):
    with breakable(kind, tmp_path, mqtt_brokers, opcua_places) as other_end:
        watched = Watched(other_end.source)
        try:
            other_end.gives((0, 20, 1), (1, 21, 2))
            wait_until(lambda: watched.newest() == [21, 2], what="a window before")
            other_end.breaks()
            wait_until(lambda: watched.source.state["restarts"] > 0, what="another try")
            other_end.gives((2, 22, 3), (3, 23, 4))
            wait_until(lambda: watched.newest() == [23, 4], what="a window after")
        finally:
            watched.stop()
    ends = [w.end for w in watched.windows]
    assert ends == sorted(set(ends))


@pytest.mark.parametrize("kind", [*KINDS, "simulate"])
def test_the_same_source_tells_the_same_story_in_windows_of_the_profiles_shape(kind, tmp_path, made):
    rows: list[Row] = [(k, 20 + k % 7, k % 5) for k in range(12)]
    used = MACHINE if kind == "simulate" else profile()
    first, second = (sensed(made(kind, rows, used, tmp_path)) for _ in range(2))
    shape = (used.sampling.window_samples, len(used.channels))
    assert len(first) > 3
    assert {(w.samples.shape, w.samples.dtype) for w in first} == {(shape, np.dtype("float32"))}
    assert [(w.device_id, w.end) for w in first] == [(w.device_id, w.end) for w in second]
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(first, second, strict=True))
    assert all(a.due_s <= b.due_s for a, b in pairwise(first))
    for device in {w.device_id for w in first}:
        own = [w for w in first if w.device_id == device]
        assert all(a.end < b.end and a.mono_ns < b.mono_ns for a, b in pairwise(own))

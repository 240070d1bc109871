"""Laws of sources that run by themselves: whatever one does, the device senses, decides and says so."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain, count, repeat
from types import MappingProxyType

import numpy as np
import pytest

from edge_producer.actions import ActionRunner, load_actions
from edge_producer.fail_safe import FailSafe
from edge_producer.process_parts import ProcessParts
from edge_producer.runner import Runner
from edge_producer.sources.samples import Sample, SampleBlock
from edge_producer.sources.source_feed import RestartWait
from edge_producer.sources.stdin_source import InputLines, StdinSource
from edge_producer.status_file import read_status
from tests.edge_producer.source_rigs import (
    Given,
    Pipe,
    json_of,
    live,
    profile,
    sensed,
    settings,
    stdin,
    table,
)
from tests.edge_producer.spool_rig import FirstSample
from tests.waiting import wait_until

ROWS = [(k, 20 + k, k) for k in range(4)]
QUICK = {"sampling": {"rate_hz": 200.0, "window_samples": 2, "hop_samples": 2}}


class Opened:
    """Opens one given source after another; a script that is an exception cannot be opened."""

    def __init__(self, used, scripts) -> None:
        self._used, self._scripts = used, iter(scripts)

    def __call__(self) -> Given:
        script = next(self._scripts)
        if isinstance(script, Exception):
            raise script
        return Given(self._used, iter(script))


def test_a_source_that_fails_is_opened_again_and_what_it_counted_is_kept():
    used = profile()
    opened = Opened(used, [[*ROWS[:2], "{broken", OSError("unplugged")], ValueError("busy"), ROWS[2:]])
    source = live(opened, used)
    windows = sensed(source)
    assert [w.samples[:, 0].tolist() for w in windows] == [[20, 21], [21, 22], [22, 23]]
    assert (source.counts["payloads"], source.counts["malformed"]) == (5, 1)
    assert (source.state["phase"], source.state["restarts"], source.state["error"]) == ("ended", 2, "")


def test_a_window_says_when_the_sample_came_that_completed_it():
    begun_ns = time.monotonic_ns()
    windows = sensed(live(lambda: Given(profile(), iter(ROWS)), profile()))
    times = [w.arrived_ns for w in windows]
    assert len(times) == 3
    assert times == sorted(times)
    assert begun_ns <= times[0] <= times[-1] <= time.monotonic_ns()


def test_a_source_that_cannot_be_opened_says_why_and_how_often_it_was_tried():
    source = live(Opened(profile(), repeat(OSError("unplugged"))), profile())
    sensed(source, until=lambda: source.state["restarts"] > 2)
    state = source.state
    assert state["error"] == "OSError: unplugged"
    assert state["silent_s"] > 0


def test_the_wait_before_another_try_grows_and_is_bounded():
    wait = RestartWait(first_s=1.0, most_s=60.0)
    for failures in range(1, 2000):
        longest = min(2.0 ** min(failures - 1, 10), 60.0)
        assert longest / 2 <= wait.after(failures) <= longest


def test_a_silent_source_gives_windows_without_samples():
    source = live(lambda: Given(profile(), iter([threading.Event()])), profile(**QUICK))
    windows = sensed(source, most=3)
    assert all(np.isnan(w.samples).all() for w in windows)
    assert [w.arrived_ns for w in windows] == [0, 0, 0]
    assert source.counts["missing"] >= 12


def test_a_source_that_hangs_for_ever_does_not_keep_the_process_from_ending():
    hanging = threading.Event()
    source = live(lambda: Given(profile(), iter([hanging])), profile(**QUICK))
    assert len(sensed(source, most=1)) == 1  # and it has returned
    hanging.set()


def test_a_source_that_is_faster_than_the_device_waits_for_it():
    used, opened = profile(), []

    def open_source() -> Given:
        opened.append(Given(used, ((k, 20, 1) for k in count())))
        return opened[-1]

    source = live(open_source, used, capacity=16)
    windows = iter(source.windows())
    first = next(windows)
    wait_until(lambda: opened and opened[0].given >= 17, what="a source that is ahead")
    assert first is not None
    assert opened[0].given <= 16 + 16 + 1  # taken by the one look, waiting, and in the source's hand
    windows.close()


def test_a_pipe_that_is_fuller_than_the_device_is_quick_makes_its_writer_wait_and_loses_nothing():
    rows = [(k, k % 97, k % 13) for k in range(20_000)]
    pipe, used = Pipe(table(rows).encode()), profile()
    lines = InputLines(pipe.reader)
    source = live(lambda: StdinSource(used, lines), used, capacity=64)
    windows = iter(source.windows())
    next(windows)
    wait_until(lambda: pipe.written >= 65_536, what="a full pipe")
    assert pipe.written < 250_000
    windows.close()
    source = stdin(table(rows), used)
    assert len(sensed(source)) == len(rows) - 1
    assert source.counts["samples"] == len(rows)


@pytest.mark.parametrize("raised", [SystemExit(3), MemoryError(), RecursionError("deep")])
def test_whatever_a_source_raises_another_is_opened(raised):
    used = profile()
    source = live(Opened(used, [[ROWS[0], raised], ROWS[1:]]), used)
    assert len(sensed(source)) == 3
    assert source.state["restarts"] == 1


def test_samples_go_to_the_device_that_they_name_and_strangers_are_counted():
    used = profile(source={"device_field": "who"})
    lines = [json_of((k, k, 1))[:-1] + f', "who": "{who}"}}' for k in range(3) for who in ("a", "b", "c")]
    source = stdin("\n".join(lines), used, ("a", "b"))
    windows = sensed(source)
    assert sorted(w.device_id for w in windows) == ["a", "a", "b", "b"]
    assert source.counts["other_device"] == 3


def test_a_mapping_names_paths_scales_and_offsets():
    mapping = {"heat": {"field": "data.0.f", "scale": 0.5, "offset": -10.0}, "load": {"field": "amps"}}
    used = profile(source={"channels": mapping})
    lines = [f'{{"t": {1_800_000_000_000 + k * 10_000}, "data": [{{"f": 60}}], "amps": 3}}' for k in range(2)]
    windows = sensed(stdin("\n".join(lines), used))
    assert windows[0].samples.tolist() == [[20, 3], [20, 3]]


def test_lines_without_a_header_are_read_by_the_one_that_is_declared():
    used = profile(source={"header": ("t", "heat", "load")})
    windows = sensed(stdin(table(ROWS).partition("\n")[2], used))
    assert [w.samples[:, 0].tolist() for w in windows] == [[20, 21], [21, 22], [22, 23]]


def test_a_first_line_that_names_no_channel_is_a_failure_that_says_what_to_do():
    source = stdin("1,2,3\n" * 50, profile())
    sensed(source, until=lambda: "[source] header" in source.state["error"])


def test_a_sample_that_names_what_the_profile_lacks_is_counted_and_a_block_is_refused():
    class Odd:
        counts = MappingProxyType({"read": 2})

        def samples(self) -> Iterator[Sample | SampleBlock]:
            yield Sample({"pressure": 1.0, "heat": float("nan")})
            yield SampleBlock("d1", np.zeros(1, dtype=np.int64), np.zeros((1, 2), dtype=np.float32), 0)

        def close(self) -> None:
            raise OSError("cannot be closed either")

    source = live(Odd, profile())
    sensed(source, until=lambda: source.state["restarts"])
    assert "SampleBlock instead of a Sample" in source.state["error"]
    assert source.counts["unknown_channel"] >= 1
    assert source.counts["blank"] >= 1


@pytest.mark.parametrize("breaks", ["at_once", "later"])
def test_while_its_source_fails_a_device_decides_fail_safe_and_its_status_says_why(tmp_path, breaks):
    """A rule in force would last to the end of its hold; then, as at the start, there is no usable score."""
    used = profile(**QUICK, source={"time_field": ""}, decision={"fail_safe": "stand_still"})
    first = [(0, 0.2, 1)] * (200 if breaks == "later" else 0)
    scripts = chain([[*first, "{broken", OSError("unplugged")]], repeat(OSError("unplugged")))
    source = live(Opened(used, scripts), used)
    stop = threading.Event()
    runner = Runner(settings(tmp_path), used, source, FirstSample(width=1))
    thread = threading.Thread(target=runner.run, args=(stop,))
    thread.start()

    def status() -> dict:
        return read_status(tmp_path / "status.json") or {}

    wait_until(lambda: status().get("source_state", {}).get("restarts", 0) > 1, what="tries in the status")
    wait_until(lambda: status()["decisions"] == {"d1": "stand_still"}, what="the fail-safe")
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert status()["source_state"]["error"] == "OSError: unplugged"
    assert status()["source"]["malformed"] == 1
    assert status()["counters"]["windows_unscored"] > 0


def test_the_fail_safe_is_commanded_before_a_source_is_waited_for_that_hangs(tmp_path):
    """Its thread gets two seconds to end; a machine that must stand still does not."""
    used = profile(**QUICK, decision={"fail_safe": "stand_still"})
    order: list[str] = []
    stop = threading.Event()

    class Hanging(Given):
        def samples(self):
            stop.set()
            yield from super().samples()

        def close(self) -> None:
            order.append("closed")

    class Noted(FailSafe):
        def end(self) -> None:
            order.append("fail-safe")
            super().end()

    hanging = threading.Event()
    source = live(lambda: Hanging(used, iter([hanging])), used)
    made = settings(tmp_path)
    fail_safe = Noted(ActionRunner(load_actions(None)), ("d1",), "stand_still", tmp_path)
    parts = ProcessParts(fail_safe=fail_safe)
    Runner(made, used, source, FirstSample(width=1), parts=parts).run(stop)
    hanging.set()
    assert order[:2] == ["fail-safe", "closed"]

"""Compaction beside a worker: a process of its own, bounded, started again, and needed by no commit."""

import random
import resource
import threading
from contextlib import suppress

import psutil
import pytest

from feature_store.compaction_state import STATE, read_state
from feature_store.compactor import LEAST_FILES, LOCK, NICENESS, Compactor
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from feature_store.process_lock import exclusive
from stream_processors.compaction_process import CompactionProcess
from stream_processors.settings import StreamSettings
from stream_processors.worker import Housekeeping
from tests.feature_store.seen_lakes import SEEN, keys_in, land_each, seen_lake
from tests.simulators.line import make_checkpoint, make_lake
from tests.simulators.messages import SimDevice, SimDirectory, SimLog
from tests.waiting import wait_until

MEMORY_MB = 512


def compactors() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with suppress(psutil.Error):  # ended meanwhile
            if "feature_store.compactor" in process.cmdline():
                found.append(process)
    return found


def next_state(root, compaction):
    before = read_state(root)
    compaction.ask()
    wait_until(lambda: read_state(root) != before, 60, "the end of the compaction")
    return read_state(root)


def end_all():
    for process in compactors():
        process.kill()


@pytest.fixture(autouse=True)
def _no_process_is_left():
    yield
    end_all()


def test_a_bounded_process_that_stands_back_merges_files_and_is_started_again_when_it_was_killed(lake_root):
    lake, cuts = seen_lake(lake_root)
    land_each(lake, cuts, range(LEAST_FILES))
    compaction = CompactionProcess(lake_root, MEMORY_MB, silent_s=60)
    state = next_state(lake_root, compaction)
    assert (state.replaced, state.error, state.problem()) == (LEAST_FILES, "", None)
    assert 0 < state.peak_mb < MEMORY_MB
    [process] = compactors()
    assert process.nice() == min(19, psutil.Process().nice() + NICENESS)
    assert process.rlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY
    process.kill()
    land_each(lake, cuts, range(LEAST_FILES, 2 * LEAST_FILES))
    assert next_state(lake_root, compaction).replaced == LEAST_FILES + 1
    assert keys_in(lake) == list(range(2 * LEAST_FILES))


def test_where_it_cannot_run_that_is_said_and_rows_land_all_the_same(lake_root):
    lake, cuts = seen_lake(lake_root)
    compaction = CompactionProcess(lake_root, 1, silent_s=60)
    land_each(lake, cuts, range(LEAST_FILES))
    state = next_state(lake_root, compaction)
    assert "small files of the lake are not merged since" in state.problem()
    assert "STREAM_COMPACT_MEMORY_MB must be" in state.problem()
    land_each(lake, cuts, range(LEAST_FILES, LEAST_FILES + 1))
    assert keys_in(lake) == list(range(LEAST_FILES + 1))


@pytest.mark.long
def test_a_kill_at_any_moment_leaves_a_whole_lake(lake_root):
    lake, cuts = seen_lake(lake_root)
    compaction, rng, n = CompactionProcess(lake_root, MEMORY_MB, silent_s=60), random.Random(7), 0
    for _ in range(4):
        land_each(lake, cuts, range(n, n + LEAST_FILES), 2000)
        n += LEAST_FILES
        compaction.ask()
        wait_until(compactors, 60, "the process")
        threading.Event().wait(rng.uniform(0.0, 1.5))  # any moment: nothing is waited for
        end_all()
        assert keys_in(Lake.open(lake_root)) == list(range(2000 * n))
    assert CutStore(lake).latest().marks == {"a": n - 1}


def test_while_another_process_compacts_nothing_is_done_twice(lake_root):
    lake, cuts = seen_lake(lake_root)
    land_each(lake, cuts, range(LEAST_FILES))
    reports = []
    with exclusive(lake_root / LOCK):
        Compactor(lake, reports.append).run()
    assert [r["replaced"] for r in reports] == [0]
    Compactor(lake, reports.append).run()
    assert reports[-1]["replaced"] == LEAST_FILES


def test_the_thread_that_commits_only_asks(lake_root):
    lake, device, sim_log, asked = make_lake(lake_root), SimDevice("machine-00"), SimLog(), []
    cuts = CutStore(lake)
    settings = StreamSettings(lake_root=lake_root, compact_every=3)
    checkpoint = make_checkpoint(lake, SimDirectory(device))
    worker = Housekeeping(checkpoint, lake, cuts, settings, lambda: asked.append(1))
    worker.open(0)
    for n in range(7):
        worker.process({0: [sim_log.append(device.rows(n, 1))]})
    worker.process({0: []})
    assert len(asked) == 2
    assert len(cuts.latest().tables["telemetry_machine"].files) == 7


def test_a_damaged_state_of_compaction_says_nothing(lake_root):
    lake, _ = seen_lake(lake_root)
    (lake.root / STATE).write_bytes(b'{"at"')
    assert read_state(lake.root) is None
    assert SEEN.name in lake.tables()

"""Measures what grows: a commit, a snapshot and the directory by devices; queries and commits by rows.

Everything runs in this process, without a broker, and is CPU. By devices: one task that holds an eighth of
them, as in a worker, and commits the same messages of ten devices whatever their number. By rows: the lake of
`lake/*`, which grows while it is measured; `DISK_BYTES` is what it may take.
"""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import device_hour, workload
from benchmarks.device_hour import DEVICES, FLEET, HOUR, SPEC, TASKS, Cost
from benchmarks.results import Measured, table
from benchmarks.stage import Stage
from benchmarks.workload import SEED, Workload, machine
from feature_store.commit_log import CommitLog
from feature_store.compaction import compact
from feature_store.cut_store import CutStore
from feature_store.lake import Lake, TableCommit
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from feature_store.sql import connect
from schemas.topics import DEVICE_PARTITIONS
from stream_processors.engine.checkpoint import Checkpoint, CheckpointParts
from stream_processors.engine.job_keys import JobKeys
from stream_processors.engine.records import LogIdentity, TaskState
from stream_processors.ingest.lake_directory import MAX_AGE_S, LakeDirectory
from stream_processors.job import RawMessage
from stream_processors.lake_jobs import installed_jobs, senders_in

FLEETS = (10, 100, 1_000, 10_000, 100_000)
SENDERS, PER_COMMIT, COMMITS = 10, 60, 24
FILLING = 12
"""Commits before the state is multiplied: then a device has all 64 digests that marks keep of a lane."""
LAKES = (1_000_000, 10_000_000, 100_000_000)
COMPACT_EVERY = 12
"""Commits of a lake between two compactions, which are not measured here."""
DISK_BYTES = 20 * 1024**3
BYTES_A_ROW = 120
"""What a row takes at most while files wait for vacuum."""


class ByDevices(NamedTuple):
    """Cost by the number of devices; ms of CPU.

    Attributes:
        commit: The same 60 messages of ten devices, all steps of a commit.
        snapshot_mb: Of all tasks together.
        written, loaded: Those snapshots.
        refreshed: The directory looks again, and nothing is new.
        registered: It looks again, and there is one device more.
        first: It looks for the first time: a worker's start.
    """

    commit: float
    snapshot_mb: float
    written: float
    loaded: float
    refreshed: float
    registered: float
    first: float


class ByRows(NamedTuple):
    """Cost by the number of rows; ms of CPU, but for commits.

    Attributes:
        hour: One device's hour.
        fleet: The whole table by minute.
        opened: A connection with its views.
        commit: Wall time of a commit of 152,000 rows by eight tasks, its cut included.
        mb: The lake on disk, once vacuumed.
        files: Of the newest cut.
    """

    hour: float
    fleet: float
    opened: float
    commit: float
    mb: float
    files: int


def run(on: Stage, only: tuple[str, ...] = ()) -> list[Measured]:
    """Measure both curves; prints a table each.

    Args:
        only: ``devices``, ``rows``, and numbers of either; without any, all (with a small effort: the least
            number of rows alone).
    """
    quick = on.effort.scale < 1
    fleets = [n for n in FLEETS if str(n) in only] or list(FLEETS)
    lakes = [n for n in LAKES if str(n) in only] or list(LAKES[:1] if quick else LAKES)
    measured = []
    if "rows" not in only:
        measured += _devices(on, fleets)
    if "devices" not in only:
        measured += _rows(on, lakes)
    return measured


# By devices ----------------------------------------------------------------------------------------------


def _devices(on: Stage, fleets: list[int]) -> list[Measured]:
    load = workload.of_size(10, PER_COMMIT * COMMITS, SENDERS)
    found = {}
    for number in fleets:
        folder = on.folder / f"growth-{number}"
        found[number] = _by_devices(folder, number, load)
        shutil.rmtree(folder)
    head = ("devices", "commit", "snapshots MB", "written", "loaded", "refresh", "one more", "first look")
    rows = [[f"{n:,}", *(f"{v:,.1f}" for v in c)] for n, c in found.items()]
    print(f"ms of CPU by registered devices\n{table(head, rows)}", flush=True)
    return [
        Measured(
            f"growth/devices-{number}",
            f"ms of CPU of a commit of {PER_COMMIT} messages",
            (c.commit,),
            f"snapshots of all tasks {c.snapshot_mb:.2f} MB, written in {c.written:.1f} ms, loaded in "
            f"{c.loaded:.1f}; directory: nothing new {c.refreshed:.2f} ms, one device more "
            f"{c.registered:.1f}, first look {c.first:.0f}",
            "",
            1,
        )
        for number, c in found.items()
    ]


def _by_devices(folder: Path, number: int, load: Workload) -> ByDevices:
    lake = Lake.open(folder / "lake")
    lake.ensure_fixed_tables()
    load.register(lake)
    writer, pem = DeviceRegistry(lake), load.devices[0].public_key
    others = [f"other-{n:06d}" for n in range(max(0, number - SENDERS))]
    writer.register([_record(name, pem) for name in others])
    minutes = count(0, MAX_AGE_S + 1)
    directory = LakeDirectory(ProfileRegistry(lake), DeviceRegistry(lake), lambda: next(minutes))
    look = _looking(directory, load.devices[0].key_id)
    first = _cpu_ms(look)
    commit, state = _commits(lake, directory, load, others)
    snapshot = state.to_bytes()
    written = _middle(lambda: _cpu_ms(state.to_bytes))
    loaded = _middle(lambda: _cpu_ms(lambda: TaskState.from_bytes(snapshot)))
    refreshed = _middle(lambda: _cpu_ms(look))
    more = []
    for n in range(3):
        writer.register([_record(f"new-{n}", pem)])
        more.append(_cpu_ms(look))
    tasks = DEVICE_PARTITIONS
    mb = tasks * len(snapshot) / 1e6
    return ByDevices(commit, mb, tasks * written, tasks * loaded, refreshed, statistics.median(more), first)


def _record(name: str, pem: str) -> DeviceRecord:
    return DeviceRecord(name, machine().name, "site", "default", "simulated", f"key-{name}", pem)


def _looking(directory: LakeDirectory, key_id: str) -> Callable[[], object]:
    return lambda: directory.signer(key_id)


def _commits(
    lake: Lake, directory: LakeDirectory, load: Workload, others: list[str]
) -> tuple[float, TaskState]:
    """CPU of a commit, and the task's state behind: an eighth of the others have state in it, as ours."""
    clock = count(1)
    checkpoint = Checkpoint(
        CheckpointParts(
            lake=lake,
            commits=CommitLog(lake.root),
            cuts=CutStore(lake),
            jobs=installed_jobs(directory),
            publisher=_Nowhere(),
            log_identity=lambda: LogIdentity("growth", {}),
            clock=lambda: datetime.now(UTC) + timedelta(seconds=next(clock)),
            code={"edgeloop": "growth"},
            sender_of=senders_in(directory),
        )
    )
    checkpoint.open(0)
    batches = _batches(load)
    for batch in islice(batches, FILLING):
        checkpoint.process({0: batch})
    _multiply(checkpoint, load, others[::DEVICE_PARTITIONS])
    spent = [_cpu_ms(lambda batch=batch: checkpoint.process({0: batch})) for batch in batches]
    state = checkpoint.state(0)
    rows = sum(n for name, n in state.counters.items() if name.endswith("/landed_rows"))
    if rows != load.rows:
        raise RuntimeError(f"{rows} of {load.rows} rows landed: {dict(state.counters)}")
    return statistics.median(spent[2:]), state


class _Nowhere:
    """A publisher without a broker."""

    def publish(self, record: object, originals: object) -> tuple[()]:
        return ()


def _multiply(checkpoint: Checkpoint, load: Workload, others: list[str]) -> None:
    """Give other devices the state that the first sender has."""
    state, name = checkpoint.state(0), load.devices[0].device_id
    own = {key: value for key, value in state.state.items() if name in key}
    if not own:
        raise RuntimeError(f"no key of the state names a device: {list(state.state)[:5]}")
    copies = {key.replace(name, other): value for other in others for key, value in own.items()}
    checkpoint._tasks[0] = replace(state, state=JobKeys.of({**state.state, **copies}))


def _batches(load: Workload) -> Iterator[list[RawMessage]]:
    now_ms = int(time.time() * 1000)
    found = [
        RawMessage(m.topic, 0, offset, now_ms, m.key, list(m.headers), m.value)
        for offset, m in enumerate(load.messages)
    ]
    for start in range(0, len(found), PER_COMMIT):
        yield found[start : start + PER_COMMIT]


def _middle(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(3))


def _cpu_ms(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began)


# By rows -------------------------------------------------------------------------------------------------


def _rows(on: Stage, lakes: list[int]) -> list[Measured]:
    """One lake that grows to each of the numbers in turn."""
    folder = on.folder / "growth-rows"
    if shutil.disk_usage(on.folder).free < min(DISK_BYTES, lakes[-1] * BYTES_A_ROW):
        raise RuntimeError(f"{on.folder} is too full for a lake of {lakes[-1]:,} rows: set TMPDIR")
    lake, found, n = _new_lake(folder / "lake"), {}, 0
    cuts = CutStore(lake)
    per_commit = DEVICES * device_hour.COMMIT_S
    for rows in lakes:
        walls = []
        while n * per_commit < rows:
            walls.append(_commit(lake, cuts, n))
            n += 1
            if n % COMPACT_EVERY == 0:
                _tidy(lake, cuts)
        _tidy(lake, cuts)
        found[rows] = _by_rows(lake, n, statistics.median(walls[-COMPACT_EVERY:]))
    shutil.rmtree(folder)
    head = ("rows", "one device's hour", "fleet by minute", "connect()", "commit, wall", "MB", "files")
    lines = [[f"{r:,}", *(f"{v:,.1f}" for v in c[:5]), str(c.files)] for r, c in found.items()]
    print(f"ms of CPU by rows in the lake\n{table(head, lines)}", flush=True)
    return [
        Measured(
            f"growth/rows-{rows}",
            "ms of CPU of one device's hour",
            (c.hour,),
            f"fleet by minute {c.fleet:,.0f} ms, connect() {c.opened:.0f}; a commit of {per_commit:,} rows "
            f"{c.commit:.0f} ms wall; {c.mb:,.0f} MB in {c.files} files",
            "",
            1,
        )
        for rows, c in found.items()
    ]


def _new_lake(root: Path) -> Lake:
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(machine())
    lake.ensure_table(SPEC)
    return lake


def _commit(lake: Lake, cuts: CutStore, n: int) -> float:
    """Land a commit's rows; wall ms without making them."""
    rng = np.random.default_rng((SEED, n))
    parts = [device_hour.task_rows(task, n, rng) for task in range(TASKS)]
    began = time.perf_counter()
    staged = [lake.stage(SPEC.name, rows, f"task-{t:02d}", n) for t, rows in enumerate(parts)]
    made = [TableCommit(f"task-{t:02d}", n, tuple(files)) for t, files in enumerate(staged)]
    lake.apply(SPEC.name, made)
    cuts.record({c.task: n for c in made})
    return 1000 * (time.perf_counter() - began)


def _tidy(lake: Lake, cuts: CutStore) -> None:
    """Compact until nothing is left to do, and delete what nobody needs."""
    while compact(lake, cuts):
        pass
    named = {lake.root / SPEC.name / f for f in cuts.resolve(None).tables[SPEC.name].files}
    for path in (lake.root / SPEC.name).rglob("*.parquet"):
        if path not in named and path.parent.name != "_delta_log":
            path.unlink()


def _by_rows(lake: Lake, commits: int, commit_ms: float) -> ByRows:
    began = time.process_time()
    source = connect(lake.root, locked=False)
    opened_ms = 1000 * (time.process_time() - began)
    newest_us = device_hour.START_US + commits * device_hour.COMMIT_S * 1_000_000
    hours, fleet, rng = Cost(), Cost(), np.random.default_rng(SEED)
    for number in range(12):
        last = max(newest_us - 3_600_000_000, device_hour.START_US + 1)
        start = int(rng.integers(device_hour.START_US, last))
        sql = HOUR.format(source=SPEC.name, device=f"machine-{rng.integers(DEVICES):04d}", start=start)
        (hours if number >= 2 else Cost()).of(source, sql)
    fleet.of(source, FLEET.format(source=SPEC.name))
    source.close()
    files = list(CutStore(lake).resolve(None).tables[SPEC.name].files)
    mb = sum((lake.root / SPEC.name / f).stat().st_size for f in files) / 1e6
    return ByRows(statistics.median(hours.cpu), fleet.cpu[0], opened_ms, commit_ms, mb, len(files))

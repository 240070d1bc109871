"""Files of the lake by damage: each cell of the tables in docs/reliability.md is a test of its promise."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from feature_store.compaction_state import CompactionState, write_state
from feature_store.cut_store import CutStore
from feature_store.damage_list import DamageList
from feature_store.data_file import origin
from feature_store.lake import Lake
from feature_store.lake_check import check_lake
from feature_store.lake_registry import DeviceRegistry, ProfileRegistry
from infra.settings import StackSettings
from infra.stack.stack_status import collect_status
from stream_processors.engine.relanding import Relander
from stream_processors.ingest.ingest_job import Ingest
from stream_processors.ingest.lake_directory import LakeDirectory
from tests.infra.cli import EdgeloopHere
from tests.simulators.damaged_lake import (
    TABLE,
    TASKS,
    empty,
    make_history,
    missing,
    of_another_moment,
    one_bit_turned,
    torn,
)
from tests.simulators.messages import MACHINE

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
DAMAGES = {
    "torn": torn,
    "empty": empty,
    "missing": missing,
    "of another moment": of_another_moment,
    "one bit turned": one_bit_turned,
}
LOG = f"{TABLE}/_delta_log"
FILES = {
    "data file": (f"{TABLE}/day=*/task-00.*.parquet", 0, 1),
    "compacted data file, inputs still there": (f"{TABLE}/day=*/compacted.*.parquet", 0, None),
    "data file of `devices`, inputs still there": ("devices/day=*/compacted.*.parquet", 0, None),
    "commit record, after the newest snapshot": ("_commits/task-00/*.json", 2, 3),
    "commit record, before it": ("_commits/task-00/*.json", 10, 11),
    "snapshot of a task": ("_commits/task-00/*.snapshot", 0, 1),
    "applied mark": ("_commits/task-00/applied", 0, None),
    "newest cut": ("_cuts/*.json", 0, 1),
    "older cut": ("_cuts/*.json", 3, 4),
    "pin": ("_pins/kept.json", 0, None),
    "profile": ("_profiles/machine/*.json", 0, 1),
    "schema pointer": ("_schemas/*.json", 0, None),
    "newest Delta entry": (f"{LOG}/*.json", 0, 1),
    "Delta entry in the middle": (f"{LOG}/*.json", 5, 6),
    "Delta checkpoint": (f"{LOG}/*.checkpoint.parquet", 0, None),
    "Delta hint `_last_checkpoint`": (f"{LOG}/_last_checkpoint", 0, None),
    "catalog": ("catalog.duckdb", 0, None),
    "lock": ("_housekeeping.lock", 0, None),
    "copy of a profile or pin": ("_copies/_profiles/machine/*.json", 0, 1),
    "entry of the damage list": ("_damaged/**/*.json", 0, None),
    "state of the scrub": ("_scrub.json", 0, None),
    "state of compaction": ("_compaction.json", 0, None),
}
"""For each file of the first table: where it is, which of several from the newest on, and an older one."""
FOLDERS = {
    "`_cuts`": "_cuts",
    "`_commits`": "_commits",
    "one table's folder": TABLE,
    "folder of `devices`": "devices",
    "`_profiles`": "_profiles",
    "`_pins`": "_pins",
    "`_schemas`": "_schemas",
}
COLUMNS = {"missing": "missing", "of another moment": "older"}


def cells(name: str) -> list[tuple[str, str, str]]:
    """File, damage and promise of each cell of a table of the page."""
    block = PAGE.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")[2].partition("\n\n")[0]
    head, _, *lines = [[c.strip() for c in line.strip("|").split("|")] for line in block.splitlines()]
    return [
        (line[0], damage, cell) for line in lines for damage, cell in zip(head[1:], line[1:], strict=True)
    ]


CELLS, FOLDER_CELLS = cells("damage"), cells("folders")


def test_each_cell_of_the_page_has_its_case():
    assert {file for file, _, _ in CELLS} == set(FILES)
    assert {damage for _, damage, _ in CELLS} == set(DAMAGES)
    assert len(CELLS) == len(FILES) * len(DAMAGES)
    assert {folder for folder, _, _ in FOLDER_CELLS} == set(FOLDERS)
    assert {damage for _, damage, _ in FOLDER_CELLS} == set(COLUMNS)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return make_history(tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def whole(history, tmp_path_factory):
    """Every row, as a lake without damage shows it in the end."""
    lake = history.copy(tmp_path_factory.mktemp("whole"))
    lake.work()
    rows, warnings = lake.rows()
    assert (lake.stopped, warnings) == ({}, [])
    assert {row[:2] for row in rows} == lake.truth(later=True)
    return set(rows)


@pytest.mark.sliced(one_of=5)
@pytest.mark.parametrize(("file", "damage", "promise"), CELLS, ids=[f"{f}: {d}" for f, d, _ in CELLS])
def test_a_damaged_file_is_healed_or_named_and_the_rest_goes_on(
    history, whole, tmp_path, file, damage, promise
):
    lake = history.copy(tmp_path)
    prepare(lake, file)
    pattern, back, older = FILES[file]
    path = lake.newest(pattern, back)
    donor = of_another_kind(lake, path, tmp_path) if older is None else lake.newest(pattern, older)
    lake.damage = damage
    (one_letter_more if file == "lock" else DAMAGES[damage])(path, donor)
    if "data file" in file:
        lake.scrub()
    keep(promise, lake, whole, str(path.relative_to(lake.root)))


@pytest.mark.sliced(one_of=4)
@pytest.mark.parametrize(
    ("folder", "damage", "promise"), FOLDER_CELLS, ids=[f"{f}: {d}" for f, d, _ in FOLDER_CELLS]
)
def test_parts_of_different_moments_are_healed_or_refused(history, whole, tmp_path, folder, damage, promise):
    lake = history.copy(tmp_path)
    name = FOLDERS[folder]
    lake.damage = damage
    kept = tmp_path / f"{name}-then"
    if not kept.exists():
        shutil.copytree(lake.root / name, kept)
    if damage == "missing":
        shutil.rmtree(lake.root / name)
    else:
        lake.work()
        shutil.rmtree(lake.root / name)
        shutil.copytree(kept, lake.root / name)
    keep(promise, lake, whole, name)


def prepare(lake, file: str) -> None:
    if file == "pin":
        cuts = CutStore(Lake.open(lake.root))
        shutil.copy(lake.root / "_pins" / "kept.json", lake.root.parent / "kept.json")
        cuts.pin("kept", cuts.latest().id)
    if file == "entry of the damage list":
        lake.newest(f"{TABLE}/day=*/task-00.*.parquet").unlink()
        assert lake.rows()[1]
    if file == "state of the scrub":
        lake.scrub()
    if file == "state of compaction":
        write_state(lake.root, CompactionState("2026-01-01T00:00:00+00:00", 9))


def of_another_kind(lake, path: Path, folder: Path) -> Path:
    """An older content for a file of which there is only one."""
    donor = folder / "older"
    contents = {
        "applied": b"3",
        "_last_checkpoint": b'{"version":3,"size":5}',
        "_scrub.json": b'{"started":"2020-01-01T00:00:00+00:00"}',
        "_compaction.json": b'{"at":"2020-01-01T00:00:00+00:00","error":"none"}',
    }
    if path.name == "kept.json":
        return lake.root.parent / "kept.json"
    donor.write_bytes(contents.get(path.name, path.read_bytes()[::-1]))
    return donor


def one_letter_more(path: Path, _: Path) -> None:
    path.write_bytes(b"x")


def keep(promise: str, lake, whole: set, name: str) -> None:
    """Whether the lake keeps a promise of the page: for readers, for a worker, and for `lake check`."""
    word = re.split(r"[:;,]| from | until ", promise)[0]
    shown, _ = lake.rows()
    assert set(shown) <= whole
    status = collect_status(StackSettings(state_dir=lake.root.parent))
    assert status["cut"]
    lake.work()
    rows, _ = lake.rows()
    assert len(rows) == len(set(rows))
    assert set(rows) <= whole
    assert name.startswith("devices") or lake.count("devices") == (len(TASKS), [])
    {"healed": healed, "harmless": healed, "left out": left_out, "repaired": repaired, "stopped": stopped}[
        word
    ](promise, lake, whole, name)


def healed(_promise, lake, whole, _name) -> None:
    rows, warnings = lake.rows()
    assert (lake.stopped, warnings) == ({}, [])
    assert set(rows) == whole
    assert left(lake, repair=True) == 0
    assert left(lake) == 0
    assert ProfileRegistry(Lake.open(lake.root)).profiles()["machine"].description == "second"
    assert "kept" in CutStore(Lake.open(lake.root)).pins()
    assert MACHINE.name in ProfileRegistry(Lake.open(lake.root)).profiles()


def left_out(_promise, lake, whole, name) -> None:
    rows, warnings = lake.rows()
    assert lake.stopped == {}
    assert warnings
    assert sum(rows_named(warnings)) == len(whole) - len(rows) > 0
    listed = DamageList(lake.root).all()
    assert any(d.path in name and d.path in warnings[0] for d in listed)
    assert left(lake, repair=True) > 0
    assert lake.rows() == (rows, lake.rows()[1])


def repaired(_promise, lake, whole, name) -> None:
    if name.startswith("devices"):
        assert set(lake.stopped) == set(TASKS)
        assert all(re.search(r"docs/runbook\.md#[\w-]+", reason) for reason in lake.stopped.values())
    else:
        rows, warnings = lake.rows()
        assert lake.stopped == {}
        assert sum(rows_named(warnings)) == len(whole) - len(rows) > 0
    assert left(lake) == 1
    assert left(lake, repair=True) == 0
    lake.work()
    assert lake.stopped == {}
    rows, warnings = lake.rows()
    assert (set(rows), warnings) == (whole, [])
    assert lake.damage == "missing" or (lake.root / "_set_aside" / name).exists()


def stopped(promise, lake, whole, name) -> None:
    alone = {"_commits/task-00": {0}, "devices": {1} if lake.damage == "of another moment" else set(TASKS)}
    expected = next((tasks for start, tasks in alone.items() if name.startswith(start)), set(TASKS))
    assert set(lake.stopped) == expected
    for reason in lake.stopped.values():
        assert name in reason or "`_commits`" in reason
        assert re.search(r"docs/runbook\.md#[\w-]+", reason)
    for task in set(TASKS) - set(lake.stopped):
        assert {r for r in whole if r[0] == f"machine-{task:02d}"} <= set(lake.rows()[0])
    assert left(lake, repair=True) > 0
    if "left out" in promise:
        lake.work()
        assert lake.stopped == {}
        rows, warnings = lake.rows()
        assert sum(rows_named(warnings)) == len(whole) - len(rows)


def rows_named(warnings: list[str]) -> list[int]:
    return [
        int(found[1]) for w in warnings if (found := re.search(r": (?:at least )?(\d+) rows are left out", w))
    ]


def left(lake, *, repair: bool = False) -> int:
    """How many findings `edgeloop lake check` leaves."""
    return sum(not found.healed for found in check_lake(lake.root, lambda _: None, repair=repair))


def test_the_command_counts_what_it_healed_and_what_is_left(history, tmp_path):
    lake, edgeloop = history.copy(tmp_path), EdgeloopHere(tmp_path)
    assert edgeloop("lake", "check").returncode == 0
    torn(lake.newest("_cuts/*.json"), lake.root)
    lost = lake.newest(f"{TABLE}/day=*/task-00.*.parquet")
    lost.unlink()
    found = edgeloop("lake", "check", "--json")
    assert (found.returncode, json.loads(found.stdout)["left"]) == (1, 2)
    repaired = edgeloop("lake", "check", "--repair", COLUMNS="80")
    assert repaired.returncode == 1
    assert "2 findings, 1 healed, 1 left" in repaired.stdout
    query = edgeloop("sql", f"SELECT count(*) AS n FROM {TABLE}", "--json")
    assert json.loads(query.stdout) == [{"n": len(lake.truth()) - 2}]
    assert "warning: telemetry_machine: 2 rows are left out" in query.stderr
    assert lost.name in query.stderr
    assert edgeloop("sql", "SELECT count(*) FROM devices").stderr == ""
    [entry] = edgeloop.json("sql", "SELECT * FROM damaged_files")
    assert (entry["table_name"], entry["rows"], entry["reason"]) == (TABLE, 2, "the file is missing")
    assert [d["path"] for d in edgeloop.json("status")["damaged"]] == [entry["path"]]


def relander(lake, *, without: int | None = None):
    """Runs the jobs again over the messages of the lake's history, as from the broker."""
    here = Lake.open(lake.root)
    jobs = (Ingest(LakeDirectory(ProfileRegistry(here), DeviceRegistry(here))),)

    def read(_topic, partition, start, end):
        messages = lake.history.messages[partition]
        return [m for m in messages if start <= m.offset < end and m.offset != without]

    return Relander(here, jobs, read).restore


@pytest.mark.parametrize("damage", [missing, one_bit_turned])
def test_a_file_whose_messages_the_log_still_has_is_landed_again_byte_for_byte(
    history, whole, tmp_path, damage
):
    lake = history.copy(tmp_path)
    path = lake.newest(f"{TABLE}/day=*/task-00.*.parquet", 1)
    bytes_before = path.read_bytes()
    damage(path, path)
    [found] = check_lake(lake.root, lambda _: None, repair=True, reland=relander(lake))
    assert (found.healed, found.outcome) == (True, "landed again from the log, byte for byte")
    assert path.read_bytes() == bytes_before
    lake.work()
    assert (set(lake.rows()[0]), lake.rows()[1]) == (whole, [])


def test_other_bytes_than_those_of_the_name_are_never_landed_again(history, tmp_path):
    lake = history.copy(tmp_path)
    path = lake.newest(f"{TABLE}/day=*/task-00.*.parquet", 1)
    missing(path, path)
    n = origin(path.name).n
    [found] = check_lake(lake.root, lambda _: None, repair=True, reland=relander(lake, without=n))
    assert (found.healed, path.exists()) == (False, False)
    assert lake.rows()[1]

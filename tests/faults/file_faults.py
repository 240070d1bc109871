"""Faults of the lake's files: torn, empty, missing, overwritten, or with one bit turned."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.faults.damage import HARMS, flip_one_bit, remove
from tests.faults.evidence import delta_files
from tests.faults.fault_kinds import Allowance, fault
from tests.faults.fault_rig import WORKERS, FaultRig, hold


def _newest(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))[-1:]


def _harm(
    rig: FaultRig, rng: random.Random, files: Callable[[Path], Sequence[Path]], *, stopped: bool
) -> None:
    """Harm the files, with the workers dead or at work; each kind of harm in turn is the seed's choice."""
    if stopped:
        for name in WORKERS:
            rig.kill(name)
    harm = rng.choice(HARMS)
    for path in files(rig.lake_root):
        if path.exists():
            harm(path, rng)
    hold(rng, 0.5, 2)


@fault("line", "harm the newest cut while workers run")
def cut_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: _newest(lake / "_cuts", "*.json"), stopped=False)


@fault("line", "harm the newest five cuts while workers are dead")
def cuts_harmed_at_start(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: sorted((lake / "_cuts").glob("*.json"))[-5:], stopped=True)


@fault("line", "harm the newest snapshot of every task while workers are dead")
def snapshot_harmed(rig: FaultRig, rng: random.Random) -> None:
    def newest(lake: Path) -> list[Path]:
        return [p for task in (lake / "_commits").glob("task-*") for p in _newest(task, "*.snapshot")]

    _harm(rig, rng, newest, stopped=True)


@fault("line", "harm a commit record that a snapshot covers, of every task")
def old_record_harmed(rig: FaultRig, rng: random.Random) -> None:
    def covered(lake: Path) -> list[Path]:
        found = []
        for task in (lake / "_commits").glob("task-*"):
            for snapshot in _newest(task, "*.snapshot"):
                found += [p for p in task.glob("*.json") if p.stem <= snapshot.stem][:1]
        return found

    _harm(rig, rng, covered, stopped=True)


@fault("line", "harm the marks of what is applied, of every task")
def applied_mark_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: list((lake / "_commits").glob("*/applied")), stopped=True)


@fault("line", "harm the Delta hint `_last_checkpoint` of every table")
def last_checkpoint_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: list(lake.glob("*/_delta_log/_last_checkpoint")), stopped=True)


@fault("line", "harm the catalog for other DuckDB clients")
def catalog_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: [lake / "catalog.duckdb"], stopped=False)


@fault("line", "harm the stored profile while workers are dead")
def profile_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: list((lake / "_profiles").glob("*/*.json")), stopped=True)


@fault("line", "harm the pointer from a wire schema to its profile while workers are dead")
def schema_pointer_harmed(rig: FaultRig, rng: random.Random) -> None:
    _harm(rig, rng, lambda lake: list((lake / "_schemas").glob("*.json")), stopped=True)


def _data_file(rig: FaultRig, rng: random.Random, harm: Callable[[Path, random.Random], None]) -> Allowance:
    """Harm one file of summaries: a table beside the one whose rows are counted."""
    files = [p for p in delta_files(rig.lake_root, "summaries") if p.exists()]
    if files:
        path = rng.choice(files)
        saved = path.read_bytes()
        harm(path, rng)
        hold(rng, 2, 5)
        path.write_bytes(saved)
    return Allowance(named=True)


@fault("line", "turn one bit in a data file for 2 to 5 s")
def data_file_bit_flipped(rig: FaultRig, rng: random.Random) -> Allowance:
    return _data_file(rig, rng, flip_one_bit)


@fault("line", "remove a data file for 2 to 5 s")
def data_file_removed(rig: FaultRig, rng: random.Random) -> Allowance:
    return _data_file(rig, rng, remove)

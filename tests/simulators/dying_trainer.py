"""Trainers that kill themselves with -9 before their k-th durable step, and the next one that goes on.

python -m tests.simulators.dying_trainer TEMPLATE WORK K...

A durable step is the naming of a file (link or rename) or the commit of a transaction. For each K a copy of
the template is trained on in a process that dies before step K, then in one that does not. K = 0 never dies.
One line of JSON for each: how the first ended, and what is there in the end. Processes are forked from this
one, which has imported everything and opened nothing.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
from contextlib import closing
from pathlib import Path

from sqlalchemy import event, select

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.lake import Lake
from model_service.registry.registry_tables import candidates, outbox, runs
from tests.model_service.trainer_rig import TrainerRig

LAKE, RIG = "lake", "rig"
_TICKS = 3


class KillAtStep:
    """Counts durable steps and kills this process before the last of them."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def step(self, *_: object) -> None:
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, name: str, _arguments: tuple) -> None:
        if name in ("os.link", "os.rename"):
            self.step()


def train(folder: Path, at: int) -> int:
    """Tick until nothing is left to do; returns the durable steps."""
    rig = TrainerRig(folder / RIG, folder / LAKE)
    killer = KillAtStep(at)
    sys.addaudithook(killer.hook)
    event.listen(rig.registry.engine, "commit", killer.step)
    for _ in range(_TICKS):
        rig.tick()
    return killer.count


def forked(work) -> int:
    """Exit status of a process that does the work."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as exc:  # noqa: BLE001  (a forked process must not return into its parent's code)
            sys.stderr.write(f"{exc!r}\n")
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def outcome(folder: Path) -> dict:
    """What a lake and a rig hold: runs, candidates, steps, lineage rows, pins, artifacts."""
    rig = TrainerRig(folder / RIG, folder / LAKE)
    root = folder / LAKE
    with closing(rig), rig.registry.reading() as connection:
        made = connection.execute(select(candidates.c.version, candidates.c.sha256)).all()
        states = connection.execute(select(runs.c.state)).scalars().all()
        steps = connection.execute(select(outbox.c.step)).scalars().all()
    with closing(connect(root, comments=False)) as con:
        rows, distinct = con.execute(
            "SELECT count(*), count(DISTINCT (device_id, boot_id, seq)) FROM training_sets"
        ).fetchone()
    artifacts = sorted(p.name for p in rig.settings.artifacts.iterdir() if not p.name.startswith("."))
    whole = [hashlib.sha256((rig.settings.artifacts / a).read_bytes()).hexdigest() == a for a in artifacts]
    return {
        "candidates": [list(row) for row in made], "states": list(states), "steps": sorted(steps),
        "rows": rows, "distinct": distinct, "pins": list(CutStore(Lake(root)).pins()),
        "artifacts": artifacts, "whole": all(whole),
    }  # fmt: skip


def main() -> None:
    template, work = Path(sys.argv[1]), Path(sys.argv[2])
    for at in map(int, sys.argv[3:]):
        folder = work / str(at)
        shutil.copytree(template, folder)
        report = folder / "report.json"
        first = forked(lambda folder=folder, at=at: report_steps(folder, at))
        second = forked(lambda folder=folder: train(folder, 0))
        forked(lambda folder=folder, report=report: report.write_text(json.dumps(outcome(folder))))
        steps = folder / "steps"
        found = {
            "at": at, "killed": os.WIFSIGNALED(first), "second": second, **json.loads(report.read_text()),
            "count": int(steps.read_text()) if steps.exists() else None,
        }  # fmt: skip
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def report_steps(folder: Path, at: int) -> None:
    (folder / "steps").write_text(str(train(folder, at)))


if __name__ == "__main__":
    main()

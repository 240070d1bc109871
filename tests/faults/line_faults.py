"""Faults of the line: workers, broker, supervisor, their disks and the log."""

from __future__ import annotations

import random

from tests.faults.fault_kinds import Allowance, fault
from tests.faults.fault_rig import WORKERS, FaultRig, hold
from tests.simulators.cloud import Cloud
from tests.waiting import wait_until


@fault("line", "kill -9 a worker")
def worker_killed(rig: FaultRig, rng: random.Random) -> None:
    hold(rng, 0, 2)
    rig.kill(rng.choice(WORKERS))


@fault("line", "kill -9 every worker at once", decides=True)
def workers_killed(rig: FaultRig, rng: random.Random) -> Allowance:
    for name in WORKERS:
        rig.kill(name)
    hold(rng, 0, 3)
    return Allowance(faults=2)


@fault("line", "SIGSTOP a worker for 1 to 16 s")
def worker_paused(rig: FaultRig, rng: random.Random) -> None:
    with rig.paused(rig.process(rng.choice(WORKERS))):
        hold(rng, 1, 16)


@fault("line", "SIGTERM a worker")
def worker_stopped(rig: FaultRig, rng: random.Random) -> None:
    rig.process(rng.choice(WORKERS)).terminate()
    hold(rng, 0, 2)


@fault("line", "no byte fits on the disk of the workers for 3 to 8 s", decides=True)
def worker_disk_full(rig: FaultRig, rng: random.Random) -> None:
    with rig.no_room(*(rig.process(name) for name in WORKERS)):
        hold(rng, 3, 8)


def _dying_at(rig: FaultRig, rng: random.Random, step: str) -> Allowance:
    """A third worker joins, dies by kill -9 after a step of its first commits, and is not started again."""
    stack = rig.stack()
    cloud = Cloud(rig.broker, stack["namespace"], rig.folder / f"dying-{rng.randrange(10**9)}")
    cloud.lake = cloud.lake.open(rig.lake_root)
    with cloud:
        worker = cloud.start("tests.simulators.dying_worker", step, "2")
        wait_until(lambda: worker.exit_code is not None, 60, f"the worker to die after {step}")
    return Allowance()


@fault("line", "a worker dies by kill -9 after it staged files")
def worker_killed_after_stage(rig: FaultRig, rng: random.Random) -> Allowance:
    return _dying_at(rig, rng, "stage")


@fault("line", "a worker dies by kill -9 after it decided a commit")
def worker_killed_after_decide(rig: FaultRig, rng: random.Random) -> Allowance:
    return _dying_at(rig, rng, "decide")


@fault("line", "a worker dies by kill -9 after it applied a commit to the tables")
def worker_killed_after_apply(rig: FaultRig, rng: random.Random) -> Allowance:
    return _dying_at(rig, rng, "apply")


@fault("line", "kill -9 the broker", decides=True)
def broker_killed(rig: FaultRig, rng: random.Random) -> None:
    hold(rng, 0, 2)
    rig.kill("kafka")


@fault("line", "SIGSTOP the broker for 2 to 15 s", decides=True)
def broker_paused(rig: FaultRig, rng: random.Random) -> None:
    with rig.paused(rig.process("kafka")):
        hold(rng, 2, 15)


@fault("line", "SIGTERM the broker", decides=True)
def broker_stopped(rig: FaultRig, rng: random.Random) -> None:
    rig.process("kafka").terminate()
    hold(rng, 1, 3)


@fault("line", "no byte fits on the disk of the broker for 3 to 8 s", decides=True)
def broker_disk_full(rig: FaultRig, rng: random.Random) -> None:
    with rig.no_room(rig.process("kafka")):
        hold(rng, 3, 8)


@fault(
    "line", "kill -9 the supervisor, which takes the whole stack with it; then `edgeloop up`", decides=True
)
def supervisor_killed(rig: FaultRig, rng: random.Random) -> None:
    hold(rng, 0, 1)
    rig.kill_supervisor()


@fault("line", "`edgeloop down`, a while of nothing, `edgeloop up`", decides=True)
def stack_stopped(rig: FaultRig, rng: random.Random) -> None:
    rig.command("down")
    hold(rng, 1, 4)
    rig.up()


@fault("line", "one worker paused; edge, broker and the other worker killed meanwhile")
def storm(rig: FaultRig, rng: random.Random) -> Allowance:
    paused, killed = rng.sample(WORKERS, 2)
    name = rig.any_edge(rng)
    with rig.paused(rig.process(paused)):
        hold(rng, 0.5, 3)
        rig.edges[name].child.kill()
        rig.kill("kafka")
        rig.kill(killed)
        hold(rng, 1, 8)
        rig.restart_edge(name)
    return Allowance(faults=4)


@fault("line", "kill -9 a worker again and again, six times within half a minute", decides=True)
def worker_killed_often(rig: FaultRig, rng: random.Random) -> Allowance:
    name = rng.choice(WORKERS)
    for _ in range(6):
        rig.kill(name)
        hold(rng, 1, 5)
    return Allowance(faults=6)

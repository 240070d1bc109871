"""Faults of devices: their processes, disks, spools and networks."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tests.faults.damage import flip_bits, overwrite, truncate
from tests.faults.fault_kinds import Allowance, fault
from tests.faults.fault_rig import EDGES, FaultRig, hold

EAST = EDGES[0]
"""The edge process behind the faulty network."""


@fault("edge", "kill -9 an edge process and start it again")
def edge_killed(rig: FaultRig, rng: random.Random) -> None:
    name = rig.any_edge(rng)
    rig.edges[name].child.kill()
    hold(rng, 0, 2)
    rig.restart_edge(name)


@fault("edge", "kill -9 an edge process three times, each time just after its start")
def edge_killed_at_start(rig: FaultRig, rng: random.Random) -> Allowance:
    name = rig.any_edge(rng)
    for _ in range(3):
        rig.restart_edge(name)
        hold(rng, 0.2, 3)
        rig.edges[name].child.kill()
    rig.restart_edge(name)
    return Allowance(faults=3)


@fault("edge", "stop an edge process in good order and start it again")
def edge_stopped(rig: FaultRig, rng: random.Random) -> None:
    name = rig.any_edge(rng)
    rig.edges[name].stop()
    hold(rng, 0, 2)
    rig.restart_edge(name)


@fault("edge", "SIGSTOP an edge process for 2 to 10 s")
def edge_paused(rig: FaultRig, rng: random.Random) -> None:
    with rig.paused(rig.edge_process(rig.any_edge(rng))):
        hold(rng, 2, 10)


@fault("edge", "no byte fits on the disk of an edge process for 4 to 8 s", decides=True)
def edge_disk_full(rig: FaultRig, rng: random.Random) -> None:
    with rig.no_room(rig.edge_process(rig.any_edge(rng))):
        hold(rng, 4, 8)


@fault("edge", "an edge process starts while no byte fits on its disk")
def edge_started_on_full_disk(rig: FaultRig, rng: random.Random) -> None:
    name = rig.any_edge(rng)
    rig.restart_edge(name)
    with rig.no_room(rig.edge_process(name)):
        hold(rng, 4, 8)
    if rig.edges[name].child.exit_code is not None:
        rig.restart_edge(name)


@fault("edge", "the network to the broker is cut for 3 to 12 s", decides=True)
def network_cut(rig: FaultRig, rng: random.Random) -> None:
    rig.network.set("cut")
    hold(rng, 3, 12)
    rig.network.set("open")


@fault("edge", "the network to the broker passes 20 kB/s, 300 ms late, for 5 to 10 s", decides=True)
def network_slow(rig: FaultRig, rng: random.Random) -> None:
    rig.network.set("slow")
    hold(rng, 5, 10)
    rig.network.set("open")


@fault("edge", "the network to the broker comes and goes ten times", decides=True)
def network_flapping(rig: FaultRig, rng: random.Random) -> Allowance:
    for _ in range(10):
        rig.network.set("cut")
        hold(rng, 0.1, 0.6)
        rig.network.set("open")
        hold(rng, 0.1, 0.6)
    return Allowance(faults=10)


@fault("edge", "connections to the broker stay open and pass nothing for 5 to 15 s", decides=True)
def network_half_open(rig: FaultRig, rng: random.Random) -> None:
    rig.network.set("silent")
    hold(rng, 5, 15)
    rig.network.set("open")


@fault("edge", "kill -9 an edge process while the network is cut", decides=False)
def edge_killed_offline(rig: FaultRig, rng: random.Random) -> Allowance:
    rig.network.set("cut")
    hold(rng, 2, 5)
    rig.edges[EAST].child.kill()
    rig.restart_edge(EAST)
    hold(rng, 2, 5)
    rig.network.set("open")
    return Allowance(faults=2)


def _with_damaged_spool(rig: FaultRig, rng: random.Random, suffix: str, harm: object) -> Allowance:
    """Kill, harm a spool file, start; a start that refuses is started once more, as a person does."""
    name = rig.any_edge(rng)
    edge = rig.edges[name]
    edge.child.kill()
    path = Path(f"{edge.spool}{suffix}")
    if path.exists():
        harm(path, rng)  # type: ignore[operator]
    rig.restart_edge(name)
    return Allowance(books=(name,))


@fault("edge", "cut the spool's file short while its process is down")
def spool_torn(rig: FaultRig, rng: random.Random) -> Allowance:
    return _with_damaged_spool(rig, rng, "", truncate)


@fault("edge", "turn 1 to 20 bits of the spool's file while its process is down")
def spool_bit_flipped(rig: FaultRig, rng: random.Random) -> Allowance:
    return _with_damaged_spool(rig, rng, "", flip_bits)


@fault("edge", "overwrite the spool's file with noise while its process is down")
def spool_overwritten(rig: FaultRig, rng: random.Random) -> Allowance:
    return _with_damaged_spool(rig, rng, "", overwrite)


@fault("edge", "overwrite the spool's write-ahead log with noise while its process is down")
def spool_wal_overwritten(rig: FaultRig, rng: random.Random) -> Allowance:
    return _with_damaged_spool(rig, rng, "-wal", overwrite)


@fault("edge", "remove the spool's files while its process is down")
def spool_removed(rig: FaultRig, rng: random.Random) -> Allowance:
    name = rig.any_edge(rng)
    edge = rig.edges[name]
    edge.child.kill()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{edge.spool}{suffix}").unlink(missing_ok=True)
    rig.restart_edge(name)
    return Allowance(books=(name,))


@fault("edge", "overwrite an edge process's status file with noise, and take its right to be written")
def status_file_broken(rig: FaultRig, rng: random.Random) -> None:
    edge = rig.edges[rig.any_edge(rng)]
    status = edge.folder / "status.json"
    status.unlink(missing_ok=True)
    status.mkdir()
    hold(rng, 3, 5)
    shutil.rmtree(status, ignore_errors=True)

"""The system that the campaign breaks: a whole stack of processes, and edge processes with their devices.

Everything is the product itself, started as a user starts it. Processes are killed and paused by the pid that
the stack's own file names; all of them are the campaign's own.
"""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil

from edge_producer.sources.scenario import Scenario
from feature_store.lake import Lake
from infra.settings import StackSettings
from infra.stack.edge_processes import EdgeProcess, EdgeSpec
from infra.stack.model_settings import model_settings
from schemas.profile_file import find_profile
from tests.faults.faulty_network import FaultyNetwork
from tests.infra.cli import Edgeloop
from tests.waiting import wait_until

PROFILE = "machine_demo"
"""With timings of seconds: a rollout ends within a run."""
DEVICES_PER_EDGE = 5
EDGES = ("east", "west")
SPEED = 3.0
"""Simulated seconds in a second."""
WORKERS = ("worker-1", "worker-2")


class FaultRig:
    """One stack in one folder, and two edge processes: ``east`` reaches it through a faulty network.

    Args:
        folder: Everything lies below it.
        seed: Of the simulated machines.
        models: Run the model service, and join the devices to it.
    """

    def __init__(self, folder: Path, seed: int, *, models: bool = True) -> None:
        self.folder, self.seed, self.models = folder, seed, models
        self.state_dir = folder / "state"
        self.command = Edgeloop(self.state_dir)
        self.edges: dict[str, EdgeProcess] = {}
        self.network: FaultyNetwork
        self.delivery: FaultyNetwork | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        self.up()
        stack = self.stack()
        site = stack["site"]
        self.network = self._cleanup.enter_context(
            FaultyNetwork(("127.0.0.1", site["bind_port"]), site["front_port"])
        )
        for name in EDGES:
            self.edges[name] = self._make_edge(name, site["front_port"])
            self.edges[name].start()
        return self

    def __exit__(self, *_: object) -> None:
        for edge in self.edges.values():
            edge.stop()
        self._cleanup.close()
        self.command("down")

    # The stack

    def up(self) -> None:
        """Start the stack, or start it again."""
        models = str(self.models).lower()
        done = self.command("up", "--workers", str(len(WORKERS)), EDGELOOP_MODELS=models)
        if done.returncode:
            raise AssertionError(f"`edgeloop up`: {done.stderr}")

    def stack(self) -> dict[str, Any]:
        """The stack's own file."""
        found: dict[str, Any] = json.loads((self.state_dir / "stack.json").read_text())
        return found

    @property
    def lake_root(self) -> Path:
        """Folder of the lake."""
        return self.state_dir / "lake"

    @property
    def broker(self) -> str:
        """Address of the broker, past the faulty network."""
        return str(self.stack()["bootstrap_servers"])

    @property
    def settings(self) -> StackSettings:
        """Settings of the stack, as its commands have them."""
        return StackSettings(state_dir=self.state_dir)

    def processes(self) -> dict[str, psutil.Process]:
        """Living processes of the stack by name."""
        found = {}
        for entry in self.stack()["processes"]:
            with suppress(psutil.Error):
                process = psutil.Process(entry["pid"])
                if abs(process.create_time() - entry["created"]) < 1 and process.status() != "zombie":
                    found[entry["name"]] = process
        return found

    def process(self, name: str) -> psutil.Process:
        """A process of the stack, once it lives."""
        wait_until(lambda: name in self.processes(), 60, f"{name} to run")
        return self.processes()[name]

    def kill(self, name: str) -> None:
        """Kill -9 a process of the stack; its supervisor starts it again."""
        with suppress(psutil.NoSuchProcess):
            self.process(name).kill()

    def kill_supervisor(self) -> None:
        """Kill -9 the process that owns the stack, and with it everything; then start the stack again."""
        owner = psutil.Process(self.stack()["pid"])
        children = owner.children(recursive=True)
        owner.kill()
        psutil.wait_procs(children, timeout=30)
        self.up()

    @contextmanager
    def paused(self, *processes: psutil.Process) -> Iterator[None]:
        """Processes stopped by SIGSTOP while the block runs."""
        held = []
        try:
            for process in processes:
                process.suspend()
                held.append(process)
            yield
        finally:
            for process in held:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextmanager
    def no_room(self, *processes: psutil.Process) -> Iterator[None]:
        """Processes that cannot extend any file while the block runs, as on a full disk (RLIMIT_FSIZE)."""
        limits = {}
        try:
            for process in processes:
                limits[process] = process.rlimit(psutil.RLIMIT_FSIZE)
                process.rlimit(psutil.RLIMIT_FSIZE, (0, limits[process][1]))
            yield
        finally:
            for process, limit in limits.items():
                with suppress(psutil.NoSuchProcess):
                    process.rlimit(psutil.RLIMIT_FSIZE, limit)

    # Edges

    def edge_process(self, name: str) -> psutil.Process:
        """The process of an edge."""
        return psutil.Process(self.edges[name].child.pid)

    def any_edge(self, rng: random.Random) -> str:
        """Name of one edge process."""
        return rng.choice(EDGES)

    def restart_edge(self, name: str) -> None:
        """Start an edge process again in its folder, as a service manager does."""
        edge = self.edges[name]
        with suppress(ValueError):
            edge.child.kill()
        edge.start()

    def windows(self, name: str) -> int:
        """Windows that this start of an edge process has judged so far."""
        with suppress(OSError, ValueError):
            return int(self.edges[name].status().get("counters", {}).get("windows", 0))
        return 0

    def _make_edge(self, name: str, front_port: int) -> EdgeProcess:
        profile = find_profile(PROFILE)
        devices = tuple(f"{name}-{i}" for i in range(DEVICES_PER_EDGE))
        folder = self.folder / "edge" / name
        folder.mkdir(parents=True)
        scenario = folder / "scenario.json"
        plan = Scenario(seed=self.seed, start=datetime.now(UTC), devices=devices)
        scenario.write_text(plan.model_dump_json())
        options = {
            "source": "simulate",
            "scenario": str(scenario),
            "speed": str(SPEED),
            "update_poll_s": "2",
            "stop_timeout_s": "5",
            "state_interval_s": "5",
        }
        address = f"127.0.0.1:{front_port}" if name == EDGES[0] else self.broker
        spec = EdgeSpec(name, PROFILE, devices, address, site=name, options=options)
        edge = EdgeProcess(spec, self.folder / "edge", self.folder / "edge")
        lake = Lake.open(self.lake_root)
        if not self.models:
            edge.register(lake, profile)
            return edge
        edge.register_profile(lake, profile)
        models = model_settings(self.settings, self.broker)
        edge.join(models, self._delivery_of(name, models))
        return edge

    def _delivery_of(self, name: str, models: Any) -> str:
        """Address of the delivery listener for an edge: the first one goes through a faulty network."""
        if name != EDGES[0]:
            return ""
        from model_service import read_address

        address = read_address(models)
        assert address is not None
        front = _free_port()
        target = (address.host, address.delivery_port)
        self.delivery = self._cleanup.enter_context(FaultyNetwork(target, front))
        return f"{address.host}:{front}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def hold(rng: random.Random, low_s: float, high_s: float) -> None:
    """Let a fault last; the only waits of the campaign that are not for a condition."""
    time.sleep(rng.uniform(low_s, high_s))


def wait_ended(process: psutil.Process, timeout_s: float = 30) -> None:
    """Wait until a process of another parent has ended."""
    psutil.wait_procs([process], timeout=timeout_s)

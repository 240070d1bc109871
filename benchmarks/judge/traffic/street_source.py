"""Detectors of a street as a source of edgeloop's devices, in lock step: a second waits for its lights."""

from __future__ import annotations

import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from benchmarks.judge.traffic.road_nets import Signal
from benchmarks.judge.traffic.sumo_run import SumoRequest
from edge_producer.sources.samples import Sample
from schemas.verticals.traffic.standard_junction import APPROACHES, NAMES, detected

PROGRAM = Path(__file__).with_name("street_process.py")
ENDED = "ended"
SHIPPED_LANES = 2
"""Of each phase of the shipped intersection."""
ByLane = Sequence[Sequence[float]]
"""By phase and lane."""


@dataclass(frozen=True, slots=True)
class StreetSecond:
    """What the detectors and the lights of one signal say of a second.

    Attributes:
        vehicles: In the last 100 m before each stop line.
        passed: That came onto each stop line's loop.
        occupied: Share of the second in which each loop was covered.
        state: The lights, as SUMO writes them.
    """

    vehicles: ByLane
    passed: ByLane
    occupied: ByLane
    state: str


class Street(Protocol):
    """What is simulated; `SumoStreet` in the judge."""

    def second(self, lights: Mapping[str, str]) -> Mapping[str, StreetSecond] | None:
        """Set the lights that change, and go on for a second; None: the run is over."""
        ...


class SumoStreet:
    """SUMO in its own process and environment, a line of JSON each way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._begun = False

    def second(self, lights: Mapping[str, str]) -> Mapping[str, StreetSecond] | None:
        """See ``Street``.

        Raises:
            RuntimeError: The process ended before the run did.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._begun:
            self._process.stdin.write(json.dumps(lights) + "\n")
            self._process.stdin.flush()
        self._begun = True
        for line in self._process.stdout:
            if line.startswith("{"):  # else they are SUMO's own words
                told = json.loads(line)
                if ENDED in told:
                    return None
                return {name: StreetSecond(**value) for name, value in told.items()}
        raise RuntimeError("the judge's process failed; its words are above")


@contextmanager
def sumo_street(what: SumoRequest, out: Path) -> Iterator[SumoStreet]:
    """A street to be driven; SUMO writes what vehicles lost to ``out`` as the run ends."""
    options = [str(what.sumo / "bin" / "sumo"), "-n", str(what.net.path(what.kind)), "-r", str(what.trips)]
    options += ["-a", str(what.net.folder / "zones.add.xml"), "--seed", str(what.seed)]
    options += ["--tripinfo-output", str(out), "--tripinfo-output.write-unfinished"]
    options += ["--tripinfo-output.write-undeparted", "--no-step-log", "--time-to-teleport", "-1"]
    options.append("--no-warnings")
    request = {"options": options, "zones": what.net.zones, "blocked": list(what.blocked)}
    words, pipe = [str(what.python), str(PROGRAM)], subprocess.PIPE
    environment = {"SUMO_HOME": str(what.sumo), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request | {"seconds": what.seconds}) + "\n")
            process.stdin.flush()
            yield SumoStreet(process)
        finally:
            process.stdin.close()  # what is still running ends for want of a line


class LockStep:
    """The street's time: it goes on when the lights of a second are set.

    Args:
        start: Event time of the first second.

    Attributes:
        second: Number of the second whose samples are under way.
        told: Set while all samples of the second have been given and its lights are awaited.
    """

    def __init__(self, start: datetime) -> None:
        self._start_s = start.timestamp()
        self._lights: SimpleQueue[Mapping[str, str] | None] = SimpleQueue()
        self.second = 0
        self.told = threading.Event()

    def clock(self) -> float:
        """Seconds since 1970 of the second under way."""
        return self._start_s + self.second

    @property
    def time(self) -> datetime:
        """The same instant."""
        return datetime.fromtimestamp(self._start_s, UTC) + timedelta(seconds=self.second)

    def wait_for_lights(self) -> Mapping[str, str] | None:
        """Of the source: wait; None: it is to end."""
        self.told.set()
        return self._lights.get()

    def go_on(self, lights: Mapping[str, str] | None) -> None:
        """Of the signals: the lights that change, and the next second."""
        self.told.clear()
        self._lights.put(lights)


class StreetSource:
    """A ``SampleSource``: a sample of each signal's 24 channels a second.

    Args:
        street: Simulated.
        signals: Of the network, by name: the devices.
        step: Shared with who sets the lights.

    Attributes:
        counts: None: it refuses nothing.
        seen: What each signal's detectors said last.
    """

    def __init__(self, street: Street, signals: Mapping[str, Signal], step: LockStep) -> None:
        self._street, self._signals, self._step = street, signals, step
        self.counts: Counter[str] = Counter()
        self.seen: Mapping[str, StreetSecond] = {}

    def samples(self) -> Iterator[Sample]:
        """See ``SampleSource``."""
        lights: Mapping[str, str] | None = {}
        while lights is not None:
            seen = self._street.second(lights)
            if seen is None:
                return
            self.seen, time = seen, self._step.time
            for name, told in seen.items():
                yield Sample(channels_of(self._signals[name], told), time, name)
            lights = self._step.wait_for_lights()
            self._step.second += 1

    def close(self) -> None:
        """See ``SampleSource``."""
        self._step.go_on(None)


def channels_of(signal: Signal, told: StreetSecond) -> dict[str, float]:
    """The channels of profile ``traffic``, as of its own width; occupancy is the mean of a phase's loops."""
    vehicles, passed = signal.by_approach(told.vehicles), signal.by_approach(told.passed)
    values = {}
    for k, name in enumerate(NAMES):
        width = len(signal.lanes[k]) / SHIPPED_LANES
        values[f"flow_{name}"] = sum(passed[k]) / width
        values[f"occupancy_{name}"] = sum(told.occupied[k]) / len(told.occupied[k])
        values[f"queue_{name}"] = sum(vehicles[k]) / width
        values[f"green_{name}"] = float(told.state == signal.greens[k])
        if name in APPROACHES:
            for place, part in enumerate(detected(name)):
                values[f"flow_{part}"] = passed[k][place] / width
                values[f"queue_{part}"] = vehicles[k][place] / width
    return values


def lane_table(signals: Mapping[str, Signal]) -> dict[str, dict[str, int]]:
    """The lanes of each phase, as the file has them that ``TRAFFIC_LANES`` names."""
    return {
        name: {phase: len(lanes) for phase, lanes in zip(NAMES, signal.lanes, strict=True)}
        for name, signal in signals.items()
    }

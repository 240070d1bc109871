"""One run of the judge: a network, a seed and who drives the signals; what every vehicle lost."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.judge.traffic.road_nets import RoadNet, Signal
from schemas.verticals.traffic.late_orders import LateOrders
from schemas.verticals.traffic.phase_control import next_phase
from schemas.verticals.traffic.signal_head import SignalHead
from schemas.verticals.traffic.signal_plan import SignalPlan

PROGRAM = Path(__file__).with_name("sumo_process.py")
EPOCH_S = 0.0
"""Seconds since 1970 at which a run begins, as the signals see it."""

Plans = Mapping[str, SignalPlan]
PlanAt = Callable[[float], Plans | None]
Counts = Mapping[str, Sequence[Sequence[float]]]
"""By signal, phase and lane."""
Seen = Callable[[int, Counts, Counts], None]


@dataclass(frozen=True)
class Lost:
    """What a run's vehicles lost.

    Attributes:
        delay_s: Mean seconds a vehicle, against its free run, those that wait outside included.
        stops: Mean stops a vehicle.
        vehicles: Vehicles.
        unfinished: Of them, not arrived at the end.
    """

    delay_s: float
    stops: float
    vehicles: int
    unfinished: int


@dataclass
class Driver:
    """Who drives the signals: the product's own signal head and choice.

    Args:
        signals: Of the network.
        plans: The plans in force at a second; None: no plan.
        fixed: The plan of each signal where nothing is chosen.
        step_s: Seconds between two choices.
        choosing: False: the fixed plan alone.
        late_s: Seconds that a choice takes to reach its signal.
    """

    signals: Mapping[str, Signal]
    fixed: Plans
    plans: PlanAt = lambda _: None
    step_s: int = 1
    choosing: bool = True
    late_s: int = 0

    def __post_init__(self) -> None:
        self.heads = {n: SignalHead(s.junction, EPOCH_S, self.fixed.get(n)) for n, s in self.signals.items()}
        self._shown: dict[str, str] = {}
        self._on_their_way = LateOrders(self.late_s)

    def lights(self, second: int, counts: Counts) -> dict[str, str]:
        """The lights that change after a second."""
        now_s = EPOCH_S + second
        plans = self.plans(now_s) or {}
        changed = {}
        for name, signal in self.signals.items():
            head = self.heads[name]
            if self.choosing and second % self.step_s == 0:
                plan = plans.get(name, self.fixed.get(name))
                seen = signal.by_approach(counts[name])
                made = next_phase(signal.junction, head.view, seen, now_s, plan, float(self.step_s))
                self._on_their_way.send(second, head, made.phase)
            self._on_their_way.arrive(second)
            before = head.view.phase
            green = head.step(now_s)
            light = self._light(signal, before, green, self._shown.get(name))
            if light != self._shown.get(name):
                changed[name] = self._shown[name] = light
        return changed

    @staticmethod
    def _light(signal: Signal, before: int, green: int | None, shown: str | None) -> str:
        if green is not None:
            return signal.greens[green]
        return shown if shown in signal.yellows and shown is not None else signal.yellows[before]


@dataclass(frozen=True)
class SumoRequest:
    """What is run.

    Attributes:
        python: Of the judge's environment.
        sumo: SUMO's folder there.
        driver: None: SUMO's own signals of ``kind``.
        blocked: Vehicles that stand: ``at_s``, ``lane``, ``pos``, ``for_s``.
        seen: Called with each second's vehicles in the zones, and those that passed the stop lines.
    """

    python: Path
    sumo: Path
    net: RoadNet
    trips: Path
    seed: int
    seconds: int
    driver: Driver | None
    kind: str = "static"
    blocked: Sequence[Mapping[str, Any]] = ()
    seen: Seen | None = None


def run(what: SumoRequest) -> Lost:
    """Run SUMO to the end."""
    sumo, net, trips, driver, seen = what.sumo, what.net, what.trips, what.driver, what.seen
    out = trips.with_suffix(".out.xml")
    additional = str(net.folder / "zones.add.xml")
    options = [str(sumo / "bin" / "sumo"), "-n", str(net.path(what.kind)), "-r", str(trips), "-a", additional]
    options += ["--seed", str(what.seed), "--tripinfo-output", str(out), "--tripinfo-output.write-unfinished"]
    options += [
        "--tripinfo-output.write-undeparted",
        "--no-step-log",
        "--time-to-teleport",
        "-1",
        "--no-warnings",
    ]
    request = {"options": options, "zones": net.zones, "blocked": list(what.blocked)}
    request |= {"seconds": what.seconds, "driven": driver is not None, "loops": seen is not None}
    environment = {"SUMO_HOME": str(sumo), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [str(what.python), str(PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        second = -1
        for line in process.stdout:
            if not line.startswith("{"):
                continue  # SUMO's own words
            counts = json.loads(line)
            if "ended" in counts:
                break
            if driver is not None:
                second += 1
                departed = counts.pop("departed", {})
                if seen is not None:
                    seen(second, counts, departed)
                process.stdin.write(json.dumps(driver.lights(second, counts)) + "\n")
                process.stdin.flush()
        if process.wait() != 0:
            raise RuntimeError("the judge's process failed; its words are above")
    return _lost(out)


def _lost(path: Path) -> Lost:
    delay = stops = 0.0
    count = unfinished = 0
    for _, item in ET.iterparse(path):
        if item.tag == "tripinfo" and not item.get("id", "").startswith("blocks"):
            count += 1
            delay += float(item.get("timeLoss", 0)) + max(float(item.get("departDelay", 0)), 0.0)
            stops += float(item.get("waitingCount", 0))
            unfinished += float(item.get("arrival", -1)) < 0
            item.clear()
    return Lost(delay / count, stops / count, count, unfinished)

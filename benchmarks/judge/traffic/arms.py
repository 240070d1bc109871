"""The arms of the judgement: who drives the signals on a seed, and what vehicles lost. Journalled."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.judge.traffic.road_demand import arterial_pairs, grid_pairs, write_trips
from benchmarks.judge.traffic.road_nets import ARTERIAL_X, RoadNet, arterial, grid
from benchmarks.judge.traffic.site_survey import SiteSurvey
from benchmarks.judge.traffic.sumo_run import Driver, SumoRequest, run
from model_service.verticals.traffic.plan_search import Plans, fixed_plans
from model_service.verticals.traffic.plan_trial import chosen_plans, delays
from schemas.verticals.traffic.road_site import RoadSite
from schemas.verticals.traffic.signal_plan import SignalPlan

SCENARIOS = {
    "grid": ("grid", 1.0),
    "grid at peak": ("grid", 1.25),
    "arterial": ("arterial", 1.0),
    "arterial at peak": ("arterial", 1.25),
}
"""Network and scale of the demand."""
ARMS = ("fixed", "actuated", "local", "late", "city", "cut")
DECIDING = ("actuated", "local", "city", "cut", "late", "fixed")
"""The same in the order in which they are run: what the goals compare comes first."""
SURVEY_SEEDS = (1001, 1002)
"""Seeds of the days before, which the survey and the plans are made of; those of the judgement count up
from 1."""
SECONDS = 3600
MODEL_SEEDS, MODEL_S = range(300, 304), 1500
CUT_S = (900, 3600)
"""In the arm ``cut`` the plan runs out in this span: its devices have heard nothing of the cloud."""
STEP_S = 2
LATE_S = 5
"""In the arm ``late`` the same choice is made elsewhere: it reaches the signal so much later."""


@dataclass(frozen=True)
class Judged:
    """One line of the journal."""

    net: str
    arm: str
    seed: int
    delay_s: float
    stops: float
    vehicles: int
    unfinished: int


@dataclass(frozen=True)
class City:
    """What the cloud knows of a network: its site, flows of days before, and Webster's plans for them."""

    site: RoadSite
    flows: dict[str, float]
    fixed: Plans


@dataclass(frozen=True)
class CityPlans:
    """What the cloud plans for a network.

    Attributes:
        released: The plans passed their gate; else the devices have none.
        finding: The gate's sentence.
    """

    plans: Plans
    released: bool
    finding: str


class TrafficJudge:
    """Runs arms on networks.

    Args:
        environment: Of the judge: its Python has ``eclipse-sumo`` and ``traci``.
        work: Folder for networks, trips and what SUMO writes.
        version: Of the code: plans of another one are not used.
        known: Results of this version.
    """

    def __init__(self, environment: Path, work: Path, version: str, known: Iterable[Judged] = ()) -> None:
        self._python = (environment / "bin" / "python").absolute()
        found = list(environment.absolute().glob("lib/python*/site-packages/sumo"))
        if not found:
            raise SystemExit(f"no SUMO in {environment}: docs/verticals/traffic.md says how to make it")
        self._sumo, self._work, self._version = found[0], work, version
        self._nets: dict[str, RoadNet] = {}
        self._cities: dict[str, City] = {}
        self._planned: dict[str, CityPlans] = {}
        self._local = {(j.net, j.seed): j for j in known if j.arm == "local"}

    def net(self, name: str) -> RoadNet:
        """The network of a scenario, made once."""
        if name not in self._nets:
            make = {"grid": grid, "arterial": arterial}[SCENARIOS[name][0]]
            self._nets[name] = make(self._sumo, self._work / name.replace(" ", "-"))
        return self._nets[name]

    def trips(self, name: str, seed: int, seconds: int = SECONDS) -> Path:
        """Trips of a seed."""
        kind, scale = SCENARIOS[name]
        pairs = grid_pairs() if kind == "grid" else arterial_pairs(len(ARTERIAL_X))
        path = self.net(name).folder / f"{seed}.rou.xml"
        write_trips(path, pairs, seed, seconds, scale)
        return path

    def city(self, name: str) -> City:
        """What the cloud makes of the days before, without a look at the days of the judgement."""
        if name not in self._cities:
            net = self.net(name)
            site, used = SiteSurvey(net).site(self._routes(name))
            flows = {arm: count / (SECONDS * len(SURVEY_SEEDS)) for arm, count in used.items()}
            self._cities[name] = City(site, flows, fixed_plans(site, flows))
        return self._cities[name]

    def planned(self, name: str) -> CityPlans:
        """The plans for a network, searched for once: that takes minutes."""
        if name not in self._planned:
            city, kept = self.city(name), self.net(name).folder / f"plans-{self._version}.json"
            if not kept.is_file():
                chosen = chosen_plans(city.site, city.flows)
                plans = {n: asdict(plan) for n, plan in chosen.plans.items()}
                kept.write_text(json.dumps({"plans": plans, "passed": chosen.passed, "text": chosen.text}))
            found = json.loads(kept.read_text())
            plans = {n: SignalPlan(**{**p, "splits": tuple(p["splits"])}) for n, p in found["plans"].items()}
            self._planned[name] = CityPlans(plans, found["passed"], found["text"])
        return self._planned[name]

    def model_delay(self, name: str) -> float:
        """Mean delay of the local control in our own queue model, seconds a vehicle."""
        city, kept = self.city(name), self.net(name).folder / f"model-{self._version}.json"
        if not kept.is_file():
            found = delays(city.site, city.flows, None, MODEL_SEEDS, MODEL_S).mean()
            kept.write_text(json.dumps({"delay_s": float(found)}))
        return float(json.loads(kept.read_text())["delay_s"])

    def _routes(self, name: str) -> Iterator[Path]:
        for seed in SURVEY_SEEDS:
            trips = self.trips(name, seed)
            out, fresh = (
                self.net(name).folder / f"{seed}{end}.routes.xml" for end in (f"-{self._version}", "")
            )
            if out.is_file():
                yield out
                continue
            words = [
                str(self._sumo / "bin" / "sumo"),
                "-n",
                str(self.net(name).path("actuated")),
                "-r",
                str(trips),
            ]
            words += [
                "--vehroute-output",
                str(fresh),
                "--no-step-log",
                "--no-warnings",
                "-e",
                str(SECONDS + 900),
            ]
            subprocess.run(words, check=True, capture_output=True, env={"SUMO_HOME": str(self._sumo)})
            yield fresh.rename(out)

    def judge(self, name: str, arm: str, seed: int) -> Judged:
        """One arm on one seed."""
        net, city = self.net(name), self.city(name)
        planned = self.planned(name) if arm in ("city", "cut") else None
        if planned is not None and not planned.released:  # no plan: the same run as that of the local control
            local = self._local.get((name, seed)) or self.judge(name, "local", seed)
            return replace(local, arm=arm)
        plans = None if planned is None else planned.plans
        driver = None if arm == "actuated" else self._driver(net, city, arm, plans)
        kind = "actuated" if arm == "actuated" else "static"
        request = self.request(name, self.trips(name, seed), seed, SECONDS, driver)
        lost = run(replace(request, kind=kind))
        found = Judged(name, arm, seed, lost.delay_s, lost.stops, lost.vehicles, lost.unfinished)
        if arm == "local":
            self._local[name, seed] = found
        return found

    def request(self, name: str, trips: Path, seed: int, seconds: int, driver: Driver | None) -> SumoRequest:
        """A run on a scenario's network."""
        return SumoRequest(self._python, self._sumo, self.net(name), trips, seed, seconds, driver)

    @staticmethod
    def _driver(net: RoadNet, city: City, arm: str, plans: Plans | None) -> Driver:
        if arm == "fixed":
            return Driver(net.signals, city.fixed, choosing=False)
        if arm == "local":
            return Driver(net.signals, city.fixed, step_s=STEP_S)
        if arm == "late":
            return Driver(net.signals, city.fixed, step_s=STEP_S, late_s=LATE_S)
        if arm == "city":
            return Driver(net.signals, city.fixed, lambda _: plans, STEP_S)
        begin, end = CUT_S
        return Driver(net.signals, city.fixed, lambda at: None if begin <= at < end else plans, STEP_S)


def journalled(
    journal: Path,
    wanted: Iterable[tuple[str, str, int]],
    version: str,
    made: Callable[[str, str, int], Judged],
    most: int | None = None,
) -> list[Judged]:
    """Lines of the journal that were made by this version, and those that were missing, made now.

    Args:
        journal: One JSON object a line.
        wanted: Network, arm and seed.
        version: Of the code; lines of another one are not used.
        made: Runs what is missing.
        most: How many more to run; None: all.
    """
    known: dict[tuple[str, str, int], Judged] = {}
    if journal.is_file():
        for line in journal.read_text().splitlines():
            value: dict[str, Any] = json.loads(line)
            if value.pop("version") == version:
                item = Judged(**value)
                known[item.net, item.arm, item.seed] = item
    found = []
    fresh = 0
    for key in wanted:
        if key not in known:
            if fresh == most:
                continue
            known[key], fresh = made(*key), fresh + 1
            with journal.open("a") as out:
                out.write(json.dumps({"version": version, **asdict(known[key])}) + "\n")
        found.append(known[key])
    return found

"""Incidents in SUMO: a vehicle that stands on a lane, when the alarm comes, and false alarms."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.judge.traffic.arms import STEP_S, TrafficJudge
from benchmarks.judge.traffic.road_nets import RoadNet
from benchmarks.judge.traffic.sumo_run import Counts, Driver, run
from schemas.verticals.traffic.discharge_watch import ALARM, WINDOW_S, DischargeWatch

AT_S, FOR_S, SECONDS = 1200, 1800, 3000


@dataclass(frozen=True)
class IncidentRun:
    """One run.

    Attributes:
        delay_s: Seconds from the incident to its intersection's alarm; None: it came too late, or not.
        false: Alarms of other intersections, or before the incident; one that lasts counts once.
        hours: Intersection-hours in which an alarm would have been false.
    """

    net: str
    seed: int
    delay_s: float | None
    false: int
    hours: float


class AlarmWatch:
    """Notes when each intersection's alarm begins.

    Args:
        net: Whose signals.
        driver: Drives them.
    """

    def __init__(self, net: RoadNet, driver: Driver) -> None:
        self._driver = driver
        self._watches = {n: DischargeWatch(s.junction) for n, s in net.signals.items()}
        self._on: set[str] = set()
        self.begun: list[tuple[str, int]] = []

    def seen(self, second: int, counts: Counts, departed: Counts) -> None:
        """What detectors say of a second."""
        for name, watch in self._watches.items():
            head = self._driver.heads[name]
            green = head.view.phase if head.green_s > 0 else None
            if watch.add(green, head.green_s, counts[name], departed[name]) >= ALARM:
                if name not in self._on:
                    self.begun.append((name, second))
                self._on.add(name)
            else:
                self._on.discard(name)


def incident_run(judge: TrafficJudge, name: str, seed: int, *, blocked: bool = True) -> IncidentRun:
    """One run with the local control, a lane of a through phase blocked 20 m before its stop line."""
    net, city = judge.net(name), judge.city(name)
    draw = random.Random(f"incident/{name}/{seed}")
    where = draw.choice(sorted(net.signals))
    lane = draw.choice(sorted(net.signals[where].lanes[draw.choice((0, 2))]))
    items = [{"at_s": AT_S, "lane": lane, "pos": 20.0, "for_s": FOR_S}] if blocked else []
    driver = Driver(net.signals, city.fixed, step_s=STEP_S)
    watch = AlarmWatch(net, driver)
    request = judge.request(name, judge.trips(name, 500 + seed, SECONDS), 500 + seed, SECONDS, driver)
    run(replace(request, blocked=items, seen=watch.seen))
    right = [at - AT_S for who, at in watch.begun if blocked and who == where and at >= AT_S]
    false = sum(not blocked or who != where or at < AT_S for who, at in watch.begun)
    watched_s = SECONDS - WINDOW_S
    hours = (len(net.signals) - 1) * watched_s / 3600 + (AT_S if blocked else watched_s) / 3600
    return IncidentRun(name, seed, right[0] if right else None, false, hours)


def incidents(
    judge: TrafficJudge,
    journal: Path,
    wanted: Sequence[tuple[str, int]],
    version: str,
    most: int | None = None,
) -> list[IncidentRun]:
    """Runs of the journal, and those that were missing: ``most`` of them, or all."""
    known: dict[tuple[str, int], IncidentRun] = {}
    if journal.is_file():
        for line in journal.read_text().splitlines():
            value = json.loads(line)
            if value.pop("version") == version:
                known[value["net"], value["seed"]] = IncidentRun(**value)
    fresh = 0
    for name, seed in wanted:
        if (name, seed) not in known:
            if fresh == most:
                continue
            known[name, seed], fresh = incident_run(judge, name, seed), fresh + 1
            with journal.open("a") as out:
                out.write(json.dumps({"version": version, **asdict(known[name, seed])}) + "\n")
    return [known[key] for key in wanted if key in known]

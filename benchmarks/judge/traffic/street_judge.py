"""Runs of SUMO whose signals are edgeloop's devices: local control, incidents, plans, and plans withdrawn."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judge.traffic.arms import SCENARIOS, TrafficJudge
from benchmarks.judge.traffic.incidents import AT_S, FOR_S
from benchmarks.judge.traffic.road_demand import arterial_pairs, grid_pairs, write_trips
from benchmarks.judge.traffic.road_nets import ARTERIAL_X, Signal
from benchmarks.judge.traffic.street_devices import StreetDevices, StreetRecord
from benchmarks.judge.traffic.street_source import lane_table, sumo_street
from benchmarks.judge.traffic.sumo_run import Plans, _lost
from edge_producer.bundle import load_bundle
from edge_producer.deciding.decision_parameters import DecisionParameters, ParameterSet
from edge_producer.inference import load_predictor
from edge_producer.verticals.traffic.intersection_lanes import VARIABLE as LANES
from schemas.profile_file import find_profile
from schemas.verticals.traffic.plan_table import DAY_TYPES, HOURS, as_parameters

PROFILE = "traffic"
JOURNAL = "street-runs.jsonl"
RUNS = {
    "local": 3600,
    "incident": 3000,
    "closed": 3000,
    "local, 90 min": 5400,
    "plan": 5400,
    "plan, withdrawn for an hour": 5400,
}
"""Seconds of each kind of run."""
INCIDENTS = ("incident", "closed")
"""A vehicle stands on one lane of an approach; or on each of its lanes, so that nobody drives around it."""
PLANNED = ("plan", "plan, withdrawn for an hour")
GONE_S = (900, 4500)
"""Without its plan for an hour."""
AFTERNOON, PEAK = datetime(2026, 2, 3, 15, tzinfo=UTC), datetime(2026, 2, 3, 16, 30, tzinfo=UTC)
"""A Tuesday: what the calendar features of the devices say."""
INCIDENT_SEEDS = 500
HERE = Path(__file__).parent
ROOT = HERE.parents[2]
DECIDING = ("edge_producer/verticals/traffic/*.py", "schemas/verticals/traffic/*.py")
JUDGING = (
    "street_process",
    "street_source",
    "street_devices",
    "sumo_process",
    "road_nets",
    "road_demand",
    "site_survey",
)


@dataclass(frozen=True)
class StreetRun:
    """One line of the journal.

    Attributes:
        what: Key of ``RUNS``.
        hit: Signal with a blocked lane; empty: none.
        lanes: Of the phase and its approach.
        alarms: Signal, second and action of each alert of a device.
        watched: Signal and second at which the watch without a model began to alarm.
        counts: Of source, windows, functions and actuator.
    """

    net: str
    what: str
    seed: int
    delay_s: float
    stops: float
    vehicles: int
    unfinished: int
    signals: int
    hit: str = ""
    lanes: int = 0
    alarms: list[list[Any]] = field(default_factory=list)
    watched: list[list[Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockedLane:
    """Where a vehicle stands."""

    signal: str
    lane: str
    lanes: int


def blocked_lane(judge: TrafficJudge, name: str, seed: int) -> BlockedLane:
    """The lane of a through phase that a seed blocks, as in `incidents`."""
    net, draw = judge.net(name), random.Random(f"incident/{name}/{seed}")
    where = draw.choice(sorted(net.signals))
    signal = net.signals[where]
    lane = draw.choice(sorted(signal.lanes[draw.choice((0, 2))]))
    edge = lane.rpartition("_")[0]
    of_phase = next(lanes for lanes in signal.lanes if lane in lanes)
    return BlockedLane(where, lane, sum(each.rpartition("_")[0] == edge for each in of_phase))


def _lanes_of_edge(signal: Signal, lane: str) -> list[str]:
    """Every lane of the approach, its bay for left turns among them."""
    edge = lane.rpartition("_")[0]
    return sorted({each for lanes in signal.lanes for each in lanes if each.rpartition("_")[0] == edge})


def street_run(judge: TrafficJudge, name: str, what: str, seed: int) -> StreetRun:
    """One run; features of every window go to a file beside the network."""
    net, city, seconds = judge.net(name), judge.city(name), RUNS[what]
    start = PEAK if name.endswith("peak") else AFTERNOON
    hit = blocked_lane(judge, name, seed) if what in INCIDENTS else None
    number = seed + INCIDENT_SEEDS if hit else seed
    label = _label(what, number)
    kind, scale = SCENARIOS[name]
    trips = net.folder / f"{label}.rou.xml"
    write_trips(
        trips, grid_pairs() if kind == "grid" else arterial_pairs(len(ARTERIAL_X)), number, seconds, scale
    )
    request = judge.request(name, trips, number, seconds, None)
    if hit is not None:
        lanes = [hit.lane] if what == "incident" else _lanes_of_edge(net.signals[hit.signal], hit.lane)
        # SUMO is told one a second.
        stands = {"pos": 20.0, "for_s": FOR_S}
        request = replace(
            request, blocked=[{"at_s": AT_S + k, "lane": lane, **stands} for k, lane in enumerate(lanes)]
        )
    profile, out = find_profile(PROFILE), net.folder / f"{label}.out.xml"
    plans = judge.planned(name).plans if what in PLANNED else {}
    parameters = _parameters(plans, start, withdrawn=what != "plan")
    table = net.folder / "lanes.json"
    table.write_text(json.dumps(lane_table(net.signals)))
    os.environ[LANES] = str(table)
    with sumo_street(request, out) as street:
        model = load_predictor(profile)
        devices = StreetDevices(street, net.signals, city.fixed, profile, model, start, parameters)
        record = devices.run()
    _keep(net.folder / f"{label}.npz", record)
    lost = _lost(out)
    return StreetRun(
        name,
        what,
        seed,
        lost.delay_s,
        lost.stops,
        lost.vehicles,
        lost.unfinished,
        len(net.signals),
        hit.signal if hit else "",
        hit.lanes if hit else 0,
        [list(alarm) for alarm in record.alarms],
        [list(alarm) for alarm in record.watched],
        dict(record.counts),
    )


def _label(what: str, number: int) -> str:
    """Name of a run's files; without commas, at which SUMO splits."""
    return f"street-{what.replace(',', '').replace(' ', '-')}-{number}"


def _keep(path: Path, record: StreetRecord) -> None:
    """Rows of second, score and features, by signal."""
    np.savez_compressed(path, **{name: np.array(rows) for name, rows in record.features.items()})


def kept_rows(folder: Path, run: StreetRun) -> Mapping[str, np.ndarray]:
    """What was kept of a run."""
    number = run.seed + INCIDENT_SEEDS if run.hit else run.seed
    with np.load(folder / f"{_label(run.what, number)}.npz") as found:
        return dict(found)


def _parameters(plans: Plans, start: datetime, *, withdrawn: bool) -> dict[str, DecisionParameters]:
    """The same plan at every hour, as a configuration carries it; withdrawn for an hour where told."""
    tables = as_parameters([[plans] * HOURS for _ in DAY_TYPES]) if plans else {}
    held = {name: DecisionParameters() for name in plans}
    for name, parameters in held.items():
        own = {parameter: table[name] for parameter, table in tables.items()}
        sets = [ParameterSet("plan_traffic-1.forced", own, start - timedelta(days=1))]
        if withdrawn:
            begin, end = (start + timedelta(seconds=at) for at in GONE_S)
            sets += [ParameterSet("plan_traffic-2.none", {}, begin)]
            sets += [ParameterSet("plan_traffic-3.forced", own, end)]
        parameters.follow(*sets)
    return held


def street_version() -> str:
    """Digest of what a run depends on: the deciding parts, profile and model, and this judge."""
    files = [path for pattern in DECIDING for path in sorted(ROOT.glob(pattern))]
    files += [HERE / f"{name}.py" for name in JUDGING]
    files.append(ROOT / "schemas" / "profiles" / f"{PROFILE}.toml")
    shipped = load_bundle(find_profile(PROFILE)).manifest.version
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files) + shipped.encode())
    return digest.hexdigest()[:12]


def known_streets(journal: Path, version: str) -> list[StreetRun]:
    """Runs of this version in the journal."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    values = [json.loads(line) for line in lines]
    return [StreetRun(**value) for value in values if value.pop("version") == version]


def measure_streets(
    judge: TrafficJudge, journal: Path, wanted: Iterable[tuple[str, str, int]], most: int | None = None
) -> None:
    """Runs that the journal does not have: ``most`` of them, or all."""
    version = street_version()
    known = {(run.net, run.what, run.seed) for run in known_streets(journal, version)}
    missing = [key for key in wanted if key not in known]
    for key in missing[:most]:
        found = street_run(judge, *key)
        with journal.open("a") as out:
            out.write(json.dumps({"version": version, **asdict(found)}) + "\n")


def wanted_streets(
    first: int, seeds: int, names: Sequence[str], kinds: Sequence[str]
) -> list[tuple[str, str, int]]:
    """Seed by seed, so that a judgement that is stopped has as many of each scenario."""
    return [(n, what, seed) for seed in range(first, first + seeds) for what in kinds for n in names]

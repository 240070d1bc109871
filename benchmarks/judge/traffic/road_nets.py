"""The two networks of the judge, made by SUMO's own programs; their signals and detectors."""

from __future__ import annotations

import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from schemas.verticals.traffic.junction import Junction, Phase, all_conflicts

SPEED = 13.89
ZONE_M = 100.0
"""Metres before the stop line in which vehicles are counted."""
LANE_SATURATION = 0.5
"""Vehicles a second and lane that a standing queue gives; what a handbook says, not what SUMO does."""
ARTERIAL_X = (0, 300, 550, 900, 1150, 1500)
MIN_GREEN_S, MAX_GREEN_S = 5.0, 50.0
"""SUMO's own bounds of an actuated signal; its protected left turns take 6 s."""


@dataclass(frozen=True)
class Signal:
    """A signal of the network.

    Attributes:
        junction: What the product knows of it.
        greens: State string of each phase's green.
        yellows: State string of each phase's yellow.
        lanes: Lanes of each phase.
    """

    junction: Junction
    greens: tuple[str, ...]
    yellows: tuple[str, ...]
    lanes: tuple[tuple[str, ...], ...]

    def approaches(self, phase: int) -> tuple[str, ...]:
        """Edges that a phase serves."""
        return tuple(sorted({lane.rpartition("_")[0] for lane in self.lanes[phase]}))

    def by_approach(self, lanes: Sequence[Sequence[float]]) -> list[list[float]]:
        """Sums of what lanes say, by phase and approach."""
        return [
            [
                sum(n for n, lane in zip(each, self.lanes[k], strict=True) if lane.rpartition("_")[0] == edge)
                for edge in self.approaches(k)
            ]
            for k, each in enumerate(lanes)
        ]


@dataclass(frozen=True)
class RoadNet:
    """A network on disk, with static and with SUMO's actuated signals, and its detectors."""

    name: str
    folder: Path
    signals: dict[str, Signal]
    zones: dict[str, list[list[str]]]

    def path(self, kind: str) -> Path:
        """The network with ``static`` or ``actuated`` signals."""
        return self.folder / f"{kind}.net.xml"


def grid(sumo: Path, folder: Path) -> RoadNet:
    """Four by four intersections, 200 m apart, one lane and a left-turn bay."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("static", "actuated"):
        options = "--grid --grid.number 4 --grid.length 200 --grid.attach-length 200 --default.lanenumber 1"
        options += " --turn-lanes 1 --turn-lanes.length 60 --default-junction-type traffic_light"
        _run(sumo, "netgenerate", folder, f"{options} --no-turnarounds true", kind)
    return _described("grid", folder)


def arterial(sumo: Path, folder: Path) -> RoadNet:
    """Six intersections, 250 to 350 m apart, on a street of two lanes a direction."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_arterial(folder)
    options = f"-n {folder}/plain.nod.xml -e {folder}/plain.edg.xml --no-turnarounds true"
    # The bays are told in the edges: netconvert has no option for them.
    for kind in ("static", "actuated"):
        _run(sumo, "netconvert", folder, options, kind)
    return _described("arterial", folder)


def _run(sumo: Path, program: str, folder: Path, options: str, kind: str) -> None:
    made = folder / f"{kind}.net.xml"
    words = [str(sumo / "bin" / program), *options.split(), "--default.speed", str(SPEED)]
    words += ["--tls.default-type", kind, "-o", str(made)]
    subprocess.run(words, check=True, capture_output=True, env={"SUMO_HOME": str(sumo)})


def _write_arterial(folder: Path) -> None:
    nodes = ['<node id="west" x="-300" y="0"/>', '<node id="east" x="1800" y="0"/>']
    edges = []
    chain = ["west", *(f"J{i}" for i in range(len(ARTERIAL_X))), "east"]
    for begin, end in pairwise(chain):
        edges += [_edge(begin, end, 2, 3), _edge(end, begin, 2, 3)]
    for i, x in enumerate(ARTERIAL_X):
        nodes.append(f'<node id="J{i}" x="{x}" y="0" type="traffic_light"/>')
        for side, y in (("n", 300), ("s", -300)):
            nodes.append(f'<node id="{side}{i}" x="{x}" y="{y}"/>')
            edges += [_edge(f"{side}{i}", f"J{i}", 1, 1), _edge(f"J{i}", f"{side}{i}", 1, 1)]
    (folder / "plain.nod.xml").write_text(f"<nodes>{''.join(nodes)}</nodes>")
    (folder / "plain.edg.xml").write_text(f"<edges>{''.join(edges)}</edges>")


def _edge(begin: str, end: str, lanes: int, priority: int) -> str:
    bay = ""
    if end.startswith("J"):  # a left-turn bay before each signal
        bay = f'<split pos="-60" lanes="{" ".join(str(n) for n in range(lanes + 1))}"/>'
    head = f'<edge id="{begin}{end}" from="{begin}" to="{end}" numLanes="{lanes}"'
    return f'{head} priority="{priority}" speed="{SPEED}">{bay}</edge>'


def _described(name: str, folder: Path) -> RoadNet:
    root = ET.parse(folder / "static.net.xml").getroot()
    lengths = {lane.get("id", ""): float(lane.get("length", 0)) for lane in root.iter("lane")}
    signals = {}
    for logic in root.iter("tlLogic"):
        links = [c for c in root.iter("connection") if c.get("tl") == logic.get("id")]
        signals[logic.get("id", "")] = _signal(logic, links)
    zones, lines = {}, []
    for signal, described in signals.items():
        zones[signal] = [
            [f"{signal}:{k}:{lane}" for lane in lanes] for k, lanes in enumerate(described.lanes)
        ]
        for k, lanes in enumerate(described.lanes):
            lines += [_zone(f"{signal}:{k}:{lane}", lane, lengths, root) for lane in lanes]
    (folder / "zones.add.xml").write_text(f"<additional>{''.join(lines)}</additional>")
    return RoadNet(name, folder, signals, zones)


def _signal(logic: ET.Element, links: list[ET.Element]) -> Signal:
    states = [phase.get("state", "") for phase in logic.iter("phase")]
    durations = [float(phase.get("duration", 0)) for phase in logic.iter("phase")]
    greens = [k for k, state in enumerate(states) if "G" in state]
    greens = [k for k in greens if "y" not in states[k]]
    lanes = {int(c.get("linkIndex", 0)): f"{c.get('from')}_{c.get('fromLane')}" for c in links}
    phases, of_phase = [], []
    for number, k in enumerate(greens):
        streams = frozenset(str(i) for i, light in enumerate(states[k]) if light == "G")
        mine = tuple(sorted({lanes[int(i)] for i in streams}))
        of_phase.append(mine)
        shortest = max(MIN_GREEN_S, min(durations[k], 6.0) if durations[k] < 10 else MIN_GREEN_S)
        phases.append(Phase(f"phase_{number}", streams, LANE_SATURATION * len(mine), shortest, MAX_GREEN_S))
    junction = Junction(tuple(phases), all_conflicts([p.streams for p in phases]))
    yellows = tuple(states[(k + 1) % len(states)] for k in greens)
    return Signal(junction, tuple(states[k] for k in greens), yellows, tuple(of_phase))


def _zone(name: str, lane: str, lengths: dict[str, float], root: ET.Element) -> str:
    """A detector over the last metres of a lane, and of the lane that leads into it."""
    edge, _ = lane.rsplit("_", 1)
    before = [
        f"{c.get('from')}_{c.get('fromLane')}"
        for c in root.iter("connection")
        if c.get("to") == edge and f"{c.get('to')}_{c.get('toLane')}" == lane and not c.get("tl")
    ]
    before = [b for b in before if not b.startswith(":")]
    own = lengths[lane]
    straight = [b for b in before if b.rsplit("_", 1)[1] == str(max(int(lane.rsplit("_", 1)[1]), 0))]
    if own >= ZONE_M or not straight:
        start, lanes = max(own - ZONE_M, 0.0), lane
    else:
        start, lanes = max(lengths[straight[0]] - (ZONE_M - own), 0.0), f"{straight[0]} {lane}"
    head = f'<laneAreaDetector id="{name}" lanes="{lanes}" pos="{start:.1f}" endPos="{own - 0.1:.1f}"'
    loop = f'<inductionLoop id="loop:{name}" lane="{lane}" pos="-1.5" friendlyPos="true"'
    loop += ' period="100000" file="NUL"/>'
    return f'{head} period="100000" friendlyPos="true" file="NUL"/>{loop}'

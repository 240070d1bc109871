"""A survey of a judge's network, as a city makes one: links of the map, turns of other days."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.judge.traffic.road_nets import LANE_SATURATION, SPEED, RoadNet
from schemas.verticals.traffic.road_site import Arm, Feeder, RoadSite


class SiteSurvey:
    """Arms of a network, and which vehicle used which.

    Args:
        net: Network on disk.
    """

    def __init__(self, net: RoadNet) -> None:
        self._net = net
        root = ET.parse(net.path("static")).getroot()
        self._parts = self._joined(root)
        self._lanes = {
            lane: (name, k)
            for name, s in net.signals.items()
            for k, lanes in enumerate(s.lanes)
            for lane in lanes
        }
        self._turns: dict[tuple[str, str], tuple[str, str, int]] = {}
        for link in root.iter("connection"):
            if link.get("tl"):
                lane = f"{link.get('from')}_{link.get('fromLane')}"
                name, phase = self._lanes[lane]
                arm = f"{name}/{phase}/{link.get('from')}"
                self._turns[link.get("from", ""), link.get("to", "")] = (arm, name, phase)
        lengths = {e.get("id", ""): float(e.findall("lane")[0].get("length", 0)) for e in root.iter("edge")}
        self._length = lengths

    @staticmethod
    def _joined(root: ET.Element) -> dict[str, str]:
        """Edges that another leads into without a signal, by that other."""
        return {
            c.get("from", ""): c.get("to", "")
            for c in root.iter("connection")
            if not c.get("tl") and not c.get("from", ":").startswith(":")
        }

    def site(self, routes: Iterable[Path]) -> tuple[RoadSite, dict[str, float]]:
        """The site, and vehicles of each arm in all the routes.

        Args:
            routes: Files of SUMO's ``--vehroute-output``.
        """
        used: Counter[str] = Counter()
        after: Counter[tuple[str, str]] = Counter()
        travel: dict[tuple[str, str], float] = {}
        for path in routes:
            for _, item in ET.iterparse(path):
                if item.tag == "route" and item.get("edges"):
                    self._follow(item.get("edges", "").split(), used, after, travel)
        lanes = Counter(f"{n}/{k}/{lane.rsplit('_', 1)[0]}" for lane, (n, k) in self._lanes.items())
        phases: Counter[tuple[str, int]] = Counter()
        for arm in lanes:
            phases[arm.split("/")[0], int(arm.split("/")[1])] += used[arm]
        arms = tuple(
            Arm(
                arm,
                arm.split("/")[0],
                int(arm.split("/")[1]),
                LANE_SATURATION * count,
                used[arm] / max(phases[arm.split("/")[0], int(arm.split("/")[1])], 1),
                tuple(
                    Feeder(a, n / used[a], travel[a, b]) for (a, b), n in sorted(after.items()) if b == arm
                ),
            )
            for arm, count in sorted(lanes.items())
        )
        junctions = {name: s.junction for name, s in self._net.signals.items()}
        return RoadSite(junctions, arms), {arm: float(used[arm]) for arm in lanes}

    def _follow(
        self,
        edges: list[str],
        used: Counter[str],
        after: Counter[tuple[str, str]],
        travel: dict[tuple[str, str], float],
    ) -> None:
        last, metres = None, 0.0
        for edge, following in zip(edges, [*edges[1:], ""], strict=True):
            metres += self._length[edge]
            turn = self._turns.get((edge, following))
            if turn is None:
                continue
            used[turn[0]] += 1
            if last is not None:
                after[last, turn[0]] += 1
                travel[last, turn[0]] = metres / SPEED
            last, metres = turn[0], 0.0

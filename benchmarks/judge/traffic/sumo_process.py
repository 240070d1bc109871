"""Runs in the judge's environment: SUMO over TraCI, as lines of JSON. Imports nothing of edgeloop.

The first line of the standard input is the run: ``{"options": [...], "zones": {junction: [[zone of a
phase, ...]]}, "loops": [...], "blocked": [...], "seconds": n, "driven": true, "loops": true}``. Then, for
each second, a line comes out with what the detectors say, and one goes in with the lights that change.
Where nothing is driven, only the end is told.
"""

from __future__ import annotations

import json
import sys

import traci
import traci.constants as tc

COUNT = tc.LAST_STEP_VEHICLE_NUMBER


def main() -> None:
    """One run."""
    run = json.loads(sys.stdin.readline())
    traci.start(run["options"], stdout=sys.stderr)
    connection = traci.getConnection()
    signals = run["zones"]
    for phases in signals.values():
        for zones in phases:
            for zone in zones:
                connection.lanearea.subscribe(zone, [COUNT])
    loops = _loops(connection, signals) if run["loops"] else {}
    inside: dict[str, set[str]] = {}
    blocks = {item["at_s"]: item for item in run["blocked"]}
    for second in range(run["seconds"]):
        connection.simulationStep()
        if second in blocks:
            _block(connection, blocks[second])
        if run["driven"]:
            got = connection.lanearea.getAllSubscriptionResults()
            counts = {
                name: [[got[zone][COUNT] for zone in zones] for zones in phases]
                for name, phases in signals.items()
            }
            if loops:
                counts["departed"] = _departed(connection, loops, inside)
            sys.stdout.write(json.dumps(counts) + "\n")
            sys.stdout.flush()
            for name, state in json.loads(sys.stdin.readline()).items():
                connection.trafficlight.setRedYellowGreenState(name, state)
    connection.close()
    sys.stdout.write('{"ended": true}\n')


def _loops(connection: traci.connection.Connection, signals: dict) -> dict:
    """Loops at the stop lines, named as the zones."""
    for phases in signals.values():
        for zones in phases:
            for zone in zones:
                connection.inductionloop.subscribe(f"loop:{zone}", [tc.LAST_STEP_VEHICLE_ID_LIST])
    return signals


def _departed(connection: traci.connection.Connection, loops: dict, inside: dict) -> dict:
    """Vehicles that came onto each lane's loop in this second, by phase."""
    got = connection.inductionloop.getAllSubscriptionResults()
    found = {}
    for name, phases in loops.items():
        found[name] = []
        for zones in phases:
            fresh = []
            for zone in zones:
                now = set(got[f"loop:{zone}"][tc.LAST_STEP_VEHICLE_ID_LIST])
                fresh.append(len(now - inside.get(zone, set())))
                inside[zone] = now
            found[name].append(fresh)
    return found


def _block(connection: traci.connection.Connection, item: dict) -> None:
    """A vehicle stands on a lane for a while."""
    lane, name = item["lane"], f"blocks-{item['at_s']}"
    edge = lane.rsplit("_", 1)[0]
    connection.route.add(name, [edge])
    number = int(lane.rsplit("_", 1)[1])
    connection.vehicle.add(name, name, departLane=str(number), departPos=str(item["pos"]), departSpeed="0")
    connection.vehicle.setStop(name, edge, pos=item["pos"] + 5.5, laneIndex=number, duration=item["for_s"])


if __name__ == "__main__":
    main()

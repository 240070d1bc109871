"""Runs in the judge's environment: SUMO over TraCI as detectors see it, in lines of JSON. No edgeloop here.

The first line of the standard input is the run, as of ``sumo_process``. Then, for each second, a line comes
out, ``{signal: {"vehicles": [[...]], "passed": [[...]], "occupied": [[...]], "state": "GGrr"}}``, each by
phase and lane; and one goes in with the lights that change.
"""

from __future__ import annotations

import json
import sys

import traci
import traci.constants as tc
from sumo_process import _block

COUNT, IDS = tc.LAST_STEP_VEHICLE_NUMBER, tc.LAST_STEP_VEHICLE_ID_LIST
OCCUPIED, STATE = tc.LAST_STEP_OCCUPANCY, tc.TL_RED_YELLOW_GREEN_STATE


def main() -> None:
    """One run."""
    run = json.loads(sys.stdin.readline())
    traci.start(run["options"], stdout=sys.stderr)
    connection = traci.getConnection()
    for name, phases in run["zones"].items():
        connection.trafficlight.subscribe(name, [STATE])
        for zone in (zone for zones in phases for zone in zones):
            connection.lanearea.subscribe(zone, [COUNT])
            connection.inductionloop.subscribe(f"loop:{zone}", [IDS, OCCUPIED])
    inside: dict[str, set[str]] = {}
    blocks = {item["at_s"]: item for item in run["blocked"]}
    for second in range(run["seconds"]):
        connection.simulationStep()
        if second in blocks:
            _block(connection, blocks[second])
        sys.stdout.write(json.dumps(_told(connection, run["zones"], inside)) + "\n")
        sys.stdout.flush()
        for name, state in json.loads(sys.stdin.readline()).items():
            connection.trafficlight.setRedYellowGreenState(name, state)
    connection.close()
    sys.stdout.write('{"ended": true}\n')


def _told(connection: traci.connection.Connection, signals: dict, inside: dict) -> dict:
    """What detectors and lights say of the second."""
    areas = connection.lanearea.getAllSubscriptionResults()
    loops = connection.inductionloop.getAllSubscriptionResults()
    lights = connection.trafficlight.getAllSubscriptionResults()
    told = {}
    for name, phases in signals.items():
        passed = []
        for zones in phases:
            fresh = []
            for zone in zones:
                now = set(loops[f"loop:{zone}"][IDS])
                fresh.append(len(now - inside.get(zone, set())))
                inside[zone] = now
            passed.append(fresh)
        told[name] = {
            "vehicles": [[areas[zone][COUNT] for zone in zones] for zones in phases],
            "passed": passed,
            "occupied": [[loops[f"loop:{zone}"][OCCUPIED] / 100 for zone in zones] for zones in phases],
            "state": lights[name][STATE],
        }
    return told


if __name__ == "__main__":
    main()

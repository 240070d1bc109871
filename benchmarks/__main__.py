"""`python -m benchmarks [SCENARIO]...`: measure, print tables, add rows to RESULTS.md."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

from benchmarks import (
    actuator,
    delivery,
    device_bytes,
    device_hour,
    edge,
    flood,
    footprint,
    growth,
    ingest,
    latency,
    message_path,
    message_size,
    recording_replay,
    results,
    strangers,
    sustained,
)
from benchmarks.peers import beside
from benchmarks.results import Measured
from benchmarks.stage import QUICK, Effort, Stage, stage

SCENARIOS: dict[str, Callable[..., list[Measured]]] = {
    "size": message_size.run,
    "bytes": device_bytes.run,
    "edge": edge.run,
    "actuator": actuator.run,
    "footprint": footprint.run,
    "ingest": ingest.run,
    "path": message_path.run,
    "flood": flood.run,
    "lake": device_hour.run,
    "latency": latency.run,
    "delivery": delivery.run,
    "replay": recording_replay.run,
    "strangers": strangers.run,
    "sustained": sustained.run,
    "growth": growth.run,
    "peers": beside.run,
}
BY_NAME = ("growth", "peers")
"""Scenarios that run only when they are named: they fetch other engines, or take long."""

PARTS: dict[str, Callable[[Stage, tuple[str, ...]], list[Measured]]] = {
    "ingest": ingest.run,
    "path": message_path.run,
    "flood": flood.run,
    "growth": growth.run,
    "peers": beside.run,
}
"""Scenarios of which ``--only`` chooses parts."""


def main() -> None:
    """Run the named scenarios; without a name, all but those of ``BY_NAME``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--quick", action="store_true", help="rough numbers in minutes; records nothing")
    parser.add_argument("--runs", type=int, help="runs of each timed scenario (default 3)")
    parser.add_argument("--only", default="", help="parts, such as 500,fleet or 1,bytewax")
    parser.add_argument("--no-record", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args()
    unknown = set(options.scenarios) - set(SCENARIOS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    effort = QUICK if options.quick else Effort()
    effort = replace(effort, runs=options.runs or effort.runs)
    with stage(effort) as on:
        for name in options.scenarios or [n for n in SCENARIOS if n not in BY_NAME]:
            _run(name, on, options)


def _run(name: str, on: Stage, options: argparse.Namespace) -> None:
    version, load = results.commit(), results.load()
    print(f"\n== {name}; load {load} before", flush=True)
    only = tuple(filter(None, options.only.split(",")))
    measured = PARTS[name](on, only) if only and name in PARTS else SCENARIOS[name](on)
    print(f"\n{results.summary(measured)}", flush=True)
    if not (options.quick or options.no_record):
        results.append(measured, version, load)


if __name__ == "__main__":
    main()

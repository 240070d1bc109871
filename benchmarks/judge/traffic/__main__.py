"""`python -m benchmarks.judge.traffic`: signals judged in SUMO, a forecast on I-94."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.figure_page import FigurePage, replace_figures
from benchmarks.judge.judge_environment import python_of
from benchmarks.judge.traffic.arms import DECIDING, SCENARIOS, TrafficJudge, journalled
from benchmarks.judge.traffic.incidents import incidents
from benchmarks.judge.traffic.judged_page import (
    delay_picture,
    write_arms,
    write_disagreement,
    write_forecast,
    write_incidents,
)
from benchmarks.judge.traffic.known_runs import known_arms, known_incidents, known_values
from benchmarks.judge.traffic.next_hours import known_hours, measure_hours, write_hours
from benchmarks.judge.traffic.refused_plans import JOURNAL as REFUSED
from benchmarks.judge.traffic.refused_plans import refused_plans, write_refused
from benchmarks.judge.traffic.slow_link import write_slow_link
from benchmarks.judge.traffic.street_features import measure_features, write_features
from benchmarks.judge.traffic.street_judge import JOURNAL as STREETS
from benchmarks.judge.traffic.street_judge import (
    RUNS,
    known_streets,
    measure_streets,
    street_version,
    wanted_streets,
)
from benchmarks.judge.traffic.street_learnt import known_learnt, measure_learnt
from benchmarks.judge.traffic.street_page import write_streets
from benchmarks.judge.traffic.volumes import FILE, judged, read_volumes
from edge_producer.bundle import load_bundle
from schemas.profile_file import find_profile

BEGIN = "<!-- figures: make judge -->"
FIRST_SEED = 11
"""Seed 1 was looked at while the control was made; it is not judged."""
PLANNING = ("cyclic_profiles", "plan_search", "plan_trial")
HOURS_JOURNAL = "next-hours.jsonl"
FEATURES, LEARNT = "street-features.json", "street-learnt.json"
ROOT = Path(__file__).parent.parent.parent.parent
PRODUCT = ("schemas/verticals/traffic/*", *(f"model_service/verticals/traffic/{n}" for n in PLANNING))
JUDGING = ("arms", "incidents", "road_demand", "road_nets", "site_survey", "sumo_process", "sumo_run")


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge.traffic", description=__doc__)
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venv-judge-traffic", help="has eclipse-sumo"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "build" / "judge-traffic", help="networks, journals"
    )
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--arms", nargs="*", default=DECIDING, choices=DECIDING, help="run in this order")
    parser.add_argument("--most", type=int, help="run at most so many more, of arms and of incidents each")
    parser.add_argument("--seeds", type=int, default=6, help="of each arm")
    parser.add_argument(
        "--first", type=int, default=FIRST_SEED, help="seed; several processes may share the work"
    )
    parser.add_argument("--streets", type=int, default=3, help="seeds whose signals are devices")
    parser.add_argument("--incidents", type=int, default=6, help="runs with an incident, of each network")
    parser.add_argument("--refused", type=int, default=6, help="seeds with a refused plan in force")
    parser.add_argument("--hours", type=int, default=4, help="simulated intersections for the forecast")
    parser.add_argument("--recording", type=Path, help=f"folder with {FILE}")
    parser.add_argument("--measured", action="store_true", help="only what the journals have")
    parser.add_argument(
        "--write", type=Path, help="page whose figures to replace; the picture goes beside it"
    )
    given = parser.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    version = _version()
    names = [name for name in SCENARIOS if given.only in name]
    if not given.measured:
        _measure(given, version, names)
    if given.most is not None and given.write is None:
        return 0
    return _shown(given, version, names)


def _measure(given: argparse.Namespace, version: str, names: list[str]) -> None:
    """What the journals do not have yet."""
    journal = given.work / "arms.jsonl"
    judge = TrafficJudge(given.environment, given.work, version, known_arms(journal, version))
    wanted = _wanted(given.first, given.seeds, names, given.arms)
    journalled(journal, wanted, version, judge.judge, given.most)
    struck = [(name, seed) for seed in range(given.first, given.first + given.incidents) for name in names]
    incidents(judge, given.work / "incidents.jsonl", struck, version, given.most)
    for name in names[: given.most]:
        judge.model_delay(name)
    streets, every = given.work / STREETS, wanted_streets(given.first, given.streets, names, list(RUNS))
    measure_streets(judge, streets, every, given.most)
    driven = known_streets(streets, street_version())
    measure_features(judge, given.work / FEATURES, driven)
    measure_learnt(judge, given.work / LEARNT, driven)
    seeds = range(given.first, given.first + given.refused)
    refused_plans(judge, given.work / REFUSED, seeds, names, version, given.most)
    measure_hours(given.work / HOURS_JOURNAL, given.hours, given.most)


def _shown(given: argparse.Namespace, version: str, names: list[str]) -> int:
    """The page of what the journals have."""
    page, results = FigurePage(), known_arms(given.work / "arms.jsonl", version)
    write_arms(page, results, known_values(given.work, names, "plans", version))
    write_refused(page, known_arms(given.work / REFUSED, version), results)
    write_disagreement(page, results, known_values(given.work, names, "model", version))
    driven = known_streets(given.work / STREETS, street_version())
    write_streets(page, driven, results, known_learnt(given.work / LEARNT))
    if (given.work / FEATURES).is_file():
        write_features(page, json.loads((given.work / FEATURES).read_text(encoding="utf-8")))
    if runs := known_incidents(given.work / "incidents.jsonl", version):
        write_incidents(page, runs)
    else:
        page.say("Incidents in SUMO: not measured.")
    write_slow_link(page)
    shipped = load_bundle(find_profile("traffic")).manifest.version
    if hours := known_hours(given.work / HOURS_JOURNAL, shipped):
        write_hours(page, hours)
    if given.recording is None:
        page.say("I-94: not measured (no recording was named).")
    else:
        write_forecast(page, judged(read_volumes(given.recording / FILE)))
    text = "\n".join(page.lines).strip() + "\n"
    sys.stdout.write(text)
    if given.write is not None:
        replace_figures(given.write, BEGIN, text)
        picture = delay_picture(results)
        (given.write.parent / "traffic-delay.svg").write_text(picture, encoding="utf-8")
    return 0


def judge_traffic(root: Path, given: argparse.Namespace) -> None:
    """As `make judge` calls it: makes the environment, measures what is missing, and writes the page."""
    python_of("traffic", root)
    recording = root.parent / "shared" / "data" / "i94_traffic"
    arguments = ["--recording", str(recording)] if recording.is_dir() else []
    arguments += ["--measured"] if given.measured else []
    arguments += ["--most", str(given.most)] if given.most is not None else []
    main([*arguments, "--write", str(root / "docs/verticals/traffic.md")] if given.write else arguments)


def _wanted(first: int, seeds: int, names: list[str], arms: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """Seed by seed: a run that is stopped has as many of each arm."""
    for seed in range(first, first + seeds):
        for name in names:
            for arm in arms:
                yield name, arm, seed


def _version() -> str:
    """Digest of the code that a result depends on."""
    here = Path(__file__).parent
    files = [path for pattern in PRODUCT for path in sorted(ROOT.glob(f"{pattern}.py"))]
    files += [here / f"{name}.py" for name in JUDGING]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


if __name__ == "__main__":
    sys.exit(main())

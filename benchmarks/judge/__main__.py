"""`make judge`: has simulators of others judge the product; `python -m benchmarks.judge machine`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.judge.judge_environment import JudgeUnavailableError
from benchmarks.judge.machine.machine_judge import judge_machine
from benchmarks.judge.robot.robot_judge import judge_robot
from benchmarks.judge.traffic.__main__ import judge_traffic

JUDGES: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "machine": judge_machine,
    "robot": judge_robot,
    "traffic": judge_traffic,
}
"""By the vertical's name: each makes what it needs, and writes the figures of ``docs/verticals/NAME.md``."""
ROOT = Path(__file__).parents[2]


def main() -> int:
    """Judge; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judge", description=__doc__)
    parser.add_argument("judges", nargs="*", help=f"which of {', '.join(JUDGES)}; without any, all of them")
    parser.add_argument("--measured", action="store_true", help="only what earlier runs have measured")
    parser.add_argument("--write", action="store_true", help="also store results, and write the page")
    parser.add_argument("--most", type=int, default=None, help="measure at most so many more, then stop")
    parser.add_argument("--profile", help="robot: a profile to judge beside the others, by name or file")
    parser.add_argument("--bundle", type=Path, help="robot: folder of that profile's bundles")
    given = parser.parse_args()
    if strange := set(given.judges) - set(JUDGES):
        parser.error(f"no such judge: {', '.join(sorted(strange))}")
    try:
        for name in given.judges or JUDGES:
            JUDGES[name](ROOT, given)
    except JudgeUnavailableError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

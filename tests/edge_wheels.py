"""Whether every package of the device's extras has a wheel for each machine that devices are: `make wheels`.

Asks the index that pip is set up with, with the versions of requirements.txt, and builds nothing. Prints one
line for each machine, and the packages that an sdist only exists of.

python -m tests.edge_wheels
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("edge", "mqtt", "opcua")
PYTHONS = ("3.11", "3.12", "3.13")
MACHINES = ("aarch64", "x86_64")
GLIBC = 36
"""Of Debian 12: newest manylinux tag that its devices take."""


def wanted() -> list[str]:
    """What the extras name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(r for e in EXTRAS for r in project["optional-dependencies"][e])]


def platforms(machine: str) -> list[str]:
    """Tags of wheels that a machine with Debian 12 takes."""
    new = [f"manylinux_2_{minor}_{machine}" for minor in range(17, GLIBC + 1)]
    return [*new, f"manylinux2014_{machine}", f"linux_{machine}"]


def found(machine: str, python: str, pins: Path) -> dict[str, str]:
    """By package, the wheel that such a machine would install.

    Raises:
        RuntimeError: There is one without.
    """
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    command += ["--target", str(pins.parent / "nowhere"), "--report", "-", "-c", str(pins)]
    command += [part for tag in platforms(machine) for part in ("--platform", tag)]
    done = subprocess.run([*command, *wanted()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    report = json.loads(done.stdout)["install"]
    return {r["metadata"]["name"].lower(): r["download_info"]["url"].rpartition("/")[2] for r in report}


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        lines = (ROOT / "requirements.txt").read_text().splitlines()
        pins.write_text("\n".join(re.sub(r" \\$", "", line) for line in lines if "==" in line))
        failed = 0
        for machine in MACHINES:
            for python in PYTHONS:
                try:
                    wheels = found(machine, python, pins)
                except RuntimeError as exc:
                    sys.stdout.write(f"{machine} {python}: {exc}\n")
                    failed += 1
                    continue
                pure = sum(name.endswith("-any.whl") for name in wheels.values())
                sys.stdout.write(
                    f"{machine} {python}: {len(wheels)} wheels, {pure} of them for any machine\n"
                )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

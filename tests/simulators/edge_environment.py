"""An environment as `pip install 'edgeloop[edge,mqtt]'` leaves it, without asking an index.

What a wheel of the project holds, and the distributions that the extras need, directly or not, as they are
installed here. Nothing else of this environment can be imported in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
NAME = "edgeloop"


class EdgeEnvironment:
    """A virtual environment in a folder.

    Args:
        folder: It is made there.
        extras: Of the project.
    """

    def __init__(self, folder: Path, extras: Iterable[str] = ("edge", "mqtt")) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self.bin = folder / "bin"
        self.python = self.bin / "python"
        self.distributions = sorted(needed(extras))
        self._fill(folder)
        script = self.bin / "edgeloop-edge"
        script.write_text(
            f"#!{self.python}\nimport sys\nfrom edge_producer.__main__ import main\nsys.exit(main())\n"
        )
        script.chmod(0o755)

    def _fill(self, folder: Path) -> None:
        [site] = folder.glob("lib/python*/site-packages")
        with zipfile.ZipFile(_wheel(folder)) as wheel:
            wheel.extractall(site)
        for name in self.distributions:
            _link(distribution(name), site)

    @property
    def megabytes(self) -> float:
        """What these distributions take on the disk."""
        files = (f for name in self.distributions for f in distribution(name).files or ())
        return sum(p.stat().st_size for f in files if (p := Path(str(f.locate()))).is_file()) / 1e6


class InstalledEdgeEnvironment(EdgeEnvironment):
    """The same from an index, as a device's owner installs it: locked distributions, each by its hash."""

    def _fill(self, folder: Path) -> None:
        lock, wheel = folder / "locked.txt", _wheel(folder)
        lock.write_text("".join(_locked(self.distributions)), encoding="utf-8")
        pip = [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([str(self.python), "-m", "ensurepip"], check=True, capture_output=True)
        subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)
        subprocess.run([*pip, "--no-deps", str(wheel)], check=True)


def _locked(names: Iterable[str]) -> Iterator[str]:
    """The lines of the lock for some distributions, their hashes included."""
    wanted = set(names)
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    taken = False
    for line in lines:
        if not line.startswith((" ", "#")):
            taken = re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() in wanted
        if taken:
            yield line


def needed(extras: Iterable[str]) -> set[str]:
    """Names of the distributions that the extras need here, the project itself left out."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    stated = [*project["dependencies"], *(r for e in extras for r in project["optional-dependencies"][e])]
    found: set[str] = set()
    waiting = [Requirement(text) for text in stated]
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found:
            continue
        found.add(name)
        waiting += _required(distribution(name), requirement.extras)
    return found


def _required(of: Distribution, extras: Iterable[str]) -> Iterator[Requirement]:
    for text in of.requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield requirement


def _link(of: Distribution, site: Path) -> None:
    """Show a distribution's files in another environment; programs are left out."""
    for file in of.files or ():
        if file.parts[0] == "..":
            continue
        there = site / file
        there.parent.mkdir(parents=True, exist_ok=True)
        if not there.exists():
            there.symlink_to(str(file.locate()))


def _wheel(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [made] = folder.glob("*.whl")
    return made

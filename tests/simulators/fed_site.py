"""A stack with devices of somebody's own profile on an address that is not loopback, set up as a person does.

The devices are processes that are fed through their standard input, each with the rows of its own machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from model_service.models.runtime import OrtGraph
from model_service.registry.bundle_store import read_artifact
from tests.infra.cli import Edgeloop, EdgeloopHere
from tests.simulators.piped_devices import PipedDevice, give_all
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
AT_ONCE = 40
"""Windows that are fed in one step."""
LONGEST_S = 300.0
"""Wait for whatever the machines bring about."""
WATCHED, WORN = 3.0, 0.4
"""Shares of the pace: while nothing is learnt, and while a slow change is judged."""
FOUR_WEEKS_S = 2_419_200.0
QUICK = """
[source]
time_field = "time"

[training]
min_effective_rows = 60.0
max_wait_s = {max_wait_s}
cooldown_s = 1.0
renewals = 0

[rollout]
trial_windows = 5
watch_windows = 6
soak_s = 1.0
longest_soak_s = {longest_soak_s}
silent_s = 120.0
reach_s = 120.0
"""
"""Spans of a fleet that lives for minutes, as `machine_demo` has them."""


class Measured(Protocol):
    """One machine."""

    def row(self) -> dict[str, Any]:
        """What it measures in the next second, with the time in ``time``."""


class FedSite:
    """The stack, the machines and their devices.

    Args:
        folder: For everything.
        address: Of this machine, where devices reach the stack.
        family: Of the profile; ids of its devices begin with it.
        machines: By device.
        hop: Rows from one window to the next.
        pace: Windows a second of each machine, at most.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        family: str,
        machines: Mapping[str, Measured],
        *,
        hop: int = 1,
        pace: float = 16.0,
    ) -> None:
        self.folder, self.address, self.family = folder, address, family
        self.hop, self.pace = hop, pace
        self.command, self.here = Edgeloop(folder / "state"), EdgeloopHere(folder / "state")
        self.machines: dict[str, Any] = dict(machines)
        self.devices: list[PipedDevice] = []

    def close(self) -> None:
        """End devices and stack."""
        for device in self.devices:
            device.close()
        self.command("down")

    def types(self, *words: str) -> str:
        """What a command that must succeed prints."""
        done = self.command(*words)
        assert done.returncode == 0, f"{words}\n{done.stderr}"
        return done.stdout

    def founds(
        self,
        family: str,
        rows: int,
        quick: Callable[[str], str],
        *,
        starts: bool = False,
        given: Path | None = None,
    ) -> None:
        """A family's way from a file to devices, by the commands that a person types.

        Args:
            family: Its machines' ids begin with it.
            rows: Of each machine in the history.
            quick: What a person edits in the drafted profile.
            starts: Whether the stack has to be started.
            given: ONNX file that is imported; None: a model is fitted.
        """
        names = [n for n in self.machines if n.startswith(f"{family}-")]
        history, profile = self.write_history(names, rows), self.folder / f"{family}.toml"
        self.types("profile", "init", str(history), "-o", str(profile), "--device-column", "device")
        profile.write_text(quick(profile.read_text()))
        if starts:
            self.types("up", "--listen", self.address)
        self.types("profile", "push", str(profile), "--policy")
        words = ("fit", family) if given is None else ("import", str(given), "--profile", family)
        written = str(self.folder / f"made-{family}")
        self.types("model", *words, "--from", str(history), "-o", written)
        joins, count = self.folder / f"joins-{family}", str(len(names))
        self.types("fleet", "invite", family, "--profile", family, "--count", count, "-o", str(joins))
        self.start_devices(joins, names)

    def write_history(self, names: Sequence[str], rows: int) -> Path:
        """A file of the next rows of some machines."""
        path = self.folder / f"{names[0]}.csv"
        found = [(name, self.machines[name].row()) for _ in range(rows) for name in names]
        channels = [name for name in found[0][1] if name != "time"]
        cells = [[row["time"], name, *(row[c] for c in channels)] for name, row in found]
        lines = [",".join("" if c is None else str(c) for c in line) for line in cells]
        path.write_text("\n".join([",".join(["time", "device", *channels]), *lines]) + "\n")
        return path

    def start_devices(self, joins: Path, names: Sequence[str]) -> None:
        """Start devices with their join bundles."""
        homes = self.folder / "homes"
        self.devices += [
            PipedDevice(joins / f"{n}.json", homes / n, path=str(ROOT), hop=self.hop) for n in names
        ]

    def until(self, condition: Callable[[], object], what: str, share: float = 1.0) -> None:
        """Let the machines run until something is the case, no faster than whoever learns from them.

        Args:
            condition: Asked between two steps.
            what: It is, in words.
            share: Of the site's pace.
        """
        begun, fed = time.monotonic(), 0

        def is_so() -> bool:
            nonlocal fed
            if condition():
                return True
            if fed < share * self.pace * (time.monotonic() - begun) + AT_ONCE:
                self.runs(AT_ONCE)
                fed += AT_ONCE
            return False

        wait_until(is_so, LONGEST_S, what)

    def runs(self, windows: int) -> None:
        """Let all machines run for so many windows."""
        count = range(windows * self.hop)
        rows = {d.device: [self.machines[d.device].row() for _ in count] for d in self.devices}
        give_all(self.devices, rows, AT_ONCE * self.hop)

    def until_watched(self, windows: int) -> None:
        """Let the machines run until the drift watch has judged so many more windows."""
        begun = self._judged()
        self.until(lambda: self._judged() >= begun + windows, "the drift watch", WATCHED)

    def _judged(self) -> int:
        return int(self.here.json("drift", "list")["counters"]["windows"])

    def models(self, family: str = "") -> list[dict[str, Any]]:
        """Models of a family, by default of the first, oldest first."""
        mine = f"{family or self.family}-"
        return [m for m in self.here.json("model", "list") if m["version"].startswith(mine)]

    def reports(self, family: str = "") -> list[dict[str, Any]]:
        """What the cloud knows of a family's devices."""
        mine = f"{family or self.family}-"
        return [d for d in self.here.json("fleet", "devices") if d["device_id"].startswith(mine)]

    def runs_on(self, family: str = "") -> set[str]:
        """Versions that a family's devices report."""
        of = family or self.family
        return {d["installed"].get(of, {}).get("version", "") for d in self.reports(of)}

    def training(self) -> list[dict[str, Any]]:
        """Training runs that a drift has started."""
        found: list[dict[str, Any]] = self.here.json("drift", "list")["runs"]
        return [run for run in found if run["reason"] == "drift"]

    def rollout_of(self, version: str) -> dict[str, Any] | None:
        """The rollout of a model; None: there is none yet."""
        mine = [r for r in self.here.json("rollout", "history") if r["version"] == version]
        return mine[0] if mine else None

    def rolled_out(self, version: str, family: str = "") -> bool:
        """Whether a version has reached everybody; a person lets it go on where few devices show little."""
        mine = self.rollout_of(version)
        if mine and mine["state"] == "paused":
            self.types("rollout", "resume", mine["rollout_id"])
        return bool(mine and mine["state"] == "completed") and self.runs_on(family) == {version}

    def has_first_model(self) -> str:
        """Let the machines run until the first model is everywhere; its version."""
        self.until(lambda: [m["state"] for m in self.models()] == ["published"], "the first model")
        [first] = self.models()
        self.until(lambda: self.rolled_out(first["version"]), "the first model everywhere")
        return str(first["version"])

    def learns(self, cause: str) -> str:
        """Let the machines run until a second model, for this cause, is everywhere; its version."""
        self.until(lambda: any(m["state"] == "published" for m in self.models()[1:]), "the second model")
        second: str = self.models()[-1]["version"]
        [run] = [r for r in self.training() if r["version"] == second]
        assert (run["state"], run["cause"]) == ("trained", cause)
        self.until(lambda: self.rolled_out(second), "the second model everywhere")
        return second

    def judged_wear(self, wear: Callable[[], None], quiet_windows: int) -> None:
        """Let the machines wear, after a quiet time: it is found, and nothing is learnt.

        Args:
            wear: Makes them wear from then on.
            quiet_windows: Windows of the drift watch before.
        """
        before, known = len(self.models()), {run["run_id"] for run in self.training()}
        self.until_watched(quiet_windows)
        wear()

        def judged(what: str = "cause") -> set[str]:
            return {r[what] for r in self.training() if r["run_id"] not in known and r["cause"]}

        self.until(lambda: "degradation" in judged(), "the trainer's word on the wear", WORN)
        open_states = {"collecting", "requested"}
        self.until(lambda: not judged("state") & open_states, "the end of its runs", WORN)
        assert judged("state") <= {"declined", "waiting"}
        assert len(self.models()) == before

    def scores(self, version: str, windows: np.ndarray) -> np.ndarray:
        """Scores that a model's graph gives windows, shape (n, samples, channels)."""
        artifacts = model_settings(StackSettings(state_dir=self.command.state_dir)).artifacts
        bundles = (read_artifact(artifacts, path.name) for path in artifacts.iterdir())
        bundle = next(b for b in bundles if b.manifest.version == version)
        [score] = OrtGraph(bundle.model, version).run(("score",), {"window": windows.astype(np.float32)})
        return score

    def missed(self, version: str, healthy: np.ndarray, faulty: np.ndarray) -> float:
        """Mean squared error of a model's scores on windows, shape (n, samples, channels) each."""
        truth = np.repeat([0.0, 1.0], [len(healthy), len(faulty)])
        return float(np.mean((self.scores(version, np.concatenate([healthy, faulty])) - truth) ** 2))


def edited(
    text: str, values: Mapping[str, str], max_wait_s: float = 120.0, longest_soak_s: float = FOUR_WEEKS_S
) -> str:
    """A drafted profile with other values of some keys, and the spans of a fleet that lives for minutes."""
    lines = []
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        lines.append(f"{key} = {values[key]}" if key in values else line)
    return "\n".join(lines) + QUICK.format(max_wait_s=max_wait_s, longest_soak_s=longest_soak_s)

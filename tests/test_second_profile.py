"""A profile that is not `machine` closes the loop, made from a recording by the commands that a person types.

Six pumps that no file of the project knows. Their history makes a profile and a first model; six device
processes on an address that is not loopback run it. Then a sensor of all of them is recalibrated, and later
all of them wear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from model_service.models.runtime import OrtGraph
from model_service.registry.bundle_store import read_artifact
from tests.infra.cli import Edgeloop, EdgeloopHere
from tests.simulators.device_listener import own_address
from tests.simulators.piped_devices import PipedDevice, give_all
from tests.waiting import wait_until

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900), pytest.mark.long]

ROOT = Path(__file__).parent.parent
NAMES = tuple(f"pump-{i}" for i in range(1, 7))
OTHERS = ("fan-1", "fan-2", "fan-3")
"""Machines of another profile in the same group."""
HISTORY = 600
AT_ONCE = 40
LONGEST_S = 180.0
"""Wait for whatever the pumps bring about."""
RECALIBRATED = 0.5
"""Bar by which the pressure sensors read more, some twenty times their spread."""
BASELINE_WINDOWS = 24
"""Of the drift watch: other devices than usual are taken for usual after eight, and are known after four."""
QUIET_WINDOWS = 60
"""A slow change is surely found beside a longer one."""
QUICK = """
[source]
time_field = "time"

[training]
min_effective_rows = 60.0
max_wait_s = 120.0
cooldown_s = 1.0
renewals = 0

[rollout]
trial_windows = 5
watch_windows = 6
soak_s = 1.0
silent_s = 120.0
reach_s = 120.0
"""
"""Spans of a fleet that lives for minutes, as `machine` has them."""
SPANS = {
    "window_samples": "1",
    "hop_samples": "1",
    "kinds": '["mean"]',
    "period_s": "2",
    "window_s": "8",
    "lateness_s": "2",
    "min_effect": "3.0\ncooldown_windows = 4\nwarmup_windows = 4",
    "p": "0.3",
}


class Pump:
    """A simulated pump, one row a second; what it measures follows from its number."""

    def __init__(self, number: int, start: datetime) -> None:
        self._random = np.random.default_rng([7, number])
        self._own = 0.02 * self._random.normal(size=3)
        self._at = start
        self.offset, self.wear, self._worn = 0.0, 0.0, 0.0

    @property
    def now(self) -> datetime:
        return self._at

    def row(self) -> dict[str, Any]:
        """The next second; ``offset`` moves the pressure that it reads, ``wear`` takes flow each second."""
        noise = self._random.normal(size=4)
        demand = 0.5 + 0.02 * noise[0]
        self._worn += self.wear
        self._at += timedelta(seconds=1)
        values = {
            "pressure": 6 - 1.2 * demand + 0.03 * noise[1] + self._own[0] + self.offset,
            "flow": 42 * demand + 0.4 * noise[2] + self._own[1] - self._worn,
            "motor_current": 8 + 9 * demand + 0.1 * noise[3] + self._own[2],
        }
        return {"time": self._at.isoformat(), **{k: round(float(v), 3) for k, v in values.items()}}


class Site:
    """The stack, the pumps and their devices."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.command, self.here = Edgeloop(folder / "state"), EdgeloopHere(folder / "state")
        start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
        self.pumps = {name: Pump(i, start) for i, name in enumerate(NAMES)}
        self.devices: list[PipedDevice] = []

    def types(self, *words: str) -> None:
        done = self.command(*words)
        assert done.returncode == 0, f"{words}\n{done.stderr}"

    def write_history(self, names: Sequence[str] = NAMES) -> Path:
        path = self.folder / f"{names[0]}.csv"
        rows = [(name, self.pumps[name].row()) for _ in range(HISTORY) for name in names]
        lines = [",".join(map(str, [row.pop("time"), name, *row.values()])) for name, row in rows]
        path.write_text("\n".join(["time,device,pressure,flow,motor_current", *lines]) + "\n")
        return path

    def start_devices(self, joins: Path, names: Sequence[str] = NAMES) -> None:
        homes = self.folder / "homes"
        self.devices += [PipedDevice(joins / f"{n}.json", homes / n, path=str(ROOT)) for n in names]

    def until(self, condition: Callable[[], object], what: str, most_rows: int = 3000) -> None:
        """Let the pumps run until something is the case, no faster than whoever learns from them."""
        begun, fed = time.monotonic(), 0

        def is_so() -> bool:
            nonlocal fed
            if condition():
                return True
            if fed < most_rows * (time.monotonic() - begun) / LONGEST_S + AT_ONCE:
                self.runs(AT_ONCE)
                fed += AT_ONCE
            return False

        wait_until(is_so, LONGEST_S, what)

    def runs(self, seconds: int) -> None:
        rows = {d.device: [self.pumps[d.device].row() for _ in range(seconds)] for d in self.devices}
        give_all(self.devices, rows, AT_ONCE)

    def until_watched(self, windows: int = BASELINE_WINDOWS) -> None:
        """Let the pumps run until the drift watch knows what is usual now."""
        begun = self._judged()
        self.until(lambda: self._judged() >= begun + windows, "the drift watch", 9000)

    def _judged(self) -> int:
        return int(self.here.json("drift", "list")["counters"]["windows"])

    def models(self, family: str = "pump") -> list[dict[str, Any]]:
        return [m for m in self.here.json("model", "list") if m["version"].startswith(f"{family}-")]

    def runs_on(self, family: str = "pump") -> set[str]:
        """Versions that the family's devices report."""
        mine = [d for d in self.here.json("fleet", "devices") if d["device_id"].startswith(f"{family}-")]
        return {d["installed"].get(family, {}).get("version", "") for d in mine}

    def pump_reports(self) -> list[dict[str, Any]]:
        return [d for d in self.here.json("fleet", "devices") if d["device_id"] in NAMES]

    def training(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.here.json("drift", "list")["runs"]
        return [run for run in found if run["reason"] == "drift"]

    def rollout_of(self, version: str) -> dict[str, Any] | None:
        mine = [r for r in self.here.json("rollout", "history") if r["version"] == version]
        return mine[0] if mine else None

    def rolled_out(self, version: str, family: str = "pump") -> bool:
        """Whether a version has reached everybody; a person lets it go on where few devices show little."""
        mine = self.rollout_of(version)
        if mine and mine["state"] == "paused":
            self.types("rollout", "resume", mine["rollout_id"])
        return bool(mine and mine["state"] == "completed") and self.runs_on(family) == {version}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    made = Site(tmp_path_factory.mktemp("site"), address)
    try:
        yield made
    finally:
        for device in made.devices:
            device.close()
        made.command("down")


def quick(text: str) -> str:
    """The drafted profile with short spans."""
    lines = []
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        lines.append(f"{key} = {SPANS[key]}" if key in SPANS else line)
    return "\n".join(lines) + QUICK


def score_of(site: Site, version: str, rows: list[dict[str, Any]]) -> np.ndarray:
    """Scores that a model gives windows of one row each, by its graph."""
    artifacts = model_settings(StackSettings(state_dir=site.command.state_dir)).artifacts
    bundles = (read_artifact(artifacts, path.name) for path in artifacts.iterdir())
    bundle = next(b for b in bundles if b.manifest.version == version)
    columns = ("pressure", "flow", "motor_current")
    windows = np.array([[[row[c] for c in columns]] for row in rows], dtype=np.float32)
    [score] = OrtGraph(bundle.model, version).run(("score",), {"window": windows})
    return score


def test_a_recording_becomes_a_model_on_every_device(site):
    history, profile = site.write_history(), site.folder / "pump.toml"
    init = ("profile", "init", str(history), "-o", str(profile), "--device-column", "device")
    site.types(*init)
    profile.write_text(quick(profile.read_text()))
    site.types("up", "--listen", site.address)
    site.types("profile", "push", str(profile), "--policy")
    site.types("model", "fit", "pump", "--from", str(history), "-o", str(site.folder / "fit"))
    joins = site.folder / "joins"
    site.types("fleet", "invite", "pump", "--profile", "pump", "--count", "6", "-o", str(joins))
    site.start_devices(joins)
    site.until(lambda: [m["state"] for m in site.models()] == ["published"], "the first model")
    [first] = site.models()
    site.until(lambda: site.rolled_out(first["version"]), "the first model everywhere")


def test_a_recalibration_is_learnt_and_the_new_model_is_better_on_the_same_windows(site):
    [first] = site.models()
    site.until_watched()
    for pump in site.pumps.values():
        pump.offset = RECALIBRATED
    site.until(lambda: any(m["state"] == "published" for m in site.models()[1:]), "the second model")
    second = site.models()[-1]
    [run] = [r for r in site.training() if r["version"] == second["version"]]
    assert (run["state"], run["cause"]) == ("trained", "sensor_recalibration")
    site.until(lambda: site.rolled_out(second["version"]), "the second model everywhere")

    healthy = [site.pumps["pump-1"].row() for _ in range(200)]
    faulty = [{**row, "flow": row["flow"] - 6.0} for row in healthy]
    new, old = (score_of(site, v["version"], [*healthy, *faulty]) for v in (second, first))
    truth = np.repeat([0.0, 1.0], len(healthy))
    assert np.mean((new - truth) ** 2) < 0.5 * np.mean((old - truth) ** 2)
    gates = {g["gate"]: g for g in site.here.json("model", "gates", second["version"])}
    assert gates["quality"]["low"] > 0


@pytest.mark.long
def test_a_second_family_of_the_group_has_its_own_model_and_a_push_waits_for_its_rollout(site):
    [*_, before] = site.models()
    for i, name in enumerate(OTHERS):
        site.pumps[name] = Pump(20 + i, site.pumps[NAMES[0]].now)
    history, profile = site.write_history(OTHERS), site.folder / "fan.toml"
    site.types("profile", "init", str(history), "-o", str(profile), "--device-column", "device")
    profile.write_text(quick(profile.read_text()))
    site.types("profile", "push", str(profile), "--policy")
    site.types("model", "fit", "fan", "--from", str(history), "-o", str(site.folder / "fit-fan"))
    joins = site.folder / "fan-joins"
    site.types("fleet", "invite", "fan", "--profile", "fan", "--count", str(len(OTHERS)), "-o", str(joins))
    site.start_devices(joins, OTHERS)
    site.until(lambda: site.models("fan") and site.models("fan")[0]["state"] == "published", "their model")
    [model] = site.models("fan")
    site.until(lambda: (site.rollout_of(model["version"]) or {}).get("state") == "running", "its rollout")

    changed = site.folder / "pump.toml"
    changed.write_text(changed.read_text().replace("p = 0.3", "p = 0.4", 1))
    pushed = site.here.json("profile", "push", str(changed))
    running = site.rollout_of(model["version"])["rollout_id"]
    assert {r["group"]: r["behind"] for r in pushed["rollouts"]}["default"] == running
    assert {d["device_id"]: d["profile_state"]["number"] for d in site.pump_reports()} == dict.fromkeys(
        NAMES, 1
    )
    site.until(lambda: site.rolled_out(model["version"], "fan"), "the model on every fan")
    assert site.runs_on() == {before["version"]}
    site.until(
        lambda: {d["profile_state"]["number"] for d in site.pump_reports()} == {2}, "the pushed profile"
    )


@pytest.mark.long
def test_wear_is_seen_and_not_learnt(site):
    before = len(site.models())
    known = {run["run_id"] for run in site.training()}
    site.until_watched(QUIET_WINDOWS)
    for pump in site.pumps.values():
        pump.wear = 0.03

    def judged() -> list[dict[str, Any]]:
        return [r for r in site.training() if r["run_id"] not in known and r["cause"]]

    site.until(judged, "the trainer's word on the wear", 1200)
    open_states = {"collecting", "requested"}
    site.until(lambda: not {r["state"] for r in judged()} & open_states, "the end of its runs", 1200)
    assert {run["state"] for run in judged()} <= {"declined", "waiting"}
    assert len(site.models()) == before
    assert "degradation" in {run["cause"] for run in judged()}

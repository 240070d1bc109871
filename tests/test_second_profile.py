"""A profile that is not `machine` closes the loop, made from a file by the commands that a person types.

Six pumps that no file of the project knows. Their history makes a profile and a first model; six device
processes on an address that is not loopback run it. Then a sensor of all of them is recalibrated, and later
all of them wear. `test_recorded_profile.py` does the same with a recording of a real machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from tests.simulators.device_listener import own_address
from tests.simulators.fed_site import FedSite, edited

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(900), pytest.mark.long]

NAMES = tuple(f"pump-{i}" for i in range(1, 7))
OTHERS = ("fan-1", "fan-2", "fan-3")
"""Machines of another profile in the same group."""
HISTORY = 600
RECALIBRATED = 0.5
"""Bar by which the pressure sensors read more, some twenty times their spread."""
BASELINE_WINDOWS = 24
"""Of the drift watch: other devices than usual are taken for usual after eight, and are known after four."""
QUIET_WINDOWS = 60
"""A slow change is surely found beside a longer one."""
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

    def window(self) -> list[list[float]]:
        """The next second as a window of one sample."""
        row = self.row()
        return [[row[name] for name in ("pressure", "flow", "motor_current")]]


def pump_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FedSite]:
    """A stack and its pumps, at an address that is not loopback."""
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
    pumps = {name: Pump(i, start) for i, name in enumerate(NAMES)}
    made = FedSite(tmp_path_factory.mktemp("site"), address, "pump", pumps)
    try:
        yield made
    finally:
        made.close()


site = pytest.fixture(scope="module")(pump_site)


def quick(text: str) -> str:
    """The drafted profile with short spans."""
    return edited(text, SPANS)


def test_a_history_becomes_a_model_on_every_device(site):
    site.founds("pump", HISTORY, quick, starts=True)
    site.has_first_model()


def test_a_recalibration_is_learnt_and_the_new_model_is_better_on_the_same_windows(site):
    [first] = site.models()
    site.until_watched(BASELINE_WINDOWS)
    for name in NAMES:
        site.machines[name].offset = RECALIBRATED
    second = site.learns("sensor_recalibration")

    pump = site.machines[NAMES[0]]
    healthy = np.array([pump.window() for _ in range(200)])
    faulty = healthy - np.array([0.0, 6.0, 0.0])
    assert site.missed(second, healthy, faulty) < 0.5 * site.missed(first["version"], healthy, faulty)
    gates = {g["gate"]: g for g in site.here.json("model", "gates", second)}
    assert gates["quality"]["low"] > 0


def test_a_second_family_of_the_group_has_its_own_model_and_a_push_waits_for_its_rollout(site):
    [*_, before] = site.models()
    site.machines |= {n: Pump(20 + i, site.machines[NAMES[0]].now) for i, n in enumerate(OTHERS)}
    site.founds("fan", HISTORY, quick)
    site.until(lambda: site.models("fan") and site.models("fan")[0]["state"] == "published", "their model")
    [model] = site.models("fan")
    site.until(lambda: (site.rollout_of(model["version"]) or {}).get("state") == "running", "its rollout")

    changed = site.folder / "pump.toml"
    changed.write_text(changed.read_text().replace("p = 0.3", "p = 0.4", 1))
    pushed = site.here.json("profile", "push", str(changed))
    running = site.rollout_of(model["version"])["rollout_id"]
    assert {r["group"]: r["behind"] for r in pushed["rollouts"]}["default"] == running
    numbers = {d["device_id"]: d["profile_state"]["number"] for d in site.reports()}
    assert numbers == dict.fromkeys(NAMES, 1)
    site.until(lambda: site.rolled_out(model["version"], "fan"), "the model on every fan")
    assert site.runs_on() == {before["version"]}
    pushed_to_all = lambda: {d["profile_state"]["number"] for d in site.reports()} == {2}  # noqa: E731
    site.until(pushed_to_all, "the pushed profile")


def test_wear_is_seen_and_not_learnt(site):
    def wear() -> None:
        for name in NAMES:
            site.machines[name].wear = 0.03

    site.judged_wear(wear, QUIET_WINDOWS)

"""What a simulated robot, wearer and intersection seal, decoded, has no raw sample: outputs, alerts, status.

Nor has it the numbers that an action carried. `tests/test_nothing_raw_leaves.py` looks at a machine's whole
process.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from edge_producer.acting.action_order import ActionOrder
from edge_producer.device import Device
from edge_producer.inference import load_predictor
from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest, load_generator
from edge_producer.window import Window
from schemas.profile import Profile
from schemas.profile_file import find_profile
from schemas.row_schemas import TimeQuality
from tests.edge_producer.spool_rig import START, SpoolRig
from tests.simulators.leavings import Leavings, marked

ONE_SAMPLE = {"last", "min", "max", "queued_last", "queued_least"}
"""Kinds that repeat one sample of the window, or one more than it, by definition."""
BENT = 1e-3
"""By so much all samples are changed at most: a channel that stands still has its own sample as its mean."""
ODD = 0.013717
OF_COUNTS = 0.2
"""The same of counts and lights, which stand still for long; as a share, of those above 1."""


class SimulatedRig(SpoolRig):
    """As `SpoolRig`, with the model that ships and the profile's simulated sensors."""

    def _begin_boots(self) -> None:
        predictor = load_predictor(self.profile)
        self.orders: list[ActionOrder] = []
        host = replace(self._host, on_action=self._act)
        self.devices = {
            n: Device(self.identities[n], self.profile, predictor, host, self.spool.state(n))
            for n in self.names
        }

    def _act(self, order: ActionOrder) -> None:
        self._host.on_action(order)
        self.orders.append(order)

    def odd_numbers(self) -> dict[str, float]:
        """Numbers that actions carried and that no count may happen to be."""
        carried = {v for order in self.orders for v in order.numbers.values()}
        return {f"{v:g}": v for v in carried if v != round(v)}

    def live(self, seconds: float, fault: Injection, most: float) -> np.ndarray:
        """Sense so many seconds of the device, bent by ``most`` at most; its samples, shape (n, C)."""
        sampling, simulate = self.profile.sampling, self.profile.simulate
        request = GeneratorRequest(5, "d-1", sampling.rate_hz, (fault,), 0.0, START)
        generator = load_generator(simulate.generator)
        order = [generator.channels.index(name) for name in self.profile.channel_names]
        samples = generator.of(request).block(0, round(seconds * sampling.rate_hz))[:, order]
        bent = most * np.random.default_rng(6).uniform(size=samples.shape) * np.maximum(np.abs(samples), 1.0)
        samples = marked((samples + np.where(samples < 0.5, bent, -bent)).astype(np.float32))
        length, hop = sampling.window_samples, sampling.hop_samples
        for k, first in enumerate(range(0, len(samples) - length + 1, hop)):
            end = (first + length) / sampling.rate_hz
            at, ns = START + timedelta(seconds=end), round(end * 1e9)
            window = Window("d-1", samples[first : first + length], at, ns, TimeQuality.SYNCHRONISED)
            self.devices["d-1"].process(window)
            self.now += sampling.hop_s
            if k % 100 == 99:
                self.commit()
        return samples

    def commit(self) -> None:
        """As always, and the alerts are sealed as the writer does it."""
        with self.spool.transaction():
            for device in self.devices.values():
                update = device.take_update()
                self.spool.apply(update, self.now)
                number = self.spool.devices[update.device_id]
                alerts = [self.sealer.alert(number, event).id for event in update.alerts]
                self._remember(alerts)

    def all_sealed(self) -> Leavings:
        """Everything that waits, sealed and decoded."""
        self.flush()
        while self.seal():
            """There are more rows."""
        self.seal_statements()
        left = Leavings()
        left.add_sealed(self.sealed.values(), self.profile)
        return left


def oddly_bound(profile: Profile) -> Profile:
    """The profile, with bounds that clip what its function chooses to numbers that nothing else is."""
    content = profile.canonical()
    if profile.decision.function:
        for of_action in content["decision"].get("numbers", {}).values():
            for bounds in of_action.values():
                bounds |= {"min": bounds["min"] + ODD, "max": bounds["max"] / 2 - ODD}
    return Profile.model_validate(content)


@pytest.mark.parametrize(
    ("name", "seconds", "fault", "bent"),
    [
        ("robot_demo", 12.0, Injection(kind="collision", start_s=4.0), BENT),
        ("wearable_demo", 40.0, Injection(kind="asystole", start_s=20.0), BENT),
        ("traffic_demo", 90.0, Injection(kind="incident", start_s=0.0, channel="queue_n"), OF_COUNTS),
    ],
)
def test_outputs_numbers_of_actions_and_status_hold_no_sample(name, seconds, fault, bent, tmp_path, caplog):
    profile = oddly_bound(find_profile(name))
    rig = SimulatedRig(tmp_path, profile)
    samples = rig.live(seconds, fault, bent)
    left = rig.all_sealed()
    status = json.dumps(rig.devices["d-1"].function_status)
    left.raw += [("status.json", status.encode()), ("log", caplog.text.encode())]
    rig.close()
    told = {"telemetry.v1", "summary.v1", "books.v1", "alert.v1"}
    outputs = {f"telemetry.v1 score_{output}" for output in profile.model.outputs}
    assert told | outputs <= left.origins()
    assert len(rig.actions) > 1
    repeated = {f"telemetry.v1 {s.name}" for s in profile.feature_specs() if s.kind in ONE_SAMPLE}
    around = {"telemetry.v1", "telemetry.v1 row by row"} if repeated else set()  # the same bytes and columns
    assert left.runs().keys() <= repeated | around
    assert left.repeating(samples) <= repeated
    numbers = rig.odd_numbers() if profile.decision.function else {}
    assert len(numbers) >= (2 if name == "traffic_demo" else 0)
    assert left.told(numbers) == set()
    left.columns.append(("planted", samples[:, 0].astype(np.float64)))
    left.raw.append(("numbers", json.dumps(numbers).encode()))
    assert "planted" in left.runs()  # they would be found
    assert "planted" in left.repeating(samples)
    assert len(left.told(numbers)) == len(numbers)

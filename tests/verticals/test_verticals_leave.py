"""What a simulated robot and a simulated wearer seal, decoded, has no raw sample: outputs, alerts, status.

`tests/test_nothing_raw_leaves.py` looks at a machine's whole process. An intersection's features repeat
single samples by what they mean (`queued_last`), so marks say nothing there.
"""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
import pytest

from edge_producer.device import Device
from edge_producer.inference import load_predictor
from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest, load_generator
from edge_producer.window import Window
from schemas.profile_file import find_profile
from schemas.row_schemas import TimeQuality
from tests.edge_producer.spool_rig import START, SpoolRig
from tests.simulators.leavings import Leavings, marked

BENT = 1e-3
"""By so much all samples are changed at most: a channel that stands still has its own sample as its mean."""


class SimulatedRig(SpoolRig):
    """As `SpoolRig`, with the model that ships and the profile's simulated sensors."""

    def _begin_boots(self) -> None:
        predictor = load_predictor(self.profile)
        self.devices = {
            n: Device(self.identities[n], self.profile, predictor, self._host, self.spool.state(n))
            for n in self.names
        }

    def live(self, seconds: float, *faults: Injection) -> np.ndarray:
        """Sense so many seconds of the device; its samples, shape (n, C)."""
        sampling, simulate = self.profile.sampling, self.profile.simulate
        request = GeneratorRequest(5, "d-1", sampling.rate_hz, faults, 0.0, START)
        generator = load_generator(simulate.generator)
        order = [generator.channels.index(name) for name in self.profile.channel_names]
        samples = generator.of(request).block(0, round(seconds * sampling.rate_hz))[:, order]
        bent = BENT * np.random.default_rng(6).uniform(size=samples.shape)
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


@pytest.mark.parametrize(
    ("name", "seconds", "fault"),
    [
        ("robot_demo", 12.0, Injection(kind="collision", start_s=4.0)),
        ("wearable_demo", 40.0, Injection(kind="asystole", start_s=20.0)),
    ],
)
def test_outputs_numbers_of_actions_and_status_hold_no_sample(name, seconds, fault, tmp_path, caplog):
    profile = find_profile(name)
    rig = SimulatedRig(tmp_path, profile)
    samples = rig.live(seconds, fault)
    left = rig.all_sealed()
    status = json.dumps(rig.devices["d-1"].function_status)
    left.raw += [("status.json", status.encode()), ("log", caplog.text.encode())]
    rig.close()
    told = {"telemetry.v1", "summary.v1", "books.v1", "alert.v1"}
    outputs = {f"telemetry.v1 score_{output}" for output in profile.model.outputs}
    assert told | outputs <= left.origins()
    assert len(rig.actions) > 1
    assert left.runs() == {}
    left.columns.append(("planted", samples[:, 0].astype(np.float64)))
    assert left.runs().keys() == {"planted"}  # they would be found

"""Laws of a decision that nobody needs: it comes before one that is waited for, and leaves no trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise

import numpy as np
import pytest

from edge_producer import calm_time
from edge_producer.device import Device, Host
from edge_producer.device_identity import load_or_create
from edge_producer.inference import load_predictor
from edge_producer.metering import Meters
from edge_producer.rehearsal import NO_DEVICE
from edge_producer.runner import Runner
from edge_producer.window import Window
from schemas.profile_file import find_profile
from schemas.row_schemas import TimeQuality
from tests.edge_producer.source_rigs import STEP_S, Given, Row, live, profile, settings
from tests.edge_producer.spool_rig import START, FirstSample
from tests.waiting import wait_until

ODD = (np.nan, np.inf, -np.inf, 1e30)


def windows(used, n: int, seed: int) -> list[Window]:
    """Noise around the middle of each channel's range; every fifth window is odd throughout."""
    rng = np.random.default_rng(seed)
    low, high = (np.array([getattr(c, end) for c in used.channels]) for end in ("min", "max"))
    shape = (used.sampling.window_samples, len(used.channels))
    found = []
    for k in range(n):
        samples = (low + high) / 2 + rng.normal(size=shape) * (high - low) / 50
        samples = np.full(shape, ODD[k // 5 % len(ODD)]) if k % 5 == 4 else samples
        end = START + k * timedelta(seconds=used.sampling.hop_s)
        found.append(Window("d1", samples.astype(np.float32), end, k, TimeQuality.SYNCHRONISED))
    return found


@pytest.mark.parametrize("name", ["machine", "robot", "generic"])
def test_a_device_that_rehearses_decides_learns_and_hands_over_what_another_does(tmp_path, name):
    used = profile(model={"warmup_windows": 10}) if name == "generic" else find_profile(name)
    identity = load_or_create(tmp_path, "d1")
    seen = []
    for rehearses in (False, True):
        host = Host(lambda *_: None, Meters(used), lambda: 0.0, lambda: 7)
        device = Device(identity, used, load_predictor(used), host)
        for window, other in zip(windows(used, 30, 1), windows(used, 30, 2)[::-1], strict=True):
            if rehearses:
                device.rehearse(lambda other=other: other)
            device.process(window)
        update = device.take_update()
        rows = [(r.seq, r.features.tobytes(), r.score, r.decision, r.reasons) for r in update.sensed]
        seen.append((rows, update.state, update.meters, update.decision, update.absurd, len(update.alerts)))
    assert seen[0] == seen[1]
    assert len({score for _, _, score, *_ in seen[0][0]}) > 10


def test_a_model_that_fails_is_reported_where_it_is_needed_and_once(tmp_path, caplog):
    class Failing(FirstSample):
        def score(self, device_id, samples):
            raise ValueError("no score today")

    used = profile()
    host = Host(lambda *_: None, Meters(used), lambda: 0.0, lambda: 7)
    device = Device(load_or_create(tmp_path, "d1"), used, Failing(), host)
    for window in windows(used, 3, 1):
        device.rehearse(lambda window=window: window)
        device.process(window)
    told = [record for record in caplog.records if "no score today" in record.getMessage()]
    assert [getattr(record, "device_id", None) for record in told] == ["d1"]


class Noting(FirstSample):
    """A predictor that notes for whom it is asked."""

    def __init__(self) -> None:
        super().__init__(width=1)
        self.noted: list[str] = []

    def score(self, device_id, samples):
        self.noted.append(device_id)
        return super().score(device_id, samples)


def test_between_two_windows_of_a_fast_device_one_is_rehearsed_when_one_sample_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(calm_time, "TOO_SLOW", 1_000_000)  # however slow the machine of a test is
    used = profile(window=3, hop=3, sampling={"rate_hz": 500.0}, align={"wait_s": 100.0})
    model, stop, rows = Noting(), threading.Event(), 0

    def slowly() -> Iterator[Row]:
        """A window's last sample comes once the window was rehearsed, the next once it was decided on."""
        nonlocal rows
        try:
            for k in range(30):
                if k % 3 == 2:
                    wait_until(lambda: model.noted[-1:] == [NO_DEVICE], what="the rehearsal")
                rows += 1
                yield k / 500 / STEP_S, 20, 1
                if k % 3 == 2:
                    wait_until(lambda: model.noted[-1:] == ["d1"], what="the window")
        finally:
            stop.set()

    source = live(lambda: Given(used, slowly()), used)
    Runner(settings(tmp_path), used, source, model).run(stop)
    assert rows == 30
    assert model.noted[:20] == [NO_DEVICE, "d1"] * 10
    assert all(before != after for before, after in pairwise(model.noted))

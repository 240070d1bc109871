"""Our own simulated wearers, others than the factory's: false alarms while healthy, delays after onsets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from benchmarks.judge.wearable.judged_device import PROFILE, DeviceRun, JudgedDevice
from edge_producer.sources.scenario import Injection
from infra.verticals.wearable.wearable_factory import wearer

SEED = 424242
WEARERS, HEALTHY_S = 8, 300.0
ONSET_S, AFTER_S = 30.0, 15.0
FAULTS = ("tachycardia", "irregular_rhythm", "asystole", "lost_electrode")


def own_part() -> dict[str, Any]:
    """Alarms by action in healthy hours; of each fault how many are alarmed, and when."""
    device = JudgedDevice()
    alarms: Counter[str] = Counter()
    days = 0.0
    for number in range(WEARERS):
        run = _run(device, f"judge-{number}", HEALTHY_S)
        alarms.update(action for _, action in run.alarms())
        days += float(run.end_s[-1] - run.end_s[0]) / 86400
    faults: dict[str, Any] = {}
    for kind in FAULTS:
        rows = []
        for number in range(WEARERS):
            fault = Injection(kind=kind, start_s=ONSET_S, severity=(0.3, 0.6, 1.0)[number % 3])
            if kind != "lost_electrode":
                fault = Injection(kind=kind, start_s=ONSET_S)
            sensors = wearer(f"judge-{number}", seed=SEED)
            usual = float(np.median(np.diff(sensors.wearer.beats(ONSET_S - 10, ONSET_S).at_s)))
            run = _run(device, f"judge-{number}", ONSET_S + AFTER_S, fault)
            after = [(at, action) for at, action in run.alarms() if at >= ONSET_S]
            rows.append(
                {"delay_s": after[0][0] - ONSET_S if after else None, "usual_s": usual, "first": after[:1]}
            )
        faults[kind] = rows
    return {"alarms": dict(alarms), "days": days, "faults": faults}


def _run(device: JudgedDevice, name: str, seconds: float, *items: Injection) -> DeviceRun:
    recorded = wearer(name, *items, seed=SEED).block(0, round(seconds * PROFILE.sampling.rate_hz))
    return device.run(*(recorded[:, at].astype(np.float64) for at in range(3)))

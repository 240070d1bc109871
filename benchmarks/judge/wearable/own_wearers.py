"""Our own simulated wearers, others than the factory's: false alarms while healthy, delays after onsets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.judge.wearable.judged_device import PROFILE, DeviceRun, JudgedDevice
from edge_producer.sources.scenario import Injection
from infra.verticals.wearable.wearable_factory import wearer

SEED = 424242
WEARERS, HEALTHY_S = 24, 1800.0
FAULTY = 8
"""Wearers who have each of the faults."""
PIECE_S = 200.0
"""Seconds that one run takes: what it does not reach is for the next."""
ONSET_S, AFTER_S = 30.0, 40.0
FAULTS = ("tachycardia", "irregular_rhythm", "asystole", "lost_electrode")


def own_part(known: Mapping[str, Any]) -> dict[str, Any]:
    """Alarms by action in healthy hours; of each fault how many are alarmed, and when.

    Args:
        known: What earlier runs of the same code have measured; empty: nothing.

    Returns:
        That and what this run has measured; ``left`` says how many wearers are not measured yet.
    """
    device, until = JudgedDevice(), time.monotonic() + PIECE_S
    faults = known.get("faults") or _faults(device)
    alarms: Counter[str] = Counter(known.get("alarms", {}))
    number = int(known.get("wearers", 0))
    days, usable = float(known.get("days", 0.0)), float(known.get("usable_days", 0.0))
    while number < WEARERS and time.monotonic() < until:
        run = _run(device, f"judge-{number}", HEALTHY_S)
        alarms.update(action for _, action in run.alarms())
        span = float(run.end_s[-1] - run.end_s[0]) / 86400
        days, usable = days + span, usable + span * float((run.output("quality") < 0.5).mean())
        number += 1
    return {
        "alarms": dict(alarms),
        "days": days,
        "usable_days": usable,
        "wearers": number,
        "left": WEARERS - number,
        "faults": faults,
    }


def _faults(device: JudgedDevice) -> dict[str, Any]:
    """Of each fault and wearer: the delay and the first alarm after the onset."""
    faults: dict[str, Any] = {}
    for kind in FAULTS:
        rows = []
        for number in range(FAULTY):
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
    return faults


def _run(device: JudgedDevice, name: str, seconds: float, *items: Injection) -> DeviceRun:
    recorded = wearer(name, *items, seed=SEED).block(0, round(seconds * PROFILE.sampling.rate_hz))
    return device.run(*(recorded[:, at].astype(np.float64) for at in range(3)))

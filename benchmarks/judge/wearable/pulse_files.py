"""PPG recordings of heartpy, which have no labels: windows, bytes, and what the quality gate says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from benchmarks.judge.wearable.judged_device import PROFILE, JudgedDevice

Array = NDArray[np.float64]

FOLDER = "wearables/ppg_heartpy"
BYTES_A_SAMPLE = 2
"""As the front ends of wearables give them: 16 bits."""
NEEDED = 0.5
RECORDED_HZ = 100.0


def read_pulse(path: Path) -> Array:
    """A PPG at 250 Hz, its middle 0, its height 1: of values at 100 Hz, or of times in ms and values."""
    lines = path.read_text(encoding="utf-8").split()
    timed = "," in lines[0]
    values = np.array([float(line.split(",")[-1]) for line in lines[timed:]])
    if timed:
        t = np.array([float(line.split(",")[0]) for line in lines[1:]]) / 1000.0
        values = np.interp(np.arange(t[0], t[-1], 1 / RECORDED_HZ), t, values)
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return np.asarray(resample_poly((values - middle) / max(high - low, 1e-9), 5, 2))


def pulse_part(data: Path) -> dict[str, Any]:
    """Balance, bytes and quality of each file."""
    device, rows = JudgedDevice(), []
    for path in sorted((data / FOLDER).glob("*.csv")):
        ppg = read_pulse(path)
        run = device.run(np.zeros(len(ppg)), ppg)
        size, hop = PROFILE.sampling.window_samples, PROFILE.sampling.hop_samples
        quality, age = run.feature("ppg_pulse_quality"), run.feature("ppg_pulse_age")
        rows.append(
            {
                "file": path.name,
                "seconds": round(len(ppg) / PROFILE.sampling.rate_hz, 1),
                "samples": len(ppg),
                "windows": len(run.end_s),
                "expected": (len(ppg) - size) // hop + 1,
                "raw_bytes": len(ppg) * BYTES_A_SAMPLE,
                "feature_bytes": round(4 * 2 * len(run.end_s) * PROFILE.filter.p),
                "usable": float((quality >= NEEDED).mean()),
                "pulse_seen": float((age < 2.0).mean()),
                "alarms": sum(a[1] != "check_electrode" for a in run.alarms()),
            }
        )
    return {"files": rows}

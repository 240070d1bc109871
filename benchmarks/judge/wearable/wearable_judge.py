"""Judges `wearable`: beats of record 100 and of neurokit2, spliced onsets, PPG files; writes the page.

Each part is measured once and kept in ``results.json`` with the digest of the product's code.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage, replace_figures
from benchmarks.judge.judge_environment import JudgeUnavailableError, python_of
from benchmarks.judge.wearable.beat_days import beat_part
from benchmarks.judge.wearable.beat_recording import counted, read_record, with_noise
from benchmarks.judge.wearable.judged_device import PROFILE, JudgedDevice
from benchmarks.judge.wearable.own_wearers import own_part
from benchmarks.judge.wearable.pulse_files import pulse_part
from benchmarks.judge.wearable.rhythm_splices import ECTOPIC, RHYTHMS, spliced
from benchmarks.judge.wearable.wearable_page import BEGIN, figures, onset_picture

Array = NDArray[np.float64]

BEGIN_S = 8.0
"""The first window of a recording ends there."""
NOISY_S = 600.0
"""Seconds of the record that noise is added to: its first ten minutes, of thirty."""
SNRS_DB = (24.0, 6.0, 0.0, -3.0, -6.0, -9.0, -12.0)
ONSETS, ECTOPICS = 20, 10
OTHERS_S = 180.0
SETTINGS = {"record": f"{NOISY_S} {SNRS_DB}", "onsets": f"{ONSETS} {ECTOPICS}", "beats": "2"}
"""What a part's figures depend on beside the product."""
HERE = Path(__file__).parent
RESULTS, PAGE, PICTURE = HERE / "results.json", "docs/verticals/wearable.md", "wearable-onset.svg"
DECIDING = ("model_service/verticals/wearable", "edge_producer/bundles/wearable")


def judge_wearable(root: Path, given: argparse.Namespace) -> None:
    """Everything; what an earlier run has measured is not measured again.

    Raises:
        JudgeUnavailableError: The recording or neurokit2 cannot be had here.
    """
    parts: dict[str, Callable[[], Any]] = {
        "own": lambda: own_part(kept),
        "record": lambda: record_part(_data(root)),
        "onsets": lambda: onset_part(_data(root)),
        "neurokit": lambda: neurokit_part(root),
        "pulses": lambda: pulse_part(_data(root)),
        "beats": lambda: beat_part(kept),
    }
    kept: dict[str, Any] = {}
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    version, left = _version(root), len(parts) if given.most is None else given.most
    for name, measure in parts.items():
        code = f"{version} {SETTINGS.get(name, '')}".strip()
        kept = found.get(name, {}) if found.get(name, {}).get("code") == code else {}
        fresh = bool(kept) and not kept.get("left")
        if given.measured or fresh or left <= 0:
            continue
        found[name] = {"code": code, **measure()}
        left -= 1
        if given.write:
            RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    page = FigurePage()
    figures(page, found)
    text = "\n".join(page.lines).strip() + "\n"
    sys.stdout.write(text)
    if given.write:
        replace_figures(root / PAGE, BEGIN, text)
        if "onsets" in found:
            (root / PAGE).with_name(PICTURE).write_text(onset_picture(found["onsets"]["pictured"]), "utf-8")


def record_part(data: Path) -> dict[str, Any]:
    """Beats of record 100 by added noise, and alarms on it as it is."""
    record, device = read_record(data), JudgedDevice()
    run = device.run(record.ecg)
    end_s = float(run.end_s[-1]) - 1.0
    clean = counted(run.beats_s(), record.at_s, BEGIN_S, end_s)
    noisy = {}
    part = record.ecg[: round(NOISY_S * PROFILE.sampling.rate_hz)]
    for snr in SNRS_DB:
        seen = device.run(with_noise(part, snr, seed=1))
        count = counted(seen.beats_s(), record.at_s, BEGIN_S, NOISY_S - 1.0)
        noisy[str(snr)] = {**count._asdict(), "usable": float((seen.output("quality") < 0.5).mean())}
    return {
        "clean": clean._asdict(),
        "noisy": noisy,
        "alarms": run.alarms(),
        "days": float(run.end_s[-1] - BEGIN_S) / 86400,
        "scores": np.quantile(run.output("score"), [0.5, 0.99, 1.0]).round(3).tolist(),
    }


def onset_part(data: Path) -> dict[str, Any]:
    """Delays of alarms after spliced onsets; which action came first, and what came before the onset."""
    record, device = read_record(data), JudgedDevice()
    found: dict[str, Any] = {"rhythms": {}}
    for rhythm in (*RHYTHMS, *ECTOPIC):
        rows = []
        for seed in range(ONSETS if rhythm in RHYTHMS else ECTOPICS):
            onset = spliced(record, rhythm, seed)
            run = device.run(onset.ecg)
            alarms = [a for a in run.alarms() if a[1] != "check_electrode"]
            after = [a for a in alarms if a[0] >= onset.onset_s]
            rows.append(
                {
                    "delay": onset.delay_beats(after[0][0]) if after else None,
                    "delay_s": after[0][0] - onset.onset_s if after else None,
                    "actions": sorted({a for _, a in after}),
                    "before": sum(a[0] < onset.onset_s for a in alarms),
                    "lost": bool((run.output("lost_electrode") >= 0.6).any()),
                }
            )
            if rhythm == "fast" and seed == 0:
                found["pictured"] = _pictured(onset.ecg, run.end_s, run.output("score"), onset.onset_s)
        found["rhythms"][rhythm] = rows
    return found


def _pictured(ecg: Array, end_s: Array, score: Array, onset_s: float) -> dict[str, Any]:
    first, last = onset_s - 4.0, onset_s + 4.0
    t = np.arange(len(ecg)) / PROFILE.sampling.rate_hz
    inside, windows = (t >= first) & (t < last), (end_s >= first) & (end_s < last)
    return {
        "onset_s": round(onset_s - first, 3),
        "ecg": ecg[inside][::2].round(2).tolist(),
        "end_s": (end_s[windows] - first).round(2).tolist(),
        "score": score[windows].round(3).tolist(),
        "enter": PROFILE.decision.alarm,
    }


def neurokit_part(root: Path) -> dict[str, Any]:
    """Beats of what neurokit2 simulates, by its noise.

    Raises:
        JudgeUnavailableError: It cannot be had here, or its program fails.
    """
    out = root / "build" / "judge" / "wearable" / "neurokit.npz"
    if not out.is_file():
        out.parent.mkdir(parents=True, exist_ok=True)
        command = [str(python_of("wearable", root)), str(HERE / "neurokit_hearts.py"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JudgeUnavailableError(f"neurokit2: {done.stderr.strip()[-200:]}")
    device, rows = JudgedDevice(), []
    with np.load(out) as kept:
        for name in sorted(n for n in kept.files if n.startswith("ecg_")):
            _, rate, noise = name.split("_")
            ecg, clean = kept[name], kept[f"clean_{rate}"]
            seen = device.run(ecg)
            count = counted(seen.beats_s(), kept[f"beats_{rate}"], BEGIN_S, OTHERS_S - 2.0)
            power = float(((ecg - clean) ** 2).mean())
            snr = None if power == 0 else round(float(10 * np.log10(clean.var() / power)), 1)
            rows.append({"rate": int(rate), "noise": float(noise), "snr": snr, **count._asdict()})
    return {"hearts": rows}


def _data(root: Path) -> Path:
    for folder in (root.parent / "shared" / "data", root / "shared" / "data"):
        if (folder / "wearables").is_dir():
            return folder
    raise JudgeUnavailableError(
        "record 100 is not here: see docs/verticals/wearable.md for where it comes from"
    )


def _version(root: Path) -> str:
    files = [p for folder in DECIDING for p in sorted((root / folder).glob("*")) if p.is_file()]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]

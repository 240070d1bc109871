"""Simulated fleets that drift: their summaries, rows and drift verdicts, in a real lake.

Run as a program for the table in docs/adr/0012: ``python -m tests.model_service.drifting_fleets``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from edge_producer.sources.scenario import Injection, Scenario
from edge_producer.verticals.machine.rotating_machine import RotatingMachine
from feature_store import connect
from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.duck import Connection
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.models.bundle_files import BundleFiles
from model_service.models.features import compute
from model_service.models.mahalanobis import Mahalanobis
from model_service.training.cause import Cause, judge
from model_service.training.examine import examine
from model_service.training.shifts import ReferenceScale, read_shifts
from schemas.row_schemas import Reason
from schemas.tables import ALERTS, DEVICES, DRIFT, SUMMARIES, telemetry_table
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow
from tests.quick_machine_profile import quick_machine_profile

MACHINE = quick_machine_profile()
CHAMPION = BundleFiles.read(Path(__file__).parents[2] / "edge_producer" / "bundles" / "machine")
START = datetime.fromtimestamp(time.time() // 300 * 300 - 300, UTC)
"""The drifts began just now: a trainer reads only as far back as its profile allows."""
COHORT = "machine/hall/g/x86"
PERIOD = round(MACHINE.drift.window_s)
SEEN_AFTER_S = 2.0
"""A period's summary is known so long after its end."""


class Fleet(NamedTuple):
    """A fleet's windows.

    Attributes:
        features: Shape (devices, windows, F); window k ends k + 1 seconds after ``START``.
        scores: Of the champion, shape (devices, windows).
    """

    devices: tuple[str, ...]
    features: np.ndarray
    scores: np.ndarray


def fleet(injections: tuple[Injection, ...], seed: int, devices: int = 20, seconds: int = 150) -> Fleet:
    """Simulated windows of one second."""
    ids = tuple(f"m-{i:02d}" for i in range(devices))
    scenario = Scenario(seed=seed, start=START, devices=ids, injections=injections)
    size = MACHINE.sampling.window_samples
    found = []
    for device in ids:
        sensors = RotatingMachine(seed, device, MACHINE.sampling.rate_hz, scenario.of(device))
        windows = np.stack([sensors.block(k, size) for k in range(seconds)])
        found.append(compute(windows, MACHINE.feature_specs(), MACHINE.channel_names))
    features = np.stack(found)
    model = Mahalanobis.of(CHAMPION.manifest)
    scores = model.score(features.reshape(-1, features.shape[2])).reshape(features.shape[:2])
    return Fleet(ids, features, scores)


def store(root: Path, of: Fleet) -> None:
    """The fleet's registrations, summaries and alarms in a new lake."""
    lake = Lake.open(root)
    lake.ensure_fixed_tables()
    ProfileRegistry(lake).register(MACHINE)
    tables = {DEVICES.name: _devices(of), SUMMARIES.name: _summaries(of), ALERTS.name: _alerts(of)}
    append(lake, CutStore(lake), "test", lambda n: {k: v for k, v in tables.items() if v.num_rows})


def _devices(of: Fleet) -> pa.Table:
    _, _, group, hardware = COHORT.split("/")
    rows = [
        {
            "device_id": d, "profile": "machine", "site": "hall", "group": group, "hardware": hardware,
            "key_id": d, "public_key": "", "gateway": None, "active": True,
            "known_at": START - timedelta(days=1), "_partition": -1, "_offset": 0, "_row": i,
        }
        for i, d in enumerate(of.devices)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=DEVICES.schema)


def _summaries(of: Fleet) -> pa.Table:
    rows = []
    for d, device in enumerate(of.devices):
        for start in range(0, of.features.shape[1] - PERIOD + 1, PERIOD):
            for f, name in enumerate(MACHINE.feature_names):
                values = of.features[d, start : start + PERIOD, f]
                rows.append(_summary(device, name, start, values))
    return pa.Table.from_pylist(rows, schema=SUMMARIES.schema)


def _summary(device: str, feature: str, start: int, values: np.ndarray) -> dict[str, Any]:
    return {
        "profile": "machine", "device_id": device, "boot_id": 1, "model_version": "m", "featureset": "f@1",
        "feature": feature, "period_start": START + timedelta(seconds=start), "period_s": float(PERIOD),
        "part": 0, "n": len(values), "n_missing": 0, "mean": float(values.mean()),
        "m2": float(((values - values.mean()) ** 2).sum()), "min": float(values.min()),
        "max": float(values.max()), "known_at": START + timedelta(seconds=start + PERIOD + SEEN_AFTER_S),
        "_partition": 0, "_offset": 0, "_row": 0,
    }  # fmt: skip


def _alerts(of: Fleet) -> pa.Table:
    """The first alarm of each device, under the profile's first rule."""
    rule = MACHINE.decision.rules[0]
    rows = []
    for d, device in enumerate(of.devices):
        high = of.scores[d] >= rule.enter
        runs = np.convolve(high, np.ones(rule.after_windows), "full")[: len(high)] >= rule.after_windows
        if not runs.any():
            continue
        at = START + timedelta(seconds=int(runs.argmax()) + 1)
        rows.append(
            {
                "profile": "machine", "device_id": device, "boot_id": 1, "seq": int(runs.argmax()),
                "event_time": at, "action": rule.action, "score": 0.9, "model_version": "m",
                "features": json.dumps({}), "known_at": at, "_partition": 0, "_offset": 0, "_row": 0,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=ALERTS.schema)


def sent_rows(of: Fleet, p: float = 0.3, boot_id: int = 1) -> pa.Table:
    """Rows that the devices sent_rows, each with the same probability."""
    rng = np.random.default_rng(len(of.devices))
    rows = []
    for d, device in enumerate(of.devices):
        for k in np.flatnonzero(rng.random(of.features.shape[1]) < p):
            at = START + timedelta(seconds=int(k) + 1)
            rows.append(
                {
                    "device_id": device, "boot_id": boot_id, "seq": int(k), "event_time": at, "mono_ns": 0,
                    "time_quality": 1, "score": float(of.scores[d, k]), "decision": "none",
                    "reasons": int(Reason.SAMPLE), "sample_p": p, "inclusion_probability": p,
                    "model_version": CHAMPION.manifest.version, "featureset": MACHINE.featureset,
                    "time_suspect": False, "known_at": at + timedelta(seconds=SEEN_AFTER_S),
                    "_partition": 0, "_offset": 0, "_row": len(rows),
                    **{f: float(of.features[d, k, i]) for i, f in enumerate(MACHINE.feature_names)},
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=telemetry_table(MACHINE).schema)


def drift_rows(of: Fleet) -> pa.Table:
    """Rows of the table ``drift``."""
    rows = [
        {
            **v, "event_id": f"task-01/{n}/{i}", "evidence": json.dumps(v["evidence"]), "known_at": at,
            "_partition": 1, "_offset": n, "_row": i,
        }
        for n, (at, found) in enumerate(verdicts(of))
        for i, v in enumerate(found)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=DRIFT.schema)


def land(root: Path, **tables: pa.Table) -> None:
    """Commit more rows; ``telemetry`` stands for the machine's table."""
    lake = Lake.open(root)
    named = {telemetry_table(MACHINE).name if k == "telemetry" else k: v for k, v in tables.items()}
    append(lake, CutStore(lake), "test", lambda n: {k: v for k, v in named.items() if v.num_rows})


def verdicts(of: Fleet) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
    """Verdicts of the drift job, window by window: when they are known, and the verdicts."""
    judge = CohortJudge(CohortScope("machine", COHORT), MACHINE, {})
    for start in range(0, of.features.shape[1] - PERIOD + 1, PERIOD):
        window = TumblingWindow(round(START.timestamp() * 1e6) + start * 1_000_000, PERIOD * 1_000_000)
        shares = {
            ("m", name): _share(of.features[:, start : start + PERIOD, f].ravel(), len(of.devices))
            for f, name in enumerate(MACHINE.feature_names)
        }
        found = judge.window(window, shares)
        if found:
            yield START + timedelta(seconds=start + PERIOD + SEEN_AFTER_S), found


def _share(values: np.ndarray, devices: int) -> TaskShare:
    m2 = float(((values - values.mean()) ** 2).sum())
    return TaskShare(
        Moments(len(values), float(values.mean()), m2, float(values.min()), float(values.max())), devices
    )


def causes(
    injections: tuple[Injection, ...], seed: int, root: Path, *, bank: bool = True, **size: int
) -> list[Cause]:
    """The cause that the trainer would have found for each verdict on the fleet, in order.

    It examines again, window by window, until there is enough to tell; so does this. Without the bank: as for
    a profile whose faults nobody knows.
    """
    of = fleet(injections, seed, **size)
    store(root, of)
    end = START + timedelta(seconds=of.features.shape[1] + SEEN_AFTER_S)
    with closing(connect(root, comments=False)) as con:
        judged = partial(_with_bank if bank else _without_bank, con)
        return [_cause(judged, known_at, new, end) for known_at, new in verdicts(of)]


def _with_bank(con: Connection, onset: datetime, known_at: datetime, kinds: list[str]) -> Cause:
    return examine(con, MACHINE, CHAMPION.manifest, onset, known_at, (COHORT,), kinds).cause


def _without_bank(con: Connection, onset: datetime, known_at: datetime, kinds: list[str]) -> Cause:
    scale = ReferenceScale.of(CHAMPION.manifest, MACHINE)
    assert scale is not None
    slow = sum(k == "degradation" for k in kinds) / len(kinds)
    shifts = read_shifts(con, MACHINE, scale, onset, known_at, (COHORT,))
    return judge(shifts, [], MACHINE, slow_verdicts=slow)


def _cause(
    judged: Callable[[datetime, datetime, list[str]], Cause],
    known_at: datetime,
    new: list[dict[str, Any]],
    end: datetime,
) -> Cause:
    onset, kinds = min(v["onset"] for v in new), [v["kind"] for v in new]
    while True:
        found = judged(onset, known_at, kinds)
        known_at += timedelta(seconds=PERIOD)
        if found.enough or known_at > end:
            return found


def recalibration(offset: float, share: float = 0.8) -> Injection:
    return Injection(kind="recalibration", start_s=75, channel="temperature", offset=offset, share=share)


def fault(kind: str, severity: float = 1.0, share: float = 0.6, ramp_s: float = 5.0) -> Injection:
    return Injection(kind=kind, start_s=75, severity=severity, share=share, ramp_s=ramp_s)


HARMLESS: dict[str, tuple[Injection, ...]] = {
    "temperature +6 on 80 %": (recalibration(6.0),),
    "temperature +8 on 80 %": (recalibration(8.0),),
    "temperature +8 on all": (recalibration(8.0, 1.0),),
    "temperature +6 on 80 %, one bearing worn": (recalibration(6.0), Injection(
        kind="bearing_wear", start_s=40, devices=("m-03",))),
    "current x 1.3 on 80 %": (
        Injection(kind="recalibration", start_s=75, channel="current", gain=1.3, share=0.8),),
    "new regime, severity 1, on 80 %": (
        Injection(kind="new_regime", start_s=75, severity=1.0, share=0.8),),
    "new regime, severity 1.5, on all": (Injection(kind="new_regime", start_s=75, severity=1.5),),
}  # fmt: skip
FAULTY: dict[str, tuple[Injection, ...]] = {
    "bearing wear, slow, on 60 %": (fault("bearing_wear", ramp_s=60.0),),
    "bearing wear, weak and slow, on 60 %": (fault("bearing_wear", 0.3, ramp_s=120.0),),
    "bearing wear, abrupt, on 60 %": (fault("bearing_wear", ramp_s=0.0),),
    "bearing wear, abrupt, on all": (fault("bearing_wear", share=1.0, ramp_s=0.0),),
    "imbalance, slow, on 60 %": (fault("imbalance", ramp_s=60.0),),
    "imbalance, weak, abrupt, on 90 %": (fault("imbalance", 0.2, 0.9, ramp_s=0.0),),
    "imbalance, abrupt, on 90 %": (fault("imbalance", share=0.9, ramp_s=0.0),),
    "both, abrupt, on 60 % each": (fault("imbalance", ramp_s=0.0), fault("bearing_wear", ramp_s=0.0)),
    "temperature +8 on 80 %, bearings of 60 %": (recalibration(8.0), fault("bearing_wear", ramp_s=20.0)),
    "one bearing": (Injection(kind="bearing_wear", start_s=75, devices=("m-03",)),),
}  # fmt: skip
UNKNOWN: dict[str, tuple[Injection, ...]] = {
    "bearing wear, slow, on 90 %, no bank": (fault("bearing_wear", share=0.9, ramp_s=60.0),),
    "bearing wear, weak and slow, on 90 %, no bank": (fault("bearing_wear", 0.3, 0.9, ramp_s=120.0),),
    "imbalance, slow, on 90 %, no bank": (fault("imbalance", share=0.9, ramp_s=60.0),),
}
QUIET: dict[str, tuple[Injection, ...]] = {"nothing": ()}


def report(seeds: int = 20) -> str:
    """Per scenario: fleets in which the cause led to a retrain, only to waiting, or to neither."""
    lines = ["scenario | verdicts | retrained | waits | declined | first causes"]
    for cases in (HARMLESS, FAULTY, UNKNOWN, QUIET):
        for name, injections in cases.items():
            lines.append(_line(name, injections, seeds, bank=cases is not UNKNOWN))
            sys.stderr.write(lines[-1] + "\n")
    return "\n".join(lines)


def _line(name: str, injections: tuple[Injection, ...], seeds: int, *, bank: bool) -> str:
    outcomes, kinds, with_verdicts = Counter[str](), Counter[str](), 0
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            found = causes(injections, seed, Path(folder) / "lake", bank=bank)
        with_verdicts += bool(found)
        kinds[found[0].kind if found else "no verdict"] += 1
        if any(c.retrain for c in found):
            outcomes["retrained"] += 1
        elif {c.kind for c in found} & {"unclassified"} and not any(c.kind == "degradation" for c in found):
            outcomes["waits"] += 1
        else:
            outcomes["declined"] += 1
    first_causes = ", ".join(f"{k} {n}" for k, n in kinds.most_common())
    numbers = " | ".join(str(outcomes[k]) for k in ("retrained", "waits", "declined"))
    return f"{name} | {with_verdicts} | {numbers} | {first_causes}"


if __name__ == "__main__":
    sys.stdout.write(report(int(sys.argv[1]) if len(sys.argv) > 1 else 20) + "\n")

"""What detectors say on our generator's streets and on SUMO's: healthy, and beside an incident."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.arms import SCENARIOS, TrafficJudge
from benchmarks.judge.traffic.incidents import AT_S, FOR_S
from benchmarks.judge.traffic.street_judge import (
    AFTERNOON,
    PEAK,
    PROFILE,
    StreetRun,
    blocked_lane,
    kept_rows,
)
from edge_producer.bundle import load_bundle
from edge_producer.sources.scenario import Injection
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, CHUNK_S, IntersectionSensors
from model_service.models.features import profile_features
from model_service.models.mahalanobis import Mahalanobis
from schemas.profile_file import find_profile
from schemas.verticals.traffic.standard_junction import APPROACHES, NAMES, detected

Array = NDArray[np.float64]
SEED, STREETS, QUARTERS = 20260202, 4, 4
SETTLED_S = 300
"""Seconds after the beginning of a run, or of an incident, from which on its windows count."""
SOURCES = ("generator", "SUMO, grid", "SUMO, arterial")


class Quantity(NamedTuple):
    """A row of the table: a feature of a phase (``{}``), or of an approach of it."""

    label: str
    feature: str
    left: bool = False
    by_part: bool = False


QUANTITIES = (
    Quantity("flow of a street, veh/s", "flow_{}_mean"),
    Quantity("occupancy of a street", "occupancy_{}_mean"),
    Quantity("queue of a street, mean, veh", "queue_{}_queued_mean"),
    Quantity("queue of a street, least, veh", "queue_{}_queued_least"),
    Quantity("queue of an approach, last, veh", "queue_{}_queued_last", by_part=True),
    Quantity("flow that an approach misses", "green_{0}_flow_{1}_queue_{1}_discharge", by_part=True),
    Quantity("flow of left turns, veh/s", "flow_{}_mean", left=True),
    Quantity("occupancy of left turns", "occupancy_{}_mean", left=True),
    Quantity("queue of left turns, mean, veh", "queue_{}_queued_mean", left=True),
)
SCORE = "score"


class Hit(NamedTuple):
    """Phase and approach that an incident hits."""

    phase: str
    part: str


def _columns(quantity: Quantity, hit: Hit | None) -> list[str]:
    """Features of a quantity: of the phase and approach that was hit, or of all."""
    if quantity.by_part:
        places = [(p, part) for p in APPROACHES for part in detected(p) if hit in (None, Hit(p, part))]
        return [
            quantity.feature.format(*(pair if "{0}" in quantity.feature else pair[1:])) for pair in places
        ]
    names = [n for n in NAMES if (n not in APPROACHES) == quantity.left]
    if hit is not None:
        names = [hit.phase + "_left" if quantity.left else hit.phase]
    return [quantity.feature.format(name) for name in names]


def _values(rows: Array, quantity: Quantity, hit: Hit | None) -> Array:
    """All values of a quantity; queues without the one that their features add."""
    names = list(find_profile(PROFILE).feature_names)
    found = rows[:, [2 + names.index(column) for column in _columns(quantity, hit)]].ravel()
    return found - 1 if "_queued_" in quantity.feature else found


def generated_rows(number: int, hit: Hit | None) -> Array:
    """Rows of second, score and features: an hour of a street that the factory has not seen."""
    profile, peak = find_profile(PROFILE), number % 2 == 1
    start = PEAK if peak else AFTERNOON
    faults: tuple[Injection, ...] = ()
    if hit is not None:
        channel = f"queue_{hit.part}"
        faults = (Injection(kind="incident", start_s=AT_S, duration_s=FOR_S, channel=channel),)
    sensors = IntersectionSensors.of(GeneratorRequest(SEED, f"street-{number}", 1.0, faults, 0.0, start))
    samples = np.concatenate([sensors.block(k, CHUNK_S) for k in range(QUARTERS)])
    samples = samples[:, [CHANNELS.index(name) for name in profile.channel_names]]
    size, hop = profile.sampling.window_samples, profile.sampling.hop_samples
    windows = np.ascontiguousarray(np.moveaxis(sliding_window_view(samples, size, axis=0)[::hop], 2, 1))
    seconds = np.arange(len(windows)) * hop + size - 1
    ends_us = round(start.timestamp() * 1e6) + seconds * 1_000_000
    features = profile_features(profile, windows, ends_us)
    score = Mahalanobis.of(load_bundle(profile).manifest).score(features)
    return np.column_stack([seconds, score, features])


def _during(rows: Array) -> Array:
    """Windows of an incident, once it has lasted."""
    return rows[(rows[:, 0] >= AT_S + SETTLED_S) & (rows[:, 0] < AT_S + FOR_S)]


def _healthy_rows(judge: TrafficJudge, runs: Sequence[StreetRun], kind: str) -> Array:
    mine = [r for r in runs if r.what == "local" and SCENARIOS[r.net][0] == kind]
    found = [rows for r in mine for rows in kept_rows(judge.net(r.net).folder, r).values()]
    return np.concatenate(found).astype(np.float64)


def _hit_of(judge: TrafficJudge, run: StreetRun) -> Hit:
    struck = blocked_lane(judge, run.net, run.seed)
    signal = judge.net(run.net).signals[struck.signal]
    phase = next(k for k, lanes in enumerate(signal.lanes) if struck.lane in lanes)
    place = signal.approaches(phase).index(struck.lane.rpartition("_")[0])
    return Hit(NAMES[phase], detected(NAMES[phase])[place])


def compare_features(judge: TrafficJudge, runs: Sequence[StreetRun]) -> dict[str, Any]:
    """Healthy quantiles of each quantity, and what incidents move, by source."""
    streets = [(n, Hit("ns", "n")) for n in range(STREETS)]
    healthy = {SOURCES[0]: np.concatenate([generated_rows(n, None) for n, _ in streets])}
    struck = {SOURCES[0]: [(hit, _during(generated_rows(n, hit))) for n, hit in streets]}
    for source, kind in zip(SOURCES[1:], ("grid", "arterial"), strict=True):
        healthy[source] = _healthy_rows(judge, runs, kind)
        struck[source] = [
            (_hit_of(judge, r), _during(kept_rows(judge.net(r.net).folder, r)[r.hit].astype(np.float64)))
            for r in runs
            if r.what == "closed" and SCENARIOS[r.net][0] == kind
        ]
    return {
        source: _described(rows[rows[:, 0] >= SETTLED_S], struck[source]) for source, rows in healthy.items()
    }


def _described(healthy: Array, struck: Sequence[tuple[Hit, Array]]) -> dict[str, Any]:
    found: dict[str, Any] = {"windows": len(healthy), "incidents": len(struck)}
    for quantity in QUANTITIES:
        usual = _values(healthy, quantity, None)
        moved = np.concatenate([_values(rows, quantity, hit) for hit, rows in struck])
        found[quantity.label] = _numbers(usual, moved)
    found[SCORE] = _numbers(healthy[:, 1], np.concatenate([rows[:, 1] for _, rows in struck]))
    return found


def _numbers(usual: Array, moved: Array) -> list[float]:
    """Median and middle 90 % of healthy windows, their spread, and the median in incidents."""
    middle = np.nanquantile(usual, (0.5, 0.05, 0.95)).tolist()
    return [*middle, float(np.nanstd(usual)), float(np.nanmedian(moved))]


def measure_features(judge: TrafficJudge, path: Path, runs: Sequence[StreetRun]) -> None:
    """Compute the table of what was run, into a file."""
    kinds = {(SCENARIOS[r.net][0], r.what) for r in runs}
    if {(kind, what) for kind in ("grid", "arterial") for what in ("local", "closed")} <= kinds:
        path.write_text(json.dumps(compare_features(judge, runs)))


def write_features(page: FigurePage, found: Mapping[str, Any]) -> None:
    """Our generator beside SUMO."""
    page.lines += ["", "### Our generator beside SUMO"]
    counts = ", ".join(f"{source}: {found[source]['incidents']}" for source in SOURCES)
    page.say(
        "Healthy windows of a minute: median and middle 90 %. Then the median in windows of an intersection "
        "one approach of which is closed, from five minutes on, less the healthy median, in standard "
        "deviations of healthy windows of the same source: of the street and the approach that are hit, and "
        f"the left turns beside them. Afternoon and peak together. Closed approaches: {counts}."
    )
    rows = []
    for label in (*(quantity.label for quantity in QUANTITIES), SCORE):
        usual = [found[source][label] for source in SOURCES]
        cells = [f"{n[0]:.3g} ({n[1]:.3g} to {n[2]:.3g})" for n in usual]
        cells += [f"{(n[4] - n[0]) / n[3]:+.1f}" if n[3] else "-" for n in usual]
        rows.append([label, *cells])
    heads = [f"{source}, healthy" for source in SOURCES] + [f"{source}: closed" for source in SOURCES]
    page.table(["of a window", *heads], rows)

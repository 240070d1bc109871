"""Forecasts of the shipped model on devices: simulated intersections that the factory has not seen.

Each device gets its own minutes, window by window, for nine days; the last two are judged. The hour that
came is compared with what the device said at the beginning of it, with the hour before, and with the same
hour of the week before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figure_page import FigurePage
from benchmarks.judge.traffic.volumes import ForecastErrors
from edge_producer.bundle import load_bundle
from edge_producer.inference import OnnxPredictor
from edge_producer.sources.sensor_generator import GeneratorRequest
from edge_producer.verticals.traffic.intersection_sensors import CHANNELS, IntersectionSensors
from model_service.verticals.traffic.intersection_model import offset_of
from schemas.profile import Profile
from schemas.profile_file import find_profile

Array = NDArray[np.float64]

SEED = 20260201
START = datetime(2026, 2, 6, tzinfo=UTC)
"""A Friday: a weekday and a day of the weekend are judged."""
DAYS, DAY_MIN, WEEK_MIN = 9, 1440, 10080
CHUNK_MIN, HOUR_MIN = 15, 60
OF = {"flow": (7200.0, 3600.0, "veh/h"), "queue": (200.0, 1.0, "veh")}
"""By sum: what an output of 1 stands for, the sum in that unit, and the unit."""


@dataclass(frozen=True)
class JudgedHours:
    """Absolute errors of one device by quarter of an hour, in the unit of ``OF``.

    Attributes:
        device: Its number.
        what: Name of the sum.
        missing: Quarters without a forecast.
        ours: Shape (n,).
        persistence: Shape (n,).
        last_week: Shape (n,).
        mean: Of the hours that came.
    """

    device: int
    what: str
    missing: int
    ours: list[float]
    persistence: list[float]
    last_week: list[float]
    mean: float


def minute_profile() -> Profile:
    """The shipped profile with a window a minute: what a history of means needs no more of."""
    full = find_profile("traffic")
    size = full.sampling.window_samples
    return full.model_copy(update={"sampling": full.sampling.model_copy(update={"hop_samples": size})})


def minutes_of(number: int, days: int = DAYS) -> tuple[dict[str, Array], dict[str, Array]]:
    """By sum: what a device measured each minute, and what it expected of the hour to come."""
    profile = minute_profile()
    predictor = OnnxPredictor(load_bundle(profile), profile)
    name, names = f"judged-{number}", profile.feature_names
    sensors = IntersectionSensors.of(GeneratorRequest(SEED, name, 1.0, (), 0.0, START))
    columns = [CHANNELS.index(channel) for channel in profile.channel_names]
    size, rows = profile.sampling.window_samples, []
    for chunk in range(days * DAY_MIN // CHUNK_MIN):
        block = sensors.block(chunk, CHUNK_MIN * size)[:, columns]
        for k in range(CHUNK_MIN):
            at = START + timedelta(minutes=chunk * CHUNK_MIN + k + 1)
            rows.append(predictor.score(name, block[k * size : (k + 1) * size], at)[0])
    numbers = np.array(rows, dtype=np.float64)
    sums = profile.model.history_sums
    measured = {
        what: numbers[:, [names.index(f) for f in of]].sum(axis=1) - offset_of(of)
        for what, of in sums.items()
    }
    outputs = dict(zip(("flow", "queue"), numbers[:, -2:].T, strict=True))
    return (
        {what: OF[what][1] * values for what, values in measured.items()},
        {what: OF[what][0] * values for what, values in outputs.items()},
    )


def judged_hours(number: int, days: int = DAYS) -> list[JudgedHours]:
    """Errors of one device, for each sum."""
    measured, expected = minutes_of(number, days)
    # Number of the window that ends as the quarter begins.
    at = np.arange(WEEK_MIN, days * DAY_MIN - HOUR_MIN, CHUNK_MIN) - 1
    found = []
    for what, values in measured.items():
        hours = np.convolve(values, np.full(HOUR_MIN, 1 / HOUR_MIN), "valid")
        came, before, week = hours[at + 1], hours[at + 1 - HOUR_MIN], hours[at + 1 - WEEK_MIN]
        made = expected[what][at]
        known = np.isfinite(made)
        ours, plain, weekly = (abs(each - came)[known].tolist() for each in (made, before, week))
        missing = int((~known).sum())
        found.append(JudgedHours(number, what, missing, ours, plain, weekly, float(came.mean())))
    return found


def known_hours(journal: Path, version: str) -> list[JudgedHours]:
    """What the journal has of a model."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    values = [json.loads(line) for line in lines]
    return [JudgedHours(**value) for value in values if value.pop("version") == version]


def measure_hours(journal: Path, devices: int, most: int | None) -> list[JudgedHours]:
    """Journalled results of so many devices; ``most`` of those that are missing are run."""
    version = load_bundle(find_profile("traffic")).manifest.version
    known = known_hours(journal, version)
    missing = [n for n in range(devices) if n not in {k.device for k in known}]
    for number in missing[:most]:
        fresh = judged_hours(number)
        with journal.open("a") as out:
            out.writelines(json.dumps({"version": version, **asdict(item)}) + "\n" for item in fresh)
        known += fresh
    return known


def write_hours(page: FigurePage, results: Sequence[JudgedHours]) -> None:
    """Errors of the forecasts beside persistence and the same hour last week."""
    page.lines += ["", "### The next hour of simulated intersections"]
    devices = {r.device for r in results}
    page.say(
        f"{len(devices)} intersections that the factory has not seen, the eighth and ninth day of each (a "
        "Friday and a Saturday), every quarter of an hour. The forecast is the output of the device's graph."
    )
    rows = []
    for what, (_, _, unit) in OF.items():
        mine = [r for r in results if r.what == what]
        parts = {
            n: np.concatenate([getattr(r, n) for r in mine]) for n in ("ours", "persistence", "last_week")
        }
        errors = ForecastErrors(**parts)
        per_day = DAY_MIN // CHUNK_MIN
        mean = f"{np.mean([r.mean for r in mine]):.3g} {unit}"
        for name, other in (("persistence", errors.persistence), ("same hour last week", errors.last_week)):
            value, low, high = errors.ratio(other, per_day)
            share = f"{value:.3f} ({low:.3f} to {high:.3f})"
            rows.append(
                [f"{what}, mean {mean}", name, f"{other.mean():.3g}", f"{errors.ours.mean():.3g}", share]
            )
    missing = sum(r.missing for r in results)
    page.table(["", "beside", "its MAE", "our MAE", "ours as a share (days drawn anew)"], rows)
    page.say(f"Quarters without a forecast: {missing}.")

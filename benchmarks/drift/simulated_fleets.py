"""Fleets whose drifts are known: rows that resemble each other, and steps or ramps in some cohorts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.signal import lfilter

from benchmarks.drift.retrain_rules import Alarm, Windows
from schemas.profile import Profile
from schemas.profile_file import parse_profile

COHORTS, FEATURES, DEVICES = 4, 3, 5
ROWS, WINDOWS, ONSET = 60, 200, 100


class FleetCase(NamedTuple):
    """A kind of fleet.

    Attributes:
        memory: Correlation of a row with the next.
        drifting: Cohorts that drift in all features at window ``ONSET``.
        size: Of each drift, in standard deviations of rows.
        common: Share of each device's wandering that all devices of a cohort have in common.
        season: Amplitude of a daily sine, in standard deviations of rows.
    """

    name: str
    memory: float
    drifting: int = 0
    size: float = 2.0
    common: float = 0.0
    season: float = 0.0


CASES = (
    FleetCase("independent rows, nothing drifts", 0.0),
    FleetCase("AR(.9), nothing drifts", 0.9),
    FleetCase("AR(.99), nothing drifts", 0.99),
    FleetCase("AR(.99), 30 % in common, nothing drifts", 0.99, common=0.3),
    FleetCase("AR(.9), a season of a day, nothing drifts", 0.9, season=1.0),
    FleetCase("AR(.9), 1 of 4 cohorts drifts", 0.9, drifting=1),
    FleetCase("AR(.99), 1 of 4 cohorts drifts", 0.99, drifting=1),
    FleetCase("AR(.99), 2 of 4 cohorts drift by 4 sd", 0.99, drifting=2, size=4.0),
)


def profile() -> Profile:
    """A row a minute, windows of an hour, as `profile init` drafts the policy."""
    names = [f"c{i}" for i in range(FEATURES)]
    channels = "".join(f'[[channels]]\nname = "{n}"\nunit = "1"\nmin = -1e9\nmax = 1e9\n' for n in names)
    computed = "".join(f'[[features.compute]]\nchannel = "{n}"\nkinds = ["last"]\n' for n in names)
    return parse_profile(
        'name = "simulated"\n[sampling]\nrate_hz = 0.0166666666666\nwindow_samples = 1\nhop_samples = 1\n'
        f'{channels}[features]\nset = "own"\nversion = 1\n{computed}'
        "[summaries]\nperiod_s = 1800\n[drift]\nwindow_s = 3600\nmin_effect = 1.0\n",
        "drift",
    )


def fleet(case: FleetCase, seed: int) -> list[Windows]:
    """A seeded fleet."""
    rng = np.random.default_rng([seed, round(1000 * case.memory), round(100 * case.common), case.drifting])
    own = _wandering(rng, case.memory, (COHORTS, FEATURES, DEVICES))
    shared = _wandering(rng, case.memory, (COHORTS, FEATURES, 1))
    rows = np.sqrt(1 - case.common) * own + np.sqrt(case.common) * shared
    minutes = np.arange(WINDOWS * ROWS)
    rows += case.season * np.sin(
        2 * np.pi * minutes / 1440 + rng.uniform(0, 2 * np.pi, (COHORTS, FEATURES, 1, 1))
    )
    rows[: case.drifting] += case.size * (minutes >= ONSET * ROWS)
    rows += rng.normal(20, 1, (COHORTS, FEATURES, DEVICES, 1))
    windows = rows.reshape(COHORTS, FEATURES, DEVICES, WINDOWS, ROWS)
    return [
        [{f"c{f}_last": cohort[f, :, w] for f in range(FEATURES)} for w in range(WINDOWS)]
        for cohort in windows
    ]


def _wandering(rng: np.random.Generator, memory: float, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal((*shape, WINDOWS * ROWS))
    noise[..., 1:] *= np.sqrt(1 - memory**2)
    return np.asarray(lfilter([1.0], [1.0, -memory], noise, axis=-1))


class FleetScore(NamedTuple):
    """What a rule made of one fleet.

    Attributes:
        alarms: All of them.
        false_share: Share of the alarms that are false; 0 without any.
        false_retrains: False alarms that start a training run.
        found: Drifting series with an alarm from the onset on.
        delays: Windows from the onset to the first alarm of each of these.
    """

    alarms: int
    false_share: float
    false_retrains: int
    found: int
    delays: list[int]


def score(case: FleetCase, alarms: Sequence[Alarm]) -> FleetScore:
    """An alarm is right if it is the first one of a series that has drifted, from the onset on."""
    first: dict[tuple[int, str], Alarm] = {}
    for alarm in alarms:
        if alarm.cohort < case.drifting and alarm.window >= ONSET:
            first.setdefault((alarm.cohort, alarm.feature), alarm)
    right = set(first.values())
    wrong = [alarm for alarm in alarms if alarm not in right]
    return FleetScore(
        len(alarms),
        len(wrong) / max(len(alarms), 1),
        sum(alarm.retrains for alarm in wrong),
        len(first),
        [alarm.window - ONSET + 1 for alarm in first.values()],
    )

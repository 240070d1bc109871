"""What the drift watch finds, misses and invents, by kind of series, devices and channels.

Run as a program for the table in docs/drift.md: ``python -m tests.stream_processors.drift_table``. It takes
some minutes. The seeds of the table (from ``REPORTED`` on) were used for nothing else; whoever tunes the
watch uses others: ``--first 0``.

A device senses each channel once a minute; a row is one sample, a window 6 h (360 rows, what `profile init`
drafts) or 1 h. Devices of a cohort have levels of their own, one standard deviation apart. A drift moves
channel 0 of all devices from window ``ONSET`` on; its sizes are in standard deviations of single rows. A
verdict on it before is false. Each channel has a watch of its own, so whether a drift is found does not
depend on how many others there are; what these invent is in the rows of quiet series.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from schemas.profile import Profile
from schemas.profile_file import parse_profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow

REPORTED = 2000
COHORTS, CHANNELS = (1, 5, 20), (1, 2, 4)
DAY_S, MINUTE_S = 86_400, 60
WINDOWS, ONSET, QUIET_WINDOWS = 56, 28, 100
START_US = 1_782_864_000_000_000
"""Midnight."""

Rows = np.ndarray
"""Shape (channels, devices, windows, rows)."""


class Case(NamedTuple):
    """A kind of series.

    Attributes:
        memory: Correlation of a row with the next.
        season: Amplitude of a daily sine, common to all devices.
        drift: What it adds to channel 0, given rows and the time since the onset, windows; None: nothing.
        known: Whether the profile knows the season.
    """

    name: str
    rows: int = 360
    memory: float = 0.0
    season: float = 0.0
    drift: Callable[[Rows, Rows], Rows] | None = None
    known: bool = False

    @property
    def windows(self) -> int:
        return QUIET_WINDOWS if self.drift is None else WINDOWS


def step(size: float) -> Callable[[Rows, Rows], Rows]:
    return lambda rows, since: rows + size * (since >= 0)


def ramp(size: float, windows: float) -> Callable[[Rows, Rows], Rows]:
    return lambda rows, since: rows + size * np.clip(since / windows, 0, 1)


def wider(factor: float) -> Callable[[Rows, Rows], Rows]:
    return lambda rows, since: rows * np.where(since >= 0, factor, 1.0)


QUIET = (
    Case("independent rows, 6 h"),
    Case("AR(.99), 6 h", memory=0.99),
    Case("AR(.99), 1 h", rows=60, memory=0.99),
    Case("season of a day, 2 sd, 6 h", season=2.0),
    Case("season of a day, 2 sd, 1 h", rows=60, season=2.0),
    Case("season of a day, 2 sd, 1 h, `seasonal_s`", rows=60, season=2.0, known=True),
)
DRIFTS = tuple(
    Case(f"{name}, {of}", memory=memory, drift=drift)
    for of, memory in (("independent rows", 0.0), ("AR(.99)", 0.99))
    for name, drift in (
        ("+1 sd", step(1.0)),
        ("+2 sd", step(2.0)),
        ("ramp of 3 sd in 3.5 days", ramp(3.0, 14)),
        ("spread x 2.5", wider(2.5)),
    )
)


def series(case: Case, seed: int) -> Rows:
    """Seeded rows of the largest cohort with the most channels; smaller ones are parts of it."""
    rng = np.random.default_rng([seed, case.rows, round(1000 * case.memory), round(10 * case.season)])
    shape = (1 if case.drift else max(CHANNELS), max(COHORTS), case.windows * case.rows)
    noise = rng.standard_normal(shape)
    if case.memory:
        noise[..., 1:] *= np.sqrt(1 - case.memory**2)
        for at in range(1, shape[-1]):
            noise[..., at] += case.memory * noise[..., at - 1]
    minutes = np.arange(shape[-1])
    if case.drift is not None:
        noise[0] = case.drift(noise[0], minutes / case.rows - ONSET)
    phase = rng.uniform(0, 2 * np.pi, (shape[0], 1, 1))
    noise += case.season * np.sin(2 * np.pi * minutes * MINUTE_S / DAY_S + phase)
    levels = 20 + rng.standard_normal((*shape[:2], 1))
    return (noise + levels).reshape(*shape[:2], case.windows, case.rows)


def profile_of(case: Case, **drift: object) -> Profile:
    """The profile as `profile init` drafts it, for this case."""
    names = [f"c{i}" for i in range(max(CHANNELS))]
    bounds = 'unit = "1"\nmin = -1e6\nmax = 1e6\n'
    channels = "".join(f'[[channels]]\nname = "{n}"\n{bounds}' for n in names)
    computed = "".join(f'[[features.compute]]\nchannel = "{n}"\nkinds = ["last"]\n' for n in names)
    season = f"seasonal_s = {DAY_S}\n" if case.known else ""
    window_s = case.rows * MINUTE_S
    text = (
        'name = "evaluated"\n[sampling]\nrate_hz = 0.0166666666666\nwindow_samples = 1\nhop_samples = 1\n'
        f'{channels}[features]\nset = "own"\nversion = 1\n{computed}'
        f"[summaries]\nperiod_s = {window_s / 2}\n[drift]\nwindow_s = {window_s}\n{season}"
    )
    profile = parse_profile(text, "drift_table")
    return profile.model_copy(update={"drift": profile.drift.model_copy(update=drift)})


def verdicts(rows: Rows, profile: Profile) -> list[tuple[int, int]]:
    """Channel and window of each verdict on a cohort's rows."""
    judge, found = CohortJudge(CohortScope("evaluated", "evaluated/s/g/h"), profile, {}), []
    length_us = round(profile.drift.window_s * 1e6)
    for window in range(rows.shape[2]):
        shares = {("m@1", f"c{i}_last"): _share(rows[i, :, window]) for i in range(len(rows))}
        got = judge.window(TumblingWindow(START_US + window * length_us, length_us), shares)
        found += [(int(v["feature"][1 : v["feature"].index("_")]), window) for v in got]
    return found


def _share(values: np.ndarray) -> TaskShare:
    mean = float(values.mean())
    m2 = float(((values - mean) ** 2).sum())
    return TaskShare(Moments(values.size, mean, m2, float(values.min()), float(values.max())), len(values))


class Outcome(NamedTuple):
    """One cohort of one seed, by number of channels.

    Attributes:
        delay: Windows from the onset to the end of the window that gave the verdict; None: not found.
        false: Number of false verdicts among the first 1, 2 and 4 channels.
    """

    delay: int | None
    false: tuple[int, ...]


def outcome(case: Case, rows: Rows, devices: int, **drift: object) -> Outcome:
    """What the watch made of the first devices."""
    found = verdicts(rows[:, :devices], profile_of(case, **drift))
    after = [w - ONSET + 1 for c, w in found if c == 0 and w >= ONSET] if case.drift else []
    wrong = [c for c, w in found if not (case.drift and c == 0 and w >= ONSET)]
    return Outcome(min(after, default=None), tuple(sum(c < k for c in wrong) for k in CHANNELS))


def line(case: Case, seeds: range, **drift: object) -> str:
    """A row of the table: by cohort, seeds found, median delay, false verdicts (if quiet, by channels)."""
    cells = []
    data: dict[int, list[Outcome]] = {devices: [] for devices in COHORTS}
    for seed in seeds:
        rows = series(case, seed)
        for devices in COHORTS:
            data[devices].append(outcome(case, rows, devices, **drift))
    for devices in COHORTS:
        delays = sorted(o.delay for o in data[devices] if o.delay is not None)
        found = f"{len(delays)} of {len(seeds)}" + (f", {delays[len(delays) // 2]} w" if delays else "")
        false = " / ".join(str(sum(o.false[i] for o in data[devices])) for i in range(len(CHANNELS)))
        cells.append(f"{found}; {sum(o.false[0] for o in data[devices])}" if case.drift else false)
    return f"| {case.name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=REPORTED, help="first seed")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", default="", help="cases with this in their name")
    parser.add_argument("--min-effect", type=float, default=None)
    asked = parser.parse_args()
    drift = {} if asked.min_effect is None else {"min_effect": asked.min_effect}
    sys.stdout.write("| series | 1 device | 5 devices | 20 devices |\n|---|---|---|---|\n")
    for case in (*DRIFTS, *QUIET):
        if asked.only in case.name:
            sys.stdout.write(line(case, range(asked.first, asked.first + asked.seeds), **drift) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

"""The drift watch beside always-fire, never-fire and a raw river detector, on window aggregates of a cohort.

Run as a program for the table in the report: ``python -m tests.stream_processors.drift_evaluation``.

One stream is one feature of 20 devices over many windows. Each device has its own level and wanders around
it (AR(1) from window to window); a part of the variance may be common to all devices, which is the hard case:
no number of devices averages it away. A change moves all devices at once. A verdict within ``grace`` windows
of a change is a hit (the first one), any other is false.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from river.drift import ADWIN

from schemas.profile import Profile
from stream_processors.drift.cohort_judge import CohortJudge
from stream_processors.windowing.moments import Moments
from stream_processors.windowing.partials import TaskShare
from stream_processors.windowing.windows import CohortScope, TumblingWindow
from tests.quick_machine_profile import quick_machine_profile

DEVICES = 20
PER_WINDOW = 5
WINDOW_US = 5_000_000
START_US = 1_782_900_000_000_000
FEATURE = "temperature_mean"


class Stream(NamedTuple):
    """Windows of one feature, and the numbers of the windows in which something changed."""

    shares: list[TaskShare]
    changes: list[int]


class Score(NamedTuple):
    """How a detector did over many streams.

    Attributes:
        hits: Changes found within the grace.
        delay: Mean windows from a found change to its verdict.
        false: False verdicts per 10,000 windows.
    """

    changes: int
    hits: int
    delay: float
    false: float

    @property
    def recall(self) -> float:
        return self.hits / self.changes if self.changes else 1.0


Fires = Callable[[Stream], list[int]]


def stream(
    seed: int, windows: int, *, phi: float = 0.5, common: float = 0.0, size: float = 0.0, every: float = 0
) -> Stream:
    """A seeded stream.

    Args:
        phi: Autocorrelation of each device from window to window.
        common: Share of the wander's variance that all devices have in common.
        size: Shift at each change, in the statistic's healthy standard deviation over time.
        every: Windows between changes; 0: none.
    """
    rng = np.random.default_rng([seed, windows])
    own, shared = _ar1(rng, windows, phi, DEVICES), _ar1(rng, windows, phi, 1)
    wander = np.sqrt(1 - common) * own + np.sqrt(common) * shared
    healthy = np.sqrt((1 - common) / DEVICES + common + 1 / (DEVICES * PER_WINDOW))
    changes = list(range(int(every), windows, int(every))) if every else []
    signs = rng.choice([-1.0, 1.0], len(changes))
    shift = np.zeros(windows)
    for at, sign in zip(changes, signs, strict=True):
        shift[at:] += sign * size * healthy
    level = 50 + rng.normal(0, 1.0, DEVICES) + wander + shift[:, None]
    values = level[:, :, None] + rng.normal(0, 1.0, (windows, DEVICES, PER_WINDOW))
    return Stream([_share(v.ravel()) for v in values], changes)


def _ar1(rng: np.random.Generator, windows: int, phi: float, width: int) -> np.ndarray:
    out = np.empty((windows, width))
    out[0] = rng.normal(0, 1, width)
    for i in range(1, windows):
        out[i] = phi * out[i - 1] + np.sqrt(1 - phi**2) * rng.normal(0, 1, width)
    return out


def _share(v: np.ndarray) -> TaskShare:
    m2 = float(((v - v.mean()) ** 2).sum())
    return TaskShare(Moments(len(v), float(v.mean()), m2, float(v.min()), float(v.max())), DEVICES)


def profile_with(**drift: object) -> Profile:
    """The machine profile with another drift policy."""
    profile = quick_machine_profile()
    return profile.model_copy(update={"drift": profile.drift.model_copy(update=drift)})


def watch(**drift: object) -> Fires:
    """The drift watch under a policy."""
    profile = profile_with(**drift)

    def fires(of: Stream) -> list[int]:
        judge = CohortJudge(CohortScope("machine", "machine/s/g/h"), profile, {})
        fired = []
        for i, share in enumerate(of.shares):
            window = TumblingWindow(START_US + i * WINDOW_US, WINDOW_US)
            fired += [i] if judge.window(window, {("m@1", FEATURE): share}) else []
        return fired

    return fires


def raw_adwin(of: Stream) -> list[int]:
    """river's ADWIN with its defaults on the window means as they are."""
    detector, fired = ADWIN(), []
    for i, share in enumerate(of.shares):
        detector.update(share.moments.mean)
        fired += [i] if detector.drift_detected else []
    return fired


def always(of: Stream) -> list[int]:
    """A verdict in every window."""
    return list(range(len(of.shares)))


def never(of: Stream) -> list[int]:
    """No verdict ever."""
    return []


def score(fires: Fires, streams: Sequence[Stream], grace: int) -> Score:
    """Score a detector."""
    hits, delays, false, windows, changes = 0, 0, 0, 0, 0
    for one in streams:
        fired, left = fires(one), []
        for at in one.changes:
            left = [f for f in fired if at <= f < at + grace]
            if left:
                hits, delays = hits + 1, delays + left[0] - at
                fired.remove(left[0])
        false += len(fired)
        windows += len(one.shares)
        changes += len(one.changes)
    return Score(changes, hits, delays / hits if hits else float("nan"), 1e4 * false / windows)


CANDIDATES: dict[str, Fires] = {
    "watch, page_hinkley": watch(),
    "watch, page_hinkley, warm-up 8": watch(warmup_windows=8, cooldown_windows=12),
    "watch, adwin": watch(detector="adwin"),
    "river ADWIN, raw": raw_adwin,
    "always-fire": always,
    "never-fire": never,
}


CASES: dict[str, dict[str, float]] = {
    "healthy, phi 0.5": {"phi": 0.5},
    "healthy, phi 0.9": {"phi": 0.9},
    "healthy, phi 0.5, 30 % common": {"phi": 0.5, "common": 0.3},
    "healthy, phi 0.9, 30 % common": {"phi": 0.9, "common": 0.3},
    "step of 6 sd every 60 windows": {"phi": 0.5, "size": 6.0, "every": 60},
    "step of 10 sd every 60 windows": {"phi": 0.5, "size": 10.0, "every": 60},
    "step of 6 sd every 60 windows, 30 % common": {"phi": 0.5, "common": 0.3, "size": 6.0, "every": 60},
}


def report(seeds: int = 40, windows: int = 300, grace: int = 8) -> str:
    """A table of all detectors in all cases."""
    lines = []
    for name, case in CASES.items():
        lines += ["", name]
        streams = [stream(seed, windows, **case) for seed in range(seeds)]
        for candidate, fires in CANDIDATES.items():
            got = score(fires, streams, grace)
            found = f"recall {got.recall:5.2f} delay {got.delay:5.2f} false/10k {got.false:8.1f}"
            lines.append(f"  {candidate:32} {found}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")

"""A recording of a real machine closes the loop, made into a profile by the commands that a person types.

A cobot's second session (UR3 CobotOps, 4,541 rows at about one a second), after a gap of five hours. There is
one robot, and the loop learns by itself from five devices on: so it is replayed as six, each of which begins
a sixth of the session later and goes round. Channels and windows are as they were drafted; of the features
the means are kept, which spares a fit minutes. The labelled faults stay in. A thermometer of all six is
recalibrated, and later a joint of all six wears: both are added to the rows that are replayed.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from benchmarks.detection.labelled_recordings import LabelledRecording, cobot
from tests.edge_producer.recordings import UR3, recording
from tests.simulators.device_listener import own_address
from tests.simulators.fed_site import FedSite, edited

pytestmark = [pytest.mark.kafka, pytest.mark.recordings, pytest.mark.timeout(900), pytest.mark.long]

NAMES = tuple(f"cobot-{i}" for i in range(1, 7))
BREAK_US = 3_600_000_000
"""A session ends where the next row comes an hour later."""
HISTORY = 1200
"""Rows of each; with half as many `fit` chooses another detector, and the drift waits for a person."""
PACE = 4.0
"""Windows a second: each has nineteen features."""
MAX_WAIT_S = 45.0
"""The first model's own drift of the score is examined for so long, and holds up the next run."""
LONGEST_SOAK_S = 10.0
"""What three canaries cannot show in it a person decides: some minutes of windows would."""
WINDOW, HOP = 10, 5
"""Samples, as `profile init` drafts them."""
THERMOMETER, JOINT, OTHER_JOINT = "temperature_j3", "current_j1", "current_j2"
RECALIBRATED = 2.0
"""Degrees by which that thermometer reads more: some fifteen times its spread in this session."""
WEAR = -0.001
"""Amperes that the joint draws more with each row; its current is negative."""
BROKEN = -3.0
"""Amperes by which another joint's current is off in windows that ought to score high."""
BASELINE_WINDOWS, QUIET_WINDOWS = 24, 60
"""Of the drift watch, as in `test_second_profile.py`."""
SPANS = {
    "kinds": '["mean"]',
    "period_s": "10",
    "window_s": "40",
    "lateness_s": "2",
    "min_effect": "1.0\ncooldown_windows = 4\nwarmup_windows = 4",
    "p": "0.3",
}


class Replayed:
    """A robot that goes round in a session, one row a second.

    Args:
        session: Its rows.
        first: The row that it begins with.
        start: Time of the second before its first.
    """

    def __init__(self, session: LabelledRecording, first: int, start: datetime) -> None:
        self._channels, self._values = session.channels, session.values
        self._next, self._at = first, start
        self._added = np.zeros(len(session.channels))
        self._growing = np.zeros(len(session.channels))

    def moves(self, channel: str, by: float) -> None:
        """A channel reads so much more from now on."""
        self._added[self._channels.index(channel)] += by

    def wears(self, channel: str, by: float) -> None:
        """A channel reads so much more with each row."""
        self._growing[self._channels.index(channel)] += by

    def row(self) -> dict[str, Any]:
        """The next second."""
        self._added += self._growing
        values = self._values[self._next % len(self._values)] + self._added
        self._next, self._at = self._next + 1, self._at + timedelta(seconds=1)
        told = {
            c: None if np.isnan(v) else round(float(v), 6)
            for c, v in zip(self._channels, values, strict=True)
        }
        return {"time": self._at.isoformat(), **told}


@pytest.fixture(scope="module")
def session() -> LabelledRecording:
    """The recording after its long gap."""
    [found] = cobot(recording(UR3).parent)
    [end] = np.flatnonzero(np.diff(found.us) > BREAK_US)
    rows = slice(int(end) + 1, None)
    return LabelledRecording(
        found.name, found.channels, found.us[rows], found.values[rows], found.faulty[rows], HISTORY
    )


@pytest.fixture(scope="module")
def site(session: LabelledRecording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FedSite]:
    address = own_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=12)
    apart = len(session.us) // len(NAMES)
    robots = {name: Replayed(session, i * apart, start) for i, name in enumerate(NAMES)}
    made = FedSite(tmp_path_factory.mktemp("site"), address, "cobot", robots, hop=HOP, pace=PACE)
    try:
        yield made
    finally:
        made.close()


def quick(text: str) -> str:
    """The drafted profile with short spans."""
    assert f"window_samples = {WINDOW}" in text
    assert f"hop_samples = {HOP}" in text
    return edited(text, SPANS, MAX_WAIT_S, LONGEST_SOAK_S)


def test_the_recording_becomes_a_model_on_every_device(site):
    site.founds("cobot", HISTORY, quick, starts=True)
    site.has_first_model()


def test_a_recalibration_is_learnt_and_the_new_model_is_better_on_the_same_windows(site, session):
    [first] = site.models()
    site.until_watched(BASELINE_WINDOWS)
    for robot in site.machines.values():
        robot.moves(THERMOMETER, RECALIBRATED)
    second = site.learns("sensor_recalibration")

    values = session.values[: len(session.values) // WINDOW * WINDOW].copy()
    values[:, session.channels.index(THERMOMETER)] += RECALIBRATED
    windows = values.reshape(-1, WINDOW, len(session.channels))
    healthy = windows[np.isfinite(windows).all(axis=(1, 2))]
    faulty = healthy.copy()
    faulty[:, :, session.channels.index(OTHER_JOINT)] += BROKEN
    assert site.missed(second, healthy, faulty) < 0.5 * site.missed(first["version"], healthy, faulty)
    gates = {g["gate"]: g for g in site.here.json("model", "gates", second)}
    assert gates["quality"]["low"] > 0


def test_wear_is_seen_and_not_learnt(site):
    def wear() -> None:
        for robot in site.machines.values():
            robot.wears(JOINT, WEAR)

    site.judged_wear(wear, QUIET_WINDOWS)

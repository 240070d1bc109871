"""Drafts a profile and fits a model on a recording's first rows, and runs both over the whole recording.

Everything is done as the commands do it: `profile init` and `model fit` see the first rows alone, and the
whole goes through the graph, the range watch and the decider of a device. No recording has its own settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from edge_producer.decider import Decider
from edge_producer.inference import load_predictor
from edge_producer.sources.canonical_recording import CanonicalSource
from edge_producer.window_scoring import WindowScorer
from infra.drafting.profile_draft import draft
from infra.fitting.fit_files import BUNDLES, FitWishes, fit_files, write_fit
from infra.reading.canonical import write_canonical
from infra.reading.reading_options import ReadingOptions
from infra.reading.recording_reader import read_recording
from infra.reading.replay_wishes import replay_wishes
from infra.replay import ReplayRequest
from schemas.instants import to_us
from schemas.profile import Profile
from schemas.profile_file import load_profile

BUDGET = 1.0
"""Default of `edgeloop model fit`."""
START = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class DetectionRun:
    """What a device said of each row.

    Attributes:
        chosen: AnomalyDetector that `fit` chose, or ``robust``.
        score: Of the window that ends with the row; 0 where none does; shape (rows,).
        alarm: Rows at which an alarm was raised.
        acting: Rows at which an action was in force.
        enter: The threshold.
    """

    chosen: str
    score: NDArray[np.float64]
    alarm: NDArray[np.bool_]
    acting: NDArray[np.bool_]
    enter: float


def run_recording(
    names: Sequence[str],
    us: NDArray[np.int64],
    values: NDArray[np.float64],
    history: int,
    *,
    fit: bool = True,
) -> DetectionRun:
    """One recording, fitted on its first rows.

    Args:
        names: Of the channels.
        us: Time of each row, microseconds since 1970, rising.
        values: Shape (rows, channels).
        history: Number of rows that may be learnt from.
        fit: False: the generic score with the drafted thresholds, for comparison.
    """
    with TemporaryDirectory(prefix="edgeloop-eval-") as name:
        folder = Path(name)
        early, whole = folder / "history.csv", folder / "whole.csv"
        _write(early, names, us[:history], values[:history])
        _write(whole, names, us, values)
        made = draft(early, "recording")
        (folder / "recording.toml").write_text(made.text, encoding="utf-8")
        profile, bundles, chosen = made.profile, None, "robust"
        if fit:
            recording = ReplayRequest((early,), str(folder / "recording.toml")).read()
            wishes = FitWishes("recording", None, (), BUDGET, "UTC")
            found = fit_files(recording, made.text, wishes, lambda _: None)
            write_fit(found, folder / "out", (early,), BUDGET)
            profile = load_profile(folder / "out" / "recording.toml")
            bundles, chosen = folder / "out" / BUNDLES, found.fitted.choice.kind.name
        return _sensed(whole, profile, bundles, us, chosen)


def _sensed(
    path: Path, profile: Profile, bundles: Path | None, us: NDArray[np.int64], chosen: str
) -> DetectionRun:
    predictor = load_predictor(profile) if bundles is None else load_predictor(profile, bundles)
    read = read_recording([path], replay_wishes(profile, ReadingOptions()), START)
    score, alarm, acting = np.zeros(len(us)), np.zeros(len(us), dtype=bool), np.zeros(len(us), dtype=bool)
    scorer, decider, before = WindowScorer("d1", profile), Decider(profile.decision), 0
    with TemporaryDirectory(prefix="edgeloop-eval-") as folder:
        write_canonical(read, profile, {"": "d1"}, Path(folder))
        for given in CanonicalSource(Path(folder), profile, ["d1"]).windows():
            window = scorer.begin(given)
            _, found = scorer.score(predictor, window)
            decision = decider.decide(window.end, found, out_of_range=scorer.out_of_range)
            # A window that ends in a gap belongs to the last row before it.
            row = max(int(np.searchsorted(us, to_us(window.end), side="right")) - 1, 0)
            score[row], alarm[row] = max(score[row], found or 0.0), alarm[row] | decision.alert
            # What is decided with a window holds until the next one: its rows are those that came since.
            acting[before + 1 : row + 1] = decision.action != profile.decision.idle
            before = row
    rules = profile.decision.rules
    return DetectionRun(chosen, score, alarm, acting, rules[0].enter if rules else 0.5)


def _write(path: Path, names: Sequence[str], us: NDArray[np.int64], values: NDArray[np.float64]) -> None:
    start = datetime(1970, 1, 1, tzinfo=UTC)
    lines = [
        ",".join([(start + timedelta(microseconds=int(at))).isoformat(), *map(repr, row.tolist())])
        for at, row in zip(us, values, strict=True)
    ]
    path.write_text("\n".join([",".join(["time", *names]), *lines]) + "\n", encoding="utf-8")

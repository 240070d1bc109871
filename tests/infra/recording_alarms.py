"""How often the drafted profile of a recording alarms, without a broker.

Run as a program with the folder of the recordings for the last rows of the table in docs/recordings.md:
``python -m tests.infra.recording_alarms FOLDER``. It takes a minute or two.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from edge_producer.decider import Decider
from edge_producer.inference import load_predictor
from edge_producer.sources.canonical_recording import CanonicalSource
from edge_producer.window_scoring import WindowScorer
from infra.drafting.profile_draft import Draft, draft
from infra.reading.canonical import write_canonical
from infra.reading.decision_record import DecisionRecord
from infra.reading.reading_options import ReadingOptions
from infra.reading.recording_reader import read_recording
from infra.reading.replay_wishes import replay_wishes
from infra.replay_checks import source_counts
from tests.edge_producer.recordings import I94, NAB

LONG = {"machine temperature (NAB)": NAB, "traffic (I-94)": I94}
"""The recordings that last longer than thirty days."""


class Replayed(NamedTuple):
    """What came of a recording with its drafted profile.

    Attributes:
        counts: What the source read and refused, by name.
        started: Actions that came into force, in order.
        alarms: When each alarm was raised, as a share of the recording's time.
        length: Of the recording.
    """

    counts: dict[str, int]
    started: list[str]
    alarms: list[float]
    length: timedelta

    def per_day(self, quarter: int) -> float:
        """Alarms per device-day in one of the four quarters of the time, 0 to 3."""
        return in_quarter(self.alarms, quarter) / (self.length / timedelta(days=4))


def in_quarter(alarms: Sequence[float], quarter: int) -> int:
    """How many alarms lie in one of the four quarters of the time; the end belongs to the last one."""
    return sum(min(3, int(4 * at)) == quarter for at in alarms)


def replayed(path: Path, made: Draft) -> Replayed:
    """A recording, replayed on a device without a network."""
    wishes = replay_wishes(made.profile, ReadingOptions())
    read = read_recording([path], wishes, datetime(2026, 1, 1, tzinfo=UTC))
    assert not read.record.doubts
    with TemporaryDirectory() as folder:
        write_canonical(read, made.profile, {"": "d1"}, Path(folder))
        return _sensed(CanonicalSource(Path(folder), made.profile, ["d1"]), made, read.record)


def _sensed(source: CanonicalSource, made: Draft, record: DecisionRecord) -> Replayed:
    predictor, decider, started = load_predictor(made.profile), Decider(made.profile.decision), []
    scorer, ends, alarms = WindowScorer("d1", made.profile), [], []
    for given in source.windows():
        window = scorer.begin(given)
        _, score = scorer.score(predictor, window)
        decision = decider.decide(window.end, score, out_of_range=scorer.out_of_range)
        started += [decision.action] if decision.started else []
        alarms += [window.end] if decision.alert else []
        ends.append(window.end)
    length = ends[-1] - ends[0]
    return Replayed(
        source_counts(source.counts, record), started, [(at - ends[0]) / length for at in alarms], length
    )


def main() -> None:
    """Print, per long recording, its alarms and their rate in each quarter."""
    for name, path in LONG.items():
        found = replayed(Path(sys.argv[1]) / path, draft(Path(sys.argv[1]) / path))
        rates = ", ".join(f"{found.per_day(q):.3f}" for q in range(4))
        days, alarms = found.length.days, len(found.alarms)
        sys.stdout.write(f"{name}: {days} days, {alarms} alarms; per device-day, by quarter {rates}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Where a model comes from: the code's version, the question of its training set, the rows that answered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from feature_store.point_in_time import Regime, RowSelection, TrainingSet
from model_service.training.training_run import AskedRegime, Question, TrainingRun
from schemas.manifest import Lineage
from schemas.profile import Profile
from schemas.tables import TRAINING_SETS

_ROOMS = ("feature_store", "model_service/training", "schemas")
NO_PARTITION = -1


@cache
def code_version() -> str:
    """Version of the package, and a digest of the source that a training set and a model follow from."""
    root = Path(__file__).parents[2]
    found = hashlib.sha256()
    for room in _ROOMS:
        for path in sorted((root / room).glob("*.py")):
            found.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('edgeloop')}+{found.hexdigest()[:12]}"


def question_of(wanted: RowSelection) -> Question:
    """The question of a training set, for the run's row."""
    regime = wanted.regime
    return Question(
        event_from=wanted.event_from,
        event_to=wanted.event_to,
        known_at=wanted.known_at,
        labelled=wanted.labelled,
        cohorts=wanted.cohorts,
        without=wanted.without,
        regime=None
        if regime is None
        else AskedRegime(onset=regime.onset, centre=regime.centre, spread=regime.spread, bound=regime.bound),
    )


def wanted_of(profile: Profile, asked: Question) -> RowSelection:
    """The question of a run's row, to be asked again."""
    regime = asked.regime
    return RowSelection(
        profile=profile,
        event_from=asked.event_from,
        event_to=asked.event_to,
        known_at=asked.known_at,
        labelled=asked.labelled,
        cohorts=asked.cohorts,
        without=asked.without,
        regime=None if regime is None else Regime(regime.onset, regime.centre, regime.spread, regime.bound),
    )


def lineage_of(
    run: TrainingRun, wanted: RowSelection, taken: TrainingSet, verdicts: Sequence[str], champion: str
) -> Lineage:
    """What the manifest says of the training.

    Args:
        run: With its cut and pin.
        wanted: The question.
        taken: The answer.
        verdicts: Behind the run when its cut was pinned; later ones change no bytes.
        champion: Version that the training started from.
    """
    times = taken.part("train").column("event_time")
    return Lineage(
        run_id=run.run_id,
        cut=run.cut or 0,
        pin=run.pin or "",
        known_at=wanted.known_at,
        event_from=pc.min(times).as_py(),
        event_to=pc.max(times).as_py(),
        code=code_version(),
        champion=champion,
        verdicts=tuple(verdicts),
        rows=len(times),
        effective_rows=round(taken.effective_rows, 6),
    )


def lineage_rows(run: TrainingRun, version_: str, taken: TrainingSet, now: datetime, n: int) -> pa.Table:
    """Rows of ``training_sets``: which rows trained or tested the model.

    Args:
        run: The run.
        version_: The model.
        taken: Its training set.
        now: ``known_at`` of the rows.
        n: Number of the commit that writes them.
    """
    size = taken.rows.num_rows
    shared = {
        "run_id": run.run_id,
        "model_version": version_,
        "profile": run.profile,
        "known_at": now,
        "_partition": NO_PARTITION,
        "_offset": n,
    }
    columns = [
        pa.array(range(size), f.type)
        if f.name == "_row"
        else pa.repeat(pa.scalar(shared[f.name], f.type), size)
        if f.name in shared
        else taken.rows.column(f.name).cast(f.type)
        for f in TRAINING_SETS.schema
    ]
    return pa.table(columns, schema=TRAINING_SETS.schema)

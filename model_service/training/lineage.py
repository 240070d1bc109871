"""Where a model comes from: the version of the code, the selection of its training set, and its rows."""

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
from model_service.training.training_run import StoredRegime, StoredSelection, TrainingRun
from schemas.manifest import Lineage
from schemas.profile import Profile
from schemas.tables import TRAINING_SETS

_SOURCES = (
    "feature_store",
    "model_service/detectors",
    "model_service/models",
    "model_service/training",
    "schemas",
)
"""Folders whose modules a training set and a model depend on."""
NO_PARTITION = -1
"""The rows come from no Kafka partition."""


@cache
def code_version(root: Path = Path(__file__).parents[2]) -> str:
    """Version of the package, and a digest of the modules that a training set and a model depend on.

    Args:
        root: Folder of the packages.
    """
    digest = hashlib.sha256()
    for folder in _SOURCES:
        for path in sorted((root / folder).glob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{version('edgeloop')}+{digest.hexdigest()[:12]}"


def stored_selection(selection: RowSelection) -> StoredSelection:
    """A selection of rows as the run's row holds it."""
    regime = selection.regime
    return StoredSelection(
        event_from=selection.event_from,
        event_to=selection.event_to,
        known_at=selection.known_at,
        labelled=selection.labelled,
        cohorts=selection.cohorts,
        without=selection.without,
        regime=None
        if regime is None
        else StoredRegime(onset=regime.onset, centre=regime.centre, spread=regime.spread, bound=regime.bound),
    )


def selection_of(profile: Profile, stored: StoredSelection) -> RowSelection:
    """The selection in a run's row, with which the same rows are read again."""
    regime = stored.regime
    return RowSelection(
        profile=profile,
        event_from=stored.event_from,
        event_to=stored.event_to,
        known_at=stored.known_at,
        labelled=stored.labelled,
        cohorts=stored.cohorts,
        without=stored.without,
        regime=None if regime is None else Regime(regime.onset, regime.centre, regime.spread, regime.bound),
    )


def lineage_of(
    run: TrainingRun,
    selection: RowSelection,
    training_set: TrainingSet,
    verdicts: Sequence[str],
    champion: str,
) -> Lineage:
    """The lineage that goes into the manifest.

    Args:
        run: Has a cut and a pin.
        selection: Of the rows.
        training_set: The rows.
        verdicts: Ids of the drift events behind the run when its cut was pinned.
        champion: Version that the training started from.
    """
    times = training_set.part("train").column("event_time")
    return Lineage(
        run_id=run.run_id,
        cut=run.cut or 0,
        pin=run.pin or "",
        known_at=selection.known_at,
        event_from=pc.min(times).as_py(),
        event_to=pc.max(times).as_py(),
        code=code_version(),
        champion=champion,
        verdicts=tuple(verdicts),
        rows=len(times),
        effective_rows=round(training_set.effective_rows, 6),
    )


def lineage_rows(
    run: TrainingRun, model_version: str, training_set: TrainingSet, now: datetime, n: int
) -> pa.Table:
    """Rows of table ``training_sets``: which rows of the lake trained or tested the model.

    Args:
        run: Made the model.
        model_version: Of the model.
        training_set: Training and holdout rows.
        now: Becomes ``known_at`` of the rows.
        n: Number of the commit that writes them.
    """
    size = training_set.rows.num_rows
    shared = {
        "run_id": run.run_id,
        "model_version": model_version,
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
        else training_set.rows.column(f.name).cast(f.type)
        for f in TRAINING_SETS.schema
    ]
    return pa.table(columns, schema=TRAINING_SETS.schema)

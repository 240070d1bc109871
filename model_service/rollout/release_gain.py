"""What a release changed: champion and released model on the same windows, out of the lake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import feature_store
from feature_store import duck
from feature_store.labels import is_healthy, labels_in_force
from model_service.rollout.paired_quality import (
    LabelledSpan,
    QualityComparison,
    ScoredPeriod,
    SpanTruth,
    agreement,
    alarm_quality,
    compare,
    same_windows,
)
from schemas.alarm_bounds import AlarmBounds
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY
from schemas.profile import Profile

BY_LABELS, NOT_ESTIMABLE = "labels", "not estimable"
"""What a gain rests on."""
_PERIODS = """
SELECT device_id, boot_id, model_version, period_start, feature AS output, sum(n)::BIGINT AS n,
    sum(n * mean) / sum(n) AS mean,
    -- Chan, Golub and LeVeque (1979): squared deviations of parts and of their means add up.
    greatest(0, sum(m2) + sum(n * mean * mean) - sum(n * mean) * sum(n * mean) / sum(n)) AS m2
FROM summaries WHERE feature IN ({outputs}) AND n > 0 AND {chosen}
    AND profile = {profile} AND epoch(period_start) >= {since:f}
GROUP BY ALL
"""
_ALARMS = """
SELECT device_id, boot_id, model_version, period_start, feature, sum({above})::BIGINT AS above
FROM summaries WHERE feature IN ({columns}) AND {chosen}
    AND profile = {profile} AND epoch(period_start) >= {since:f}
GROUP BY ALL
"""


class ReleaseGain(NamedTuple):
    """Champion and released model where both scored the same windows, since the rollout began.

    Attributes:
        basis: ``labels``, or ``not estimable``: no label covers such a window.
        devices: Devices with such windows.
        windows: Such windows.
        gain: Gain in 1 - Brier score by labels, with its 95 % interval over devices; else None.
        champion: Its share of windows in alarm, recall and precision.
        released: The same of the released model.
        agreement: Largest share of these windows on which both were in alarm or both were not.
        allowed: Alarms per device-day that the profile allows a model; None: it states none.
    """

    basis: str
    devices: int
    windows: int
    gain: Mapping[str, float | int] | None
    champion: Mapping[str, float | None]
    released: Mapping[str, float | None]
    agreement: float | None
    allowed: float | None

    def to_json(self) -> dict[str, Any]:
        """For the registry and for people."""
        return self._asdict()


def release_gain(
    periods: Sequence[ScoredPeriod], old: str, new: str, truth: SpanTruth, allowed: float | None
) -> ReleaseGain:
    """The gain of a model on its champion.

    Args:
        periods: Of both, as ``scored_periods`` reads them.
        old: The champion's version.
        new: The released version.
        truth: What is known of faults.
        allowed: Alarms per device-day that the profile allows.
    """
    pairs = same_windows(periods, old, new)
    judged: QualityComparison | None = compare(periods, old, new, truth)
    return ReleaseGain(
        basis=NOT_ESTIMABLE if judged is None else BY_LABELS,
        devices=len({a.device_id for a, _ in pairs}),
        windows=sum(a.n for a, _ in pairs),
        gain=None if judged is None else judged.gain.to_json(),
        champion=alarm_quality([a for a, _ in pairs], truth)._asdict(),
        released=alarm_quality([b for _, b in pairs], truth)._asdict(),
        agreement=agreement(pairs),
        allowed=allowed,
    )


def scored_periods(
    connection: duck.Connection,
    profile: Profile,
    versions: Sequence[str],
    since: float,
    outputs: Sequence[str] = (PRIMARY,),
) -> list[ScoredPeriod]:
    """Scores of these versions by device and summary period, sent rows or not.

    Args:
        connection: To a cut of the lake.
        profile: The mildest rule on each output says which of its scores are alarms.
        versions: Model versions; none: every one.
        since: UTC seconds; periods that begin before are left out.
        outputs: Columns of the outputs whose scores are read.
    """
    chosen = f"model_version IN ({', '.join(map(duck.text, versions))})" if versions else "true"
    where = {"chosen": chosen, "profile": duck.text(profile.name), "since": since}
    named = ", ".join(map(duck.text, outputs))
    rows = duck.query(connection, _PERIODS.format(outputs=named, **where)).to_pylist()
    above = _windows_in_alarm(connection, profile, where)
    return [ScoredPeriod(**_named(row), above=above.get(_key(row))) for row in rows]


def _windows_in_alarm(
    connection: duck.Connection, profile: Profile, where: Mapping[str, Any]
) -> dict[tuple[Any, ...], int]:
    """Windows in alarm by device, boot, version and period: of the output that raises most of them."""
    first = AlarmBounds.of(profile.decision).first_bins() if profile.decision.rules else {}
    if not first:
        return {}
    bins = len(SCORE_EDGES) + 1
    whens = "".join(
        f" WHEN feature = {duck.text(column)} THEN list_sum(bin_counts[{at + 1}:{bins}])"  # SQL counts from 1
        for column, at in first.items()
    )
    above = f"CASE WHEN len(bin_counts) <> {bins} THEN NULL{whens} END"
    query = _ALARMS.format(above=above, columns=", ".join(map(duck.text, first)), **where)
    most: dict[tuple[Any, ...], int] = {}
    for row in duck.query(connection, query).to_pylist():
        if row["above"] is not None:
            most[_key(row)] = max(row["above"], most.get(_key(row), 0))
    return most


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["device_id"], row["boot_id"], row["model_version"], row["period_start"]


def labelled_spans(connection: duck.Connection) -> list[LabelledSpan]:
    """Labels in force in the cut."""
    columns = "device_id, span_start, span_end, label"
    rows = duck.query(connection, f"SELECT {columns} FROM ({labels_in_force()})").to_pylist()  # noqa: S608
    return [
        LabelledSpan(r["device_id"], r["span_start"], r["span_end"], not is_healthy(r["label"])) for r in rows
    ]


def gain_in_lake(lake_root: Path, profile: Profile, old: str, new: str, since: float) -> ReleaseGain:
    """The gain, from the newest cut of a lake.

    Args:
        lake_root: The lake's folder.
        profile: The devices' profile.
        old: The champion's version.
        new: The released version.
        since: When the rollout began, UTC seconds.

    Raises:
        QueryError: The lake cannot be read.
    """
    with feature_store.connect(lake_root, comments=False) as connection:
        periods = scored_periods(connection, profile, (old, new), since)
        truth = SpanTruth(labelled_spans(connection), profile.summaries.period_s, complete=False)
    return release_gain(periods, old, new, truth, profile.training.alarms_per_device_day)


def first_detected(lake_root: Path, verdicts: Sequence[str]) -> float | None:
    """End of the window that gave the first of these verdicts, UTC seconds; None: the lake has none of them.

    Raises:
        QueryError: The lake cannot be read.
    """
    if not verdicts:
        return None
    ids = ", ".join(map(duck.text, verdicts))
    with feature_store.connect(lake_root, comments=False) as connection:
        query = f"SELECT epoch(min(detected)) AS at FROM drift WHERE event_id IN ({ids})"  # noqa: S608
        found: float | None = duck.query(connection, query).column("at")[0].as_py()
    return found


def _named(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the query by the fields of ``ScoredPeriod``."""
    return {("start" if name == "period_start" else name): value for name, value in row.items()}

"""Judges configurations under rollout: the profile's own judge, else alarms and missing windows by site.

Engine and guard each ask by themselves, with what they read from the lake.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

import feature_store
from feature_store import duck
from model_service.rollout import guard_statistics
from model_service.rollout.config_evidence import JUDGES, ConfigEvidence, ConfigFinding, ConfigJudge
from model_service.rollout.observed import Observed
from model_service.rollout.rollout_record import RolloutRecord
from schemas.errors import DatasetError, QueryError
from schemas.manifest import SCORE_EDGES
from schemas.profile import Profile

HISTORY = timedelta(days=7)
"""How far before the switch a judge sees."""
FRESH_S = 10.0
MIN_WINDOWS = 10
"""A unit with fewer windows since the switch, or before it, is left out."""
MOST_MISSING = 0.5
"""Share of a unit's windows that may be missing more than before the switch."""


@dataclass
class LakeJudges:
    """Asks judges, and keeps each answer for ``FRESH_S``.

    Args:
        lake_root: The lake's folder.
        monotonic: Seconds; measures how old a kept answer is.
    """

    lake_root: Path
    monotonic: Callable[[], float] = time.monotonic
    _kept: dict[tuple[str, int], tuple[float, ConfigFinding]] = field(default_factory=dict)

    def with_finding(
        self, record: RolloutRecord, observed: Observed, profile: Profile | None, now: float
    ) -> Observed:
        """The same with what the judge finds of the newest published phase, once its switch is over.

        Args:
            record: Of a configuration.
            observed: Its devices and documents.
            profile: Of the devices; None: unknown.
            now: UTC seconds.
        """
        phase, published = _newest_phase(record, observed)
        if profile is None or published is None or now <= record.switch_at(published):
            return observed
        key = record.rollout_id, phase
        kept = self._kept.get(key)
        if kept is None or self.monotonic() - kept[0] > FRESH_S:
            kept = self.monotonic(), self._found(record, observed, profile, phase, published, now)
            self._kept[key] = kept
        return replace(observed, judged=kept[1])

    def _found(
        self,
        record: RolloutRecord,
        observed: Observed,
        profile: Profile,
        phase: int,
        published: float,
        now: float,
    ) -> ConfigFinding:
        spec = profile.config(record.family)
        if spec is None:
            return ConfigFinding(open=f"profile {profile.name} has no family {record.family} any more")
        switched = datetime.fromtimestamp(record.switch_at(published), UTC)
        treats = record.treated(phase)
        units: dict[bool, dict[str, list[str]]] = {True: {}, False: {}}
        for device, member in sorted(observed.members.items()):
            unit = member.site if spec.unit == "site" else device
            units[treats(device, member.pool)].setdefault(unit, []).append(device)
        try:
            summaries = self._summaries(observed.members, switched - HISTORY)
            evidence = ConfigEvidence(
                profile=profile,
                spec=spec,
                settings=record.settings,
                treated={u: tuple(ids) for u, ids in units[True].items()},
                held={u: tuple(ids) for u, ids in units[False].items()},
                switched_at=switched,
                now=datetime.fromtimestamp(now, UTC),
                summaries=summaries,
                looks=max(record.looks, 1),
            )
            return _judge_of(spec.judge, profile)(evidence)
        except QueryError as exc:
            return ConfigFinding(open=f"the lake cannot be read: {exc}")
        except Exception as exc:  # noqa: BLE001  (a user's code: what it cannot judge is open)
            return ConfigFinding(open=f"judge {spec.judge or 'built in'}: {type(exc).__name__}: {exc}")

    def _summaries(self, devices: Iterable[str], since: datetime) -> pa.Table:
        named = ", ".join(duck.text(d) for d in devices) or "''"
        query = f"""SELECT * FROM summaries WHERE device_id IN ({named})
            AND period_start >= TIMESTAMPTZ {duck.text(since.isoformat())}
            ORDER BY device_id, period_start, feature, boot_id, model_version, part"""  # noqa: S608  (quoted)
        with closing(feature_store.connect(self.lake_root)) as connection:
            return duck.query(connection, query)


def _newest_phase(record: RolloutRecord, observed: Observed) -> tuple[int, float | None]:
    """The newest phase that is published, and when that was."""
    for phase in range(record.phase, -1, -1):
        published = observed.published_at("phase", phase, record.ring(phase))
        if published is not None:
            return phase, published
    return 0, None


def _judge_of(name: str, profile: Profile) -> ConfigJudge:
    if not name:
        return alarms_and_windows
    points = {point.name: point for point in entry_points(group=JUDGES)}
    if name not in points:
        raise DatasetError(
            f"profile {profile.name} names '{name}' of {JUDGES}, which is not installed here: install its "
            "package where the model service runs"
        )
    found: ConfigJudge = points[name].load()
    return found


class UnitCounts(NamedTuple):
    """Windows of one unit in one span.

    Attributes:
        windows: With or without a score.
        alarms: At or above the first rule's ``enter``.
    """

    windows: int = 0
    alarms: int = 0


def alarms_and_windows(evidence: ConfigEvidence) -> ConfigFinding:
    """The built-in judge: share of alarms and of missing windows, against own history and the held-out units.

    A unit's gain is its share of alarms since the switch less that at the same times of the days before; the
    mean of the same of the held-out units is taken off. The gains are judged as those of models are.
    """
    enter = evidence.profile.decision.alarm
    if enter not in SCORE_EDGES:
        return ConfigFinding(open="alarms cannot be counted: no rule, or one inside a bin of the histograms")
    # Negative parts count what a model in the shadow scored: the same windows once more.
    rows = [
        r
        for r in evidence.summaries.to_pylist()
        if r["feature"] == "score" and r["bin_counts"] and r["part"] >= 0
    ]
    ends = max((r["period_start"] for r in rows), default=evidence.switched_at)
    after = _counts(evidence, rows, enter, lambda at: at >= evidence.switched_at)
    before = _before(evidence, rows, enter)
    if missing := _missing(evidence, after, before, ends):
        return ConfigFinding(harm=missing, units=len(evidence.treated))
    gains = _gains(evidence.treated, before, after)
    others = _gains(evidence.held, before, after)
    trend = sum(others.values()) / len(others) if others else 0.0
    values = [max(-1.0, min(1.0, gain - trend)) for gain in gains.values()]
    settings = evidence.settings
    least = min(settings.min_devices, max(len(evidence.treated), 1))
    found = guard_statistics.judge(values, values, settings.max_alarm_gain, least, evidence.looks)
    numbers = {"gains": gains, "held_out": others, "trend": trend, "low": found.low, "high": found.high}
    about = f"{len(gains)} treated and {len(others)} held-out units: {found.text}"
    if found.answer == "harmful":
        return ConfigFinding(harm=about, units=len(gains), numbers=numbers)
    opened = "" if found.answer == "shown" else about
    return ConfigFinding(open=opened, text=about, units=len(gains), numbers=numbers)


def _before(evidence: ConfigEvidence, rows: list[dict[str, Any]], enter: float) -> dict[str, UnitCounts]:
    """Counts at the same times of the days before the switch; of all before it where there is none."""
    start, now = evidence.switched_at, evidence.now

    def same_time(at: datetime) -> bool:
        if at >= start:
            return False
        days = -((at - start) // timedelta(days=1))
        return start <= at + timedelta(days=days) <= now

    found = _counts(evidence, rows, enter, same_time)
    if any(c.windows >= MIN_WINDOWS for c in found.values()):
        return found
    return _counts(evidence, rows, enter, lambda at: at < start)


def _counts(
    evidence: ConfigEvidence,
    rows: list[dict[str, Any]],
    enter: float,
    within: Callable[[datetime], bool],
) -> dict[str, UnitCounts]:
    both = {**evidence.held, **evidence.treated}
    unit_of = {device: unit for unit, ids in both.items() for device in ids}
    first, found = bisect_left(SCORE_EDGES, enter) + 1, dict.fromkeys(both, UnitCounts())
    for row in rows:
        unit = unit_of.get(row["device_id"])
        if (
            unit is not None
            and len(row["bin_counts"]) == len(SCORE_EDGES) + 1
            and within(row["period_start"])
        ):
            known = found[unit]
            windows, alarms = row["n"] + row["n_missing"], sum(row["bin_counts"][first:])
            found[unit] = UnitCounts(known.windows + windows, known.alarms + alarms)
    return found


def _gains(
    units: Iterable[str], before: Mapping[str, UnitCounts], after: Mapping[str, UnitCounts]
) -> dict[str, float]:
    known = [u for u in units if min(before[u].windows, after[u].windows) >= MIN_WINDOWS]
    return {u: after[u].alarms / after[u].windows - before[u].alarms / before[u].windows for u in known}


def _missing(
    evidence: ConfigEvidence,
    after: Mapping[str, UnitCounts],
    before: Mapping[str, UnitCounts],
    ends: datetime,
) -> str:
    """Treated units that send far fewer windows than before, in words; empty: none, or a single one of many.

    Time runs to the newest period of any device of the group: what has not landed yet lacks for all alike.
    """
    span_s = (ends - evidence.switched_at).total_seconds()
    period_s, hop_s = evidence.profile.summaries.period_s, evidence.profile.sampling.hop_s
    if span_s < max(period_s * 2, hop_s * MIN_WINDOWS):
        return ""
    bad = [
        unit
        for unit, ids in evidence.treated.items()
        if before[unit].windows >= MIN_WINDOWS
        and after[unit].windows < (1 - MOST_MISSING) * len(ids) * (span_s / hop_s)
    ]
    if not bad or (len(bad) == 1 and len(evidence.treated) > 1):
        return ""
    return f"windows are missing since the switch at {', '.join(sorted(bad)[:5])}"

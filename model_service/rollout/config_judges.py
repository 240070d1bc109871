"""Judges configurations under rollout: the profile's own judge, else alarms and missing windows by site.

Engine and guard each ask by themselves, with what they read from the lake.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pyarrow as pa

import feature_store
from feature_store import duck
from model_service.limited_plug_ins import LimitedPlugIns, PlugInEndedError, PlugInLimits
from model_service.rollout.config_evidence import JUDGES, ConfigEvidence, ConfigFinding
from model_service.rollout.config_spans import (
    FEWEST,
    HISTORY,
    SHOWN_P,
    Rise,
    Span,
    earlier_days,
    just_before,
    last_look,
    spans,
)
from model_service.rollout.observed import Observed
from model_service.rollout.rollout_record import RolloutRecord
from schemas.alarm_bounds import AlarmBounds
from schemas.errors import DatasetError, QueryError
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY
from schemas.profile import Profile

FRESH_S = 10.0
MIN_WINDOWS = 10
"""A unit with fewer windows in a span is left out of it."""
JUDGE_LIMITS = PlugInLimits(memory_mb=2048, cpu_s=60, wall_s=60.0)
"""What a judge of a user's may take: engine and guard wait for it."""
BROKEN_S = 300.0
"""Pause before a judge is asked again whose process ended without an answer."""
MOST_MISSING = 0.5
"""Share of a unit's windows that may be missing more than before the switch."""


@dataclass
class LakeJudges:
    """Asks judges, and keeps each answer for ``FRESH_S``.

    Args:
        lake_root: The lake's folder.
        monotonic: Seconds; measures how old a kept answer is.
        plug_ins: Run the judges of installed packages.
    """

    lake_root: Path
    monotonic: Callable[[], float] = time.monotonic
    plug_ins: LimitedPlugIns = field(default_factory=lambda: LimitedPlugIns(JUDGE_LIMITS))
    _kept: dict[tuple[str, int], tuple[float, ConfigFinding]] = field(default_factory=dict)
    _broken_until: float = -math.inf

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
                alarms=partial(self.alarms, tuple(observed.members), switched - HISTORY),
            )
            return self._asked(spec.judge, evidence)
        except QueryError as exc:
            return ConfigFinding(open=f"the lake cannot be read: {exc}")
        except PlugInEndedError as exc:
            self._broken_until = self.monotonic() + BROKEN_S
            return ConfigFinding(open=f"judge {spec.judge}: {exc}")
        except DatasetError as exc:
            return ConfigFinding(open=f"judge {spec.judge}: {exc}")
        except Exception as exc:  # noqa: BLE001  (a user's numbers: what it cannot judge is open)
            return ConfigFinding(open=f"judge {spec.judge or 'built in'}: {type(exc).__name__}: {exc}")

    def _asked(self, name: str, evidence: ConfigEvidence) -> ConfigFinding:
        """What the judge finds: the profile's in its own process, else the built-in one."""
        if not name:
            return alarms_and_windows(evidence)
        if self.monotonic() < self._broken_until:
            return ConfigFinding(open=f"judge {name}: ended without an answer; asked again within minutes")
        what = f"profile {evidence.profile.name}"
        sent = replace(evidence, alarms=partial(_same, evidence.alarms()))  # its process reads no lake
        return ConfigFinding(**self.plug_ins.call(JUDGES, name, what, ConfigFinding, sent))

    def _summaries(self, devices: Iterable[str], since: datetime) -> pa.Table:
        named = ", ".join(duck.text(d) for d in devices) or "''"
        query = f"""SELECT * FROM summaries WHERE device_id IN ({named})
            AND period_start >= TIMESTAMPTZ {duck.text(since.isoformat())}
            ORDER BY device_id, period_start, feature, boot_id, model_version, part"""  # noqa: S608  (quoted)
        return self._read(query)

    def alarms(self, devices: Iterable[str], since: datetime) -> pa.Table:
        """Alarms of these devices from an instant on: device, event time, action; in that order.

        Raises:
            QueryError: The lake cannot be read.
        """
        named = ", ".join(duck.text(d) for d in devices) or "''"
        query = f"""SELECT device_id, event_time, action FROM alarms WHERE device_id IN ({named})
            AND event_time >= TIMESTAMPTZ {duck.text(since.isoformat())}
            ORDER BY device_id, event_time, action"""  # noqa: S608  (quoted)
        return self._read(query)

    def _read(self, query: str) -> pa.Table:
        with closing(feature_store.connect(self.lake_root, comments=False)) as connection:
            return duck.query(connection, query)


def _newest_phase(record: RolloutRecord, observed: Observed) -> tuple[int, float | None]:
    """The newest phase that is published, and when that was."""
    for phase in range(record.phase, -1, -1):
        published = observed.published_at("phase", phase, record.ring(phase))
        if published is not None:
            return phase, published
    return 0, None


class UnitCounts(NamedTuple):
    """Windows of one unit in one span.

    Attributes:
        windows: With or without a score.
        alarms: Of the output that raises most of them, at or above the ``enter`` of its mildest rule.
    """

    windows: int = 0
    alarms: int = 0

    @property
    def share(self) -> float | None:
        """Share of alarms; None: too few windows."""
        return self.alarms / self.windows if self.windows >= MIN_WINDOWS else None


def _same(table: pa.Table) -> pa.Table:
    return table


def alarms_and_windows(evidence: ConfigEvidence) -> ConfigFinding:
    """The built-in judge: alarms and missing windows against own history and held-out units.

    Days differ more than windows do, so the span is the unit: what treated units show beyond held-out ones
    since the switch is compared with the same number at the same time of earlier days (or, with too few days,
    of the spans just before the switch), by Student's prediction interval; for all units and for each.
    """
    first = AlarmBounds.of(evidence.profile.decision).first_bins()
    if not evidence.profile.decision.rules or not first:
        return ConfigFinding(open="alarms cannot be counted: no rule, or one inside a bin of the histograms")
    # Negative parts count what a model in the shadow scored: the same windows once more.
    rows = [
        r
        for r in evidence.summaries.to_pylist()
        if r["feature"] in {PRIMARY, *first} and r["bin_counts"] and r["part"] >= 0
    ]
    period = timedelta(seconds=evidence.profile.summaries.period_s)
    newest = max((r["period_start"] for r in rows), default=evidence.switched_at) + period
    since, _ = spans(evidence.switched_at, newest, period)
    after, before = _compared(evidence, rows, since, first)
    if missing := _missing(evidence, since, after, before):
        return ConfigFinding(harm=missing, units=len(evidence.treated))
    look = last_look(evidence.switched_at, newest, period)
    if look is not None:
        seen = _compared(evidence, rows, look.span, first)
        if (harm := _harmed(evidence, *seen, look.level(evidence.looks))) is not None:
            return harm
    return _judged(evidence, after, before)


def _compared(
    evidence: ConfigEvidence, rows: list[dict[str, Any]], since: Span, first: Mapping[str, int]
) -> tuple[dict[str, UnitCounts], list[dict[str, UnitCounts]]]:
    """Counts of a span after the switch, and of those before it that it is compared with."""
    before = [_counts(evidence, rows, span, first) for span in earlier_days(evidence.switched_at, since)]
    if sum(any(c.windows >= MIN_WINDOWS for c in span.values()) for span in before) < FEWEST:
        nearer = just_before(evidence.switched_at, since)
        before = [_counts(evidence, rows, span, first) for span in nearer]
    return _counts(evidence, rows, since, first), before


def _counts(
    evidence: ConfigEvidence, rows: list[dict[str, Any]], span: Span, first: Mapping[str, int]
) -> dict[str, UnitCounts]:
    both = {**evidence.held, **evidence.treated}
    unit_of = {device: unit for unit, ids in both.items() for device in ids}
    windows = Counter[str]()
    alarms: dict[str, Counter[str]] = {unit: Counter() for unit in both}
    for row in rows:
        unit, feature = unit_of.get(row["device_id"]), row["feature"]
        within = span.start <= row["period_start"] < span.end
        if unit is not None and within and len(row["bin_counts"]) == len(SCORE_EDGES) + 1:
            windows[unit] += (row["n"] + row["n_missing"]) * (feature == PRIMARY)
            alarms[unit][feature] += sum(row["bin_counts"][first[feature] :]) if feature in first else 0
    return {unit: UnitCounts(windows[unit], max(alarms[unit].values(), default=0)) for unit in both}


def _harmed(
    evidence: ConfigEvidence,
    after: dict[str, UnitCounts],
    before: Sequence[dict[str, UnitCounts]],
    level: float,
) -> ConfigFinding | None:
    """The harm that a look shows at its level, half of it for all units and half for each; None: none."""
    bound, treated = evidence.settings.max_alarm_gain, sorted(evidence.treated)
    whole = _rise(treated, evidence.held, after, before)
    if whole is None:
        return None
    each = {u: found for u in treated if (found := _rise([u], evidence.held, after, before)) is not None}
    worse = [u for u, found in each.items() if found.least(level / 2 / max(len(each), 1)) > bound]
    if not worse and whole.least(level / 2) <= bound:
        return None
    at = f" at {', '.join(worse[:5])}" if worse else ""
    numbers = _numbers(whole, bound, each)
    about = _about(evidence, whole, bound)
    return ConfigFinding(harm=f"more alarms{at}: {about}", units=len(treated), numbers=numbers)


def _judged(
    evidence: ConfigEvidence, after: dict[str, UnitCounts], before: Sequence[dict[str, UnitCounts]]
) -> ConfigFinding:
    """Whether a rise is ruled out by what there is now."""
    bound, treated = evidence.settings.max_alarm_gain, sorted(evidence.treated)
    whole = _rise(treated, evidence.held, after, before)
    if whole is None:
        return ConfigFinding(open=f"fewer than {FEWEST} spans to compare with, or too few windows in them")
    each = {u: found for u in treated if (found := _rise([u], evidence.held, after, before)) is not None}
    about, numbers = _about(evidence, whole, bound), _numbers(whole, bound, each)
    is_shown = whole.end(SHOWN_P / evidence.looks) <= bound
    return ConfigFinding(open="" if is_shown else about, text=about, units=len(treated), numbers=numbers)


def _about(evidence: ConfigEvidence, whole: Rise, bound: float) -> str:
    return (
        f"alarms {whole.value:+.1%} of windows against {whole.spans} earlier spans"
        f"{' and held-out units' if evidence.held else ''}; allowed {bound:+.1%}"
    )


def _numbers(whole: Rise, bound: float, each: Mapping[str, Rise]) -> dict[str, object]:
    units = {unit: found.value for unit, found in each.items()}
    return {"rise": whole.value, "high": whole.end(SHOWN_P), "bound": bound, "units": units}


def _rise(
    units: Sequence[str],
    held: Iterable[str],
    after: Mapping[str, UnitCounts],
    before: Sequence[Mapping[str, UnitCounts]],
) -> Rise | None:
    """How far these units' share of alarms, less that of held-out ones, lies above earlier spans."""
    now = _beyond(units, held, after)
    known = [y for span in before if (y := _beyond(units, held, span)) is not None]
    if now is None or len(known) < FEWEST:
        return None
    return Rise(now - fmean(known), stdev(known) * math.sqrt(1 + 1 / len(known)), len(known))


def _beyond(units: Iterable[str], held: Iterable[str], counts: Mapping[str, UnitCounts]) -> float | None:
    treated = [share for u in units if (share := counts[u].share) is not None]
    others = [share for u in held if (share := counts[u].share) is not None]
    return fmean(treated) - (fmean(others) if others else 0.0) if treated else None


def _missing(
    evidence: ConfigEvidence,
    since: Span,
    after: Mapping[str, UnitCounts],
    before: Sequence[Mapping[str, UnitCounts]],
) -> str:
    """Treated units that send far fewer windows than before, in words; empty: none, or a single one of many.

    Time runs to the newest period of any device of the group: what has not landed yet lacks for all alike.
    """
    period_s, hop_s = evidence.profile.summaries.period_s, evidence.profile.sampling.hop_s
    span_s = (since.end - since.start).total_seconds()
    if span_s < max(period_s * 2, hop_s * MIN_WINDOWS):
        return ""
    bad = [
        unit
        for unit, ids in evidence.treated.items()
        if any(span[unit].windows >= MIN_WINDOWS for span in before)
        and after[unit].windows < (1 - MOST_MISSING) * len(ids) * (span_s / hop_s)
    ]
    if not bad or (len(bad) == 1 and len(evidence.treated) > 1):
        return ""
    return f"windows are missing since the switch at {', '.join(sorted(bad)[:5])}"

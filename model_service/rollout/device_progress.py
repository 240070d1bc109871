"""How far a device is in a rollout, from its reports in whatever order they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from model_service.rollout.observed import DeviceReport, DeviceStatus, PairedShadow
from schemas.channel_documents import Release
from schemas.updates import UpdateResult, UpdateState

LATE_SHARE = 0.2
"""Share of windows scored too late above which a device counts as harmed, if it was not so before."""
EXCUSED_ENDS = 1
"""Ends of the process, not in order, that are excused on each device; one more counts."""


class ProgressKind(StrEnum):
    """How far a device is."""

    UNREACHED = "unreached"
    """It did not take the offer, or could not fetch it yet: lowers the coverage, is no failure."""
    DEFERRED = "deferred"
    """It had no input, memory or time: no failure."""
    TRYING = "trying"
    COMMITTED = "committed"
    FAILED = "failed"
    """It restored its old set or failed to, refused the offer, or the new model crashed or was too slow."""
    SILENT = "silent"
    """It took the offer and has not reported for too long: counts as failed."""


@dataclass(frozen=True)
class DeviceProgress:
    """How far one device is, and how both models compare on its windows.

    Attributes:
        since: When the report that led to this kind arrived, UTC seconds; 0: there was no such report.
        why: Reason of the kind, for people.
        paired: Newest comparison of both models.
        first: First comparison of both models.
        labelled: Comparison on most windows that are known to be faulty.
        ends: Ends of the process that were not in order, since it accepted the rollout; None: its release
            does not say.
    """

    kind: ProgressKind
    since: float = 0.0
    why: str = ""
    paired: PairedShadow | None = None
    first: PairedShadow | None = None
    labelled: PairedShadow | None = None
    ends: int | None = None

    @property
    def is_excused(self) -> bool:
        """Whether its process ended without order, and that does not count against it by itself."""
        return self.ends == EXCUSED_ENDS and self.kind not in (ProgressKind.FAILED, ProgressKind.SILENT)


_UNDER_WAY = (
    UpdateState.FETCHING,
    UpdateState.VERIFIED,
    UpdateState.STAGED,
    UpdateState.TRIAL,
    UpdateState.COMMITTED,
    UpdateState.WATCH,
)
_WATCHED = (UpdateState.COMMITTED, UpdateState.WATCH)
"""The new set runs, its watch is not over: such a report may have the result ``committed`` already."""
_BY_STATE: dict[str, ProgressKind] = {
    **{state.value: ProgressKind.TRYING for state in _UNDER_WAY},
    UpdateState.RESTORING.value: ProgressKind.FAILED,
    UpdateState.RESTORED.value: ProgressKind.FAILED,
    UpdateState.INCONSISTENT.value: ProgressKind.FAILED,
    UpdateState.DEFERRED.value: ProgressKind.DEFERRED,
}
_BY_RESULT: dict[str, ProgressKind] = {
    UpdateResult.COMMITTED.value: ProgressKind.COMMITTED,
    UpdateResult.RESTORED.value: ProgressKind.FAILED,
    UpdateResult.NOT_RESTORED.value: ProgressKind.FAILED,
    UpdateResult.NO_CHANGE_REFUSED.value: ProgressKind.FAILED,
    UpdateResult.NO_CHANGE_DEFERRED.value: ProgressKind.DEFERRED,
    UpdateResult.NO_CHANGE_FAILED.value: ProgressKind.UNREACHED,
}


def device_progress(
    reports: Sequence[DeviceReport],
    status: DeviceStatus | None,
    target: Release,
    family: str,
    now: float,
    silent_s: float,
    *,
    health: bool = True,
) -> DeviceProgress:
    """How far a device is.

    Args:
        reports: Its reports about the rollout; any order, repeats allowed.
        status: Its newest report, whatever it is about.
        target: The release that it should run.
        family: Family of the target.
        now: UTC seconds.
        silent_s: How long a device that took the offer may go without a report.
        health: False: crashes and late windows are no failure (security rollouts).
    """
    # Step 1: the device's own account of its attempts, replayed in its own order.
    ordered = _reports_about(reports, target.version)
    kind, since, why = ProgressKind.UNREACHED, 0.0, "no report"
    for report in ordered:
        kind, since, why = _next(kind, since, why, report)
    pairs = [r.paired for r in ordered if r.paired is not None]
    first, paired = (pairs[0], max(pairs, key=lambda p: p.windows)) if pairs else (None, None)
    known = [p for p in pairs if p.labelled is not None]
    labelled = max(known, key=_labelled_windows) if known else None
    # Step 2: where a report was lost, its newest status shows what it runs.
    if status is not None and _runs_target(status, family, target, kind, since):
        kind, why = ProgressKind.COMMITTED, "runs it"
    # Step 3: silence after taking the offer. A report about anything else is a sign of life too.
    last_report = max(since, status.last_seen if status is not None else 0.0)
    if kind is ProgressKind.TRYING and now - last_report > silent_s:
        kind, why = ProgressKind.SILENT, f"silent for more than {silent_s:g} s after '{why}'"
    # Step 4: a model that runs but crashes, or scores too late, has failed all the same. So has one whose
    # trials end with the process: the device reports that as a change that failed.
    ends = unclean_ends(ordered)
    if health and kind in (ProgressKind.TRYING, ProgressKind.COMMITTED):
        harm = _harm(ordered, paired) or _ended(ordered, ends)
        kind, why = (ProgressKind.FAILED, harm) if harm else (kind, why)
    elif health and kind in (ProgressKind.UNREACHED, ProgressKind.DEFERRED):
        harm = _ended(ordered, ends)
        kind, why = (ProgressKind.FAILED, harm) if harm else (kind, why)
    return DeviceProgress(kind, since, why, paired, first, labelled, ends)


def unclean_ends(reports: Sequence[DeviceReport]) -> int | None:
    """Ends of a device's process that were not in order, by its reports on a rollout; None: none says."""
    return max((r.unclean_ends for r in reports if r.runtime), default=None)


def telling(reports: Sequence[DeviceReport], version: str) -> set[int]:
    """Numbers of a few reports that lead to the same progress as all of them, whatever is reported next.

    Args:
        reports: Of one device about one rollout; any order.
        version: Version that the device should run.
    """
    ordered = _reports_about(reports, version)
    kept: set[int] = {max((r.report_no for r in reports), default=0)}  # that there is one at all
    kind, steps = ProgressKind.UNREACHED, []
    for report in ordered:
        if (after := _after(kind, report)) is not None:
            kind = after
            steps.append((report.report_no, kind))
    # The last step decides. What it does depends on whether the device had failed or committed before it: the
    # one before it shows the first, and the last commit before both is what ends an earlier failure.
    kept |= {number for number, _ in steps[-2:]}
    commits = [number for number, step in steps[:-2] if step is ProgressKind.COMMITTED]
    kept |= set(commits[-1:])
    pairs = [r for r in ordered if r.paired is not None]
    kept |= {r.report_no for r in pairs[:1]}
    if pairs:
        kept.add(max(pairs, key=lambda r: 0 if r.paired is None else r.paired.windows).report_no)
        kept.add(max(pairs, key=lambda r: 0 if r.paired is None else _labelled_windows(r.paired)).report_no)
    if ordered:
        kept.add(max(ordered, key=lambda r: r.crashes).report_no)
        kept.add(max(ordered, key=lambda r: (bool(r.runtime), r.unclean_ends)).report_no)
        kept.add(max(ordered, key=lambda r: r.out_of_memory).report_no)
        kept.add(max(ordered, key=lambda r: bool(r.attempted)).report_no)
    return kept


def condensed(reports: Sequence[DeviceReport], version: str, newest: int) -> list[DeviceReport]:
    """The newest reports of a device on a rollout, and of the older ones those that its progress needs."""
    ordered = sorted(reports, key=lambda r: r.report_no)
    older = ordered[:-newest]
    kept = telling(older, version)
    return [r for r in older if r.report_no in kept] + ordered[-newest:]


def _reports_about(reports: Sequence[DeviceReport], version: str) -> list[DeviceReport]:
    """Reports about the version, each once, in the device's own order."""
    by_number = {r.report_no: r for r in reports if r.attempted in ("", version)}
    return [by_number[n] for n in sorted(by_number)]


def _next(
    kind: ProgressKind, since: float, why: str, report: DeviceReport
) -> tuple[ProgressKind, float, str]:
    """Kind, its start and its reason after one more report; a commit lasts since its first report."""
    after = _after(kind, report)
    if after is None or after is kind is ProgressKind.COMMITTED:
        return kind, since, why
    return after, report.at, _reason(report)


def _after(kind: ProgressKind, report: DeviceReport) -> ProgressKind | None:
    """The kind that a report leads to; None: it changes nothing. A failure lasts until the device commits.

    A report without an attempted version repeats how the last attempt ended, whichever that was; only a
    refusal is about the channel document itself.
    """
    refused = report.result == UpdateResult.NO_CHANGE_REFUSED
    if (not report.attempted and not refused) or (refused and kind is ProgressKind.COMMITTED):
        return None  # refusing something else later does not undo a commit
    if report.state in _WATCHED:
        return None if kind is ProgressKind.FAILED else ProgressKind.TRYING  # it runs, and may still restore
    found = _BY_RESULT.get(report.result) or _BY_STATE.get(report.state)
    return None if kind is ProgressKind.FAILED and found is not ProgressKind.COMMITTED else found


def _reason(report: DeviceReport) -> str:
    outcome = report.result or report.state
    more = ", ".join(part for part in (report.attack, report.detail) if part)
    return f"{outcome}: {more}" if more else outcome


def _runs_target(
    status: DeviceStatus, family: str, target: Release, kind: ProgressKind, since: float
) -> bool:
    """Whether its status shows that it runs the target, though no report about this rollout does."""
    if status.installed.get(family) != target:
        return False
    if kind is ProgressKind.TRYING:
        return status.last_seen > since and status.state == UpdateState.IDLE
    return kind in (ProgressKind.UNREACHED, ProgressKind.DEFERRED) and status.state not in _UNDER_WAY


def _harm(ordered: Sequence[DeviceReport], paired: PairedShadow | None) -> str:
    crashes = max((r.crashes for r in ordered), default=0)
    if crashes:
        return f"the new model crashed {crashes} times"
    late = 0 if paired is None else paired.late - (paired.old_took[-1] if paired.old_took else 0)
    if paired is not None and late >= 2 and late > LATE_SHARE * paired.windows:
        return f"{late} of {paired.windows} windows were scored too late"
    return ""


def _ended(ordered: Sequence[DeviceReport], unclean: int | None) -> str:
    """Why ends of the process count against the model; empty: they do not. One is excused."""
    hits, ends = max((r.out_of_memory for r in ordered), default=0), unclean or 0
    if not (hits or ends) or not any(r.attempted for r in ordered):
        return ""  # nothing ended, or the new model was not tried
    if hits:
        return f"its process ended {_times(hits)} by a resource limit"
    return f"its process ended {_times(ends)} without order; one is excused" if ends > EXCUSED_ENDS else ""


def _times(n: int) -> str:
    return "once" if n == 1 else f"{n} times"


def _labelled_windows(pair: PairedShadow) -> int:
    return 0 if pair.labelled is None else pair.labelled.windows

"""Where each device stands in a rollout, from its reports in whatever order they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from model_service.rollout.observed import DeviceReport, DeviceStatus, PairedShadow
from schemas.channel_documents import Release
from schemas.updates import UpdateResult, UpdateState

LATE_SHARE = 0.2
"""Share of windows scored too late above which a device counts as harmed."""


class ProgressKind(StrEnum):
    """Where a device stands."""

    UNREACHED = "unreached"
    """It did not take the offer, or could not fetch it yet: bounds coverage, no failure."""
    DEFERRED = "deferred"
    """It had no input, memory or time: no failure."""
    TRYING = "trying"
    COMMITTED = "committed"
    FAILED = "failed"
    """It restored, could not restore, refused, or the new model crashed or was too slow."""
    SILENT = "silent"
    """It took the offer and said nothing for too long: counts as failed."""


@dataclass(frozen=True)
class DeviceProgress:
    """One device's place.

    Attributes:
        since: When the report came that put it there, UTC seconds; 0: no report did.
        why: For people.
        paired: Newest comparison of both models on its windows.
        first: The first one.
    """

    kind: ProgressKind
    since: float = 0.0
    why: str = ""
    paired: PairedShadow | None = None
    first: PairedShadow | None = None


_UNDER_WAY = (
    UpdateState.FETCHING,
    UpdateState.VERIFIED,
    UpdateState.STAGED,
    UpdateState.TRIAL,
    UpdateState.COMMITTED,
    UpdateState.WATCH,
)
_WATCHED = (UpdateState.COMMITTED, UpdateState.WATCH)
"""The new set runs, its watch is not over: such a report may say ``committed`` already."""
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
    told: Sequence[DeviceReport],
    status: DeviceStatus | None,
    target: Release,
    family: str,
    now: float,
    silent_s: float,
    *,
    health: bool = True,
) -> DeviceProgress:
    """Where a device stands.

    Args:
        told: Its reports about the rollout; any order, repeats allowed.
        status: What it said last, about anything.
        target: What it should come to run.
        family: Of the target.
        now: UTC seconds.
        silent_s: How long a device that took the offer may say nothing.
        health: False: crashes and late windows are no failure (security rollouts).
    """
    ordered = _about(told, target.version)
    kind, since, why = ProgressKind.UNREACHED, 0.0, "no report"
    for report in ordered:
        kind, since, why = _next(kind, since, why, report)
    pairs = [r.paired for r in ordered if r.paired is not None]
    paired = max(pairs, key=lambda p: p.windows, default=None)
    first = pairs[0] if pairs else None
    if status is not None and _settled_on(status, family, target, kind, since):
        kind, why = ProgressKind.COMMITTED, "runs it"
    heard = max(since, status.last_seen if status is not None else 0.0)
    if kind is ProgressKind.TRYING and now - heard > silent_s:
        kind, why = ProgressKind.SILENT, f"silent for more than {silent_s:g} s after '{why}'"
    if health and kind in (ProgressKind.TRYING, ProgressKind.COMMITTED) and (harm := _harm(ordered, paired)):
        kind, why = ProgressKind.FAILED, harm
    return DeviceProgress(kind, since, why, paired, first)


def _about(told: Sequence[DeviceReport], version: str) -> list[DeviceReport]:
    """Reports about the version, each once, in the device's own order."""
    by_number = {r.report_no: r for r in told if r.attempted in ("", version)}
    return [by_number[n] for n in sorted(by_number)]


def _next(
    kind: ProgressKind, since: float, why: str, report: DeviceReport
) -> tuple[ProgressKind, float, str]:
    """One report further."""
    after = _after(kind, report)
    return (kind, since, why) if after is None else (after, report.at, _told(report))


def _after(kind: ProgressKind, report: DeviceReport) -> ProgressKind | None:
    """What a report makes of a device; None: nothing. A failure lasts until the device commits after all.

    A report that is about no attempt says how the last one ended, whichever that was; only a refusal is
    about the channel itself.
    """
    refused = report.result == UpdateResult.NO_CHANGE_REFUSED
    if (not report.attempted and not refused) or (refused and kind is ProgressKind.COMMITTED):
        return None  # refusing something else later does not undo a commit
    if report.state in _WATCHED:
        return None if kind is ProgressKind.FAILED else ProgressKind.TRYING  # it runs, and may still restore
    found = _BY_RESULT.get(report.result) or _BY_STATE.get(report.state)
    return None if kind is ProgressKind.FAILED and found is not ProgressKind.COMMITTED else found


def _told(report: DeviceReport) -> str:
    said = report.result or report.state
    more = ", ".join(part for part in (report.attack, report.detail) if part)
    return f"{said}: {more}" if more else said


def _settled_on(status: DeviceStatus, family: str, target: Release, kind: ProgressKind, since: float) -> bool:
    """Whether it runs the target though no report about this rollout says that it committed."""
    if status.installed.get(family) != target:
        return False
    if kind is ProgressKind.TRYING:
        return status.last_seen > since and status.state == UpdateState.IDLE
    return kind in (ProgressKind.UNREACHED, ProgressKind.DEFERRED) and status.state not in _UNDER_WAY


def _harm(ordered: Sequence[DeviceReport], paired: PairedShadow | None) -> str:
    crashes = max((r.crashes for r in ordered), default=0)
    if crashes:
        return f"the new model crashed {crashes} times"
    if paired is not None and paired.late >= 2 and paired.late > LATE_SHARE * paired.windows:
        return f"{paired.late} of {paired.windows} windows were scored too late"
    return ""

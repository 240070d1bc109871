"""Where each device stands in a rollout, from its reports in whatever order they came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from model_service.rollout.observed import Paired, Status, Told
from schemas.channels import Release
from schemas.updates import Result, UpdateState

LATE_SHARE = 0.2
"""Share of windows scored too late above which a device counts as harmed."""


class Kind(StrEnum):
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
class Standing:
    """One device's place.

    Attributes:
        since: When the report came that put it there, UTC seconds; 0: no report did.
        why: For people.
        paired: Newest comparison of both models on its windows.
        first: The first one.
    """

    kind: Kind
    since: float = 0.0
    why: str = ""
    paired: Paired | None = None
    first: Paired | None = None


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
_BY_STATE: dict[str, Kind] = {
    **{state.value: Kind.TRYING for state in _UNDER_WAY},
    UpdateState.RESTORING.value: Kind.FAILED,
    UpdateState.RESTORED.value: Kind.FAILED,
    UpdateState.INCONSISTENT.value: Kind.FAILED,
    UpdateState.DEFERRED.value: Kind.DEFERRED,
}
_BY_RESULT: dict[str, Kind] = {
    Result.COMMITTED.value: Kind.COMMITTED,
    Result.RESTORED.value: Kind.FAILED,
    Result.NOT_RESTORED.value: Kind.FAILED,
    Result.NO_CHANGE_REFUSED.value: Kind.FAILED,
    Result.NO_CHANGE_DEFERRED.value: Kind.DEFERRED,
    Result.NO_CHANGE_FAILED.value: Kind.UNREACHED,
}


def standing(
    told: Sequence[Told],
    status: Status | None,
    target: Release,
    family: str,
    now: float,
    silent_s: float,
    *,
    health: bool = True,
) -> Standing:
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
    kind, since, why = Kind.UNREACHED, 0.0, "no report"
    for report in ordered:
        kind, since, why = _next(kind, since, why, report)
    pairs = [r.paired for r in ordered if r.paired is not None]
    paired = max(pairs, key=lambda p: p.windows, default=None)
    first = pairs[0] if pairs else None
    if status is not None and _settled_on(status, family, target, kind, since):
        kind, why = Kind.COMMITTED, "runs it"
    heard = max(since, status.last_seen if status is not None else 0.0)
    if kind is Kind.TRYING and now - heard > silent_s:
        kind, why = Kind.SILENT, f"silent for more than {silent_s:g} s after '{why}'"
    if health and kind in (Kind.TRYING, Kind.COMMITTED) and (harm := _harm(ordered, paired)):
        kind, why = Kind.FAILED, harm
    return Standing(kind, since, why, paired, first)


def _about(told: Sequence[Told], version: str) -> list[Told]:
    """Reports about the version, each once, in the device's own order."""
    by_number = {r.report_no: r for r in told if r.attempted in ("", version)}
    return [by_number[n] for n in sorted(by_number)]


def _next(kind: Kind, since: float, why: str, report: Told) -> tuple[Kind, float, str]:
    """One report further."""
    after = _after(kind, report)
    return (kind, since, why) if after is None else (after, report.at, _told(report))


def _after(kind: Kind, report: Told) -> Kind | None:
    """What a report makes of a device; None: nothing. A failure lasts until the device commits after all.

    A report that is about no attempt says how the last one ended, whichever that was; only a refusal is
    about the channel itself.
    """
    refused = report.result == Result.NO_CHANGE_REFUSED
    if (not report.attempted and not refused) or (refused and kind is Kind.COMMITTED):
        return None  # refusing something else later does not undo a commit
    if report.state in _WATCHED:
        return None if kind is Kind.FAILED else Kind.TRYING  # it runs, and may still restore
    found = _BY_RESULT.get(report.result) or _BY_STATE.get(report.state)
    return None if kind is Kind.FAILED and found is not Kind.COMMITTED else found


def _told(report: Told) -> str:
    said = report.result or report.state
    more = ", ".join(part for part in (report.attack, report.detail) if part)
    return f"{said}: {more}" if more else said


def _settled_on(status: Status, family: str, target: Release, kind: Kind, since: float) -> bool:
    """Whether it runs the target though no report about this rollout says that it committed."""
    if status.installed.get(family) != target:
        return False
    if kind is Kind.TRYING:
        return status.last_seen > since and status.state == UpdateState.IDLE
    return kind in (Kind.UNREACHED, Kind.DEFERRED) and status.state not in _UNDER_WAY


def _harm(ordered: Sequence[Told], paired: Paired | None) -> str:
    crashes = max((r.crashes for r in ordered), default=0)
    if crashes:
        return f"the new model crashed {crashes} times"
    if paired is not None and paired.late >= 2 and paired.late > LATE_SHARE * paired.windows:
        return f"{paired.late} of {paired.windows} windows were scored too late"
    return ""

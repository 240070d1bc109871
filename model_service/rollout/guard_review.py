"""The guard evaluator's examination of a proposed broad channel: pure, from what the guard read itself.

It trusts neither the engine's evidence nor its judgement: of the engine's record it takes what the published
canary document, the policy, the profile and raw reports confirm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import judge
from model_service.rollout.return_to_baseline import is_blocked
from model_service.rollout.rollout_record import ENDED, RolloutRecord
from schemas.channel_documents import BROAD, ChannelDocument, Release
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy

_LATE_S = 86400.0
"""A proposal may wait for the guard for so long: it may have been down."""


@dataclass(frozen=True)
class GuardFacts:
    """What the guard found out by itself.

    Attributes:
        settings: The profile's ``[rollout]``.
        release: The candidate as published and signed by trainer and gate; None: it is not.
        gates_failed: Gates that the candidate did not pass; None: no verdict is stored.
        completed: What the group's last completed rollout before this one made target.
        canary: Newest published canary document of this rollout.
        broad: Newest published broad document of this rollout.
        in_force: Newest published broad document of the group, whichever rollout's.
        lifetime_s: Longest life of a channel document.
        highest: Highest seq published for the group.
        phase_out_at: When the phase before came out, UTC seconds; None: it did not.
        waived: Phases whose missing evidence an approver accepted, from the commands themselves.
        aborted: Whether the rollout is aborting.
    """

    settings: RolloutPolicy
    release: Release | None
    gates_failed: tuple[str, ...] | None
    completed: Mapping[str, Release]
    canary: ChannelDocument | None
    broad: ChannelDocument | None
    in_force: ChannelDocument | None
    lifetime_s: float
    highest: int
    phase_out_at: float | None
    waived: tuple[int, ...]
    aborted: bool


class GuardRuling(NamedTuple):
    """What the guard does about a proposal.

    Attributes:
        answer: ``wait``: not yet; it is looked at again.
        reason: Why not ``sign``.
    """

    answer: Literal["sign", "wait", "refuse"]
    reason: str = ""


def examine(
    channel: ChannelDocument, phase: int, record: RolloutRecord, facts: GuardFacts, seen: Observed, now: float
) -> GuardRuling:
    """Whether the guard countersigns.

    Args:
        channel: The proposed document.
        phase: Phase that it is said to open.
        record: The engine's record.
        facts: What the guard found out by itself.
        seen: Devices and raw reports, as the guard read them.
        now: UTC seconds.
    """
    again = _says_again(channel, facts.in_force)
    rules = [_belongs(channel, record, facts, again=again), _dated(channel, facts, now)]
    if not again:
        rules.append(_baseline(channel, record, facts))
    if again:
        pass  # what is published already was examined when it was new
    elif channel.reason == "rollback":
        rules.append(_rollback(channel, facts, record, seen))
    else:
        rules += [_target(channel, record, facts, seen), _cohort(channel, phase, record, facts)]
    for broken in rules:
        for holds, reason in broken:
            if not holds:
                return GuardRuling("refuse", reason)
    if again or channel.reason == "rollback":
        return GuardRuling("sign")
    return _evidence(phase, record, facts, seen, now)


Rules = list[tuple[bool, str]]
"""What must hold, each with what is said where it does not."""


def _says_again(channel: ChannelDocument, in_force: ChannelDocument | None) -> bool:
    """Whether it is the published instruction with another seq and date."""
    if in_force is None:
        return False
    dates = {"seq": channel.seq, "issued": channel.issued, "expires": channel.expires}
    return in_force.model_copy(update=dates) == channel


def _dated(channel: ChannelDocument, facts: GuardFacts, now: float) -> Rules:
    life_s = (channel.expires - channel.issued).total_seconds()
    return [
        (abs(channel.issued.timestamp() - now) < _LATE_S, f"it was issued at {channel.issued}"),
        (life_s <= facts.lifetime_s, f"it would live for {life_s:.0f} s; allowed {facts.lifetime_s:.0f}"),
    ]


def _belongs(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts, *, again: bool) -> Rules:
    mine = (channel.group, channel.rollout_id) == (record.group, record.rollout_id)
    return [
        (channel.ring == BROAD, f"ring {channel.ring} is not the guard's"),
        (mine, f"it belongs to rollout {channel.rollout_id} of {channel.group}"),
        (again or record.state not in ENDED, f"the rollout is {record.state}"),
        (channel.seq > facts.highest, f"seq {channel.seq} is not above {facts.highest}, which is published"),
    ]


def _baseline(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts) -> Rules:
    """Whether everybody else stays on what the group's last completed rollout gave it, or on factory sets."""
    rules = [(channel.baseline == record.baseline, "the baseline is not the one that the rollout began with")]
    for family, release in channel.baseline.items():
        completed = facts.completed.get(family)
        factory = release.sha256 is None and release.major == 0
        rules.append(
            (
                release == completed if completed is not None else factory,
                f"the baseline {release.version} was neither completed last nor is it a factory set",
            )
        )
    return rules


def _rollback(channel: ChannelDocument, facts: GuardFacts, record: RolloutRecord, seen: Observed) -> Rules:
    blocked = is_blocked(record, seen.floors)
    everybody = (channel.cohort, channel.holdout) == (EVERYBODY, NOBODY)
    return [
        (facts.aborted, "a way back is proposed, but the rollout is not aborting"),
        (channel.target == channel.baseline, "a way back must lead to the baseline"),
        (everybody, "a way back is for everybody"),
        (not blocked, blocked),
    ]


def _target(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts, seen: Observed) -> Rules:
    wanted = channel.target.get(record.family)
    digest = "none" if wanted is None or wanted.sha256 is None else wanted.sha256[:12]
    failed = facts.gates_failed
    changed = {**channel.target, **{f: r for f, r in channel.baseline.items() if f != record.family}}
    return [
        (
            wanted is not None and wanted == facts.release,
            f"target {record.version} with digest {digest} is not published by trainer and gate",
        ),
        (changed == channel.target, f"the target changes more than {record.family}"),
        (failed is not None, f"no gate's verdict on {record.version} is stored"),
        (not failed, f"{record.version} did not pass {', '.join(failed or ())}"),
        (
            wanted is not None and wanted.major >= seen.floors.get(record.family, 0),
            f"{record.version} lies below the floor of the signed policy",
        ),
        (
            (channel.reason == "security") == record.security,
            f"reason {channel.reason} is not that of the rollout",
        ),
    ]


def _cohort(channel: ChannelDocument, phase: int, record: RolloutRecord, facts: GuardFacts) -> Rules:
    before = facts.broad or facts.canary
    if before is None:
        return [(False, "no canary of this rollout was ever published")]
    due = phase == record.phase and 1 <= phase <= record.last_phase
    planned = record.cohort(phase) if due else NOBODY
    holds = channel.cohort.salt == before.cohort.salt and channel.cohort.share >= before.cohort.share
    held = NOBODY if due and phase > record.last_soaking else before.holdout
    mine, last = _told(channel.cohort), _told(before.cohort)
    return [
        (record.settings == facts.settings, "the profile's [rollout] changed since the rollout began"),
        (due, f"phase {phase} is not the rollout's next"),
        (channel.cohort == planned, f"the cohort ({mine}) is not that of phase {phase} ({_told(planned)})"),
        (holds, f"the cohort ({mine}) does not hold the one before ({last})"),
        (channel.holdout == held, f"the holdout is {_told(channel.holdout)}, not {_told(held)}"),
    ]


def _evidence(
    phase: int, record: RolloutRecord, facts: GuardFacts, seen: Observed, now: float
) -> GuardRuling:
    """Whether the phase before is passed by the guard's own computation."""
    if facts.phase_out_at is None:
        return GuardRuling("refuse", f"phase {phase - 1} was never published")
    own = record.model_copy(update={"phase": phase - 1, "waived": facts.waived})
    found = judge(own, phase - 1, facts.phase_out_at, seen, now).decision
    if found.answer == "promote":
        return GuardRuling("sign")
    if found.answer == "wait":
        return GuardRuling("wait", f"phase {phase - 1}: devices are still at it, or the soak is not over")
    return GuardRuling("refuse", f"phase {phase - 1} is not passed: {found.reason}")


def _told(cohort: SaltedShare) -> str:
    ids = f" and {len(cohort.devices)} ids" if cohort.devices else ""
    return f"share {cohort.share:.3g} of salt {cohort.salt or 'none'}{ids}"

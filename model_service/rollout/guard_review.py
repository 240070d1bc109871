"""The guard evaluator's examination of a proposed broad channel document. Pure.

It trusts neither the engine's evidence nor its judgement: of the engine's record it accepts only what the
published canary document, the policy, the profile and raw reports confirm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from model_service.rollout.observed import Observed
from model_service.rollout.phase_judge import judge
from model_service.rollout.return_to_baseline import is_blocked
from model_service.rollout.rollout_record import CONFIG, ENDED, RolloutRecord
from schemas.channel_documents import BROAD, ChannelDocument, Release
from schemas.cohorts import EVERYBODY, NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy

_LATE_S = 86400.0
"""How long a proposal may wait, because the guard may have been down; seconds."""


@dataclass(frozen=True)
class GuardFacts:
    """What the guard has read by itself.

    Attributes:
        settings: The profile's ``[rollout]``.
        release: The candidate as published and signed by trainer and gate; None: it is not.
        gates_failed: Gates that the candidate did not pass; None: no verdict is stored.
        completed: By family, the target of the group's last completed rollout before this one.
        canary: Newest published canary document of this rollout.
        broad: Newest published broad document of this rollout.
        in_force: Newest published broad document of the group, of whichever rollout.
        lifetime_s: Longest life of a channel document.
        highest_seq: Highest seq published for the group.
        published_at: When the document of the previous phase was published, UTC seconds; None: it was not.
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
    highest_seq: int
    published_at: float | None
    waived: tuple[int, ...]
    aborted: bool


class GuardRuling(NamedTuple):
    """What the guard does about a proposal.

    Attributes:
        answer: ``wait``: it cannot be decided yet and is examined again.
        reason: Why the answer is not ``sign``.
    """

    answer: Literal["sign", "wait", "refuse"]
    reason: str = ""


def examine(
    channel: ChannelDocument,
    phase: int,
    record: RolloutRecord,
    facts: GuardFacts,
    observed: Observed,
    now: float,
) -> GuardRuling:
    """Whether the guard countersigns.

    Args:
        channel: The proposed document.
        phase: Phase that it opens, according to the engine.
        record: The engine's record.
        facts: What the guard has read by itself.
        observed: Devices and raw reports, as the guard read them.
        now: UTC seconds.
    """
    renewal = _is_renewal(channel, facts.in_force)
    # Obligation 1: the document is of this rollout, new, and of bounded life.
    rules = [_belongs(channel, record, facts, renewal=renewal), _dated(channel, facts, now)]
    # Obligation 2: devices outside its cohort stay on what they completed last.
    if not renewal:
        rules.append(_baseline(channel, record, facts))
    # Obligation 3: target and cohort are those of the next phase, or of a permitted rollback.
    if renewal:
        pass  # the same content was examined when it was new
    elif channel.reason == "rollback":
        rules.append(_rollback(channel, facts, record, observed))
    else:
        rules += [_target(channel, record, facts, observed), _cohort(channel, phase, record, facts, observed)]
    for group in rules:
        for holds, reason in group:
            if not holds:
                return GuardRuling("refuse", reason)
    # Obligation 4: raw reports show that the previous phase has passed.
    if renewal or channel.reason == "rollback":
        return GuardRuling("sign")
    return _evidence(phase, record, facts, observed, now)


Rules = list[tuple[bool, str]]
"""Conditions that must hold, each with the reason of the refusal where it does not."""


def _is_renewal(channel: ChannelDocument, in_force: ChannelDocument | None) -> bool:
    """Whether it is the document in force with nothing but another seq and other dates."""
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


def _belongs(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts, *, renewal: bool) -> Rules:
    mine = (channel.group, channel.rollout_id) == (record.group, record.rollout_id)
    return [
        (channel.ring == BROAD, f"ring {channel.ring} is not the guard's"),
        (mine, f"it belongs to rollout {channel.rollout_id} of {channel.group}"),
        (renewal or record.state not in ENDED, f"the rollout is {record.state}"),
        (
            channel.seq > facts.highest_seq,
            f"seq {channel.seq} is not above {facts.highest_seq}, which is published",
        ),
    ]


def _baseline(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts) -> Rules:
    """Whether everybody else stays on the target of the last completed rollout, or on the factory set."""
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


def _rollback(
    channel: ChannelDocument, facts: GuardFacts, record: RolloutRecord, observed: Observed
) -> Rules:
    blocked = is_blocked(record, observed.floors)
    everybody = (channel.cohort, channel.holdout) == (EVERYBODY, NOBODY)
    return [
        (facts.aborted, "a rollback is proposed, but the rollout is not aborting"),
        (channel.target == channel.baseline, "a rollback must lead to the baseline"),
        (everybody, "a rollback must be for everybody"),
        (not blocked, blocked),
    ]


def _target(channel: ChannelDocument, record: RolloutRecord, facts: GuardFacts, observed: Observed) -> Rules:
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
            wanted is not None and wanted.major >= observed.floors.get(record.family, 0),
            f"{record.version} lies below the floor of the signed policy",
        ),
        (
            (channel.reason == "security") == record.security,
            f"reason {channel.reason} is not that of the rollout",
        ),
    ]


def _cohort(
    channel: ChannelDocument, phase: int, record: RolloutRecord, facts: GuardFacts, observed: Observed
) -> Rules:
    if record.kind == CONFIG:
        return _config_cohort(channel, phase, record, facts, observed)
    before = facts.broad or facts.canary
    if before is None:
        return [(False, "no canary document of this rollout was ever published")]
    due = phase == record.phase and 1 <= phase <= record.last_phase
    planned = record.cohort(phase) if due else NOBODY
    # Cohorts of one salt are nested: the larger share holds every device of the smaller one.
    holds = channel.cohort.salt == before.cohort.salt and channel.cohort.share >= before.cohort.share
    held = NOBODY if due and phase > record.last_soaking else before.holdout
    proposed, last = _described(channel.cohort), _described(before.cohort)
    return [
        (record.settings == facts.settings, "the profile's [rollout] changed since the rollout began"),
        (due, f"phase {phase} is not the rollout's next"),
        (
            channel.cohort == planned,
            f"the cohort ({proposed}) is not that of phase {phase} ({_described(planned)})",
        ),
        (holds, f"the cohort ({proposed}) does not hold the one before ({last})"),
        (channel.holdout == held, f"the holdout is {_described(channel.holdout)}, not {_described(held)}"),
    ]


def _config_cohort(
    channel: ChannelDocument, phase: int, record: RolloutRecord, facts: GuardFacts, observed: Observed
) -> Rules:
    """As ``_cohort``: every phase of a configuration is of the broad ring, and treats whole sites."""
    before = facts.broad
    due = phase == record.phase and 0 <= phase <= record.last_phase and (before is not None or phase == 0)
    planned = record.cohort(phase) if due else NOBODY
    proposed, cohort = _described(channel.cohort), channel.cohort
    last = NOBODY if before is None else before.cohort
    holds = cohort.share >= last.share and (cohort.share >= 1 or set(last.devices) <= set(cohort.devices))
    torn = [
        site
        for site, ids in record.units.items()
        if any(d in observed.members and observed.members[d].site != site for d in ids)
    ]
    return [
        (record.settings == facts.settings, "the profile's [rollout] changed since the rollout began"),
        (due, f"phase {phase} is not the rollout's next"),
        (
            cohort == planned,
            f"the cohort ({proposed}) is not that of phase {phase} ({_described(planned)})",
        ),
        (holds, f"the cohort ({proposed}) does not hold the one before ({_described(last)})"),
        (channel.holdout == record.held_out(phase), f"the holdout is {_described(channel.holdout)}"),
        (not torn, f"devices of other sites stand among those of {', '.join(torn[:3])}"),
    ]


def _evidence(
    phase: int, record: RolloutRecord, facts: GuardFacts, observed: Observed, now: float
) -> GuardRuling:
    """Whether the previous phase has passed by the guard's own computation."""
    if record.kind == CONFIG and phase == 0:
        return GuardRuling("sign")  # nothing was to be shown before
    if facts.published_at is None:
        return GuardRuling("refuse", f"phase {phase - 1} was never published")
    own = record.model_copy(update={"waived": facts.waived})
    found = judge(own, phase - 1, facts.published_at, observed, now).decision
    if found.answer == "promote":
        return GuardRuling("sign")
    if found.answer == "wait":
        return GuardRuling("wait", f"phase {phase - 1}: devices are still trying, or the soak is not over")
    return GuardRuling("refuse", f"phase {phase - 1} has not passed: {found.reason}")


def _described(cohort: SaltedShare) -> str:
    ids = f" and {len(cohort.devices)} ids" if cohort.devices else ""
    return f"share {cohort.share:.3g} of salt {cohort.salt or 'none'}{ids}"

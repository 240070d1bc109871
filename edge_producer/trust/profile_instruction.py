"""Decides which version of its profile a device should run, from verified documents and facts. Pure.

The document's own signature, the role's keys and the bounds are verified before (``verifier``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from schemas.errors import ProfileError, ProfileVersionError, TrustError
from schemas.profile import Profile
from schemas.profile_bounds import ProfileBounds
from schemas.profile_changes import Scored, judge
from schemas.profile_channel import ProfileChannel, WantedVersion
from schemas.profile_statement import SignedVersion, VersionKey, VersionStatement, verified
from schemas.profile_versions import ProfileVersion
from schemas.updates import Attack


@dataclass(frozen=True)
class ProfileFacts:
    """What a device knows about its profile.

    Attributes:
        profile: What it runs now.
        number: Its number; 0: a file that it was started with.
        highest_seq: Highest document on profiles that it ever accepted; 0 for none.
        floor: Number below which it does not go back: the highest that its whole group was told to run.
        generators: Simulated sources that this program has.
    """

    device_id: str
    group: str
    profile: Profile
    number: int
    highest_seq: int
    floor: int
    generators: frozenset[str]


@dataclass(frozen=True)
class VersionRules:
    """What versions are verified by.

    Attributes:
        keys: Keys that may sign, by id, as verified targets metadata lists them.
        bounds: All that the device knows, the newest first.
        scored: Scores the golden windows of the model in force, for a change of ranges; None: none are there.
    """

    keys: Mapping[str, VersionKey]
    bounds: Sequence[ProfileBounds]
    scored: Scored | None = None


@dataclass(frozen=True)
class ProfileInstruction:
    """What to run.

    Attributes:
        version: Start a new boot under it; None: go on.
        floor: The device's floor from now on.
        told: What the document wants of it, running or not; None: what it runs already, whatever that is.
    """

    version: ProfileVersion | None
    floor: int
    told: ProfileVersion | None = None


def decide_profile(
    channel: ProfileChannel,
    versions: Sequence[SignedVersion],
    facts: ProfileFacts,
    rules: VersionRules,
    now: datetime,
) -> ProfileInstruction:
    """The instruction in force. A refusal never stops what runs.

    Args:
        channel: The newest document of the device's group.
        versions: The wanted version, and those that it follows, from a signature of the policy role on.
        facts: About the device.
        rules: What versions are verified by.
        now: Trusted time.

    Raises:
        TrustError: A check failed; it names the likely attack, and nothing must change.
    """
    if channel.group != facts.group:
        raise TrustError(f"a document on profiles is of group {channel.group}", Attack.MIX_AND_MATCH)
    if now >= channel.expires:
        raise TrustError(
            f"document {channel.seq} on profiles expired at {channel.expires:%Y-%m-%d %H:%M}", Attack.FREEZE
        )
    if channel.seq < facts.highest_seq:
        raise TrustError(
            f"document {channel.seq} on profiles came after {facts.highest_seq}", Attack.REPLAYED_CHANNEL
        )
    wanted = channel.profiles.get(facts.profile.name)
    statement = None if wanted is None else wanted.for_device(facts.device_id)
    if wanted is None or statement is None:
        return ProfileInstruction(None, facts.floor)
    _check_statement(statement, wanted, facts)
    floor = max(facts.floor, statement.number if wanted.is_settled else 0)
    found = _verified(statement, versions, rules)
    if found.number == facts.number and found.profile == facts.profile:
        return ProfileInstruction(None, floor, found)
    _check_fit(found, facts, rules.scored)
    return ProfileInstruction(found, floor, found)


def _check_statement(statement: VersionStatement, wanted: WantedVersion, facts: ProfileFacts) -> None:
    """Check group, floor and number: an operator's signature alone does not say where and when."""
    named = statement.version
    if facts.group not in statement.groups:
        groups = ", ".join(statement.groups)
        raise TrustError(f"{named} was signed for {groups}, not for {facts.group}", Attack.MIX_AND_MATCH)
    if statement.number < facts.floor:
        raise TrustError(f"{named} lies below {facts.floor}, which the group runs", Attack.BELOW_FLOOR)
    if statement.number < facts.number and statement != wanted.baseline:
        raise TrustError(f"{named} came after {facts.number}: numbers only rise", Attack.REPLAYED_CHANNEL)


def _verified(
    statement: VersionStatement, versions: Sequence[SignedVersion], rules: VersionRules
) -> ProfileVersion:
    """The version that the document names, if who must has signed it and all that it follows."""
    before: ProfileVersion | None = None
    for signed in sorted(versions, key=lambda v: v.statement.number):
        if signed.statement.name != statement.name or signed.statement.number > statement.number:
            continue
        try:
            found = verified(signed, rules.keys, before, rules.bounds)
            if before is not None and "policy" not in signed.signed_by(rules.keys):
                _within_newest(before, found, rules)
        except (ProfileVersionError, ProfileError) as exc:
            raise TrustError(str(exc), Attack.UNSIGNED_INSTRUCTION) from exc
        if signed.statement == statement:
            return found
        before = found
    raise TrustError(f"{statement.version} was named, but not sent", Attack.MIX_AND_MATCH)


def _within_newest(before: ProfileVersion, found: ProfileVersion, rules: VersionRules) -> None:
    """Bounds that the policy role has narrowed since hold as well."""
    newest = max(rules.bounds, key=lambda b: b.seq)
    verdict = judge(before.profile, found.profile, newest, rules.scored)
    if verdict.authority == "policy":
        raise ProfileVersionError(f"the policy role must sign {found.name}: {'; '.join(verdict.reasons)}")


def _check_fit(found: ProfileVersion, facts: ProfileFacts, scored: Scored | None) -> None:
    """Check that the model in force, and this program, can run it."""
    verdict = judge(facts.profile, found.profile, scored=scored)
    if not verdict.compatible:
        raise TrustError(
            f"{found.name} does not fit what the device runs: {'; '.join(verdict.reasons)}",
            Attack.UNSAFE_CONTENT,
        )
    simulate = found.profile.simulate
    if simulate is not None and simulate.generator not in facts.generators:
        raise TrustError(f"{found.name} names an unknown source {simulate.generator}", Attack.UNSAFE_CONTENT)

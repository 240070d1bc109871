"""Which versions a reader needs to verify what a group's document on profiles names. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection

from schemas.profile_channel import ProfileChannel
from schemas.profile_statement import SignedVersion, VersionStatement
from schemas.version_names import VersionName

FOLDER = "profiles/"
LONGEST = 64
"""Most versions in a row without a signature by the policy role: a reader needs all of them."""


def version_path(name: VersionName) -> str:
    """Target path of a version."""
    return f"{FOLDER}{name.name}/{name.number}.json"


def needed(
    channel: ProfileChannel,
    find: Callable[[VersionName], SignedVersion | None],
    policy_keys: Collection[str],
) -> set[VersionName]:
    """The versions that a document names, and those that these follow, from one of the policy role on.

    Args:
        channel: The document.
        find: Looks a version up; None: it is not at hand.
        policy_keys: Ids of the keys of the policy role. Signatures are not checked here.
    """
    found: set[VersionName] = set()
    for wanted in channel.profiles.values():
        for statement in (wanted.target, wanted.baseline):
            if statement is not None:
                found |= _chain(statement, find, policy_keys)
    return found


def _chain(
    statement: VersionStatement,
    find: Callable[[VersionName], SignedVersion | None],
    policy_keys: Collection[str],
) -> set[VersionName]:
    found: set[VersionName] = set()
    name = statement.version
    while len(found) < LONGEST:
        found.add(name)
        signed = find(name)
        if signed is None or any(s.key_id in policy_keys for s in signed.signatures):
            break
        if not 0 < signed.statement.follows < name.number:
            break
        name = VersionName(name.name, signed.statement.follows)
    return found

"""Plan of every role: its keys and their holders, its threshold, its targets, its lifetime."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from schemas.channel_documents import (
    BROAD,
    BROAD_ROLE,
    CANARY,
    CANARY_ROLE,
    POLICY_ROLE,
    ROOT,
    SNAPSHOT,
    TARGETS,
    TIMESTAMP,
    model_role,
)
from schemas.profile_channel import PROFILE_CHANNEL_ROLE
from schemas.profile_statement import PROFILES_ROLE

OFFLINE_LIFETIME = timedelta(days=365)
"""Lifetime of root, targets, policy and the policy document."""
ROLE_LIFETIME = timedelta(days=365)
"""Lifetime of model and channel roles. It may be long: the timestamp keeps readers fresh, and a channel
document has an expiry of its own."""
RENEW_WITHIN = timedelta(days=90)
"""``renew`` renews offline and delegated roles that expire within this time."""

ENGINE, GUARD, TRAINER, GATE, OFFLINE = "engine", "guard", "trainer", "gate", "offline"


@dataclass(frozen=True)
class KeyLocation:
    """Where a private key is kept.

    Attributes:
        process: Folder under the keys, or ``offline``.
        name: File name without ``.pem``.
    """

    process: str
    name: str

    @property
    def offline(self) -> bool:
        """Whether it is kept encrypted, away from the machine."""
        return self.process == OFFLINE

    @property
    def holder(self) -> str:
        """Who holds the key: the process, or the offline key's own name."""
        return self.name if self.offline else self.process


@dataclass(frozen=True)
class RolePlan:
    """Keys, threshold and target paths of a role.

    Attributes:
        paths: Target path patterns that are delegated to it; empty for top-level roles.
    """

    name: str
    threshold: int
    keys: tuple[KeyLocation, ...]
    paths: tuple[str, ...] = ()

    @property
    def lifetime(self) -> timedelta:
        """Lifetime of the role's metadata."""
        return OFFLINE_LIFETIME if all(location.offline for location in self.keys) else ROLE_LIFETIME


def _offline(*names: str) -> tuple[KeyLocation, ...]:
    return tuple(KeyLocation(OFFLINE, name) for name in names)


TOP_LEVEL: tuple[RolePlan, ...] = (
    RolePlan(ROOT, 2, _offline("root-1", "root-2", "root-3")),
    RolePlan(TARGETS, 2, _offline("targets-1", "targets-2", "targets-3")),
    RolePlan(SNAPSHOT, 1, (KeyLocation(ENGINE, SNAPSHOT),)),
    RolePlan(TIMESTAMP, 1, (KeyLocation(ENGINE, TIMESTAMP),)),
)
TOP_LEVEL_KEYS = {plan.name: plan.keys for plan in TOP_LEVEL}


def model_plan(family: str) -> RolePlan:
    """Role of a model family: it takes the keys of both trainer and gate."""
    role = model_role(family)
    return RolePlan(role, 2, (KeyLocation(TRAINER, role), KeyLocation(GATE, role)), (f"models/{family}/*",))


def delegated(families: Iterable[str]) -> tuple[RolePlan, ...]:
    """Roles that the top-level targets delegate to; all terminating."""
    broad = (KeyLocation(ENGINE, BROAD_ROLE), KeyLocation(GUARD, BROAD_ROLE), KeyLocation(OFFLINE, "person"))
    return (
        RolePlan(POLICY_ROLE, 1, _offline(POLICY_ROLE), ("policy/*",)),
        RolePlan(CANARY_ROLE, 1, (KeyLocation(ENGINE, CANARY_ROLE),), (f"channels/*/{CANARY}.json",)),
        RolePlan(BROAD_ROLE, 2, broad, (f"channels/*/{BROAD}.json",)),
        *(model_plan(family) for family in families),
    )


PROFILES_PLAN = RolePlan(PROFILES_ROLE, 1, _offline("operator"), ("profiles/*/*.json",))
"""Role of operators, who sign versions of profiles; a repository gets it with the first version."""
PROFILE_CHANNEL_PLAN = RolePlan(
    PROFILE_CHANNEL_ROLE, 1, (KeyLocation(ENGINE, PROFILE_CHANNEL_ROLE),), ("channels/*/profile.json",)
)
"""Role of the engine, which says which of the signed versions a group runs; it comes with the one above."""


def plans(roles: Iterable[str]) -> dict[str, RolePlan]:
    """Plan of every role of a repository, by name.

    Args:
        roles: Names of its roles; the families are read from those of models.
    """
    prefix, names = model_role(""), sorted(roles)
    families = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    later = [plan for plan in (PROFILES_PLAN, PROFILE_CHANNEL_PLAN) if plan.name in names]
    return {plan.name: plan for plan in (*TOP_LEVEL, *delegated(families), *later)}

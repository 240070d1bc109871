"""Which role needs how many keys of whom, what it may sign, and for how long."""

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

OFFLINE_LIFETIME = timedelta(days=365)
"""Of root, targets, policy and the policy document."""
ROLE_LIFETIME = timedelta(days=365)
"""Of model and channel roles. Freshness is the timestamp's job, the end of an instruction the channel's."""
RENEW_WITHIN = timedelta(days=90)
"""``renew`` renews offline and delegated roles that expire within it."""

ENGINE, GUARD, TRAINER, GATE, OFFLINE = "engine", "guard", "trainer", "gate", "offline"


@dataclass(frozen=True)
class KeyPlace:
    """Where a private key lives.

    Attributes:
        process: Folder under the keys, or ``offline``.
        name: File name without ``.pem``.
    """

    process: str
    name: str

    @property
    def offline(self) -> bool:
        """Whether it is kept encrypted and away."""
        return self.process == OFFLINE

    @property
    def holder(self) -> str:
        """What status calls it: the process, or the offline key's name."""
        return self.name if self.offline else self.process


@dataclass(frozen=True)
class RolePlan:
    """What a role is made of.

    Attributes:
        paths: Target path patterns that are delegated to it; empty for top-level roles.
    """

    name: str
    threshold: int
    keys: tuple[KeyPlace, ...]
    paths: tuple[str, ...] = ()

    @property
    def lifetime(self) -> timedelta:
        """Of the role's metadata."""
        return OFFLINE_LIFETIME if all(place.offline for place in self.keys) else ROLE_LIFETIME


def _offline(*names: str) -> tuple[KeyPlace, ...]:
    return tuple(KeyPlace(OFFLINE, name) for name in names)


TOP_LEVEL: tuple[RolePlan, ...] = (
    RolePlan(ROOT, 2, _offline("root-1", "root-2", "root-3")),
    RolePlan(TARGETS, 2, _offline("targets-1", "targets-2", "targets-3")),
    RolePlan(SNAPSHOT, 1, (KeyPlace(ENGINE, SNAPSHOT),)),
    RolePlan(TIMESTAMP, 1, (KeyPlace(ENGINE, TIMESTAMP),)),
)
TOP_LEVEL_KEYS = {plan.name: plan.keys for plan in TOP_LEVEL}


def model_plan(family: str) -> RolePlan:
    """Role of a model family: what the trainer made and the gate re-gated, both or nothing."""
    role = model_role(family)
    return RolePlan(role, 2, (KeyPlace(TRAINER, role), KeyPlace(GATE, role)), (f"models/{family}/*",))


def delegated(families: Iterable[str]) -> tuple[RolePlan, ...]:
    """Roles that the top-level targets delegate to; all terminating."""
    broad = (KeyPlace(ENGINE, BROAD_ROLE), KeyPlace(GUARD, BROAD_ROLE), KeyPlace(OFFLINE, "person"))
    return (
        RolePlan(POLICY_ROLE, 1, _offline(POLICY_ROLE), ("policy/*",)),
        RolePlan(CANARY_ROLE, 1, (KeyPlace(ENGINE, CANARY_ROLE),), (f"channels/*/{CANARY}.json",)),
        RolePlan(BROAD_ROLE, 2, broad, (f"channels/*/{BROAD}.json",)),
        *(model_plan(family) for family in families),
    )


def plans(roles: Iterable[str]) -> dict[str, RolePlan]:
    """Plan of every role of a repository, by name.

    Args:
        roles: Names of its roles; those of model families tell the families.
    """
    prefix = model_role("")
    families = [name.removeprefix(prefix) for name in sorted(roles) if name.startswith(prefix)]
    return {plan.name: plan for plan in (*TOP_LEVEL, *delegated(families))}

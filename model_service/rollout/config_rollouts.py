"""Rollouts of configurations: which sites go first, and the plan that a draft gets when it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from model_service.registry.candidates import manifest_of
from model_service.rollout.cohort_draw import draw, held_share
from model_service.rollout.observed import GroupMember
from model_service.rollout.observing import profile_members
from model_service.rollout.rollout_record import RolloutRecord, shares
from schemas.channel_documents import Release
from schemas.cohorts import NOBODY, SaltedShare, share_of
from schemas.config_manifest import ConfigManifest
from schemas.errors import RegistryError
from schemas.learning_policy import RolloutPolicy

MOST_NAMED_BYTES = 192 * 1024
"""Most bytes of device ids in one channel document; a device reads documents of up to 256 KiB."""


def planned_config(
    connection: Connection,
    record: RolloutRecord,
    release: Release,
    baseline: Mapping[str, Release],
    settings: RolloutPolicy,
) -> RolloutRecord:
    """A draft with its plan: sites or devices in the order in which they are treated.

    Args:
        connection: A transaction.
        record: The draft.
        release: The configuration.
        baseline: By family, what devices run that are not treated.
        settings: The profile's ``[rollout]``.

    Raises:
        RegistryError: It was computed for another group, or the group has too many devices to name.
    """
    manifest = ConfigManifest.model_validate(manifest_of(connection, record.version))
    if manifest.group != record.group:
        raise RegistryError(f"{record.version} was computed for group {manifest.group}")
    among = list(profile_members(connection, record.group, manifest.profile).values())
    plan = {
        "target": {**baseline, record.family: release},
        "baseline": dict(baseline),
        "settings": settings,
        "profile": manifest.profile,
        "valid_from": manifest.valid_from.timestamp(),
        "lead_s": manifest.lead_s,
    }
    if manifest.unit == "device":
        drawn = draw(record.rollout_id, among, settings)
        cohorts = {"salt": drawn.salt, "canary": drawn.canary, "holdout": drawn.holdout}
        return record.model_copy(update={**plan, **cohorts, "imbalance": drawn.imbalance})
    units = ordered_sites(record.rollout_id, among)
    if sum(len(d) + 3 for ids in units.values() for d in ids) > MOST_NAMED_BYTES:
        raise RegistryError(
            f"group {record.group} has too many devices for a document that names those of whole sites: "
            "make smaller groups"
        )
    first, held = canary_sites(len(units), settings), held_sites(len(units), settings)
    names = list(units)
    salt = record.rollout_id
    return record.model_copy(
        update={
            **plan,
            "units": units,
            "salt": salt,
            "canary": SaltedShare(salt=salt, devices=_devices(units, names[:first])),
            "holdout": SaltedShare(salt=salt, devices=_devices(units, names[-held:])) if held else NOBODY,
        }
    )


def ordered_sites(salt: str, members: Sequence[GroupMember]) -> dict[str, tuple[str, ...]]:
    """Devices by site; sites in random order, which follows from their names and the salt."""
    found: dict[str, list[str]] = {}
    for member in sorted(members, key=lambda m: m.device_id):
        found.setdefault(member.site, []).append(member.device_id)
    order = sorted(found, key=lambda site: (share_of(site, salt), site))
    return {site: tuple(found[site]) for site in order}


def canary_sites(sites: int, settings: RolloutPolicy) -> int:
    """Sites of the first phase: at least one; not all, so that others are left to compare with.

    >>> [canary_sites(n, RolloutPolicy(canary_share=0.2)) for n in (1, 2, 4, 20)]
    [1, 1, 1, 4]
    """
    wanted = max(1, math.floor(settings.canary_share * sites + 0.5))
    most = max(1, sites - 1, math.floor(shares(settings)[0] * sites) if shares(settings)[0] < 1 else 0)
    return min(wanted, most)


def held_sites(sites: int, settings: RolloutPolicy) -> int:
    """Sites that are held out through the last soak; none where fewer than three are there.

    >>> [held_sites(n, RolloutPolicy(holdout_share=0.2)) for n in (2, 3, 10)]
    [0, 1, 2]
    """
    share = held_share(sites, settings)
    return max(1, math.floor(share * sites + 0.5)) if share and sites >= 3 else 0


def _devices(units: Mapping[str, tuple[str, ...]], names: Sequence[str]) -> tuple[str, ...]:
    return tuple(device for name in names for device in units[name])

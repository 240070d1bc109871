"""Draws a rollout's cohorts: random, balanced over sites and hardware, described by salts alone.

Re-randomisation (Morgan and Rubin 2012): of many salts derived from the rollout's id, take the one whose
cohorts are best balanced over the strata. Anybody who knows the devices can repeat the draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model_service.rollout.observed import GroupMember
from model_service.rollout.rollout_record import shares
from schemas.cohorts import NOBODY, SaltedShare
from schemas.learning_policy import RolloutPolicy

_HASHES = 40_000
"""About how many hashes a draw may cost; a large fleet gets fewer tries, since its size balances it."""
HELD_FROM, HELD_SHARE = 20, 0.1
"""A group of so many devices has a holdout of such a share, unless its profile says otherwise."""
_TRIES = (1, 256)
"""Fewest and most salts to try."""


@dataclass(frozen=True)
class CohortDraw:
    """Cohorts of one rollout.

    Attributes:
        imbalance: Devices too many or too few over devices expected, each summed over strata and cohorts.
    """

    salt: str
    canary: SaltedShare
    holdout: SaltedShare
    imbalance: float


def draw(rollout_id: str, members: Sequence[GroupMember], settings: RolloutPolicy) -> CohortDraw:
    """The most balanced of a bounded number of draws; the same arguments give the same draw."""
    fewest, most = _TRIES
    tries = max(fewest, min(most, _HASHES // max(len(members), 1)))
    return min(
        (_one(f"{rollout_id}/{i}", members, settings) for i in range(tries)), key=lambda d: d.imbalance
    )


def canary_share(members: Sequence[GroupMember], settings: RolloutPolicy) -> float:
    """Share of the signed pool that gives ``canary_share`` of the group, or ``min_devices`` if that is more.

    Fewer than ``min_devices`` could show nothing. The share never exceeds that of the first broad phase,
    whose cohort must include the canaries.
    """
    wanted = max(settings.canary_share * len(members), float(settings.min_devices))
    pool = sum(m.pool for m in members)
    return min(1.0, wanted / pool if pool else 1.0, shares(settings)[0])


def held_share(devices: int, settings: RolloutPolicy) -> float:
    """Share of a group that is held out: the profile's, else a tenth of a group that is large enough."""
    if settings.no_holdout:
        return 0.0
    return settings.holdout_share or (HELD_SHARE if devices >= HELD_FROM else 0.0)


def _one(salt: str, members: Sequence[GroupMember], settings: RolloutPolicy) -> CohortDraw:
    canary = SaltedShare(salt=salt, share=canary_share(members, settings))
    held = held_share(len(members), settings)
    holdout = SaltedShare(salt=f"{salt}/holdout", share=held) if held else NOBODY
    wrong = expected = 0.0
    for cohort, among in _cohorts(salt, canary, holdout, members, settings):
        off, size = _off_balance(cohort, among, members)
        wrong, expected = wrong + off, expected + size
    return CohortDraw(salt, canary, holdout, wrong / max(expected, 1.0))


Among = Callable[[GroupMember], bool]


def _cohorts(
    salt: str,
    canary: SaltedShare,
    holdout: SaltedShare,
    members: Sequence[GroupMember],
    settings: RolloutPolicy,
) -> list[tuple[SaltedShare, Among]]:
    """Each cohort whose balance matters, with a test of which devices it is drawn from."""
    free = {m.device_id for m in members if not holdout.includes(m.device_id)}

    def everybody(_: GroupMember) -> bool:
        return True

    def in_pool(member: GroupMember) -> bool:
        return member.pool and member.device_id in free

    phases = [SaltedShare(salt=salt, share=share) for share in shares(settings)[:-1]]
    held = [holdout] if holdout.share else []
    return [(canary, in_pool), *((cohort, everybody) for cohort in (*phases, *held))]


def _off_balance(cohort: SaltedShare, among: Among, members: Sequence[GroupMember]) -> tuple[float, float]:
    """Devices too many or too few, per stratum and in total; and how many were expected in total."""
    drawn = [m for m in members if among(m)]
    sizes = Counter(stratum(m) for m in drawn)
    got = Counter(stratum(m) for m in drawn if cohort.includes(m.device_id))
    expected = cohort.share * len(drawn)
    # Devices are whole: half a device away from the exact share is still perfect.
    off = sum(max(abs(got[s] - cohort.share * n) - 0.5, 0.0) for s, n in sizes.items())
    total = got.total()
    # A phase without a device shows nothing: this penalty outweighs any imbalance.
    nobody = len(drawn) if drawn and total == 0 else 0
    return off + abs(total - round(expected)) + nobody, max(expected, 1.0)


def stratum(member: GroupMember) -> tuple[str, str]:
    """Site and hardware of a device: devices that share both are alike."""
    return member.site, member.hardware

"""Draws a rollout's cohorts: random, stratified by site and hardware, told by salts alone.

Re-randomisation (Morgan and Rubin 2012): of many salts derived from the rollout's id, the one whose cohorts
lie best over the strata. Anybody who knows the devices can draw it again.
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
"""About how many hashes a draw may cost; large fleets are balanced by their size."""
_TRIES = (1, 256)


@dataclass(frozen=True)
class CohortDraw:
    """Cohorts of one rollout.

    Attributes:
        imbalance: Devices in the wrong place over devices expected there, summed over strata and cohorts.
    """

    salt: str
    canary: SaltedShare
    holdout: SaltedShare
    imbalance: float


def draw(rollout_id: str, members: Sequence[GroupMember], settings: RolloutPolicy) -> CohortDraw:
    """The best of a bounded number of draws; the same for the same arguments."""
    fewest, most = _TRIES
    tries = max(fewest, min(most, _HASHES // max(len(members), 1)))
    return min(
        (_one(f"{rollout_id}/{i}", members, settings) for i in range(tries)), key=lambda d: d.imbalance
    )


def canary_share(members: Sequence[GroupMember], settings: RolloutPolicy) -> float:
    """Share of the signed pool that makes ``canary_share`` of the group, or ``min_devices`` if that is more.

    Fewer than ``min_devices`` could show nothing. Never more than the first broad phase: its cohort must hold
    the canaries.
    """
    wanted = max(settings.canary_share * len(members), float(settings.min_devices))
    pool = sum(m.pool for m in members)
    return min(1.0, wanted / pool if pool else 1.0, shares(settings)[0])


def _one(salt: str, members: Sequence[GroupMember], settings: RolloutPolicy) -> CohortDraw:
    canary = SaltedShare(salt=salt, share=canary_share(members, settings))
    held = settings.holdout_share
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
    """Each cohort whose balance matters, with whom it is drawn from."""
    free = {m.device_id for m in members if not holdout.includes(m.device_id)}

    def everybody(_: GroupMember) -> bool:
        return True

    def in_pool(member: GroupMember) -> bool:
        return member.pool and member.device_id in free

    phases = [SaltedShare(salt=salt, share=share) for share in shares(settings)[:-1]]
    held = [holdout] if holdout.share else []
    return [(canary, in_pool), *((cohort, everybody) for cohort in (*phases, *held))]


def _off_balance(cohort: SaltedShare, among: Among, members: Sequence[GroupMember]) -> tuple[float, float]:
    """Devices too many or too few per stratum and in all, and how many were expected."""
    drawn = [m for m in members if among(m)]
    here = Counter(stratum(m) for m in drawn)
    got = Counter(stratum(m) for m in drawn if cohort.includes(m.device_id))
    expected = cohort.share * len(drawn)
    off = sum(max(abs(got[s] - cohort.share * n) - 0.5, 0.0) for s, n in here.items())
    in_all = got.total()
    nobody = len(drawn) if drawn and in_all == 0 else 0  # a phase without a device shows nothing
    return off + abs(in_all - round(expected)) + nobody, max(expected, 1.0)


def stratum(member: GroupMember) -> tuple[str, str]:
    """Devices that share surroundings and build."""
    return member.site, member.hardware

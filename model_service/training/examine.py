"""Looks at a drift in one cut of the lake: the scene, the known faults, and what ``cause`` makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from feature_store import duck
from feature_store.point_in_time import Regime
from model_service.models.fault_bank import FaultBank, load_fault_bank
from model_service.training.cause import Cause, judge
from model_service.training.shifts import Yardstick, read_scene
from schemas.manifest import Manifest
from schemas.profile import Profile

SLOW = "degradation"
"""Kind of verdict by which the drift watch says that a change still goes on."""


class Examination(NamedTuple):
    """What a look at a drift found.

    Attributes:
        regime: Where the new normal is, for the training set; None: there is none.
    """

    cause: Cause
    regime: Regime | None


def examine(
    con: duck.Connection,
    profile: Profile,
    champion: Manifest,
    onset: datetime,
    known_at: datetime,
    cohorts: Sequence[str],
    kinds: Sequence[str],
) -> Examination:
    """The cause of a drift, as far as the cut tells.

    Args:
        con: From ``connect``.
        profile: Whose devices.
        champion: Manifest of the model in force: its units and baselines.
        onset: Earliest onset of the verdicts.
        known_at: Nothing that became known later counts.
        cohorts: Cohorts that the verdicts speak of.
        kinds: What the drift watch calls each of them.
    """
    yardstick = Yardstick.of(champion, profile)
    if yardstick is None:
        text = f"model {champion.version} states no baselines: a person must decide"
        return Examination(Cause("unclear", False, True, (), (), {}, text), None)
    scene = read_scene(con, profile, yardstick, onset, known_at, cohorts)
    slow = sum(k == SLOW for k in kinds) / len(kinds) if kinds else 0.0
    bank = signatures(load_fault_bank(profile.name), yardstick)
    cause = judge(scene, bank, profile, slow_verdicts=slow)
    return Examination(cause, _regime(cause, yardstick, profile, onset))


def _regime(cause: Cause, yardstick: Yardstick, profile: Profile, onset: datetime) -> Regime | None:
    if cause.centre is None or not np.isfinite(cause.centre).all():
        return None
    centre = yardstick.values(cause.centre)
    spread = yardstick.spreads(centre)
    names = profile.feature_names
    return Regime(
        onset,
        {n: float(f"{x:.6g}") for n, x in zip(names, centre, strict=True)},
        {n: float(f"{x:.6g}") for n, x in zip(names, spread, strict=True)},
    )


def signatures(bank: FaultBank | None, yardstick: Yardstick) -> list[np.ndarray]:
    """Directions of every kind and severity in the bank; none without a bank."""
    if bank is None:
        return []
    ways = [bank.effect(kind, s) / yardstick.spread for kind in bank.kinds for s in bank.severities(kind)]
    return [way / np.linalg.norm(way) for way in ways]

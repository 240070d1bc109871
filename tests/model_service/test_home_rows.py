"""Rows are moved home by the shift of their own group; a drift that proves itself needs no second proof."""

from datetime import timedelta

import numpy as np
import pytest

from model_service.gates.holdout import HoldoutRows
from model_service.gates.home_rows import at_home, group_shifts, positions, values
from model_service.gates.quality import judge_quality
from model_service.training.cause import TOO_SHORT_AGO, Cause
from model_service.training.examine import Examination, has_waited
from model_service.training.shifts import LOOKBACK_WINDOWS
from schemas.drift_vocabulary import DriftKind
from tests.model_service.regimes import MACHINE, OLD
from tests.model_service.test_gates import paired

DEVICES, EACH = 12, 20


def holdout_rows(shift, moved, seed=1):
    """Rows around the reference; devices have levels of their own, and some moved."""
    rng = np.random.default_rng(seed)
    width = len(OLD.mean)
    z = rng.normal(size=(DEVICES, EACH, width)) * 0.8 + rng.normal(size=(DEVICES, 1, width)) * 0.3
    z[moved] += shift
    device = np.repeat(np.arange(DEVICES), EACH)
    return HoldoutRows(values(OLD, z.reshape(-1, width)), np.ones(DEVICES * EACH), device)


def moved_by(size):
    shift = np.zeros(len(OLD.mean))
    shift[7] = size
    return shift


@pytest.mark.parametrize("count", [6, 9, 11, 12])
def test_devices_that_moved_and_the_others_all_lie_around_the_reference(count):
    rows = holdout_rows(moved_by(6.0), np.arange(DEVICES) < count)
    home = positions(at_home(rows, OLD), OLD)
    by_device = home.reshape(DEVICES, EACH, -1).mean(axis=1)
    assert np.abs(by_device[:, 7]).max() < 1.5
    assert len(group_shifts(rows, positions(rows, OLD))) == (1 if count == DEVICES else 2)


@pytest.mark.parametrize("seed", range(20))
def test_devices_that_differ_by_chance_are_one_group(seed):
    rows = holdout_rows(moved_by(0.0), np.zeros(DEVICES, dtype=bool), seed)
    assert len(group_shifts(rows, positions(rows, OLD))) == 1
    away = holdout_rows(moved_by(4.0), np.ones(DEVICES, dtype=bool), seed)
    assert len(group_shifts(away, positions(away, OLD))) == 1


def test_a_drift_that_proves_itself_asks_for_a_gain_and_not_for_its_interval():
    of = paired()
    verdict = judge_quality(of, 0.0)
    between = (verdict.low + verdict.value) / 2
    assert not judge_quality(of, between).passed
    assert judge_quality(of, between, proven=True).passed
    assert not judge_quality(of, verdict.value + 1e-9, proven=True).passed
    assert not judge_quality(paired(new=OLD.score), 0.0, proven=True).passed


class Asked:
    """A run, as far as waiting needs it."""

    def __init__(self, at):
        self.updated_at = at


def test_what_only_time_can_tell_is_looked_at_as_long_as_windows_are_compared():
    from datetime import UTC, datetime

    at, policy = datetime(2026, 7, 1, tzinfo=UTC), MACHINE.training
    unsure, early = (
        Examination(Cause(DriftKind.UNCLASSIFIED, False, False, (), (), {}, text), None)
        for text in ("too few devices", TOO_SHORT_AGO)
    )
    wait = timedelta(seconds=policy.max_wait_s)
    longest = max(wait, timedelta(seconds=LOOKBACK_WINDOWS * MACHINE.drift.window_s))
    assert longest > wait
    assert has_waited(Asked(at), unsure, MACHINE, at + wait)
    assert not has_waited(Asked(at), early, MACHINE, at + wait)
    assert has_waited(Asked(at), early, MACHINE, at + longest)

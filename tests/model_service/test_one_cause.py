"""A sensor's gain or offset in a profile whose faults nobody knows: learnt, without learning to be deaf."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from edge_producer.sources.scenario import Injection
from model_service.detectors.generic_bank import generic_bank
from model_service.gates.evaluate import evaluate
from model_service.gates.holdout import PairedScores, holdout_of
from model_service.gates.home_rows import faults_at_home
from model_service.gates.origin import judge_rebuild
from model_service.gates.quality import judge_quality, losses
from model_service.gates.recall import judge_recall
from model_service.models.candidate import build_candidate
from model_service.models.fault_bank import parse_bank
from model_service.models.mahalanobis import Mahalanobis
from model_service.models.training_rows import part_of
from model_service.training.examine import has_one_cause
from model_service.training.training_run import DriftFinding, TrainingPlan
from schemas.drift_vocabulary import DriftKind
from tests.model_service.regimes import (
    CHAMPION,
    LINEAGE,
    MACHINE,
    OLD,
    gate_inputs,
    healthy,
    rows,
    warmer,
    windows,
)

ENTER = MACHINE.decision.rules[0].enter
NAMES = MACHINE.feature_names
CURRENT = [NAMES.index(name) for name in ("current_mean", "current_std")]


def gained(number):
    """Four of five machines got another current sensor."""
    item = Injection(kind="recalibration", start_s=0, channel="current", gain=1.3)
    return (item,) if number % 5 else ()


@cache
def generic():
    """The bank of a profile whose faults nobody knows, of a history of healthy machines."""
    raw = np.concatenate([windows(healthy, range(10, 14), d) for d in range(6)])
    return parse_bank(generic_bank(MACHINE, raw, 0).to_bytes())


@cache
def made(story, channel, one_cause):
    taken = rows(story)
    return build_candidate(MACHINE, taken, CHAMPION, [channel], LINEAGE, 1, 1, one_cause=one_cause)


def model(bundle):
    return Mahalanobis.of(bundle.manifest)


def paired(story, new):
    return PairedScores(
        new.score, OLD.score, holdout_of(part_of(rows(story), "holdout"), NAMES, {}), generic(), ENTER
    )


# -- spread that grew ----------------------------------------------------------------------------


def test_spread_of_one_cause_is_that_of_a_population_in_which_some_moved():
    """D R D + g g' against machines of which each moved by its own share of one shift."""
    rng, shift = np.random.default_rng(1), np.zeros(len(NAMES))
    shift[CURRENT] = 3.0, -1.5
    new = OLD.moved_by_one_cause(OLD.mean + shift * OLD.std, OLD.std * np.sqrt(1 + shift**2))
    values = rng.multivariate_normal(np.zeros(len(NAMES)), OLD.correlation(), 200_000)
    values += rng.normal(size=(len(values), 1)) * shift
    np.testing.assert_allclose(np.corrcoef(values.T), new.correlation(), atol=0.01)


def test_a_gain_on_most_sensors_hides_fewer_faults_and_no_sensor_alarms():
    apart, together = (model(made(gained, "current", one_cause)) for one_cause in (False, True))
    np.testing.assert_array_equal(together.std, apart.std)
    recalls = [judge_recall(paired(gained, m), OLD, 0.0, 0.05).value for m in (apart, together)]
    assert recalls[1] > recalls[0] + 0.01
    quiet = paired(gained, together).holdout.healthy
    assert (together.score(quiet.features) < ENTER).all()


def test_where_one_feature_alone_moved_there_is_nothing_to_go_together():
    assert made(warmer(), "temperature", True).files == made(warmer(), "temperature", False).files


def test_the_gate_builds_it_again_as_the_runs_plan_says():
    bundle = made(gained, "current", True)
    of = gate_inputs(rows(gained), ("current",), candidate=bundle, bank=generic(), proven=True)
    verdicts = [
        {v.gate: v.passed for v in evaluate(replace(of, one_cause=one_cause))} for one_cause in (True, False)
    ]
    assert [v["rebuild"] for v in verdicts] == [True, False]
    assert judge_rebuild(bundle, made(gained, "current", False)).value == 3.0  # graph, vectors, manifest


@pytest.mark.parametrize(
    ("kind", "family", "found"),
    [
        (DriftKind.SENSOR_RECALIBRATION, "of-ones-own", True),
        (DriftKind.SENSOR_RECALIBRATION, "machine", False),
        (DriftKind.COVARIATE, "of-ones-own", False),
    ],
)
def test_a_sensor_is_one_cause_where_no_bank_ships(kind, family, found):
    profile = SimpleNamespace(model=SimpleNamespace(family=family), feature_names=MACHINE.feature_names)
    assert has_one_cause(DriftFinding(kind=kind), profile) is found
    assert not has_one_cause(None, profile)


# -- what the champion is credited for ------------------------------------------------------------


def test_a_drift_makes_no_champion_miss_fewer_faults():
    """Beside the same machines that did not move: only what is counted at home is as it was."""
    moved, still = (paired(story, OLD) for story in (warmer(6.0), healthy))

    def missed(of, faults):
        found = losses(OLD.score, of.holdout, faults).faults
        return np.mean([[s.mean() for s in severities] for severities in found])

    before = missed(still, still.holdout.faults(generic()))
    assert missed(moved, moved.holdout.faults(generic())) < before - 0.03
    at_home = faults_at_home(moved.holdout, generic(), OLD)
    assert missed(moved, at_home) == pytest.approx(before, abs=0.01)


def test_a_proven_drift_is_weighed_without_what_it_adds_to_the_champions_scores():
    """Of generic faults alone: those of a shipped bank are weighed as ever."""
    taken, bundle = rows(warmer(6.0)), made(warmer(6.0), "temperature", False)

    def quality(**what):
        of = gate_inputs(taken, candidate=bundle, **what)
        return next(v for v in evaluate(of) if v.gate == "quality")

    gains = [quality(bank=generic(), proven=proven).value for proven in (False, True)]
    assert gains[1] > gains[0] + 0.01
    assert quality(proven=True).value == quality(proven=False).value


def test_a_deaf_successor_and_one_that_learnt_nothing_are_refused_all_the_same():
    deaf = OLD.calibrated_by(OLD.calibration.model_copy(update={"middle": 3 * OLD.calibration.middle}))
    for story in (warmer(6.0), gained, healthy):
        assert not judge_quality(paired(story, deaf), 0.0, proven=True, homes=(deaf, OLD)).passed
        assert judge_quality(paired(story, OLD), 0.0, proven=True, homes=(OLD, OLD)).value == 0.0


def test_a_plan_says_so_only_where_it_is_so():
    names = {"wanted": {"event_from": "2026-07-01T12:00:00+00:00", "event_to": "2026-07-01T13:00:00+00:00",
             "known_at": "2026-07-01T13:00:00+00:00", "labelled": False, "cohorts": [], "without": [],
             "regime": None}}  # fmt: skip
    assert not TrainingPlan.model_validate(names).one_cause
    assert TrainingPlan.model_validate({**names, "one_cause": True}).one_cause

"""What the lake says of alarms where rules read further outputs: rates, gains and agreement count them."""

import numpy as np
import pyarrow as pa
import pytest

from feature_store import connect
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from model_service.rollout.alarm_rates import alarm_rates
from model_service.rollout.config_evidence import ConfigEvidence
from model_service.rollout.config_judges import alarms_and_windows
from model_service.rollout.release_gain import scored_periods
from schemas.alarm_bounds import AlarmBounds
from schemas.learning_policy import RolloutPolicy
from schemas.manifest import SCORE_EDGES
from schemas.output_names import PRIMARY
from tests.edge_producer.config_cloud import PLANNED, SPEC
from tests.edge_producer.output_models import PUMP
from tests.feature_store.fleets import land
from tests.feature_store.test_model_views import SHADOW_PART, ask, summaries, summary
from tests.model_service.test_config_judges import PERIOD, SCHEMA, SWITCH
from tests.simulators.rollout_deployment import FACTORY, RolloutDeployment, quick_profile

OLD, NEW = "pump-0.00000000", "pump-1.11111111"
CALM = [0.1] * 10
QUEUES = [0.1] * 6 + [0.8] * 4
"""Four windows at or above 0.7, where the rule on queues enters."""


def outputs(version, scores, queues, part=0, period=0):
    rows = [summary("a", version, period, values, part) for values in (scores, queues)]
    return [
        row | {"profile": "pump", "feature": feature}
        for row, feature in zip(rows, (PRIMARY, "score_queue"), strict=True)
    ]


@pytest.fixture
def lake(lake_root):
    found = Lake.open(lake_root)
    found.ensure_fixed_tables()
    ProfileRegistry(found).register(PUMP)
    return found


def test_windows_in_alarm_are_those_of_the_output_that_raises_most(lake, lake_root):
    rows = outputs(NEW, CALM, QUEUES) + outputs(OLD, [0.65] * 10, QUEUES, SHADOW_PART)
    land(lake, summaries=summaries(*rows))
    with connect(lake_root, comments=False) as connection:
        found = scored_periods(connection, PUMP, (), 0.0)
    assert {p.model_version: (p.n, p.above) for p in found} == {NEW: (10, 4), OLD: (10, 10)}
    no_rules = PUMP.model_copy(update={"decision": PUMP.decision.model_copy(update={"rules": ()})})
    with connect(lake_root, comments=False) as connection:
        assert {p.above for p in scored_periods(connection, no_rules, (), 0.0)} == {None}


def test_two_versions_disagree_where_one_of_them_alarms_by_a_further_output_alone(lake, lake_root):
    rows = outputs(NEW, CALM, CALM) + outputs(OLD, CALM, QUEUES, SHADOW_PART)
    land(lake, summaries=summaries(*rows))
    query = "SELECT model_version, windows, paired_windows, agreement FROM model_performance ORDER BY 1"
    assert ask(lake_root, query) == [(OLD, 10, 10, pytest.approx(0.6)), (NEW, 10, 10, pytest.approx(0.6))]


def test_rates_are_of_the_output_that_alarms_most_often(tmp_path):
    deployment = RolloutDeployment(tmp_path)
    deployment.use(quick_profile(holdout_share=0.3))
    names = deployment.join(20)
    new = deployment.sign(1)
    deployment.engine().tick()
    record, first = deployment.rollout(), AlarmBounds.of(PUMP.decision).first_bins()
    held = {d for d in names if record.holdout.includes(d)}
    rows = []
    for device in names:
        queues = CALM if device in held else QUEUES
        for feature, values in ((PRIMARY, CALM), ("score_queue", queues)):
            row = summary(device, FACTORY if device in held else new.version, 0, values)
            rows.append({**row, "feature": feature, "began": 0.0})
    deployment.registry.close()
    bins = dict.fromkeys(first, len(SCORE_EDGES) + 1)
    found = alarm_rates(record, rows, first, bins)
    assert (set(found.treated), set(found.holdout)) == ({0.4}, {0.0})
    by_score = alarm_rates(record, [r for r in rows if r["feature"] == PRIMARY], first, bins)
    assert set(by_score.treated) == {0.0}, "the score alone shows nothing"


def test_a_configuration_that_makes_a_further_output_alarm_is_harmful():
    """Six treated sites, six held out; the score is calm everywhere."""
    rows = []
    for device in (f"{kind}{i}" for kind in "th" for i in range(6)):
        for k in range(30):
            for day in range(6):
                at = SWITCH + k * PERIOD - day * 1440 * PERIOD
                queues = 40 if day == 0 and device[0] == "t" else 1 + day % 2
                for feature, alarms in ((PRIMARY, 0), ("score_queue", queues)):
                    bins = [60 - alarms, *[0] * (len(SCORE_EDGES) - 1), alarms]
                    rows.append(
                        {"device_id": device, "feature": feature, "part": 0, "n": 60, "n_missing": 0,
                         "bin_counts": bins, "period_start": at}
                    )  # fmt: skip
    profile = PLANNED.model_copy(update={"decision": PUMP.decision})
    units = {kind: {f"{kind}{i}": (f"{kind}{i}",) for i in range(6)} for kind in "th"}
    found = alarms_and_windows(
        ConfigEvidence(
            profile=profile, spec=SPEC, settings=RolloutPolicy(), treated=units["t"], held=units["h"],
            switched_at=SWITCH, now=SWITCH + 30 * PERIOD, looks=1,
            summaries=pa.Table.from_pylist(rows, SCHEMA),
        )
    )  # fmt: skip
    assert "more alarms" in found.harm


def test_a_bound_inside_a_bin_cannot_be_counted():
    inside = AlarmBounds({PRIMARY: 0.55, "queue": 0.7})
    assert inside.first_bins() == {"score_queue": SCORE_EDGES.index(0.7) + 1}
    edges = np.array([0.2, 0.55]).tolist()
    assert inside.first_bins({PRIMARY: edges, "score_queue": edges}) == {PRIMARY: 2}

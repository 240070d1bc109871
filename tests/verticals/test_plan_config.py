"""A plan table on its whole way: computed from summaries, judged on other days, signed, rolled out by site.

The trainer, gate and judge are those of the shipped profile `traffic`; cloud and devices are the rig's.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from edge_producer.deciding.decision_function import DecisionRequest, load_decision_function
from model_service.rollout.config_evidence import ConfigEvidence
from model_service.training.config_interface import ConfigInputs
from model_service.verticals.traffic.corridor_judge import corridor_delay
from model_service.verticals.traffic.measured_flows import is_held_out, measured_flows
from model_service.verticals.traffic.plan_gate import judge_table
from model_service.verticals.traffic.plan_trainer import train_plans
from model_service.verticals.traffic.site_surveys import FOLDER
from schemas.profile_file import find_profile
from schemas.verticals.traffic.phase_control import equal_plan
from schemas.verticals.traffic.plan_table import as_parameters, own_faults, plan_in_force
from schemas.verticals.traffic.standard_junction import NAMES, detected, standard_junction
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings
from tests.feature_store.fleets import land
from tests.feature_store.lakes import T0
from tests.model_service.test_config_line import SITES, ConfigLine, profile, rolled_out, versions
from tests.verticals.traffic_summaries import BUSY, street, summaries

TRAFFIC = find_profile("traffic")
[OWN] = TRAFFIC.configs
MIDNIGHT = datetime(T0.year, T0.month, T0.day, tzinfo=UTC)
DAYS = [MIDNIGHT - timedelta(days=k) for k in range(1, 13)]
SEEN = [day for day in DAYS if not is_held_out(day.date())]
NORTH = ("m-1", "m-2")
QUIET = (0.1, 0.01, 0.08, 0.01)


def planned():
    """The rig's profile with the family of `traffic`; what the judge finds open holds no phase up."""
    made = profile(
        trainer=OWN.trainer,
        gates=OWN.gates,
        judge=OWN.judge,
        parameters=OWN.parameters,
        window_s=OWN.window_s,
    )
    at_once = {"soak_s": 0.01, "longest_soak_s": 0.01}
    return made.model_copy(update={"rollout": made.rollout.model_copy(update=at_once)})


@pytest.fixture
def line(tmp_path, monkeypatch):
    surveys = tmp_path / "surveys"
    surveys.mkdir()
    (surveys / "north.json").write_text(json.dumps(street(NORTH).as_json()))
    monkeypatch.setenv(FOLDER, str(surveys))
    with ConfigLine(tmp_path / "cloud", planned()) as made:
        for name in SITES:
            made.join(tmp_path / "join", name)
        made.sense()
        yield made
        made.registry.close()


@pytest.mark.long
def test_a_plan_is_computed_from_flows_judged_on_other_days_and_taken_over(tmp_path, line):
    land(line.lake, summaries=summaries(DAYS, {3: QUIET, 17: BUSY}, list(SITES)))
    made = line.made()
    assert made["state"] == "signed", (made["detail"], line.mark())
    with UpdaterRig(edge_settings(tmp_path, tuple(SITES)), planned()) as fleet:
        assert rolled_out(line, fleet, 1).state == "completed"
        assert set(versions(fleet).values()) == {made["version"]}
        fleet.sense()
        own = {name: fleet.devices[name].parameters for name in SITES}
    junction = standard_junction()
    assert [own_faults(tables, junction) for tables in own.values()] == [[], [], []]
    monday, unmeasured = (datetime(2026, 3, 2, hour, 30, tzinfo=UTC) for hour in (17, 12))
    busy = {name: plan_in_force(tables, monday, "UTC") for name, tables in own.items()}
    assert busy["m-1"].cycle_s >= junction.shortest_cycle_s
    if busy["m-1"].pull > 0:
        assert busy["m-1"].cycle_s == busy["m-2"].cycle_s
    assert busy["m-3"].pull == 0  # one by itself has nobody to be coordinated with
    assert busy["m-3"].splits[0] > busy["m-3"].splits[2]
    assert plan_in_force(own["m-3"], unmeasured, "UTC") == equal_plan(junction)


def config_inputs(profile, rows, event_to):
    """Of a street's two intersections."""
    return ConfigInputs(
        profile=profile,
        spec=profile.configs[0],
        group="default",
        devices=dict.fromkeys(NORTH, "north"),
        event_from=DAYS[-1],
        event_to=event_to,
        earliest=MIDNIGHT,
        seed=1,
        before={},
        rows=lambda: pa.table({}),
        summaries=lambda: rows,
    )


def judged(monkeypatch, tmp_path, days, pull=20.0, offset_s=0.0):
    """What the gate finds of a table that pulls the street's two at one hour, much in the wrong direction."""
    (tmp_path / "north.json").write_text(json.dumps(street(NORTH).as_json()))
    monkeypatch.setenv(FOLDER, str(tmp_path))
    inputs = config_inputs(TRAFFIC, summaries(days, {17: BUSY}, NORTH), MIDNIGHT)
    free = equal_plan(standard_junction())
    week = [[dict.fromkeys(NORTH, free) for _ in range(24)] for _ in range(2)]
    week[0][17] = dict.fromkeys(NORTH, replace(free, pull=pull, offset_s=offset_s))
    return judge_table(inputs, as_parameters(week))


def test_a_pulled_plan_that_no_held_out_day_has_measured_is_refused_with_its_reason(tmp_path, monkeypatch):
    found = judged(monkeypatch, tmp_path, SEEN)
    assert not found.passed
    assert "no held-out weekday" in found.text


def test_a_plan_that_makes_queues_longer_is_refused_with_what_it_costs(tmp_path, monkeypatch):
    found = judged(monkeypatch, tmp_path, DAYS)
    assert not found.passed
    assert found.value > 0
    assert "queue model" in found.text


def test_an_infeasible_plan_is_refused_with_its_hour(tmp_path, monkeypatch):
    found = judged(monkeypatch, tmp_path, DAYS, offset_s=200.0)
    assert not found.passed
    assert "weekday, hour 17" in found.text


@pytest.mark.parametrize(("windows", "measured"), [(180, True), (179, False)])
def test_half_an_hour_counts_in_seconds_of_the_street_however_fast_a_demo_plays_them(windows, measured):
    demo = find_profile("traffic_demo")
    rows = summaries(SEEN[:1], {17: BUSY}, NORTH)
    rows = rows.set_column(
        rows.schema.get_field_index("n"), "n", pa.array([windows] * rows.num_rows, pa.int64())
    )
    hop_s = float(demo.sampling.hop_samples)
    found = measured_flows(rows, NORTH, "UTC", hop_s, held_out=False)
    assert (found.measured == 1) is measured
    inputs = config_inputs(demo, rows, SEEN[0] + timedelta(hours=18))
    assert (train_plans(inputs).waits == "") is measured


def test_without_half_an_hour_of_any_hour_nothing_is_proposed_and_that_is_said(line):
    line.trainer.step()
    assert line.candidates() == []
    assert "half an hour of windows" in line.mark()["said"]


def request(parameters, at, **queues):
    features = {
        f"queue_{part}_queued_last": queues.get(name, 0.0) + 1.0 for name in NAMES for part in detected(name)
    }
    return DecisionRequest("x-1", at, features, {"score": 0.1}, "none", parameters)


def test_the_decision_function_is_installed_serves_the_queue_and_refuses_infeasible_tables():
    decide = load_decision_function(TRAFFIC.decision.function, "x-1", TRAFFIC)
    at = datetime(2026, 3, 2, 17, tzinfo=UTC)
    state, served = None, []
    for step in range(8):
        asked = request({}, at + timedelta(seconds=2 * step), ew=9.0)
        answer = decide(
            DecisionRequest(**{**{k: getattr(asked, k) for k in asked.__slots__}, "state": state})
        )
        state = json.loads(json.dumps(answer.state))
        served.append(NAMES[int(answer.numbers["phase"])])
    assert answer.action in TRAFFIC.decision.actions
    assert served[-1] == "ew"  # after the shortest green of the first phase
    with pytest.raises(ValueError, match="no plan table"):
        decide.check_parameters({})
    short = {"cycle_s": 40.0, "offset_s": 0.0, "pull": 0.0, "splits": [0.9, 0.04, 0.03, 0.03]}
    tables = {name: [[value] * 24] * 2 for name, value in short.items()}
    with pytest.raises(ValueError, match="ns_left"):
        decide.check_parameters(tables)


@pytest.mark.parametrize(("after", "harm", "is_open"), [(6.0, True, False), (2.0, False, False)])
def test_longer_queues_than_on_earlier_days_are_harm(after, harm, is_open):
    switched = MIDNIGHT + timedelta(hours=8)
    hours = dict.fromkeys(range(8, 12), BUSY)
    earlier = [MIDNIGHT - timedelta(days=k) for k in range(1, 8)]
    parts = [summaries([day], hours, NORTH, 2.0 + 0.02 * (k % 3)) for k, day in enumerate(earlier)]
    parts.append(summaries([MIDNIGHT], hours, NORTH, after))
    rows = parts[0].__class__.from_batches([b for part in parts for b in part.to_batches()])
    evidence = ConfigEvidence(
        profile=TRAFFIC,
        spec=OWN,
        settings=TRAFFIC.rollout,
        treated={"north": NORTH},
        held={},
        switched_at=switched,
        now=switched + timedelta(hours=4),
        summaries=rows,
        looks=1,
    )
    found = corridor_delay(evidence)
    assert (bool(found.harm), bool(found.open)) == (harm, is_open), found

"""Laws of what `edgeloop status` says of samples and scores that cannot be, and of training that waits."""

from contextlib import closing
from dataclasses import replace

from infra.cli.status_command import acting_troubles, unfit_samples
from infra.settings import StackSettings
from infra.stack.model_settings import model_settings
from model_service import Registry, RunState, run_store
from model_service.training.training_run import RunReason
from schemas.instants import utc_now
from tests.infra.cli import EdgeloopHere


def test_a_device_that_loses_too_much_is_named_with_its_channel_and_share():
    process = {"name": "p", "absurd_shares": {"d-1": {"temp": 0.253}}, "counters": {"scores_outside": 0}}
    assert unfit_samples([process]) == ["d-1: 25% of temp outside min..max: mend the range or the sensor"]


def test_scores_that_were_not_used_are_counted():
    assert unfit_samples([{"name": "p", "counters": {"scores_outside": 12}}]) == [
        "p: 12 scores outside [0, 1] not used"
    ]


def test_a_status_file_of_before_says_nothing_of_it():
    assert unfit_samples([{"name": "p"}, {"name": "q", "counters": None, "absurd_shares": None}]) == []


def test_a_run_that_is_not_over_is_shown_with_what_it_waits_for(tmp_path):
    settings, now = model_settings(StackSettings(state_dir=tmp_path)), utc_now()
    settings.root.mkdir(parents=True)
    with (
        closing(Registry.open(settings.database_url, settings.root)) as registry,
        registry.transaction() as connection,
    ):
        run = run_store.new_run(
            connection, family="machine", profile="machine", reason=RunReason.SCHEDULE, now=now
        )
        waiting = replace(run, detail="26 of 200 rows")
        assert run_store.save(connection, run, waiting, now)
        over = run_store.new_run(
            connection, family="machine", profile="machine", reason=RunReason.SCHEDULE, now=now
        )
        assert run_store.save(connection, over, replace(over, state=RunState.CANCELLED), now)
    edgeloop = EdgeloopHere(tmp_path)
    assert [(r["run_id"], r["state"], r["detail"]) for r in edgeloop.json("status")["runs"]] == [
        (run.run_id, "collecting", "26 of 200 rows")
    ]
    assert "26 of 200 rows" in edgeloop("status").stdout


def test_an_actuator_that_is_lost_a_function_that_fails_and_clipped_numbers_are_said():
    function = {"name": "own", "problem": "", "clipped": {"green.green_s": 2}}
    process = {
        "name": "edge",
        "actuator": {"address": "/run/a.sock", "error": "it closed the connection"},
        "decision_functions": {"d-1": {**function, "problem": "no answer within 0.05 s"}},
    }
    assert acting_troubles([process]) == [
        "edge: actuator /run/a.sock: it closed the connection",
        "d-1: decision function own: no answer within 0.05 s",
        "d-1: green.green_s clipped 2 times to the profile's bounds",
    ]
    assert acting_troubles([{"name": "p"}, {"name": "q", "actuator": None}]) == []

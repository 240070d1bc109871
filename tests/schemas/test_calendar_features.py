"""Laws of calendar features: wall-clock time of a zone, the same on every machine, absent where unused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pytest
from pydantic import ValidationError

from schemas.calendar_features import CALENDAR_KINDS, Calendar, golden_ends
from schemas.instants import from_us, to_us
from schemas.profile_changes import kind_of
from schemas.profile_file import find_profile
from schemas.row_schemas import Kind, telemetry_layout
from tests.edge_producer.output_models import PUMP, pump_profile
from tests.quick_machine_profile import AS_BEFORE

ZONES = ("UTC", "America/Chicago", "Asia/Kathmandu", "Pacific/Auckland")
FIRST = datetime(2024, 2, 20, tzinfo=UTC)


def instants(count: int = 400) -> list[datetime]:
    """Through a leap day and both changes of clocks, at odd seconds."""
    return [FIRST + k * timedelta(hours=21, minutes=37, seconds=11) for k in range(count)]


@pytest.mark.parametrize("zone", ZONES)
def test_hours_weekdays_and_days_of_the_year_are_those_of_duckdb(zone):
    given = instants()
    rows = Calendar(("hour", "weekday", "weekend", "year_sin", "year_cos"), zone).rows(
        [to_us(t) for t in given]
    )
    connection = duckdb.connect()
    connection.execute(f"SET TimeZone = '{zone}'")
    wanted = connection.execute(
        """SELECT hour(t) + minute(t) / 60 + second(t) / 3600, isodow(t) - 1, (isodow(t) > 5)::INT,
            (dayofyear(t) - 1 + (hour(t) + minute(t) / 60 + second(t) / 3600) / 24)
                / dayofyear(make_date(year(t), 12, 31))
        FROM (SELECT to_timestamp(unnest(?)) AS t)""",
        [[t.timestamp() for t in given]],
    ).fetchnumpy()
    columns = [np.asarray(c, dtype=float) for c in wanted.values()]
    np.testing.assert_allclose(rows[:, :3], np.stack(columns[:3], axis=1), atol=1e-9)
    turn = 2 * np.pi * columns[3]
    np.testing.assert_allclose(rows[:, 3:], np.stack([np.sin(turn), np.cos(turn)], axis=1), atol=1e-9)


def test_sines_and_cosines_turn_once_in_their_time():
    pairs = {"hour": 24, "half_day": 12, "week": 7 * 24}
    names = [f"{name}_{part}" for name in pairs for part in ("sin", "cos")]
    rows = Calendar(names, "UTC").rows([to_us(t) for t in instants()])
    for at, hours in enumerate(pairs.values()):
        np.testing.assert_allclose(np.hypot(rows[:, 2 * at], rows[:, 2 * at + 1]), 1.0)
        later = Calendar(names, "UTC").rows([to_us(t + timedelta(hours=hours)) for t in instants()])
        np.testing.assert_allclose(later[:, 2 * at : 2 * at + 2], rows[:, 2 * at : 2 * at + 2], atol=1e-9)


def test_an_hour_that_the_clock_repeats_has_its_values_twice():
    first = datetime(2026, 11, 1, 1, 30, tzinfo=ZoneInfo("America/Chicago")).astimezone(UTC)
    calendar = Calendar(("hour", "hour_sin"), "America/Chicago")
    assert calendar.row(first).tolist() == calendar.row(first + timedelta(hours=1)).tolist()
    assert calendar.row(first)[0] == 1.5


def test_one_instant_gives_what_many_give():
    calendar = Calendar(tuple(CALENDAR_KINDS), "America/Chicago")
    ends = [to_us(t) for t in instants(50)]
    single = np.array([calendar.row(from_us(us)) for us in ends])
    np.testing.assert_array_equal(single, calendar.rows(ends).astype(np.float32))


def test_golden_windows_tell_zones_and_daylight_saving_apart():
    eight = golden_ends(8)
    chicago, fixed, berlin = (
        Calendar(("hour_sin", "hour_cos"), z).rows(eight)
        for z in ("America/Chicago", "Etc/GMT+6", "Europe/Berlin")
    )
    assert 0 < (np.abs(chicago - fixed).max(axis=1) > 0.1).sum() < 8, "summer differs, winter does not"
    assert (np.abs(chicago - berlin).max(axis=1) > 0.1).all()


def test_a_profile_that_names_neither_calendar_nor_outputs_has_the_digest_of_before():
    machine = find_profile("machine_demo").model_copy(update=AS_BEFORE)
    assert machine.digest() == "89f606202d984205"
    stated = machine.canonical()
    assert not {"calendar", "time_zone", "also"} & stated["features"].keys()
    assert "outputs" not in stated["model"]
    assert all("output" not in rule for rule in stated["decision"]["rules"])
    assert all("channels" not in choice for choice in stated["features"]["compute"])
    assert "also" not in stated["gates"]


def test_a_stated_key_survives_its_canonical_form():
    again = type(PUMP).model_validate_json(PUMP.canonical_form())
    assert again == PUMP
    assert again.decision.rules[1].output == "queue"


def test_columns_are_the_features_then_the_calendar_then_the_outputs():
    columns = {c.name: c for c in telemetry_layout(PUMP).columns}
    assert list(columns)[10:-6] == [
        "calendar_hour_sin",
        "calendar_hour_cos",
        "calendar_weekend",
        "score_queue",
    ]
    assert (columns["score_queue"].kind, columns["score_queue"].nullable) == (Kind.FLOAT32, True)
    assert PUMP.feature_names[-1] == "calendar_weekend", "an output is never an input of training"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"calendar": ["hour_tan"]}, r"unknown calendar features \['hour_tan'\]"),
        ({"time_zone": "America/Chicogo"}, "'America/Chicogo' is not known on this machine"),
        ({"calendar": []}, "time_zone says nothing without"),
        ({"also": ["ratio"]}, r"features.also names \['ratio'\]"),
        ({"compute": [{"channel": "flow", "kinds": ["ratio"]}]}, r"unknown feature kinds \['ratio'\]"),
        ({"compute": [{"channels": ["flow", "pressure"], "kinds": ["mean"]}]}, "kinds of one channel"),
        ({"compute": [{"kinds": ["mean"]}]}, "either channel or channels"),
    ],
)
def test_what_contradicts_itself_is_refused_with_what_it_is(changed, why):
    with pytest.raises(ValidationError, match=why):
        pump_profile(**changed)


def test_a_rule_cannot_read_an_output_that_the_model_does_not_give():
    given = PUMP.model_dump(mode="json")
    given["decision"]["rules"][1]["output"] = "delay"
    with pytest.raises(ValidationError, match="output 'delay' is none of the model's: score, queue"):
        type(PUMP).model_validate(given)


def test_the_calendar_is_not_watched_for_drift_and_cannot_be():
    given = PUMP.model_dump(mode="json")
    given["drift"]["features"] = ["calendar_hour_sin"]
    with pytest.raises(ValidationError, match=r"drift\.features names unknown features"):
        type(PUMP).model_validate(given)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("features.calendar", "incompatible"),
        ("features.time_zone", "incompatible"),
        ("model.outputs", "incompatible"),
        ("decision.rules.drain.output", "guarded"),
        ("gates.also", "guarded"),
    ],
)
def test_who_signs_a_change_of_the_younger_keys(path, kind):
    assert kind_of(path) == kind

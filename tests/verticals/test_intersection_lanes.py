"""Laws of wide intersections: what comes by the shipped width is decided for all lanes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_producer.deciding.decision_function import load_decision_function
from edge_producer.verticals.traffic.intersection_lanes import VARIABLE, lanes_of
from edge_producer.verticals.traffic.signal_decision import SignalDecision
from schemas.errors import ProfileError
from schemas.profile_file import find_profile
from schemas.verticals.traffic.junction import LANE_SATURATION
from schemas.verticals.traffic.phase_control import SignalView, next_phase
from schemas.verticals.traffic.standard_junction import NAMES, detected, standard_junction

AT = datetime(2026, 3, 2, 15, tzinfo=UTC)


def written(path, lanes):
    path.write_text(json.dumps(lanes))
    return {VARIABLE: str(path)}


@given(
    st.lists(st.integers(1, 8), min_size=4, max_size=4),
    st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=2), min_size=4, max_size=4),
)
def test_the_choice_is_that_for_all_vehicles_on_all_lanes(tmp_path_factory, lanes, vehicles):
    environment = written(
        tmp_path_factory.getbasetemp() / "lanes.json", {"x": dict(zip(NAMES, lanes, strict=True))}
    )
    own = lanes_of("x", environment)
    counts = [each[: len(detected(name))] for name, each in zip(NAMES, vehicles, strict=True)]
    features = {
        f"queue_{part}_queued_last": count / width + 1.0
        for name, width, each in zip(NAMES, own.widths, counts, strict=True)
        for part, count in zip(detected(name), each, strict=True)
    }
    assert [p.saturation for p in own.junction.phases] == [LANE_SATURATION * n for n in lanes]
    decision = SignalDecision(own, 2.0, "UTC")
    empty = dict.fromkeys(features, 1.0)
    _, state = decision.decide(empty, AT, {}, None)
    later = AT + timedelta(seconds=10)
    choice, _ = decision.decide(features, later, {}, state)
    view = SignalView(0, 10.0, (0.0, 10.0, 10.0, 10.0))
    assert choice == next_phase(own.junction, view, counts, later.timestamp(), None, 2.0)


def test_what_nobody_names_is_as_shipped(tmp_path):
    for environment in ({}, written(tmp_path / "lanes.json", {"other": {"ew": 4}})):
        own = lanes_of("x", environment)
        assert own.junction == standard_junction()
        assert own.widths == (1.0, 1.0, 1.0, 1.0)
    own = lanes_of("x", written(tmp_path / "lanes.json", {"x": {"ew": 4}}))
    assert own.widths == (1.0, 1.0, 2.0, 1.0)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"x": {"ew": 0}}',
        '{"x": {"up": 2}}',
        '{"x": {"ew": true}}',
        '{"x": {"ew": 17}}',
        '{"x": 4}',
    ],
)
def test_a_file_of_lanes_that_is_none_gives_no_decision_and_says_what_to_correct(tmp_path, monkeypatch, text):
    path = tmp_path / "lanes.json"
    path.write_text(text)
    monkeypatch.setenv(VARIABLE, str(path))
    with pytest.raises(ProfileError, match=f"correct the file that {VARIABLE} names"):
        load_decision_function("intersection_phase", "x", find_profile("traffic"))

"""Laws of the alarm of an incident: a phase that does not discharge is found, a busy one is not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.verticals.traffic.discharge_watch import ALARM, LEAST_GREEN_S, WINDOW_S, DischargeWatch
from schemas.verticals.traffic.queue_network import QueueNetwork, constant
from schemas.verticals.traffic.standard_junction import approach_site, standard_junction

JUNCTION = standard_junction()
SITE = approach_site("x", (0.5, 0.5))


def scores(rates: tuple[float, ...], seed: int, seconds: int, blocked_at: int = 10**9) -> list[float]:
    """Scores of each second, one approach of the first phase blocked from a second on."""
    demand = constant({a.name: rates[a.phase] * a.share for a in SITE.arms})
    network = QueueNetwork(SITE, demand, seed)
    watch, found = DischargeWatch(JUNCTION), []
    arms = [[k for k, arm in enumerate(SITE.arms) if arm.phase == p] for p in range(len(JUNCTION.phases))]
    for second in range(seconds):
        if second >= blocked_at:
            network.capacity[0] = 0.0
        before = network.vehicles()["x"]
        network.step(None)
        head = network.heads["x"]
        departed = [[float(network.departed[k]) for k in each] for each in arms]
        found.append(watch.add(head.view.phase if head.green_s > 0 else None, head.green_s, before, departed))
    return found


@pytest.mark.parametrize("rates", [(0.1, 0.02, 0.1, 0.02), (0.35, 0.06, 0.3, 0.05), (0.6, 0.1, 0.5, 0.1)])
def test_traffic_without_an_incident_is_not_alarmed_even_above_capacity(rates):
    assert max(scores(rates, 5, 2400)) < ALARM


@pytest.mark.parametrize("rates", [(0.15, 0.02, 0.1, 0.02), (0.3, 0.06, 0.25, 0.05)])
def test_a_blocked_approach_is_alarmed_within_three_windows_while_the_other_goes_on(rates):
    found = scores(rates, 5, 900 + 3 * WINDOW_S, 900)
    assert max(found[:900]) < ALARM
    assert max(found[900:]) >= ALARM


@given(
    st.lists(
        st.tuples(
            st.one_of(st.none(), st.integers(0, 3)),
            st.floats(0, 60),
            st.lists(
                st.lists(st.one_of(st.floats(0, 40), st.just(math.nan)), min_size=2, max_size=2),
                min_size=4,
                max_size=4,
            ),
            st.lists(st.lists(st.floats(0, 3), min_size=2, max_size=2), min_size=4, max_size=4),
        ),
        max_size=200,
    )
)
def test_the_score_is_a_share_whatever_the_detectors_say(rows):
    watch = DischargeWatch(JUNCTION, 60)
    assert all(0 <= watch.add(*row) <= 1 for row in rows)


def test_little_green_gives_no_score():
    watch, nothing = DischargeWatch(JUNCTION), [[0.0]] * 4
    made = [watch.add(0, 10.0, [[9.0]] * 4, nothing) for _ in range(LEAST_GREEN_S)]
    assert max(made[:-1]) == 0
    assert made[-1] == 1

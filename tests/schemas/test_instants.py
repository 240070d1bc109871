"""Instants: whole microseconds, to and from, without rounding."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from schemas.instants import from_us, to_us, utc_now


@given(us=st.integers(-(10**15), 7 * 10**15))
def test_times_survive_the_round_trip(us):
    assert to_us(from_us(us)) == us
    assert from_us(us).tzinfo is UTC


@given(at=st.datetimes(), hours=st.integers(-12, 12))
def test_an_instant_is_the_same_in_every_time_zone(at, hours):
    there = at.replace(tzinfo=timezone(timedelta(hours=hours)))
    assert from_us(to_us(there)) == there


def test_now_is_aware_and_in_utc():
    assert utc_now().tzinfo is UTC
    assert to_us(datetime(1970, 1, 1, tzinfo=UTC)) == 0

"""Instants: whole microseconds, to and from, without rounding."""

from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from schemas.instants import from_us, has_passed, to_us, utc_now


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


def test_a_wait_is_over_once_its_span_has_passed_or_the_clock_was_set_back():
    at, minute = datetime(2026, 1, 1, tzinfo=UTC), timedelta(minutes=1)
    assert not has_passed(minute, at, at)
    assert not has_passed(minute, at, at + timedelta(seconds=59))
    assert has_passed(minute, at, at + minute)
    assert has_passed(minute, at, at - timedelta(seconds=1))

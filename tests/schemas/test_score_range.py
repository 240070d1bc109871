"""Laws of what a raw score is worth."""

import math

from hypothesis import given
from hypothesis import strategies as st

from schemas.score_range import ROUNDING, score_excess, usable_score


@given(st.floats(0, 1))
def test_a_score_inside_is_itself(raw):
    assert usable_score(raw) == (raw, False, False)


@given(st.floats(0, ROUNDING * 0.999, exclude_min=True).filter(lambda by: 1 + by > 1))
def test_rounding_is_clipped_on_both_sides_and_said(by):
    """Today's bug: 1.0000001 was no score, and 35 of 58 sure detections were lost."""
    assert usable_score(1 + by) == (1.0, True, False)
    assert usable_score(-by) == (0.0, True, False)


@given(st.floats(ROUNDING * 1.001, allow_infinity=True))
def test_what_lies_farther_out_is_no_score_and_said(by):
    for raw in (1 + by, -by):
        assert usable_score(raw) == (None, False, True)
        assert score_excess(raw) > ROUNDING


def test_both_ends_are_inside():
    assert usable_score(1.0) == (1.0, False, False)
    assert usable_score(0.0) == (0.0, False, False)


def test_exactly_so_much_is_still_rounding():
    assert usable_score(-ROUNDING) == (0.0, True, False)


def test_no_score_is_neither_clipped_nor_outside():
    assert usable_score(None) == usable_score(math.nan) == (None, False, False)
    assert score_excess(math.nan) == 0

"""Watermarks: who holds them, and that they never go back."""

from hypothesis import given
from hypothesis import strategies as st

from stream_processors.windowing.watermark import (
    AppendClock,
    SourceProgress,
    advance,
    idle_bound_us,
)

IDLE_AFTER = 100


def test_the_slowest_active_source_holds_the_watermark():
    sources = {"a": SourceProgress(50, 1000), "b": SourceProgress(30, 1000)}
    assert advance(None, sources, 1000, IDLE_AFTER) == 30


def test_an_idle_source_is_not_waited_for():
    sources = {"a": SourceProgress(50, 1000), "b": SourceProgress(30, 890)}
    assert advance(30, sources, 1000, IDLE_AFTER) == 50


def test_a_source_with_a_backlog_holds_up_no_other():
    sources = {"a": SourceProgress(500, 1000), "back_after_a_week": SourceProgress(3, 1000)}
    assert advance(400, sources, 1000, IDLE_AFTER) == 500


def test_a_source_that_caught_up_holds_again():
    sources = {"a": SourceProgress(500, 1000), "b": SourceProgress(400, 1000)}
    assert advance(400, sources, 1000, IDLE_AFTER) == 400


def test_when_all_are_idle_nothing_more_is_expected():
    sources = {"a": SourceProgress(50, 800), "b": SourceProgress(30, 700)}
    assert advance(30, sources, 1000, IDLE_AFTER, tail_us=5) == 55


def test_no_sources_leave_the_watermark_alone():
    assert advance(7, {}, 1000, IDLE_AFTER) == 7
    assert advance(None, {}, 1000, IDLE_AFTER) is None


@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(-1000, 1000), st.integers(0, 300)), max_size=40
    )
)
def test_watermark_never_goes_back(steps):
    sources, watermark, now = {}, None, 0
    for name, complete, passed in steps:
        now += passed
        sources[name] = sources.get(name, SourceProgress(complete, now)).updated(complete, now)
        after = advance(watermark, sources, now, IDLE_AFTER, tail_us=2)
        assert watermark is None or (after is not None and after >= watermark)
        watermark = after


def test_a_lagging_reader_takes_nobody_for_silent():
    clock = AppendClock(appended_us=1_000, read_us=1_000)
    clock = clock.updated(1_200, now_us=3_600_000)  # an hour of log to work off
    assert clock.at(3_600_000) == 1_200
    assert clock.at(3_600_500) == 1_700  # nothing comes: time passes


def test_append_clock_stands_at_the_newest_message():
    clock = AppendClock(1_000, 1_000).updated(2_000, 2_000).updated(1_500, 2_100)
    assert clock.at(2_100) == 2_000


def test_a_source_may_miss_one_window_before_it_counts_as_silent():
    assert idle_bound_us(5.0, 2.0) == 12_000_000


def test_a_source_holds_the_watermark_to_the_end_of_the_idle_bound():
    def after(silent_for: int) -> int | None:
        sources = {"a": SourceProgress(50, 1000), "b": SourceProgress(30, 1000 - silent_for)}
        return advance(30, sources, 1000, IDLE_AFTER)

    assert (after(IDLE_AFTER), after(IDLE_AFTER + 1)) == (30, 50)


def test_sources_that_were_all_overtaken_leave_the_watermark_where_it_is():
    sources = {"a": SourceProgress(3, 1000), "b": SourceProgress(5, 1000)}
    assert advance(400, sources, 1000, IDLE_AFTER) == 400


def test_a_commit_clock_that_steps_back_takes_no_append_time_back():
    assert AppendClock(1_000, 500).at(200) == 1_000


def test_idle_sources_move_a_watermark_forward_only_and_give_the_first_one():
    sources = {"a": SourceProgress(50, 800), "b": SourceProgress(30, 700)}
    assert advance(None, sources, 1000, IDLE_AFTER, tail_us=5) == 55
    assert advance(60, sources, 1000, IDLE_AFTER, tail_us=5) == 60

"""Laws of summaries."""

import numpy as np
import pytest
from datasketches import kll_floats_sketch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.summaries import Summarizer, merge_summaries
from schemas.packed_schemas import summaries_of
from tests.edge_producer.spool_rig import row

NAMES = ("load_last", "load_mean")
LAYOUT = summaries_of("", "bench@1", NAMES)
EDGES = {"load_last": np.array([0.0, 1.0, 2.0])}
values_st = st.lists(st.floats(-1e3, 1e3, width=32) | st.just(float("nan")), min_size=1, max_size=60)


def make(*, sketches=False):
    return Summarizer("d-1", "bench@1", NAMES, 10.0, EDGES, sketches=sketches)


def feed(subject, values, first=0, boot_id=1):
    for k, value in enumerate(values, first):
        subject.add(row(k, 0.5, value, boot_id))


def lines(summaries, feature="load_last"):
    return [r for s in summaries for r in s.batch(LAYOUT).to_pylist() if r["feature"] == feature]


@given(values_st)
@settings(max_examples=80, deadline=None)
def test_summary_agrees_with_numpy(values):
    subject = make(sketches=True)
    feed(subject, values)
    subject.close()
    found = lines(subject.take_closed())
    for k, line in enumerate(found):
        data = np.array(values[k * 10 : k * 10 + 10], dtype=np.float32).astype(float)
        good = data[np.isfinite(data)]
        assert (line["n"], line["n_missing"]) == (len(good), len(data) - len(good))
        assert sum(line["bin_counts"]) == len(good)
        if len(good):
            assert line["mean"] == pytest.approx(good.mean(), rel=1e-9, abs=1e-9)
            assert line["m2"] == pytest.approx(((good - good.mean()) ** 2).sum(), rel=1e-6, abs=1e-6)
            assert (line["min"], line["max"]) == (good.min(), good.max())
            assert kll_floats_sketch.deserialize(line["sketch"]).n == len(good)
        else:
            assert line["mean"] is None
            assert line["sketch"] is None
    assert sum(line["n"] + line["n_missing"] for line in found) == len(values)


def test_bins_count_values_between_edges():
    subject = make()
    feed(subject, [-1.0, 0.0, 0.5, 1.0, 5.0])
    subject.close()
    assert lines(subject.take_closed())[0]["bin_counts"] == [1, 2, 1, 1]


def test_score_is_summarised_like_a_feature():
    subject = make()
    feed(subject, [1.0, 2.0])
    assert lines([subject.open_summary()], "score")[0]["mean"] == 0.5


def test_no_key_is_ever_stated_twice():
    subject = make()
    feed(subject, [1.0] * 25)
    feed(subject, [2.0] * 5, first=5)
    subject.close()
    feed(subject, [3.0] * 5, first=5)
    feed(subject, [4.0] * 5, boot_id=2)
    subject.close()
    closed = subject.take_closed()
    keys = [(s.boot_id, s.model_version, s.period_us, s.part) for s in closed]
    assert len(set(keys)) == len(keys)
    assert sum(line["n"] for line in lines(closed)) == 40


def test_open_summary_does_not_disturb_what_comes():
    watched, alone = make(), make()
    for k in range(9):
        feed(watched, [float(k)], first=k)
        feed(alone, [float(k)], first=k)
        watched.open_summary()
    watched.close()
    alone.close()
    first, second = lines(watched.take_closed())[0], lines(alone.take_closed())[0]
    assert first["n"] == second["n"]
    assert first["m2"] == pytest.approx(second["m2"])


@given(values_st)
@settings(max_examples=40, deadline=None)
def test_merged_summaries_equal_one_summary_of_everything(values):
    short = make()
    feed(short, values)
    short.close()
    long = Summarizer("d-1", "bench@1", NAMES, 60.0, EDGES)
    for k, value in enumerate(values):
        one = row(k, 0.5, value)
        one.period_us = 0
        long.add(one)
    long.close()
    merged = lines([merge_summaries(short.take_closed(), 60.0, 7, LAYOUT)])[0]
    whole = lines(long.take_closed())[0]
    for name in ("n", "n_missing", "min", "max", "bin_counts", "period_start", "period_s"):
        assert merged[name] == whole[name]
    assert merged["m2"] == pytest.approx(whole["m2"], rel=1e-6, abs=1e-6)
    assert merged["part"] == 7


def test_a_sketch_is_made_where_it_is_asked_for_and_nowhere_else():
    for wanted in (False, True):
        subject = make(sketches=wanted)
        feed(subject, [1.0, 2.0])
        subject.close()
        assert {line["sketch"] is not None for line in lines(subject.take_closed())} == {wanted}


def test_a_merged_summary_has_a_sketch_only_where_all_its_parts_have_one():
    with_, without = make(sketches=True), make()
    feed(with_, [1.0] * 10)
    feed(without, [2.0] * 10, first=10)
    parts = []
    for subject in (with_, without):
        subject.close()
        parts += subject.take_closed()
    [merged] = lines([merge_summaries(parts, 60.0, 7, LAYOUT)])
    assert (merged["n"], merged["sketch"]) == (20, None)

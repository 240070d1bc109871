"""Windows that fill: what of which device lands where, and that nothing of it is lost on the way to disk."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream_processors.windowing.moments import MomentColumns, Moments
from stream_processors.windowing.windows import (
    SummaryRows,
    TumblingWindow,
    WindowContent,
    all_parts,
    fold,
)

LENGTH = 10
ROWS = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.sampled_from(["m@1", "m@2"]), st.sampled_from(["x", "y", "z"]),
        st.integers(0, 3), st.floats(-100, 100),
    ),
    max_size=30,
)  # fmt: skip


def summary_rows(rows) -> SummaryRows:
    """One value a row; its period lies in the window with its number."""
    device, model, feature, number, value = (list(c) for c in zip(*rows, strict=True)) if rows else [[]] * 5
    start = np.array(number, dtype="int64") * LENGTH
    values = np.array(value, dtype=np.float64)
    moments = MomentColumns(np.ones(len(rows), dtype="int64"), values, np.zeros(len(rows)), values, values)
    return SummaryRows(device, model, feature, start, start + LENGTH, start, moments)


def folded(rows, chosen=None) -> dict:
    columns, contents = summary_rows(rows), {}
    mask = np.ones(len(rows), bool) if chosen is None else np.array(chosen, bool)
    fold(contents, columns, columns.start, LENGTH, mask)
    return contents


def test_a_window_ends_one_length_after_its_start():
    assert TumblingWindow(30, 10).end_us == 40
    assert TumblingWindow(30, 10).end_us == TumblingWindow(40, 10).start_us


@given(ROWS)
def test_each_row_counts_once_in_its_window_model_and_feature(rows):
    parts = all_parts(contents := folded(rows), sorted(contents), 7, late=True)
    assert [(p.window, p.model, p.feature) for p in parts] == sorted(
        {(TumblingWindow(n * LENGTH, LENGTH), m, f) for _, m, f, n, _ in rows}
    )
    for part in parts:
        own = [
            r for r in rows if (r[3] * LENGTH, r[1], r[2]) == (part.window.start_us, part.model, part.feature)
        ]
        assert part.moments.n == len(own)
        assert (part.moments.min, part.moments.max) == (min(r[4] for r in own), max(r[4] for r in own))
        assert part.devices == len({r[0] for r in own})
        assert (part.number, part.late) == (7, True)


@given(ROWS, st.data())
def test_only_chosen_rows_are_taken_and_batches_add_up(rows, data):
    chosen = [data.draw(st.booleans()) for _ in rows]
    kept = [r for r, c in zip(rows, chosen, strict=True) if c]
    assert folded(rows, chosen).keys() == folded(kept).keys()
    columns, both = summary_rows(rows), {}
    mask = np.array(chosen, bool)
    fold(both, columns, columns.start, LENGTH, mask)
    fold(both, columns, columns.start, LENGTH, ~mask)
    whole = folded(rows)

    def counts(contents):
        return [(p.window, p.model, p.feature, p.moments.n, p.devices) for p in
                all_parts(contents, sorted(contents), 0, late=False)]  # fmt: skip

    assert counts(both) == counts(whole)


def test_a_device_counts_for_the_features_that_it_sent_and_for_no_other():
    content = WindowContent()
    content.add("x", Moments(2, 1.0, 0.0, 1.0, 1.0), ["a", "b"])
    content.add("y", Moments(1, 5.0, 0.0, 5.0, 5.0), ["b"])
    content.add("x", Moments(1, 4.0, 0.0, 4.0, 4.0), ["b"])
    parts = {p.feature: p for p in content.parts(TumblingWindow(0, LENGTH), "m@1", 0, late=False)}
    assert {f: p.devices for f, p in parts.items()} == {"x": 2, "y": 1}
    assert (parts["x"].moments.n, parts["x"].moments.mean) == (3, 2.0)
    assert parts["y"].moments == Moments(1, 5.0, 0.0, 5.0, 5.0)


@given(ROWS)
def test_windows_survive_as_json(rows):
    for models in folded(rows).values():
        for content in models.values():
            assert WindowContent.from_state(json.loads(json.dumps(content.to_state()))) == content

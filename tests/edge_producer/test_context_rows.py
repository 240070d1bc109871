"""Laws of rows that leave at once, and of context: what a trigger finds held, sent to be looked at."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_producer.books import Ledger
from edge_producer.filter import RowFilter, permanent_u
from edge_producer.sensed_rows import Row
from feature_store.estimators import calibrated_mean, total
from schemas.row_schemas import CONTEXT, RULES, Reason, Stratum
from tests.edge_producer.spool_rig import STEADY, bench_profile, row, statements

SECRET = b"s" * 32
NAMES = ("load_last", "load_mean")
QUIET, TRIGGER = 0.1, 0.9
scores_st = st.lists(st.sampled_from([QUIET, QUIET, QUIET, 0.7, TRIGGER, None]), min_size=1, max_size=60)


def make(secret=SECRET, state=None, **policy):
    return RowFilter(bench_profile(**policy).filter, NAMES, 1.0, secret, state)


def offers(subject, scores, values=None):
    """What each offer releases, and what the end does."""
    values = values if values is not None else [0.0] * len(scores)
    found = [subject.offer(row(n, s, v), STEADY) for n, (s, v) in enumerate(zip(scores, values, strict=True))]
    return [*found, subject.flush()]


@given(scores_st, st.sampled_from([0, 1, 3]))
@settings(max_examples=60, deadline=None)
def test_a_selected_row_leaves_with_its_own_offer_and_the_others_within_the_reach_of_a_trigger(scores, reach):
    released = offers(make(pretrigger=reach, uncertain=(0.6, 0.75)), scores)
    left = {r.seq: (n, r) for n, rows in enumerate(released) for r in rows}
    assert sorted(left) == list(range(len(scores)))
    for seq, (n, r) in left.items():
        own = bool(r.reasons & RULES) or r.u < r.sample_p
        assert n - seq <= (0 if own else reach)


@given(scores_st)
@settings(max_examples=60, deadline=None)
def test_context_is_what_neither_a_rule_nor_the_sample_selected_before_a_trigger_and_nothing_else(scores):
    released = [r for rows in offers(make(), scores) for r in rows]
    triggers = {r.seq for r in released if r.reasons & Reason.THRESHOLD}
    for r in released:
        before = bool(triggers & {r.seq + 1, r.seq + 2, r.seq + 3})
        is_context = before and not r.reasons & RULES and r.u >= r.sample_p
        assert bool(r.reasons & CONTEXT) == is_context
        assert (r.stratum == Stratum.CONTEXT) == is_context
        assert not (is_context and r.reasons & (RULES | Reason.SAMPLE))
        assert not r.reasons & Reason.PRETRIGGER
        assert r.selected == (r.u < r.pi)


def test_a_sampled_row_before_a_trigger_keeps_its_rate_and_its_stratum():
    released = [r for rows in offers(make(p=0.5), [QUIET] * 40 + [TRIGGER]) for r in rows]
    last = {r.seq: r for r in released if 37 <= r.seq < 40}
    sampled = [r for r in last.values() if r.u < 0.5]
    assert 0 < len(sampled) < 3, "both kinds stand before the trigger"
    for r in sampled:
        assert (r.reasons, r.pi, r.stratum) == (Reason.SAMPLE, 0.5, Stratum.SAMPLE)


def test_a_row_that_release_0_2_0_held_leaves_by_its_own_u_whatever_comes():
    """It held sampled rows too; a trigger after the update must not call those context."""
    held = [row(seq, QUIET) for seq in range(20)]
    for each in held:
        each.u, each.sample_p = permanent_u(SECRET, 1, each.seq), 0.3
    state = json.loads(json.dumps(make().export() | {"held": [r.to_json() for r in held]}))
    for released in (
        make(state=state).flush(),
        make(state=state, pretrigger=30).offer(row(20, TRIGGER), STEADY)[:-1],
    ):
        assert [r.seq for r in released] == list(range(20))
        assert {r.stratum for r in released if r.u < 0.3} == {Stratum.SAMPLE}
        assert all(r.selected and r.pi == 0.3 for r in released if r.u < 0.3)


def correlated(rng, n=600):
    """Scores with triggers, and a value that is large exactly where a trigger is near."""
    scores = np.where(rng.random(n) < 0.06, TRIGGER, QUIET)
    near = np.convolve(scores == TRIGGER, np.ones(4))[3:][:n]  # this window or one of the next three
    return scores.tolist(), np.where(near > 0, 50.0, 1.0) + rng.normal(0, 1, n)


def released_by(secret, scores, values, **policy) -> list[Row]:
    return [r for rows in offers(make(secret, p=0.1, **policy), scores, values) for r in rows]


def books_of(rows) -> dict[str, int]:
    """Rows that the books say were sensed, by stratum."""
    ledger = Ledger()
    for r in rows:
        ledger.release(r)
    counts = dict.fromkeys(Stratum, 0)
    for key, change in ledger.take().lines.items():
        counts[Stratum(key.stratum)] += change.sensed
    return counts


def estimates_of(rows) -> tuple[float, float]:
    """Total and mean of ``load_last`` from what was sent and what the books have."""
    sensed = books_of(rows)
    sent = [r for r in rows if r.selected and not r.reasons & CONTEXT]
    y, q = np.array([float(r.features[0]) for r in sent]), np.array([r.pi for r in sent])
    rule = np.array([r.stratum == Stratum.RULE for r in sent], dtype=np.int64)
    sizes = np.array([sensed[Stratum.SAMPLE] + sensed[Stratum.CONTEXT], sensed[Stratum.RULE]], dtype=float)
    return total(y, q)[0], calibrated_mean(y, 1 / q, rule, sizes)[0]


def test_totals_and_means_are_unbiased_where_triggers_go_with_the_value():
    """Each seed is a device whose u is drawn anew; what would be off is off by many standard errors."""
    scores, values = correlated(np.random.default_rng(8))
    runs = [released_by(n.to_bytes(32, "big"), scores, values, burst_after=0) for n in range(150)]
    found = np.array([estimates_of(rows) for rows in runs])
    truth = np.array([np.float32(values).sum(dtype=np.float64), np.float32(values).mean(dtype=np.float64)])
    error = (found.mean(axis=0) - truth) / (found.std(axis=0) / math.sqrt(len(runs)))
    assert np.abs(error).max() < 3.5
    assert (found.std(axis=0) < 0.3 * truth).all()
    # Context counted as if it were sampled or ruled is no small error here.
    naive = [sum(float(r.features[0]) / r.pi for r in rows if r.selected) for rows in runs]
    assert np.mean(naive) - truth[0] > 10 * np.std(naive) / math.sqrt(len(runs))


def test_what_is_held_is_counted_in_its_own_period_though_later_rows_left_before_it():
    subject, ledger = make(p=0.5), Ledger()
    for n in range(60):
        newest = row(n, TRIGGER if n % 20 == 11 else QUIET)
        for r in subject.offer(newest, STEADY):
            ledger.release(r, subject.periods | {newest.period})
    for r in subject.flush():
        ledger.release(r)
    ledger.close()
    changes = ledger.take()
    assert len(changes.closed) == len(set(changes.closed)) == len(changes.lines), "each line closes once"
    by_period = {}
    for key, change in changes.lines.items():
        by_period[key.period_us] = by_period.get(key.period_us, 0) + change.sensed
    assert by_period == {p * 10_000_000: 10 for p in range(6)}


@pytest.mark.parametrize("thinned", [False, True])
def test_books_balance_by_stratum_and_only_context_travels_without_a_probability(rigs, tmp_path, thinned):
    rig = rigs(tmp_path, bench_profile(p=0.3, burst_after=0))
    rig.sense(([QUIET] * 9 + [TRIGGER]) * 12)
    rig.flush()
    if thinned:
        rig.evict(rig.spool.rows.bytes * 2 // 3)
    rig.settle(rig.seal())
    rig.settle(rig.seal_statements())
    rows, books = rig.rows_of(rig.delivered), rig.books()
    assert books.balanced
    context = [r for r in rows if r["reasons"] & CONTEXT]
    assert context
    assert [r["seq"] for r in rows if r["inclusion_probability"] is None] == [r["seq"] for r in context]
    lines = statements(rig.delivered)
    for stratum in Stratum:
        own = [line for line in lines if line["stratum"] == stratum]
        counted = {
            name: sum(line[name] for line in own) for name in ("sensed", "acked", "filtered", "evicted")
        }
        assert counted["sensed"] == counted["acked"] + counted["filtered"] + counted["evicted"]
        assert counted["acked"] == sum(_stratum(r) == stratum for r in rows)
        assert not (counted["filtered"] and stratum != Stratum.SAMPLE)
    assert sum(line["sensed"] for line in lines) == books.sensed == 120


def _stratum(sent: dict) -> Stratum:
    if sent["inclusion_probability"] is None:
        return Stratum.CONTEXT
    return Stratum.RULE if sent["reasons"] & RULES else Stratum.SAMPLE


def test_context_gives_way_before_anything_else_of_its_period(rigs, tmp_path):
    rig = rigs(tmp_path, bench_profile(p=0.5, burst_after=0))
    rig.sense(([QUIET] * 3 + [TRIGGER]) * 10)
    rig.flush()
    strata = [block.stratum for block in rig.spool.rows.blocks() if block.period_us == _first_period(rig)]
    assert strata == [Stratum.CONTEXT, Stratum.SAMPLE, Stratum.RULE]


def _first_period(rig) -> int:
    return min(block.period_us for block in rig.spool.rows.blocks())

"""Training sets: nothing from the future, honest weights, nothing lost without a word."""

from collections import Counter
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from feature_store import connect
from feature_store.cut_store import CutStore
from feature_store.point_in_time import HOLDOUT, TRAIN, Regime, training_rows
from schemas.errors import DatasetError
from schemas.row_schemas import Reason
from tests.feature_store.fleets import PROFILE, alerts, books, sense
from tests.feature_store.lakes import T0
from tests.feature_store.training_lakes import (
    LATER,
    NOW,
    SECOND,
    fleet_lake,
    labels,
    placed,
    profile_with,
    put,
    rows,
    selection,
)


def taken(root, cut=None, **changes):
    with connect(root, cut, comments=False) as con:
        return training_rows(con, selection(**changes))


def keys(found) -> list[tuple[str, int]]:
    return sorted(zip(*(found.rows.column(c).to_pylist() for c in ("device_id", "seq")), strict=True))


def content(found) -> list[dict]:
    return found.rows.to_pylist()


def test_a_row_enters_once_it_happened_and_was_known(lake_root):
    lake = fleet_lake(lake_root)
    put(lake, telemetry=rows("a", range(0, 600, 10)))
    put(lake, telemetry=rows("b", range(0, 600, 10), delay=timedelta(seconds=65)))
    with connect(lake_root, comments=False) as con:
        then = "WHERE event_time < $1 AND known_at <= $1"
        oracle = con.execute(
            f"SELECT device_id, seq FROM telemetry_machine {then} ORDER BY ALL", [NOW - 30 * SECOND]
        ).fetchall()
    policy = profile_with(holdout_share=0.35)  # no row is near the split
    found = taken(lake_root, event_to=NOW - 30 * SECOND, known_at=NOW - 30 * SECOND, profile=policy)
    assert keys(found) == oracle
    assert 0 < sum(d == "b" for d, _ in oracle) < sum(d == "a" for d, _ in oracle)


def test_a_set_is_never_asked_of_the_future(lake_root):
    fleet_lake(lake_root)
    with pytest.raises(DatasetError, match="ends after"):
        taken(lake_root, event_to=NOW + SECOND)
    with pytest.raises(DatasetError, match="empty span"):
        taken(lake_root, event_from=NOW)


def test_every_row_is_kept_or_counted_under_the_reason_that_keeps_it_out(lake_root):
    lake = fleet_lake(lake_root, ["a", "b", "c"])
    put(lake, devices=placed(["b"], known_at=T0, active=False))
    put(lake, devices=placed(["c"], known_at=T0, site="yard"))
    put(lake, telemetry=rows("a", range(100, 110), time_suspect=[True] + [False] * 9))
    put(lake, telemetry=rows("a", [111], vibration_rms=[None]))
    put(lake, telemetry=rows("b", range(100, 103)))
    put(lake, telemetry=rows("c", range(100, 104)))
    put(lake, telemetry=rows("stranger", range(100, 105)))
    found = taken(lake_root, cohorts=("machine/hall/g/x86",), without=())
    assert found.excluded == {
        "time_suspect": 1, "missing_feature": 1, "inactive": 3, "other_cohort": 4, "unregistered": 5,
        "straddles_split": 1,
    }  # fmt: skip
    assert found.rows.num_rows + sum(found.excluded.values()) == found.facts["considered"] == 23


def test_alarmed_spans_with_their_margins_never_enter_a_healthy_set(lake_root):
    lake = fleet_lake(lake_root)
    start, end = 200, 260
    decided = ["stop" if start <= s < end else "none" for s in range(100, 400)]
    reasons = [int(Reason.TRANSITION) if s in (start, end) else int(Reason.SAMPLE) for s in range(100, 400)]
    put(lake, telemetry=rows("a", range(100, 400), decision=decided, reasons=reasons))
    put(lake, telemetry=rows("b", range(100, 400)))
    found = taken(lake_root, profile=profile_with(holdout_share=0.01))
    left = {s for d, s in keys(found) if d == "a"}
    assert left & set(range(190, 271)) == {190}  # ends as the margin of ten windows begins
    assert found.excluded["alarmed"] == 80
    assert {s for d, s in keys(found) if d == "b"} >= set(range(190, 271))


def stop_alert(second):
    """Of device a, by the one boot that it has unless told otherwise."""
    at = [T0 + second * SECOND]
    return alerts(
        device_id=["a"], boot_id=[1], seq=[second], event_time=at, known_at=at, action=["stop"],
        score=[0.9], model_version=["m"],
    )  # fmt: skip


def test_an_alarm_without_a_known_end_lasts(lake_root):
    lake = fleet_lake(lake_root)
    put(lake, telemetry=rows("a", range(100, 400)))
    put(lake, alerts=stop_alert(200))
    assert max(s for _, s in keys(taken(lake_root))) == 190


def test_an_alarm_goes_on_over_a_restart_and_ends_with_the_first_row_at_rest(lake_root):
    """What the new start sent counts only once it is known."""
    lake = fleet_lake(lake_root)
    put(lake, telemetry=rows("a", range(100, 400)))
    put(lake, alerts=stop_alert(390))
    decided = ["stop" if s < 440 else "none" for s in range(420, 520)]
    put(lake, telemetry=rows("a", range(420, 520), boot_id=[2] * 100, decision=decided))
    policy = profile_with(holdout_share=0.001)
    then = T0 + 500 * SECOND
    early = taken(lake_root, profile=policy, known_at=then, event_to=then)
    assert early.excluded["alarmed"] == 19 + 31  # to the first window at rest, and ten more
    assert {s for _, s in keys(early) if s > 380} >= set(range(451, 490))


def test_a_row_that_was_decided_in_an_action_is_not_healthy_though_no_start_of_it_is_known(lake_root):
    lake = fleet_lake(lake_root)
    decided = ["stop" if 200 <= s < 260 else "none" for s in range(100, 400)]
    put(lake, telemetry=rows("a", range(100, 400), decision=decided))
    found = taken(lake_root, profile=profile_with(holdout_share=0.001))
    assert found.excluded["alarmed"] == 60
    assert not {s for _, s in keys(found)} & set(range(200, 260))


def test_alarms_that_a_new_regime_explains_stay_and_older_ones_do_not(lake_root):
    lake = fleet_lake(lake_root, ["old", "new", "sick"])
    onset = T0 + 200 * SECOND
    for device, began, level in (("old", 150, 11.0), ("new", 205, 11.0), ("sick", 205, 90.0)):
        moved = dict.fromkeys(PROFILE.feature_names, [11.0] * 200) | {"vibration_rms": [level] * 200}
        reasons = [int(Reason.TRANSITION) if s == began else int(Reason.SAMPLE) for s in range(150, 350)]
        decided = ["stop" if s >= began else "none" for s in range(150, 350)]
        put(lake, telemetry=rows(device, range(150, 350), reasons=reasons, decision=decided, **moved))
    names = PROFILE.feature_names
    regime = Regime(onset, dict.fromkeys(names, 11.0), dict.fromkeys(names, 1.0))
    found = taken(lake_root, event_from=onset, regime=regime)
    assert {d for d, _ in keys(found)} == {"new"}
    assert found.facts["explained_alarms"] == found.rows.num_rows > 100
    assert not taken(lake_root, event_from=onset).rows.num_rows
    decided_by_a_person = taken(lake_root, event_from=onset, regime=Regime(onset, {}, {}))
    assert {d for d, _ in keys(decided_by_a_person)} == {"new", "sick"}


def test_the_newest_label_known_at_the_instant_holds_and_replaced_ones_do_not(lake_root):
    lake = fleet_lake(lake_root)
    put(lake, telemetry=rows("a", range(100, 400)))
    first, second = T0 + 450 * SECOND, T0 + 500 * SECOND
    put(lake, labels=labels("a", 150, 200, "bearing", known_at=first))
    put(lake, labels=labels("a", 150, 200, "healthy", known_at=second, label_id="x", supersedes="a-150"))
    put(lake, labels=labels("a", 250, 300, "bearing", known_at=first))
    put(lake, labels=labels("b", 250, 300, "healthy", known_at=second, label_id="y", supersedes="a-250"))

    def in_force(at):
        policy = profile_with(holdout_share=0.001)
        found = taken(lake_root, event_to=at, known_at=at, labelled=True, profile=policy)
        return Counter(r["label"] for r in content(found) if r["label"])

    assert in_force(first - SECOND) == {}
    assert in_force(first) == {"bearing": 100}
    assert in_force(second) == {"healthy": 50, "bearing": 50}  # b's label cannot replace one of a
    assert taken(lake_root).excluded["faulty_label"] == 50  # a healthy set takes no fault


def test_a_row_with_a_healthy_label_stays_though_it_alarmed(lake_root):
    lake = fleet_lake(lake_root)
    flags = [int(Reason.TRANSITION) if s == 200 else int(Reason.SAMPLE) for s in range(100, 400)]
    put(lake, telemetry=rows("a", range(100, 400), reasons=flags, decision=["stop"] * 300))
    put(lake, labels=labels("a", 250, 300, "False_alarm ", known_at=T0 + 450 * SECOND))
    found = {s for _, s in keys(taken(lake_root, profile=profile_with(holdout_share=0.001)))}
    assert found >= set(range(251, 300))
    assert 245 not in found


def test_label_confidence_and_probability_are_weights_of_a_labelled_set_only(lake_root):
    lake = fleet_lake(lake_root)
    put(lake, telemetry=rows("a", range(100, 200)))
    put(lake, labels=labels("a", 99, 150, "healthy", known_at=NOW, confidence=0.8, label_probability=0.1))
    weight = {r["seq"]: r["weight"] for r in content(taken(lake_root, labelled=True))}
    assert weight[120] == pytest.approx(2 * 8)
    assert weight[155] == pytest.approx(2)
    assert {r["weight"] for r in content(taken(lake_root))} == {2.0}


def test_weights_add_up_to_the_books_in_each_stratum(lake_root):
    lake = fleet_lake(lake_root)
    sensed = sense(np.random.default_rng(5), n=600, p=0.2, device="a")
    put(lake, telemetry=whole(sensed.rows()), books=sensed.statement())
    found = taken(lake_root, profile=profile_with(holdout_share=1e-6))
    weight = {r["seq"]: r["weight"] for r in content(found)}
    [last] = set(np.flatnonzero(sensed.sent)) - set(weight)  # the only row of the holdout, astride the split
    of_rule = np.flatnonzero(sensed.rule)
    by_rule = sum(weight.get(int(k), 0.0) for k in of_rule) + float(last in of_rule)
    sampled = [w for k, w in weight.items() if k not in of_rule]
    assert by_rule == pytest.approx(sensed.rule.sum())
    assert len(set(np.round(sampled, 9))) == 1
    n_sampled = len(sampled) + (last not in of_rule)
    assert sampled[0] == pytest.approx((~sensed.rule).sum() / n_sampled)
    assert sampled[0] != pytest.approx(1 / 0.2, rel=1e-3), "the books know better than the design"


def whole(table):
    """The rows with every feature."""
    for name in PROFILE.feature_names:
        at = table.column_names.index(name)
        table = table.set_column(at, table.schema.field(name), table.column(name).fill_null(1.0))
    return table


def test_no_window_of_the_holdout_begins_before_the_split(lake_root):
    lake = fleet_lake(lake_root)
    for device in "abc":
        put(lake, telemetry=rows(device, range(0, 600, 2)))
    wide = PROFILE.sampling.model_copy(update={"window_samples": 512 * 8})
    profile = profile_with(holdout_share=0.25).model_copy(update={"sampling": wide})
    found = taken(lake_root, profile=profile)
    window = timedelta(seconds=8)
    holdout, train = found.part(HOLDOUT), found.part(TRAIN)
    assert min(holdout.column("event_time").to_pylist()) - window >= found.split
    assert max(train.column("event_time").to_pylist()) < found.split
    assert found.excluded["straddles_split"] == 3 * 4
    assert 0.2 < holdout.num_rows / found.rows.num_rows < 0.3


FUTURE = st.lists(
    st.tuples(
        st.sampled_from(["row", "label", "revocation", "alarm", "books"]),
        st.integers(0, 599),
        st.integers(1, 3600),
    ),
    min_size=1, max_size=6,
)  # fmt: skip


NO_SHRINKING = (Phase.explicit, Phase.generate)
"""Each example is a lake: shrinking a failure would take minutes."""


@settings(
    max_examples=12,
    deadline=None,
    phases=NO_SHRINKING,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(additions=FUTURE)
def test_what_becomes_known_later_never_changes_a_set(additions, tmp_path_factory):
    root = tmp_path_factory.mktemp("lake")
    lake = fleet_lake(root)
    put(lake, telemetry=rows("a", range(0, 600, 7)), labels=labels("a", 50, 90, "bearing", known_at=NOW))
    before = taken(root)
    for kind, at, late_s in additions:
        add_late(lake, kind, at, NOW + late_s * SECOND)
    after = taken(root)
    assert CutStore(lake).latest().id > len(additions)
    assert content(after) == content(before)
    assert (after.excluded, after.facts, after.split) == (before.excluded, before.facts, before.split)


def add_late(lake, kind: str, at: int, known) -> None:
    """Something about the past that becomes known only now."""
    delay = known - (T0 + at * SECOND)
    moment = T0 + at * SECOND
    if kind == "row":
        flags = [int(Reason.TRANSITION)]
        put(lake, telemetry=rows("a", [at], delay=delay, first_seq=10_000, decision=["stop"], reasons=flags))
    elif kind == "label":
        put(lake, labels=labels("a", at, at + 60, "bearing", known_at=known, supersedes="a-50"))
    elif kind == "revocation":
        put(lake, devices=placed(["a"], known_at=known, active=False))
    elif kind == "alarm":
        put(lake, alerts=alerts(
            device_id=["a"], boot_id=[1], seq=[at], event_time=[moment], action=["stop"], score=[0.9],
            known_at=[known], model_version=["m"],
        ))  # fmt: skip
    else:
        put(lake, books=books(
            device_id=["a"], boot_id=[1], model_version=["machine-0"], stratum=["sample"],
            period_start=[T0 + (at - at % 5) * SECOND], sensed=[50], acked=[1], known_at=[known],
        ))  # fmt: skip


def test_without_known_at_a_model_scores_falsely_better_on_delayed_labels(lake_root):
    """A fault of a new kind appears; its labels come an hour later. A backtest must not have them."""
    lake = fleet_lake(lake_root, [f"m-{i}" for i in range(8)])
    rng = np.random.default_rng(3)
    for i in range(8):
        device, kind = f"m-{i}", ("vibration_rms" if i % 2 else "temperature_mean")
        # Old faults show in vibration and were labelled; the new kind shows in temperature, labels come late.
        for start, known in ((100, NOW), (400, NOW + LATER)):
            faulty = kind == ("vibration_rms" if start == 100 else "temperature_mean")
            values = rng.normal(5, 1, 100) + (6 if faulty else 0)
            put(lake, telemetry=rows(device, range(start, start + 100), **{kind: values.astype("float32")}))
            word = "fault" if faulty else "healthy"
            put(lake, labels=labels(device, start - 1, start + 100, word, known_at=known))
    span = {"labelled": True, "profile": profile_with(holdout_share=0.1)}
    honest = taken(lake_root, **span)
    # The same span of event time, asked as if everything ever known had been known: no known_at.
    leaking = taken(lake_root, known_at=NOW + 2 * LATER, **span)
    truth = leaking.part(HOLDOUT)  # what happens next, as we know in the end
    scored = {
        name: accuracy(fit(s.part(TRAIN)), truth) for name, s in (("honest", honest), ("leak", leaking))
    }
    assert scored["leak"] > 0.9
    assert scored["honest"] < 0.7, "what a model trained at that time would really have scored"
    assert {r["label"] for r in content(honest) if r["seq"] >= 400} == {None}


def fit(table) -> tuple[np.ndarray, np.ndarray]:
    """Nearest centroid; a row without a label counts as healthy."""
    x, faulty = matrix(table)
    return x[~faulty].mean(axis=0), x[faulty].mean(axis=0)


def accuracy(centroids, table) -> float:
    """Mean of the two classes' recalls."""
    x, faulty = matrix(table)
    predicted = ((x - centroids[1]) ** 2).sum(axis=1) < ((x - centroids[0]) ** 2).sum(axis=1)
    return float((predicted[faulty].mean() + (~predicted[~faulty]).mean()) / 2)


def matrix(table) -> tuple[np.ndarray, np.ndarray]:
    x = np.column_stack([np.asarray(table.column(f)) for f in PROFILE.feature_names])
    return x, np.array([label == "fault" for label in table.column("label").to_pylist()])

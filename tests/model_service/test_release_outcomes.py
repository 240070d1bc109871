"""What a rollout brought: loop times out of the registry, the gain out of the lake, kept and revised."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import insert, select

from feature_store import connect
from infra.cli.outcome_view import outcome_rows
from model_service.fleet.known_profiles import KnownProfiles
from model_service.lifecycle.event_shipper import EventShipper
from model_service.registry.registry_tables import rollouts, runs
from model_service.rollout.loop_times import LoopTimes
from model_service.rollout.outcome_store import outcome_of
from model_service.rollout.release_outcomes import ReleaseOutcomes
from schemas.tables import DRIFT, LABELS, SUMMARIES
from tests.feature_store.fleets import PERIOD_S, fill, land
from tests.feature_store.test_model_views import SHADOW_PART, summary
from tests.model_service.test_rollout_engine import run
from tests.simulators.rollout_deployment import FACTORY, FAMILY, GROUP, RolloutDeployment, quick_profile

NEW, DAY_S = f"{FAMILY}-1.00000001", 86_400
ID = f"{GROUP}-1"


class Rig:
    """A rollout to four devices that has completed, its lake, and a clock that is set by hand."""

    def __init__(self, root):
        self.deployment = RolloutDeployment(root)
        self.deployment.use(quick_profile())
        self.deployment.lake.ensure_fixed_tables()
        self.names = self.deployment.join(4)
        self.deployment.sign(1)
        self.lake, self.registry = self.deployment.lake, self.deployment.registry
        self.now = 0.0
        profiles = KnownProfiles(self.lake)
        self.outcomes = ReleaseOutcomes(self.registry, self.lake.root, profiles, lambda: self.now)

    def completed(self):
        run(self.deployment, self.names)
        with self.registry.reading() as connection:
            self.ended = connection.execute(select(rollouts.c.updated_at)).scalar_one()
        return self

    def measure(self, age_s):
        """What is stored once the rollout is so old, and how often it was measured on the way."""
        self.now = self.ended + age_s
        steps = 0
        while self.outcomes.step():
            steps += 1
        with self.registry.reading() as connection:
            return outcome_of(connection, ID), steps

    def scores(self, old, new):
        """Both versions score the same windows; arrays of shape (devices, periods, windows)."""
        start = datetime.fromtimestamp(self.ended + 1, UTC)
        rows = []
        for device, name in enumerate(self.names):
            for k in range(old.shape[1]):
                pair = (
                    summary(name, FACTORY, 0, old[device, k], SHADOW_PART),
                    summary(name, NEW, 0, new[device, k]),
                )
                rows += [row | {"period_start": start + timedelta(seconds=k * PERIOD_S)} for row in pair]
        m2 = [float(((s - s.mean()) ** 2).sum()) for d in range(len(old)) for k in range(old.shape[1])
              for s in (old[d, k], new[d, k])]  # fmt: skip
        land(self.lake, summaries=fill(SUMMARIES.schema, m2=m2, **{n: [r[n] for r in rows] for n in rows[0]}))

    def label(self, device, name, periods):
        start = datetime.fromtimestamp(self.ended + 1, UTC)
        made = {
            "label_id": [f"{device}-{name}"], "device_id": [self.names[device]], "label": [name],
            "span_start": [start], "span_end": [start + timedelta(seconds=periods * PERIOD_S)],
        }  # fmt: skip
        land(self.lake, labels=fill(LABELS.schema, **made))


@pytest.fixture
def rig(tmp_path):
    made = Rig(tmp_path)
    yield made
    made.registry.close()


def test_loop_times_are_kept_as_soon_as_a_rollout_has_ended_and_the_gain_later(rig):
    rig.completed()
    found, steps = rig.measure(0.0)
    assert (steps, found["gain"], found["state"]) == (1, None, "completed")
    assert (found["version"], found["champion"]) == (NEW, FACTORY)
    times = LoopTimes(**found["times"])
    assert times.gated <= times.started <= times.first_device <= times.last_device <= times.ended
    assert found["loop_s"] == pytest.approx(times.last_device - times.gated)
    assert sum(found["stages_s"].values()) == pytest.approx(times.ended - times.gated)
    assert rig.measure(PERIOD_S)[1] == 0, "the lake does not hold the last windows yet"
    assert rig.measure(3 * PERIOD_S)[0]["gain"]["basis"] == "not estimable"


def test_a_loop_begins_with_the_drift_that_led_to_the_model(rig):
    began = datetime(2026, 1, 1, tzinfo=UTC)
    with rig.registry.transaction() as connection:
        row = {
            "run_id": "r", "family": FAMILY, "profile": FAMILY, "state": "trained", "reason": "drift",
            "kind": "", "verdicts": ["task-00/1/0", "task-00/2/0"], "onset": began.timestamp(), "seed": 1,
            "detail": "", "requested_by": "trainer", "created_at": began.timestamp() + 90,
            "updated_at": began.timestamp(),
        }  # fmt: skip
        connection.execute(insert(runs).values(**row))
    detected = [began + timedelta(seconds=s) for s in (60, 70, 5)]
    events = ["task-00/2/0", "task-00/1/0", "task-00/3/0"]
    land(rig.lake, drift=fill(DRIFT.schema, event_id=events, detected=detected))
    found, _ = rig.completed().measure(0.0)
    at = began.timestamp()
    assert [found["times"][n] for n in ("onset", "verdict", "run")] == [at, at + 60, at + 90]
    assert found["loop_s"] == pytest.approx(found["times"]["last_device"] - at)
    assert found["stages_s"]["verdict"] == 60


def test_a_gain_is_measured_by_labels_on_the_same_windows_and_again_when_labels_come_late(rig):
    rig.completed()
    rng = np.random.default_rng(4)
    old, new = rng.uniform(0, 1, (4, 12, 5)), rng.uniform(0, 0.5, (4, 12, 5))
    new[0] += 0.5
    rig.scores(old, new)
    found, _ = rig.measure(3 * PERIOD_S)
    gain = found["gain"]
    assert (gain["basis"], gain["devices"], gain["windows"], gain["gain"]) == ("not estimable", 4, 240, None)
    assert gain["released"]["share"] == pytest.approx((new >= 0.6).mean())
    apart = np.abs((old >= 0.6).sum(axis=2) - (new >= 0.6).sum(axis=2)).sum()
    assert gain["agreement"] == pytest.approx(1 - apart / 240)
    rig.label(0, "bearing", 12)
    rig.label(1, "healthy", 12)
    assert rig.measure(DAY_S - 1)[1] == 0
    gain = rig.measure(DAY_S + 1)[0]["gain"]
    assert gain["basis"] == "labels"
    truth = np.array([1.0, 0.0])[:, None, None]
    brier = ((old[:2] - truth) ** 2).mean() - ((new[:2] - truth) ** 2).mean()
    assert gain["gain"]["value"] == pytest.approx(brier)
    assert gain["released"]["recall"] == pytest.approx((new[0] >= 0.6).mean())
    right, all_alarms = (old[0] >= 0.6).sum(), (old[:2] >= 0.6).sum()
    assert gain["champion"]["precision"] == pytest.approx(right / all_alarms)
    assert rig.measure(40 * DAY_S)[1] == 1, "whatever was missed meanwhile is measured once"


def test_the_lake_shows_what_was_measured_last(rig):
    rig.completed().measure(0.0)
    rig.measure(3 * PERIOD_S)
    EventShipper(rig.registry, rig.lake).step(datetime.now(UTC))
    columns = (
        'rollout_id, "group", model_version, champion, revision, basis, loop_s, last_device, windows, gain'
    )
    with connect(rig.lake.root, comments=False) as con:
        [row] = con.execute(f"SELECT {columns} FROM release_outcomes").fetchall()
    stored, _ = rig.measure(3 * PERIOD_S)
    assert row[:6] == (ID, GROUP, NEW, FACTORY, 1, "not estimable")
    assert row[6] == pytest.approx(stored["loop_s"])
    assert row[7].timestamp() == pytest.approx(stored["times"]["last_device"], abs=1e-5)
    assert row[8:] == (0, None)


def test_people_read_what_it_brought_whatever_is_known_of_it(rig):
    rows = outcome_rows(rig.completed().measure(0.0)[0])
    assert [row[0] for row in rows][-1] == "gain"
    assert rows[-1][2] == "not measured yet"
    rows = {row[0]: row for row in outcome_rows(rig.measure(3 * PERIOD_S)[0])}
    assert rows["gain"][1] == "not estimable"
    assert rows["ended"][2] == "to the end of the rollout"

"""Treated devices are compared with those held out, by the summaries of all windows that devices send."""

import time
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from sqlalchemy import update

from feature_store.append import append
from feature_store.cut_store import CutStore
from model_service.registry.registry_tables import candidates
from model_service.rollout.alarm_rates import LakeRates
from schemas.tables import SUMMARIES
from tests.quick_machine_profile import quick_machine_profile
from tests.simulators.rollout_deployment import FACTORY, RolloutDeployment, quick_profile

EDGES = [0.2, 0.6, 0.9]
START = 1_700_000_000.0


@pytest.fixture
def deployment(tmp_path):
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile(holdout_share=0.3))
    yield made
    made.registry.close()


def summary_row(device, version, counts, at=START + 10.0):
    return {
        "profile": "machine", "device_id": device, "boot_id": 1, "model_version": version,
        "featureset": "rotating@1", "feature": "score",
        "period_start": datetime.fromtimestamp(at, UTC), "period_s": 5.0, "part": 0, "n": sum(counts),
        "n_missing": 0, "mean": 0.5, "m2": 0.0, "min": 0.0, "max": 1.0, "sketch": None,
        "bin_counts": counts, "known_at": datetime.fromtimestamp(at, UTC),
        "_partition": 0, "_offset": 0, "_row": 0,
    }  # fmt: skip


def test_rates_are_of_the_right_devices_model_and_time(deployment):
    names = deployment.join(20)
    new = deployment.sign(1)
    with deployment.registry.transaction() as connection:
        connection.execute(update(candidates).values(manifest={"bin_edges": {"score": EDGES}}))
    deployment.engine().tick()
    record = deployment.rollout()
    held = {d for d in names if record.holdout.includes(d)}
    rows = [
        summary_row(
            d, FACTORY if d in held else new.version, [10, 0, 5, 5] if d not in held else [10, 10, 0, 0]
        )
        for d in names
    ]
    rows.append(summary_row(names[0], "machine-9.00000009", [0, 0, 0, 99]))
    rows.append(summary_row(names[1], new.version, [0, 0, 0, 99], at=START - 10))
    deployment.lake.ensure_table(SUMMARIES)
    table = pa.Table.from_pylist(rows, schema=SUMMARIES.schema)
    append(deployment.lake, CutStore(deployment.lake), "test", lambda _n: {SUMMARIES.name: table})
    rates = LakeRates(deployment.settings.lake_root)
    with deployment.registry.reading() as connection:
        found = rates.of(connection, record, START, quick_machine_profile())
    assert len(found.holdout) == len(held)
    assert len(found.treated) == 20 - len(held)
    assert set(found.holdout) == {0.0}
    assert set(found.treated) == {0.5}


def test_without_a_holdout_nobody_asks_the_lake(deployment):
    deployment.use(quick_profile())
    deployment.join(20)
    deployment.sign(1)
    deployment.engine().tick()
    record = deployment.rollout()
    with deployment.registry.reading() as connection:
        found = LakeRates(deployment.settings.lake_root).of(
            connection, record, time.time(), quick_machine_profile()
        )
    assert found is None

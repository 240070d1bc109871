"""A first model's way: a history lands, the trainer makes a candidate of it, the gates judge and sign."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select, update

from edge_producer.device_identity import load_or_create
from feature_store import connect
from feature_store.append import append
from feature_store.cut_store import CutStore
from feature_store.device_registry import DeviceRecord, DeviceRegistry, used_profiles
from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.fitting.history_landing import land_history
from model_service.detectors.bank_store import put_bank
from model_service.detectors.first_model import DeviceWindows, FirstModel, fit_first_model
from model_service.gates.gate import Gate
from model_service.models.fault_bank import GENERIC
from model_service.registry.bundle_store import read_artifact
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, gate_verdicts, runs
from model_service.service.fleet_writes import RunRequest, request_run
from model_service.settings import ModelSettings
from model_service.training.scheduler import TrainingScheduler
from model_service.trust import ceremony
from schemas.cohorts import SaltedShare
from schemas.decision_policy import DecisionPolicy, DecisionRule
from schemas.instants import utc_now
from schemas.profile import ModelSpec, Profile
from stream_processors.ingest.lake_directory import LakeDirectory
from tests.model_service.test_detectors import PUMP, windows

WINDOWS, HOP_US = 400, 8_000_000
OWN = PUMP.model_copy(
    update={
        "model": ModelSpec(name="pump"),
        "decision": DecisionPolicy(rules=(DecisionRule(action="inspect", enter=0.6, leave=0.5),)),
    }
)


class FirstModelRig:
    """A stack's folders, with a history that landed and its fault bank."""

    def __init__(
        self,
        folder: Path,
        *,
        bank: bool = True,
        broken_from: int = WINDOWS,
        devices: int = 1,
        profile: Profile = OWN,
        faults: Sequence[range] = (),
    ) -> None:
        self.profile, self.faults = profile, faults
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake", tick_s=0.02)
        ceremony.init(self.settings, ["pump"], {"default": SaltedShare(share=0.3)})
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.lake = Lake.open(self.settings.lake_root)
        self.now = utc_now()
        self.fitted = self._fit(broken_from, devices)
        labelled = self.fitted.judged.faulty if faults else None
        self.landed = land_history(self.lake, profile, self.fitted.judged, self.now, labelled)
        if bank:
            put_bank(self.settings.root, self.fitted.bank)
        self.scheduler = TrainingScheduler(self.settings, self.registry, self.lake, utc_now)
        self.gate = Gate(self.settings, self.registry)

    def _fit(self, broken_from: int, devices: int) -> FirstModel:
        first_us = int(self.now.timestamp() * 1e6) - 2 * WINDOWS * HOP_US
        none, history = np.zeros(WINDOWS, dtype=bool), []
        for number in range(devices):
            samples = windows(WINDOWS, seed=number).astype(float)
            samples[broken_from:, :, 0] += 15
            faulty = np.isin(np.arange(WINDOWS), [i for span in self.faults for i in span])
            samples[faulty, :, 0] += 4
            ends = first_us + HOP_US * np.arange(WINDOWS)
            history.append(DeviceWindows(f"pump-{number}", ends, samples, faulty, none))
        return fit_first_model(self.profile, history, "pump", 1.0)

    def train(self) -> dict[str, Any]:
        """Request a run, work on it to its end; returns its row."""
        wanted = RunRequest("pump", "pump", "somebody", detail="first model")
        with self.registry.transaction() as connection:
            request_run(connection, wanted, self.now.timestamp())
        self.scheduler.poll()
        self.scheduler.work()
        return self.rows(runs)[-1]

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.registry.reading() as connection:
            return [dict(row) for row in connection.execute(select(table)).mappings()]


@pytest.fixture
def rig(tmp_path):
    made = FirstModelRig(tmp_path)
    yield made
    made.registry.close()


def test_a_landed_history_becomes_a_signed_candidate_of_its_own_family(rig):
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    [candidate] = rig.rows(candidates)
    bundle = read_artifact(rig.settings.artifacts, candidate["sha256"])
    assert (bundle.manifest.family, candidate["major"]) == ("pump", 1)
    assert bundle.manifest.lineage.pin == run["pin"]
    assert bundle.manifest.detector == rig.fitted.bundle.manifest.detector
    rig.gate.step()
    verdicts = {row["gate"]: row for row in rig.rows(gate_verdicts)}
    assert all(row["passed"] for row in verdicts.values()), {g: v["detail"] for g, v in verdicts.items()}
    assert {"rebuild", "parity", "golden", "lineage", "alarm_budget", "generic_recall"} <= set(verdicts)
    assert verdicts["generic_recall"]["detail"]["origin"] == GENERIC
    assert rig.rows(candidates)[0]["state"] == "signed"


def test_a_history_lands_once(rig):
    assert rig.landed == WINDOWS
    assert land_history(rig.lake, OWN, rig.fitted.judged, rig.now) == 0


def test_another_fit_of_the_history_takes_the_place_of_the_one_before(rig):
    judged = rig.fitted.judged
    shorter = replace(judged, excluded=np.arange(WINDOWS) >= 300)
    for given, landed in ((shorter, 300), (shorter, 0), (judged, WINDOWS)):
        assert land_history(rig.lake, OWN, given, rig.now) == landed
        with closing(connect(rig.lake.root, comments=False)) as connection:
            [(count,)] = connection.execute("SELECT count(*) FROM telemetry_pump").fetchall()
        assert count == (landed or 300)


def test_a_worker_reads_a_lake_in_which_devices_of_a_history_have_no_key(rig, tmp_path):
    """It ended at the next message of anybody: it wanted to load the key that they do not have."""
    identity = load_or_create(tmp_path / "keys", "pump-9")
    registry = DeviceRegistry(rig.lake)
    registry.register([DeviceRecord("pump-9", "own", "s", "g", "h", identity.key_id, identity.public_pem)])
    directory = LakeDirectory(ProfileRegistry(rig.lake), registry)
    assert directory.signer(identity.key_id).producer == "pump-9"
    assert directory.signer("") is None
    assert used_profiles(rig.lake) == {"pump", "own"}


def test_without_a_fault_bank_the_run_says_what_to_do(tmp_path):
    rig = FirstModelRig(tmp_path, bank=False)
    run = rig.train()
    assert run["state"] == "failed"
    assert "edgeloop model fit" in run["detail"]
    rig.registry.close()


def test_a_model_that_alarms_all_through_the_holdout_is_refused(tmp_path):
    """The machine has changed, or was worn, where the history ends: the budget does not hold there."""
    rig = FirstModelRig(tmp_path, broken_from=300)
    rig.train()
    rig.gate.step()
    verdicts = {row["gate"]: row["passed"] for row in rig.rows(gate_verdicts)}
    assert not verdicts["alarm_budget"]
    assert rig.rows(candidates)[0]["state"] == "refused"
    rig.registry.close()


def test_the_loop_trains_the_first_model_again_by_the_rules_of_every_family(tmp_path):
    rig = FirstModelRig(tmp_path, devices=6)
    rig.train()
    first = rig.rows(candidates)[0]
    with rig.registry.transaction() as connection:
        connection.execute(update(candidates).values(state="published"))
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    second = rig.rows(candidates)[-1]
    assert (second["major"], second["champion"]) == (2, first["version"])
    rig.gate.step()
    verdicts = {row["gate"]: row for row in rig.rows(gate_verdicts)}
    assert verdicts["rebuild"]["passed"]
    assert verdicts["recall"]["detail"]["fault_bank"] == rig.rows(runs)[0]["cause"]["bank"]
    assert "generic_recall" not in verdicts
    rig.registry.close()


def test_a_person_has_a_small_fleets_model_fitted_anew(rig):
    """One machine: `drift ack --retrain` waited for five devices, and ended as failed."""
    rig.train()
    first = rig.rows(candidates)[0]
    with rig.registry.transaction() as connection:
        connection.execute(update(candidates).values(state="published"))
    joined = DeviceRecord("pump-9", "pump", "local", "default", "sim", "key", "public")
    DeviceRegistry(rig.lake).register([joined])
    append(rig.lake, CutStore(rig.lake), "anything", lambda _: {})
    run = rig.train()
    assert run["state"] == "trained", run["detail"]
    second = rig.rows(candidates)[-1]
    assert (second["major"], second["champion"]) == (2, first["version"])
    rig.gate.step()
    verdicts = {row["gate"]: row for row in rig.rows(gate_verdicts)}
    assert {"rebuild", "alarm_budget", "generic_recall"} <= set(verdicts)
    assert all(row["passed"] for row in verdicts.values()), {g: v["detail"] for g, v in verdicts.items()}
    assert rig.rows(candidates)[-1]["state"] == "signed"

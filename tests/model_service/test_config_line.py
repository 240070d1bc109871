"""A configuration on its whole way: computed from a lake, judged, signed twice, rolled out site by site.

The rig: trainer, gate, engine and guard with their keys on one registry, one lake and one signed repository;
`UpdaterRig` devices fetch from it over real TLS, and their reports go into that registry.
"""

import time

import numpy as np
import pytest
from sqlalchemy import delete, insert, select

from feature_store.cut_store import CutStore
from feature_store.lake_registry import DeviceRecord, DeviceRegistry, ProfileRegistry
from model_service.fleet.device_reports import record_report
from model_service.gates.config_gates import GateOfConfigs
from model_service.model_catalog import models
from model_service.processes.engine_process import build_engine
from model_service.processes.guard_process import build_guard
from model_service.registry.bundle_store import store_bytes
from model_service.registry.candidates import candidate_of
from model_service.registry.candidates import insert as insert_candidate
from model_service.registry.database import Registry
from model_service.registry.registry_tables import candidates, devices, gate_verdicts, outbox, rollouts
from model_service.rollout import rollout_store
from model_service.rollout.rollout_record import ENDED
from model_service.training.config_building import ConfigPlan
from model_service.training.config_scheduler import NOTHING_NEW, ConfigScheduler, request, stored_plan
from model_service.training.proposing import Proposer
from model_service.training.run_store import read_mark, write_mark
from schemas.config_manifest import ConfigBundle, ConfigManifest
from schemas.instants import utc_now
from tests.edge_producer.config_cloud import PLAN, PLANNED, SPEC, ConfigCloud
from tests.edge_producer.updater_rig import UpdaterRig, edge_settings
from tests.feature_store.fleets import SECOND, land, machine_lake, telemetry
from tests.feature_store.lakes import T0
from tests.simulators.config_plug_ins import install_plug_ins, rewrite

SITES = {"m-1": "north", "m-2": "north", "m-3": "south"}
ROLLOUT = PLANNED.rollout.model_copy(
    update={"soak_s": 0.0, "reach_s": 20.0, "silent_s": 20.0, "no_holdout": True}
)


def profile(**spec):
    given = {"trainer": "green", "gates": ("green_gate",), "judge": "green_judge", "every_s": 1e-3, **spec}
    return PLANNED.model_copy(update={"configs": (SPEC.model_copy(update=given),), "rollout": ROLLOUT})


class ConfigLine(ConfigCloud):
    """The cloud side of a stack, turn by turn."""

    def __init__(self, folder, own):
        super().__init__(folder)
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.lake = machine_lake(self.settings.lake_root)
        ProfileRegistry(self.lake).register(own)
        keyed = DeviceRegistry(self.lake)
        for name, site in SITES.items():
            keyed.register(
                [DeviceRecord(name, "machine", site, "default", "sim", key_id=name, public_key="")]
            )
            values = {
                "device_id": name,
                "profile": "machine",
                "site": site,
                "grp": "default",
                "hardware": "sim",
            }
            with self.registry.transaction() as connection:
                connection.execute(
                    insert(devices).values(
                        **values,
                        key_id=name,
                        public_key="",
                        gateway=None,
                        active=True,
                        enrolled_at=time.time(),
                    )
                )
        self.open()

    def open(self):
        self.trainer = ConfigScheduler(self.settings, self.registry, self.lake, utc_now)
        self.gate = GateOfConfigs(self.settings, self.registry)
        self.engine = build_engine(self.settings, self.registry, self.lake, self.repo, self.online)
        self.guard = build_guard(self.settings, self.registry, self.lake)

    def sense(self, level=20.0, n=50):
        ids = list(SITES)
        land(
            self.lake,
            telemetry=telemetry(
                device_id=[ids[i % 3] for i in range(n)],
                event_time=[T0 + i * SECOND for i in range(n)],
                seq=np.arange(n),
                vibration_rms=np.full(n, level, np.float32),
            ),
        )

    def made(self):
        self.trainer.step()
        self.gate.step()
        return self.candidates()[-1]

    def turn(self):
        self.engine.tick()
        self.guard.tick()

    def rows(self, table):
        with self.registry.reading() as connection:
            return [dict(r) for r in connection.execute(select(table)).mappings()]

    def candidates(self):
        return sorted(self.rows(candidates), key=lambda r: r["major"])

    def rollout(self, number):
        with self.registry.reading() as connection:
            return rollout_store.load(connection, f"default-{number}")

    def mark(self):
        with self.registry.reading() as connection:
            return read_mark(connection, f"config/{PLAN}/default")

    def Report(self, given, context):  # noqa: N802
        with self.registry.transaction() as connection:
            record_report(connection, given, time.time())
        return super().Report(given, context)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    return install_plug_ins(tmp_path / "site", monkeypatch)


@pytest.fixture
def line(tmp_path, plug_in):
    with ConfigLine(tmp_path / "cloud", profile()) as made:
        for name in SITES:
            made.join(tmp_path / "join", name)
        yield made
        made.registry.close()


@pytest.fixture
def fleet(tmp_path, line):
    with UpdaterRig(edge_settings(tmp_path, tuple(SITES)), profile()) as rig:
        yield rig


def versions(fleet):
    return {name: a.status["configs"][PLAN]["version"] for name, a in fleet.updater.agents.items()}


def rolled_out(line, fleet, number, seen=None):
    """Turns of cloud and devices until the rollout has ended; ``seen`` collects which devices ran what."""

    def done():
        line.turn()
        if seen is not None:
            seen.append(versions(fleet))
        found = [r for r in line.rows(rollouts) if r["rollout_id"] == f"default-{number}"]
        return bool(found) and found[0]["state"] in ENDED

    fleet.drive(done, 60.0, f"rollout {number}")
    return line.rollout(number)


def test_a_configuration_is_computed_judged_signed_and_taken_over_site_by_site(line, fleet):
    line.sense(20.0)
    made = line.made()
    assert (made["state"], made["kind"], made["family"]) == ("signed", "config", PLAN), made["detail"]
    assert {v["gate"] for v in line.rows(gate_verdicts)} == {"schema", "valid_from", "rebuild", "green_gate"}
    seen = []
    record = rolled_out(line, fleet, 1, seen)
    assert (record.state, record.kind) == ("completed", "config")
    assert set(versions(fleet).values()) == {made["version"]}
    fleet.sense()
    assert fleet.devices["m-2"].parameters == {"green_s": (20.0, 30.0), "offset_s": 1.0}
    first = next(v for v in seen if made["version"] in v.values())
    north = {first["m-1"], first["m-2"]}
    some = [v for v in seen if 0 < sum(x == made["version"] for x in v.values()) < 3]
    canary = {SITES[d] for d in record.canary.devices}
    assert len(canary) == 1
    assert north
    assert all(SITES[d] in canary for v in some[:1] for d, x in v.items() if x == made["version"])
    with line.registry.reading() as connection:
        shown = [m for m in models(connection) if m["family"] == PLAN]
    assert [(m["version"], m["kind"], m["state"]) for m in shown] == [
        (made["version"], "config", "published")
    ]
    steps = [r["step"] for r in line.rows(outbox) if r["subject"] == made["version"]]
    assert steps == ["config_computed", "gates_passed", "published"]


def test_a_harm_that_the_judge_finds_takes_every_site_back_and_the_model_stays(line, fleet, plug_in):
    line.sense(20.0)
    first = line.made()
    rolled_out(line, fleet, 1)
    line.sense(25.0)
    second = line.made()
    assert second["champion"] == first["version"]
    plug_in.HARM.write_text("delay at the first corridor rose")
    models_before = {a.switch.models.active for a in fleet.updater.agents.values()}
    record = rolled_out(line, fleet, 2)
    assert (record.state, record.ended_because) == ("rolled_back", "delay at the first corridor rose")
    assert set(versions(fleet).values()) == {first["version"]}
    assert {a.switch.models.active for a in fleet.updater.agents.values()} == models_before


def test_a_configuration_is_computed_when_it_is_due_and_something_is_new(line):
    line.trainer.step()
    assert line.candidates() == []
    assert "no row of profile machine" in line.mark()["said"]
    line.sense(20.0)
    first = line.made()
    line.engine.tick()
    line.sense(20.0)
    line.trainer.step()
    assert len(line.candidates()) == 1
    assert line.mark()["said"] == NOTHING_NEW
    with line.registry.transaction() as connection:
        request(connection, PLAN, "default")
    line.sense(30.0)
    second = line.made()
    assert (second["major"], second["champion"], second["state"]) == (2, first["version"], "signed")
    assert second["manifest"]["lineage"]["champion"] == first["version"]
    pins = CutStore(line.lake).pins()
    assert set(pins) == {f"config-{PLAN}-default-1", f"config-{PLAN}-default-2"}


def test_a_computation_that_a_crash_broke_off_gives_the_same_bytes(line):
    line.sense(20.0)
    line.trainer.step()
    [made] = line.candidates()
    plan = ConfigPlan.of(ConfigManifest.model_validate(made["manifest"]), 1)
    with line.registry.transaction() as connection:  # as before step 5: proposed, and not on record
        connection.execute(delete(candidates))
        write_mark(connection, f"config/{PLAN}/default", {"plan": stored_plan(plan)})
    line.sense(50.0)
    line.open()
    again = line.made()
    assert (again["version"], again["sha256"]) == (made["version"], made["sha256"])
    assert again["state"] == "signed"


def refused(line, gate):
    [candidate] = line.candidates()
    assert candidate["state"] == "refused"
    found = {v["gate"]: v["detail"]["says"] for v in line.rows(gate_verdicts) if not v["passed"]}
    assert list(found) == [gate]
    line.engine.tick()
    assert line.rows(rollouts) == []
    return found[gate]


def test_other_numbers_than_the_gate_computes_are_refused(line):
    line.sense(20.0)
    line.trainer.step()
    [made] = line.candidates()
    manifest = ConfigManifest.model_validate(made["manifest"])
    hostile = ConfigBundle.made(manifest, {"green_s": [49.0, 49.0], "offset_s": {}}, 1)
    sha256, length = store_bytes(line.settings.artifacts, hostile.packed())
    Proposer(line.settings).propose(hostile.manifest, sha256)
    with line.registry.transaction() as connection:
        connection.execute(delete(candidates))
        stored = candidate_of(hostile.manifest, run_id="", champion="", sha256=sha256, length=length, now=1.0)
        insert_candidate(connection, stored, hostile.manifest)
    line.gate.step()
    assert "config.json" in refused(line, "rebuild")


def test_a_gate_of_the_profile_refuses_with_its_words_and_so_does_one_that_raises(line, plug_in):
    line.sense(55.0)
    line.made()
    assert refused(line, "green_gate") == "the first green is below 50 s"
    rewrite(plug_in, "gate = None")
    with line.registry.transaction() as connection:
        request(connection, PLAN, "default")
    line.sense(20.0)
    assert line.made()["state"] == "refused"
    assert "TypeError" in line.rows(gate_verdicts)[-1]["detail"]["says"]


WRONG = {
    "lies outside 0 to 120": 'return ComputedConfig({"green_s": [20, 20], "offset_s": {"m-1": 999.0}})',
    "RuntimeError: no queue": 'raise RuntimeError("no queue")',
    "it gave int, no ComputedConfig": "return 7",
    "its process ended: exit code 3": "import os; os._exit(3)",
}


@pytest.mark.parametrize("says", WRONG)
def test_what_a_trainer_does_wrong_is_said_and_nothing_is_proposed(line, plug_in, says):
    line.sense(20.0)
    rewrite(plug_in, f"def plan(_):\n    {WRONG[says]}")
    line.trainer.step()
    assert line.candidates() == []
    assert says in line.mark()["said"]
    assert CutStore(line.lake).pins() == {}
    assert [r["step"] for r in line.rows(outbox)] == ["config_failed"]


def test_too_little_to_compute_from_is_no_failure_and_is_said(line, plug_in):
    line.trainer.step()
    assert "no row of profile machine yet" in line.mark()["said"]
    line.sense(20.0)
    rewrite(plug_in, 'def plan(_):\n    return ComputedConfig({}, waits="no day is whole yet")')
    with line.registry.transaction() as connection:
        request(connection, PLAN, "default")
    line.trainer.step()
    assert line.mark()["said"] == "no day is whole yet"
    assert line.candidates() == []
    assert CutStore(line.lake).pins() == {}
    assert [r["step"] for r in line.rows(outbox)] == ["config_waits", "config_waits"]


def test_a_family_without_keys_says_what_to_do_and_stops_no_process(tmp_path, plug_in):
    assert plug_in
    with ConfigLine(tmp_path / "cloud", profile()) as line:
        (line.settings.keys / "trainer" / f"models-{PLAN}.pem").unlink()
        line.sense(20.0)
        line.trainer.step()
        assert "models-plan" in line.mark()["said"]
        line.registry.close()

"""Rollouts of configurations: engine, guard, registry and signed repository are real, devices obey by report.

The rig: `ConfigFleet`, whose devices run `machine` at four sites and have the family `plan`.
"""

import hashlib
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert, update

from model_service.fleet.device_reports import record_report
from model_service.registry import candidates
from model_service.registry.registry_tables import devices, gate_verdicts
from model_service.rollout import rollout_store, rollout_summary
from model_service.rollout.config_rollouts import canary_sites
from model_service.rollout.launch import draft, queues
from model_service.rollout.rollout_record import ENDED
from model_service.trust import ceremony
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model
from schemas.channel_documents import BROAD, Release, model_role
from schemas.config_manifest import no_config
from schemas.learning_policy import RolloutPolicy
from schemas.proto.delivery_pb2 import Installed, ReportRequest
from tests.edge_producer.config_cloud import PLAN, SPEC, config
from tests.simulators.rollout_deployment import FACTORY, FAMILY, GROUP, RolloutDeployment, quick_profile

NONE = no_config(PLAN)


class ConfigFleet(RolloutDeployment):
    """Devices that obey documents on configurations."""

    def __init__(self, root, **rollout):
        super().__init__(root)
        ceremony.init(self.settings, [PLAN], {})
        rollout = {"soak_s": 0.001, "longest_soak_s": 0.001, **rollout}  # no soak is lengthened
        self.own = quick_profile(**rollout).model_copy(update={"configs": (SPEC,)})
        self.use(self.own)
        self.names = self.join(12)
        with self.registry.transaction() as connection:
            for i, name in enumerate(self.names):
                site = f"site-{i % 4}"
                connection.execute(update(devices).where(devices.c.device_id == name).values(site=site))
        self.sites = {name: f"site-{i % 4}" for i, name in enumerate(self.names)}
        self.configs = dict.fromkeys(self.names, NONE)
        for name in self.names:  # as every device does when its process starts
            self.tell(name, None, "idle", "", None)
        self.engine_, self.guard_ = self.engine(), self.guard()

    def sign_config(self, major, *, group=GROUP, **given):
        """A configuration that trainer and gate have signed."""
        bundle = config(major, offsets=dict.fromkeys(self.names, 1.0), group=group, **given)
        data, custom, role = bundle.packed(), bundle.manifest.custom(), model_role(PLAN)
        keys, now = self.settings.keys, time.time()
        propose_model(self.repo, load_online_key(keys / "trainer", role), data, custom)
        digest = hashlib.sha256(data).hexdigest()
        countersign_model(self.repo, load_online_key(keys / "gate", role), digest, custom)
        made = candidates.candidate_of(
            bundle.manifest, run_id="", champion="", sha256=digest, length=len(data), now=now
        )
        with self.registry.transaction() as connection:
            candidates.insert(connection, made, bundle.manifest)
            for state in (candidates.CandidateState.GATING, candidates.CandidateState.SIGNED):
                candidates.advance(connection, candidates.get(connection, made.version), state, now)
            verdict = {"version": made.version, "gate": "schema", "passed": True, "detail": {}}
            connection.execute(insert(gate_verdicts).values(**verdict, evaluated_at=now))
        return Release(version=made.version, sha256=digest)

    def tell(self, device, channel, state, result, attempted):
        number = self.numbers[device] = self.numbers.get(device, 0) + 1
        plan, model = self.configs[device], self.installed[device]
        about = {} if channel is None else {"channel_seq": channel.seq, "rollout_id": channel.rollout_id}
        report = ReportRequest(
            device_id=device, report_no=number, nonce=f"{device}/{number}", state=state, result=result,
            attempted=None if attempted is None else of(PLAN, attempted),
            installed=[of(FAMILY, model), of(PLAN, plan)], **about,
        )  # fmt: skip
        with self.registry.transaction() as connection:
            record_report(connection, report, time.time())

    def follow(self, *, bad=(), holding=()):
        """Devices do at once what documents want; ``bad`` ones restore, ``holding`` ones hold it."""
        for device in self.names:
            channel = self.in_force(device)
            wanted = None if channel is None else channel.wanted(device).get(PLAN)
            if wanted is None or wanted == self.configs[device] or (device, channel.seq) in self.failed:
                continue
            if device in holding:
                self.failed.add((device, channel.seq))
                self.tell(device, channel, "staged", "", wanted)
            elif device in bad and wanted.major:
                self.failed.add((device, channel.seq))
                self.tell(device, channel, "restored", "restored", wanted)
            else:
                self.configs[device] = wanted
                self.tell(device, channel, "idle", "committed", wanted)

    def turn(self, **behaviour):
        self.engine_.tick()
        self.guard_.tick()
        self.obey(self.names)
        self.follow(**behaviour)

    def run(self, number=1, until=ENDED, **behaviour):
        for _ in range(80):
            self.turn(**behaviour)
            record = self.rollout(number)
            if record is not None and record.state in until:
                return record
        raise AssertionError(f"still {record}")

    def treated(self, release):
        return {name for name, runs in self.configs.items() if runs == release}

    def shown(self):
        with self.registry.reading() as connection:
            return {r["rollout_id"]: r for r in rollout_summary.unended(connection)}


def of(family, release):
    return Installed(family=family, version=release.version, sha256=release.sha256 or "")


@pytest.fixture
def fleet(tmp_path):
    made = ConfigFleet(tmp_path)
    yield made
    made.registry.close()


def whole_sites(fleet, names):
    """The sites of these devices, which must all be among them."""
    sites = {fleet.sites[name] for name in names}
    assert names == {name for name, site in fleet.sites.items() if site in sites}
    return sites


def test_every_phase_treats_whole_sites_under_two_keys_and_the_model_stays(tmp_path):
    fleet = ConfigFleet(tmp_path, phases=(0.5, 1.0))
    release, seen = fleet.sign_config(1), []
    for _ in range(80):
        fleet.turn()
        sites = whole_sites(fleet, fleet.treated(release))
        if sites and (not seen or sites != seen[-1]):
            seen.append(sites)
        if (record := fleet.rollout()) is not None and record.state in ENDED:
            break
    assert record.state == "completed"
    assert [len(sites) for sites in seen] == [1, 2, 4]
    assert seen[0] < seen[1] < seen[2]
    assert {r.ring for r in fleet.requests()} == {BROAD}
    assert record.target[FAMILY] == record.baseline[FAMILY] == Release(version=FACTORY)
    fleet.registry.close()


def test_held_out_sites_are_whole_and_get_it_last(tmp_path):
    fleet = ConfigFleet(tmp_path, holdout_share=0.25, no_holdout=False)
    release = fleet.sign_config(1)
    for _ in range(80):
        fleet.turn()
        record = fleet.rollout()
        if record is not None and record.phase == 1 and len(fleet.treated(release)) == 9:
            break
    held = set(fleet.names) - fleet.treated(release)
    assert whole_sites(fleet, held)
    assert len(held) == 3
    assert fleet.run().state == "completed"
    assert len(fleet.treated(release)) == 12
    fleet.registry.close()


def test_a_configuration_queues_behind_a_model_and_starts_by_itself(fleet):
    fleet.sign(1)
    fleet.engine_.tick()
    assert fleet.rollout(1).state == "running"
    release = fleet.sign_config(1)
    fleet.engine_.tick()
    assert fleet.shown()[f"{GROUP}-2"]["queued_behind"] == f"{GROUP}-1"
    assert fleet.run(1).state == "completed"
    record = fleet.run(2)
    assert (record.state, record.target[FAMILY]) == ("completed", fleet.rollout(1).target[FAMILY])
    new = fleet.sign(2)
    after = fleet.run(3)
    assert (after.target[PLAN], after.baseline[PLAN]) == (release, release)
    assert after.target[FAMILY] == new
    assert set(fleet.configs.values()) == {release}


@pytest.mark.parametrize("passing", ["config", "model"])
def test_a_security_release_passes_models_and_configurations(fleet, passing):
    running, other = (
        (fleet.sign, fleet.sign_config) if passing == "config" else (fleet.sign_config, fleet.sign)
    )
    running(1)
    fleet.engine_.tick()
    fleet.engine_.tick()
    assert fleet.rollout(1).state == "running"
    release = other(1)
    fleet.engine_.tick()  # publishes it, and drafts a rollout that waits
    assert fleet.rollout(1).state == "running"
    fleet.command("start_rollout", version=release.version, group=GROUP, security=True)
    fleet.run(1)
    assert fleet.rollout(1).state == "superseded"
    assert fleet.run(3).state == "completed"


def test_a_configuration_of_the_family_ends_one_under_way_but_no_model_waits_less(fleet):
    fleet.sign_config(1)
    fleet.engine_.tick()
    fleet.engine_.tick()
    second = fleet.sign_config(2)
    record = fleet.run(1)
    assert record.state == "superseded"
    assert fleet.run(2).state == "completed"
    assert set(fleet.configs.values()) == {second}


def test_a_profile_that_lengthens_soaks_waits_and_then_asks_an_approver(tmp_path):
    fleet = ConfigFleet(tmp_path, longest_soak_s=3600.0)
    release = fleet.sign_config(1)
    for _ in range(10):
        fleet.turn()
    assert (fleet.rollout().state, fleet.rollout().lengthened) == ("running", (0,))
    clock = time.time
    fleet.engine_.clock = fleet.guard_.clock = lambda: clock() + 3700
    record = fleet.run(1, until=("paused",))
    assert (record.pause.kind, record.pause.needs) == ("not_shown", "approver")
    assert len(whole_sites(fleet, fleet.treated(release))) == 1
    fleet.registry.close()


def test_a_site_that_fails_takes_all_back_to_what_was_before(fleet):
    first = fleet.sign_config(1)
    assert fleet.run(1).state == "completed"
    fleet.sign_config(2)
    record = fleet.run(2, bad=fleet.names)
    assert record.state == "rolled_back"
    assert "failed" in record.ended_because
    assert set(fleet.configs.values()) == {first}


def test_devices_that_hold_it_are_not_silent_until_its_instant_is_over(fleet):
    later = datetime.now(UTC) + timedelta(hours=1)
    fleet.sign_config(1, valid_from=later)
    for _ in range(6):
        fleet.turn(holding=fleet.names)
    record = fleet.rollout()
    assert (record.state, record.valid_from) == ("running", later.timestamp())
    clock = time.time
    ahead = record.settings.silent_s + 3600 + 60
    fleet.engine_.clock = fleet.guard_.clock = lambda: clock() + 3600 - 60
    fleet.engine_.tick()
    assert fleet.rollout().state == "running"
    fleet.engine_.clock = fleet.guard_.clock = lambda: clock() + ahead
    fleet.engine_.tick()
    assert fleet.rollout().state == "aborting"


def test_the_guard_signs_no_document_that_tears_a_site(fleet):
    fleet.sign_config(1)
    fleet.engine_.tick()
    fleet.engine_.tick()
    record = fleet.rollout()
    first, second = list(record.units)[:2]
    torn = {
        **record.units,
        first: record.units[first][:1],
        second: (*record.units[second], record.units[first][1]),
    }
    with fleet.registry.transaction() as connection:
        rollout_store.save(connection, record.model_copy(update={"units": torn}), time.time())
    fleet.guard_.tick()
    [request] = fleet.requests()
    assert request.state == "refused"
    assert "devices of other sites" in request.detail


def test_a_configuration_is_for_the_group_that_it_was_computed_for(fleet):
    release = fleet.sign_config(1, group="other")
    fleet.engine_.tick()
    command = fleet.command("start_rollout", version=release.version, group=GROUP, security=False)
    fleet.engine_.tick()
    state, outcome = fleet.answer(command)
    assert state == "refused"
    assert "computed for group other" in outcome["reason"]


def test_a_completed_one_can_be_taken_back(fleet):
    fleet.sign_config(1)
    assert fleet.run(1).state == "completed"
    fleet.command(
        "control_rollout", rollout_id=f"{GROUP}-1", action="back", reason="worse", roles=["operator"]
    )
    fleet.engine_.tick()
    assert fleet.run(1, until=("rolled_back",)).state == "rolled_back"
    assert set(fleet.configs.values()) == {NONE}


def test_where_devices_are_the_unit_salts_draw_them_and_no_document_lists_any(fleet):
    release = fleet.sign_config(1, unit="device")
    assert fleet.run(1).state == "completed"
    record = fleet.rollout(1)
    assert record.units == {}
    assert 0 < record.canary.share < 1
    assert {c.document.cohort.devices for c in fleet.requests()} == {()}
    assert fleet.treated(release) == set(fleet.names)


def test_drafts_start_security_first_then_models_then_configurations():
    plan = draft(GROUP, PLAN, f"{PLAN}-1.00000001", "engine", config=True)
    model = draft(GROUP, FAMILY, f"{FAMILY}-1.00000001", "engine")
    assert [q[-1].kind for q in queues([plan, model])] == ["model", "config"]
    urgent = plan.model_copy(update={"security": True})
    assert [q[-1].kind for q in queues([model, urgent])] == ["config", "model"]


def test_the_first_phase_leaves_a_site_to_compare_with_however_large_its_share():
    everybody = RolloutPolicy(canary_share=1.0)
    assert [canary_sites(n, everybody) for n in (1, 2, 4)] == [1, 1, 3]

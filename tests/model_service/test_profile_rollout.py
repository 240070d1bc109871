"""Rollouts of versions of profiles: engine, registry and signed repository are real, devices obey by report.

The rig: `RolloutDeployment`, whose devices run `machine`; `push` makes the next version of it, `follow` has
devices do what their group's document on profiles says, `run` has engine and devices take turns.
"""

import time

import pytest

from feature_store.version_store import VersionStore
from model_service.fleet.device_reports import record_report
from model_service.rollout import rollout_summary
from model_service.rollout.channel_renewal import ChannelRenewal
from model_service.rollout.profile_push import push_profile
from model_service.rollout.rollout_record import ENDED
from model_service.trust.profile_channels import profile_channel
from schemas.errors import ProfileError, RegistryError
from schemas.profile_statement import VersionStatement
from schemas.proto.delivery_pb2 import Installed, ProfileState, ReportRequest
from schemas.version_names import VersionName
from tests.simulators.rollout_deployment import GROUP, RolloutDeployment, quick_profile

P = [0.08, 0.07, 0.06, 0.05]


class ProfileFleet:
    """Devices that obey documents on profiles."""

    def __init__(self, root):
        self.deployment = RolloutDeployment(root)
        self.deployment.use(quick_profile())
        self.runs: dict[str, VersionStatement | None] = {}
        self.seen: dict[str, int] = {}

    def push(self, p, *, authority="operator", groups=(GROUP,)):
        policy = quick_profile().filter.model_copy(update={"p": p})
        content = quick_profile().model_copy(update={"filter": policy})
        settings = self.deployment.settings
        return push_profile(settings, content, list(groups), authority, None, lambda _: None, "anna")

    def join(self, count):
        names = self.deployment.join(count)
        self.runs |= dict.fromkeys(names)
        return names

    @property
    def channel(self):
        return profile_channel(self.deployment.repo, GROUP)

    def follow(self, *, refused=()):
        """Returns how many devices changed."""
        channel, changed = self.channel, 0
        for name in self.runs if channel is not None else ():
            wanted = channel.profiles["machine"].for_device(name)
            if wanted is None or wanted == self.runs[name] or self.seen.get(name) == channel.seq:
                continue
            self.seen[name], changed = channel.seq, changed + 1
            if name in refused and wanted.number > 1:
                self.report(name, channel, wanted, "no_change_refused")
            else:
                self.runs[name] = wanted
                self.report(name, channel, wanted, "committed")
        return changed

    def report(self, name, channel, wanted, result):
        number = self.deployment.numbers[name] = self.deployment.numbers.get(name, 0) + 1
        runs = self.runs[name]
        state = ProfileState(
            number=runs.number if runs else 0, digest=runs.sha256 if runs else "", seq=channel.seq
        )
        attempted = Installed(family="machine", version=wanted.release, sha256=wanted.sha256)
        request = ReportRequest(
            device_id=name, report_no=number, nonce=f"{name}/{number}", state="idle", result=result,
            rollout_id=channel.rollout_id, profile_state=state, attempted=attempted,
        )  # fmt: skip
        with self.deployment.registry.transaction() as connection:
            record_report(connection, request, time.time())

    def run(self, number, *, until=ENDED, models=(), **behaviour):
        engine, guard = self.deployment.engine(), self.deployment.guard()
        for _ in range(40):
            engine.tick()
            guard.tick()
            self.deployment.obey(models)
            self.follow(**behaviour)
            record = self.deployment.rollout(number)
            if record is not None and record.state in until:
                return record
        raise AssertionError(f"still {record}")

    def settle(self):
        publisher = self.deployment.engine().channel_publisher
        renewal = ChannelRenewal(self.deployment.registry, self.deployment.repo, 1e6, publisher.highest_seq)
        renewed = renewal.step(time.time())
        publisher.step()
        return renewed


@pytest.fixture
def fleet(tmp_path):
    made = ProfileFleet(tmp_path)
    yield made
    made.deployment.registry.close()


def numbers(fleet):
    return {runs.number if runs else 0 for runs in fleet.runs.values()}


def test_a_push_reaches_every_device_canaries_first_and_is_then_final(fleet):
    fleet.join(20)
    pushed = fleet.push(P[0], authority="policy")
    assert [(r.rollout_id, r.behind) for r in pushed.rollouts] == [(f"{GROUP}-1", "")]
    engine = fleet.deployment.engine()
    engine.tick()
    assert VersionStore(fleet.deployment.settings.lake_root).was_in_channel(GROUP, VersionName("machine", 1))
    canaries = fleet.follow()
    assert 0 < canaries < 20
    assert fleet.run(1).state == "completed"
    assert numbers(fleet) == {1}
    assert not fleet.channel.profiles["machine"].is_settled
    assert fleet.settle() == 1
    assert fleet.channel.profiles["machine"].is_settled
    assert fleet.settle() == 0
    assert fleet.push(P[0]).rollouts == ()


def test_a_push_waits_for_the_rollout_of_a_model_and_then_starts_by_itself(fleet):
    names = fleet.join(20)
    fleet.deployment.sign(1)
    engine = fleet.deployment.engine()
    engine.tick()
    assert fleet.deployment.rollout(1).state == "running"
    pushed = fleet.push(P[0], authority="policy")
    assert [(r.rollout_id, r.behind) for r in pushed.rollouts] == [(f"{GROUP}-2", f"{GROUP}-1")]
    engine.tick()
    with fleet.deployment.registry.reading() as connection:
        shown = {r["rollout_id"]: r for r in rollout_summary.unended(connection)}
    assert shown[f"{GROUP}-2"]["queued_behind"] == f"{GROUP}-1"
    assert (shown[f"{GROUP}-2"]["state"], shown[f"{GROUP}-2"]["version"]) == ("draft", "machine@1")
    assert fleet.channel is None
    assert fleet.run(2, models=names).state == "completed"
    assert fleet.deployment.rollout(1).state == "completed"
    assert numbers(fleet) == {1}


def test_a_model_waits_for_a_push_and_its_baseline_is_the_model_before(fleet):
    names = fleet.join(20)
    fleet.push(P[0], authority="policy")
    engine = fleet.deployment.engine()
    engine.tick()
    new = fleet.deployment.sign(1)
    engine.tick()
    assert (fleet.deployment.rollout(1).state, fleet.deployment.rollout(2).state) == ("running", "draft")
    assert fleet.run(2, models=names).state == "completed"
    assert fleet.deployment.rollout(2).baseline["machine"].sha256 is None
    assert set(fleet.deployment.installed.values()) == {new}


def test_a_version_that_devices_refuse_leads_the_canaries_back(fleet):
    names = fleet.join(20)
    fleet.push(P[0], authority="policy")
    fleet.run(1)
    fleet.push(P[1])
    record = fleet.run(2, refused=names[:18])
    assert record.state in ("rolled_back", "rolled_back_partial")
    assert "failed" in record.ended_because
    assert numbers(fleet) == {1}
    wanted = fleet.channel.profiles["machine"]
    assert (wanted.target.number, wanted.baseline.number, wanted.cohort.share) == (2, 1, 0.0)


def test_a_newer_push_takes_the_place_of_one_that_is_queued(fleet):
    names = fleet.join(20)
    fleet.deployment.sign(1)
    fleet.deployment.engine().tick()
    fleet.push(P[0], authority="policy")
    fleet.push(P[1])
    assert fleet.run(3, models=names).state == "completed"
    assert fleet.deployment.rollout(2).state == "superseded"
    assert numbers(fleet) == {2}


def test_going_back_is_a_push_of_the_old_content_under_a_new_number(fleet):
    fleet.join(20)
    for number, p in enumerate([P[0], P[1]], 1):
        fleet.push(p, authority="policy")
        fleet.run(number)
    asked = fleet.deployment.command("control_rollout", rollout_id=f"{GROUP}-2", action="back")
    fleet.deployment.engine().tick()
    state, outcome = fleet.deployment.answer(asked)
    assert (state, "numbers only rise" in outcome["reason"]) == ("refused", True)
    assert fleet.push(P[0]).signed.version.number == 3
    assert fleet.run(3).state == "completed"
    assert numbers(fleet) == {3}


def test_an_operator_alone_leaves_the_bounds_neither_by_push_nor_by_rollout(fleet):
    fleet.push(P[0], authority="policy")
    with pytest.raises(ProfileError, match="the policy role must sign"):
        fleet.push(0.9)
    assert fleet.deployment.rollout(2) is None


def test_a_misspelt_group_is_refused_before_anything_is_signed(fleet):
    with pytest.raises(RegistryError, match="no group 'lime'; there are: line, other"):
        fleet.push(P[0], authority="policy", groups=("lime",))
    assert VersionStore(fleet.deployment.settings.lake_root).history("machine") == []

"""Laws of offers by hardware and runtime: who cannot take a model is not drawn, not judged, and named."""

from __future__ import annotations

import time
from itertools import count

import pytest
from sqlalchemy import update

from model_service.fleet.device_reports import record_report
from model_service.gates.origin import judge_fit
from model_service.models.fault_bank import load_fault_bank
from model_service.models.golden import golden_windows
from model_service.models.trial_effects import for_devices
from model_service.registry.registry_tables import candidates, devices
from model_service.rollout import rollout_summary
from model_service.rollout.device_fit import ModelTerms, unfit
from model_service.rollout.observing import members
from schemas.proto.delivery_pb2 import Installed, ReportRequest
from tests.model_service.regimes import CHAMPION, MACHINE
from tests.simulators.rollout_deployment import FACTORY, FAMILY, GROUP, RolloutDeployment, quick_profile

BANK = load_fault_bank("machine")
NUMBERS = count(1000)


@pytest.fixture
def deployment(tmp_path):
    made = RolloutDeployment(tmp_path)
    made.use(quick_profile())
    yield made
    made.registry.close()


def signed_for(deployment, **terms) -> str:
    """A signed candidate whose manifest names classes or a range."""
    release = deployment.sign(1)
    with deployment.registry.transaction() as connection:
        connection.execute(update(candidates).values(manifest=terms))
    return release.version


def reclassed(deployment, names, hardware) -> None:
    with deployment.registry.transaction() as connection:
        connection.execute(update(devices).where(devices.c.device_id.in_(names)).values(hardware=hardware))


def runs_on(deployment, device, runtime) -> None:
    """A report that says which runtime the device has."""
    number = next(NUMBERS)
    request = ReportRequest(
        device_id=device, report_no=number, nonce=f"{number}", state="idle", runtime=runtime,
        installed=[Installed(family=FAMILY, version=FACTORY)],
    )  # fmt: skip
    with deployment.registry.transaction() as connection:
        record_report(connection, request, time.time())


def cannot(deployment, version) -> dict[str, str]:
    with deployment.registry.reading() as connection:
        among = members(connection, GROUP, FAMILY, deployment.repo.policy(), lambda name: name)
        return unfit(connection, among, version)


def refusal(device, channel):
    """The report of a device that verified what is signed, and refused."""
    detail = f"refused: hardware arm64: {channel.target[FAMILY].version} runs on sim"
    number = next(NUMBERS)
    return ReportRequest(
        device_id=device, report_no=number, nonce=f"{number}", state="idle", result="no_change_refused",
        attack="wrong_hardware", detail=detail, rollout_id=channel.rollout_id, channel_seq=channel.seq,
        installed=[Installed(family=FAMILY, version=FACTORY)],
    )  # fmt: skip


def test_a_rollout_completes_on_the_devices_that_can_take_it_and_names_the_others(deployment):
    names = deployment.join(12)
    reclassed(deployment, names[:8], "arm64")
    signed_for(deployment, hardware=["sim"])
    engine, guard, refused = deployment.engine(), deployment.guard(), set()
    for _ in range(40):
        engine.tick()
        guard.tick()
        deployment.obey(names[8:])
        for device in names[:8]:
            channel = deployment.in_force(device)
            if channel is not None and channel.wanted(device)[FAMILY].sha256 and device not in refused:
                refused.add(device)
                with deployment.registry.transaction() as connection:
                    record_report(connection, refusal(device, channel), time.time())
        record = deployment.rollout()
        if record is not None and record.state == "completed":
            break
    assert record.state == "completed", record
    assert refused, "the documents bind by share: a device that cannot take it must refuse by itself"
    with deployment.registry.reading() as connection:
        found = rollout_summary.summary(
            connection, record, deployment.repo.policy(), lambda name: name, time.time()
        )
    assert found["members"] == 4
    assert found["unfit"] == dict.fromkeys(names[:8], "hardware arm64: it runs on sim")


def test_the_summary_counts_trials_on_faults_and_says_where_there_were_none(deployment):
    names = deployment.join(4)
    release = deployment.sign(1)
    engine = deployment.engine()
    for _ in range(3):
        engine.tick()
    channel = next(c for n in names if (c := deployment.in_force(n)) is not None)
    told = [
        "trial not tried: no fault effects",
        "trial with faults on 24 own windows the new model detects 80%",
    ]
    for device, detail in zip(names, [*told, *told[1:]], strict=False):
        deployment.report(device, channel, "idle", "committed", wanted=release, detail=detail)
    with deployment.registry.reading() as connection:
        found = rollout_summary.summary(
            connection, deployment.rollout(), deployment.repo.policy(), lambda name: name, time.time()
        )
    assert found["trials"] == {"on_faults": 2, "not_on_faults": {names[0]: "no fault effects"}}


def test_a_runtime_outside_the_range_is_not_offered_and_one_never_reported_is_tried(deployment):
    old, new, quiet = deployment.join(3)
    version = signed_for(deployment, runtime=">=1.32")
    runs_on(deployment, old, "onnxruntime 1.20.1")
    runs_on(deployment, new, "onnxruntime 1.32.0")
    assert cannot(deployment, version) == {old: "runtime 1.20.1: it runs on >=1.32"}
    assert quiet not in cannot(deployment, version)
    with deployment.registry.transaction() as connection:
        connection.execute(update(candidates).values(manifest={}))
    assert cannot(deployment, version) == {}, "a model that names nothing runs anywhere"
    assert ModelTerms().against("anything", "0.1") == ""


# What trainer and gate put into a bundle -------------------------------------------------------------------


def on(**changes):
    return MACHINE.model_copy(update={"model": MACHINE.model.model_copy(update=changes)})


def test_a_bundle_gets_what_its_profile_declares_and_nothing_where_that_is_nothing():
    assert for_devices(CHAMPION, MACHINE, None) is CHAMPION
    made = for_devices(CHAMPION, on(hardware=("arm64",), runtime=">=1.32"), BANK)
    assert (made.manifest.hardware, made.manifest.runtime) == (("arm64",), ">=1.32")
    assert made.manifest.version != CHAMPION.manifest.version
    assert made.model == CHAMPION.model
    assert (golden_windows(made.golden)[0] == golden_windows(CHAMPION.golden)[0]).all()
    assert for_devices(CHAMPION, on(hardware=("arm64",), runtime=">=1.32"), BANK).files == made.files


@pytest.mark.parametrize(
    ("samples", "rate_hz", "fits"), [(None, None, True), (512, None, True), (512, 1.0, False)]
)
def test_the_gate_takes_a_bundle_for_windows_of_any_length_or_rate_as_devices_do(samples, rate_hz, fits):
    size = MACHINE.sampling.window_samples
    stated = {"window_samples": samples and size, "rate_hz": rate_hz}
    made = CHAMPION.manifest.model_copy(update=stated)
    assert judge_fit(made, CHAMPION.manifest, MACHINE).passed is fits


def test_the_gate_refuses_a_bundle_for_other_hardware_than_the_profile_declares():
    profile = on(hardware=("arm64",))
    made = for_devices(CHAMPION, profile, None)
    assert judge_fit(made.manifest, CHAMPION.manifest, profile).passed
    for other in (MACHINE, on(hardware=("ppc",)), on(hardware=("arm64",), runtime=">=1.32")):
        assert not judge_fit(made.manifest, CHAMPION.manifest, other).passed

"""Announced changes: learnt where the devices show them, and no cover for anything else."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.learning.fleet_story import START, machine_story
from benchmarks.learning.simulated_loop import SimulatedLoop
from model_service.gates.drift_proof import proof_of
from model_service.identity.authority import Authority, init_pki, read_ca
from model_service.registry import announced_changes
from model_service.registry.announced_changes import StoredAnnouncement
from model_service.registry.database import Registry
from model_service.registry.registry_tables import certificates
from model_service.settings import ModelSettings
from model_service.training import run_store
from model_service.training.announced_change import AnnouncedChange
from model_service.training.announcements import announced_for
from model_service.training.cause import judge
from model_service.training.run_states import RunState
from model_service.training.signed_announcement import ChangeDocument, SignedAnnouncement, sign_announcement
from model_service.training.training_run import DriftFinding, RunReason, TrainingRun
from schemas.errors import AccessError
from schemas.updates import Role
from tests.model_service.regimes import CHAMPION
from tests.model_service.test_cause import FAULTS, MACHINE, along, cohort, moved

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
LOAD = AnnouncedChange(
    "0" * 12, "machine", "", "", ("current",), ("vibration",), NOON, NOON + HOUR, "Ada", "new product"
)
BUSY = along(current_mean=2.5)
LIKE_IMBALANCE = max(FAULTS, key=lambda d: d @ along(vibration_band_low=1.0))


def judged(shift, announced=LOAD, *, other=(), **more):
    return judge(
        cohort(*[moved(shift, device=f"d{i}", **more) for i in range(10)], *other),
        FAULTS,
        MACHINE,
        announced=announced,
    )


# -- what the devices show -----------------------------------------------------------------------


def test_an_announced_change_is_learnt_though_it_moves_vibration_as_a_known_fault_does():
    shift = BUSY + 6 * LIKE_IMBALANCE
    assert judged(shift, None).kind == "degradation"
    found = judged(shift, alarmed_after=True)
    assert (found.kind, found.retrain, found.announced) == ("covariate", True, LOAD.change_id)
    assert "as Ada announced" in found.text


def test_without_the_channel_that_it_must_move_an_announcement_covers_nothing():
    """A fault in an announced hour, known or not, is judged as if nobody had announced anything."""
    for shift in (6 * LIKE_IMBALANCE, along(vibration_band_mid=4.0), along(temperature_mean=3.0)):
        with_it, without = judged(shift), judged(shift, None)
        assert with_it == replace(without, centre=with_it.centre, evidence=with_it.evidence)
        assert with_it.announced == ""


def test_a_channel_that_nobody_named_makes_it_another_change():
    shift = BUSY + along(temperature_mean=3.0) + 6 * LIKE_IMBALANCE
    assert judged(shift).kind == "degradation"
    assert judged(shift, replace(LOAD, may_move=("vibration", "temperature"))).announced == LOAD.change_id


def test_a_device_that_moves_otherwise_is_named_and_never_trained_on():
    other = moved(6 * LIKE_IMBALANCE, device="worn")
    found = judged(BUSY + 0.5 * LIKE_IMBALANCE, other=(other,))
    assert (found.retrain, found.faulty) == (True, ("worn",))
    hidden = moved(BUSY + 0.5 * LIKE_IMBALANCE + 6 * FAULTS[0], device="worn")
    assert judged(BUSY + 0.5 * LIKE_IMBALANCE, other=(hidden,)).faulty == ("worn",)
    many = [moved(6 * LIKE_IMBALANCE, device=f"w{i}") for i in range(4)]
    assert judged(BUSY, other=tuple(many)).kind == "degradation"


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_an_announcement_does_not_make_few_devices_many(share):
    few = [moved(BUSY, device=f"d{i}") for i in range(round(10 * share))]
    found = judge(cohort(*few, still=10 - len(few)), FAULTS, MACHINE, announced=LOAD)
    assert not found.retrain


def test_what_goes_on_moving_is_wear_announced_or_not():
    assert judged(BUSY, parts=(0.3, 0.6, 1.0)).kind == "degradation"
    ramp = {"parts": (0.87, 1.0, 1.13), "since": (13.5, 15.5, 17.5), "noise": 0.01}
    assert judged(BUSY, **ramp).kind == "degradation"


def by_measure(measures, *, rest=BUSY, announced=LOAD, **feature):
    """Ten devices that show the load, and beside it a feature each by its own measure."""
    shifts = [rest + along(**{n: x * m for n, x in feature.items()}) for m in measures]
    found = cohort(*[moved(shift, device=f"d{i}") for i, shift in enumerate(shifts)])
    return judge(found, FAULTS, MACHINE, announced=announced)


UNEQUAL = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 3.2, 3.6)


def test_what_comes_with_an_announced_change_to_each_device_by_its_own_measure_waits_for_a_person():
    alike = by_measure([1.8] * 10, vibration_band_mid=1.5)
    assert (alike.retrain, alike.evidence["apart_devices"]) == (True, 0)
    found = by_measure(UNEQUAL, vibration_band_mid=1.5)
    assert (found.kind, found.retrain, found.announced) == ("unclassified", False, "")
    assert found.evidence["apart_devices"] == 6
    assert "6 of them by another measure than the rest (vibration_band_mid): inspect d0, d1" in found.text


def test_three_of_ten_devices_that_moved_farther_are_a_few_and_four_are_not():
    for more, learnt in ((3, True), (4, False)):
        found = by_measure([1.0] * (10 - more) + [2.0] * more, vibration_band_mid=1.5)
        assert (found.evidence["apart_devices"], found.retrain) == (more, learnt)


def test_how_far_the_witness_moves_is_each_devices_own():
    found = by_measure(UNEQUAL, rest=BUSY + along(vibration_rms=1.2), current_mean=1.0)
    assert (found.kind, found.evidence["apart_devices"]) == ("covariate", 0)


def test_an_announced_gain_covers_no_fault_of_four_devices():
    found = by_measure([0.0] * 6 + [1.0] * 4, vibration_band_mid=1.5)
    assert (found.moved, found.retrain) == (("current_mean",), False)


# -- place and time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "cohorts", "minutes", "covered"),
    [
        ({}, ["machine/hall/g/x86"], 0, True),
        ({}, ["machine/hall/g/x86"], -4, True),  # its drift window overlaps
        ({}, ["machine/hall/g/x86"], -6, False),
        ({}, ["machine/hall/g/x86"], 60, False),
        ({}, [], 0, False),
        ({}, ["pump/hall/g/x86"], 0, False),
        ({"site": "hall"}, ["machine/hall/g/x86"], 0, True),
        ({"site": "yard"}, ["machine/hall/g/x86"], 0, False),
        ({"group": "g"}, ["machine/hall/g/x86", "machine/hall/h/x86"], 0, False),
    ],
)
def test_a_drift_is_covered_by_place_and_time(change, cohorts, minutes, covered):
    onset = NOON + timedelta(minutes=minutes)
    assert replace(LOAD, **change).covers(cohorts, onset, timedelta(minutes=5)) is covered


# -- who announced it ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    settings = ModelSettings(
        root=tmp_path_factory.mktemp("models"), lake_root=tmp_path_factory.mktemp("lake")
    )
    init_pki(settings)
    authority = Authority.load(settings)

    def person(name, *roles):
        key = ec.generate_private_key(ec.SECP256R1())
        made = authority.certify_client(name, roles, key.public_key(), datetime.now(UTC), timedelta(days=1))
        plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return key.private_bytes(*plain), made.public_bytes(serialization.Encoding.PEM)

    return SimpleNamespace(settings=settings, person=person, ca=read_ca(settings))


DOCUMENT = ChangeDocument(
    change_id="0" * 12, profile="machine", moves=("current",), may_move=("vibration",),
    start=NOON, end=NOON + HOUR, reason="new product",
)  # fmt: skip


def test_a_signed_announcement_opens_as_it_was_made_and_no_other_way(pki):
    ada, viewer = pki.person("Ada", Role.APPROVER), pki.person("Eve", Role.VIEWER)
    given = sign_announcement(DOCUMENT, *ada)
    assert given.opened(pki.ca) == LOAD
    altered = given.document.replace(b"12:00", b"02:00")
    assert altered != given.document
    for wrong in (
        given._replace(document=altered),
        given._replace(signature=given.signature[:-1] + b"\0"),
        given._replace(certificate=viewer[1]),
        sign_announcement(DOCUMENT, *viewer),
        SignedAnnouncement(given.document, given.signature, b"none"),
    ):
        with pytest.raises(AccessError):
            wrong.opened(pki.ca)
    with pytest.raises(AccessError):
        given.opened(viewer[1])  # another authority


@pytest.fixture
def registry(tmp_path):
    opened = Registry.open(f"sqlite:///{tmp_path}/registry.sqlite", tmp_path)
    yield opened
    opened.close()


def found_in(registry, pki, onset=NOON, **how):
    with registry.reading() as connection:
        return announced_for(connection, pki.settings.pki, MACHINE, ["machine/hall/g/x86"], onset, **how)


def test_trainer_and_gate_find_what_is_in_force_and_check_who_signed_it(registry, pki):
    ada = pki.person("Ada", Role.APPROVER)
    given = sign_announcement(DOCUMENT, *ada)
    row = StoredAnnouncement("0" * 12, "machine", *given, "Ada", 0.0, None)
    assert found_in(registry, pki) is None
    with registry.transaction() as connection:
        announced_changes.store(connection, row)
        announced_changes.store(connection, row._replace(change_id="1" * 12))  # signed as another
    assert found_in(registry, pki) == LOAD
    assert found_in(registry, pki, only="2" * 12) is None
    assert found_in(registry, pki, NOON + 2 * HOUR) is None
    with registry.transaction() as connection:
        values = {"serial": given.serial, "subject": "Ada", "role": "", "not_before": 0.0, "not_after": 9e9}
        connection.execute(certificates.insert().values(**values, revoked_at=1.0))
    assert found_in(registry, pki) is None
    with registry.transaction() as connection:
        connection.execute(certificates.update().values(revoked_at=None))
        assert announced_changes.withdraw(connection, "0" * 12, 5.0)
        assert not announced_changes.withdraw(connection, "0" * 12, 6.0)
    assert found_in(registry, pki) is None


def test_an_announcement_is_for_one_change(registry, pki):
    given = sign_announcement(DOCUMENT, *pki.person("Ada", Role.APPROVER))
    run = TrainingRun(
        run_id="r1", family="machine", profile="machine", state=RunState.EXAMINING, reason=RunReason.DRIFT,
        requested_by="trainer", created_at=NOON, updated_at=NOON, onset=NOON,
        finding=DriftFinding(kind="covariate", announced="0" * 12),
    )  # fmt: skip
    with registry.transaction() as connection:
        announced_changes.store(connection, StoredAnnouncement("0" * 12, "machine", *given, "Ada", 0.0, None))
        run_store.insert(connection, run)
    assert found_in(registry, pki) == LOAD  # the same change: it is looked at again
    assert found_in(registry, pki, NOON + HOUR / 2) is None


# -- what it proves ------------------------------------------------------------------------------


def test_a_drift_proves_itself_once():
    gain, announced, regime = (
        judged(along(temperature_mean=2.5), None), judged(BUSY + LIKE_IMBALANCE),
        judged(BUSY + along(vibration_rms=1.2, vibration_band_high=1.3), None),
    )  # fmt: skip
    assert [c.kind for c in (gain, announced, regime)] == ["sensor_recalibration", "covariate", "covariate"]
    before = CHAMPION.manifest
    assert proof_of(gain, before, NOON, None) == (True, frozenset(), True, True)
    assert proof_of(announced, before, NOON, LOAD) == (True, frozenset({"current", "vibration"}), True, True)
    assert proof_of(announced, before, NOON, replace(LOAD, change_id="1" * 12)).proven is False
    assert proof_of(regime, before, NOON, None) == (False, frozenset(), True, True)
    lineage = SimpleNamespace(event_to=NOON + HOUR)
    after = SimpleNamespace(lineage=lineage)
    assert proof_of(gain, after, NOON, None) == (False, frozenset(), True, False)
    assert proof_of(gain, after, NOON + HOUR, None).proven is True


def announced_story(cell, seed):
    story = machine_story(cell, seed)
    at = START + timedelta(seconds=story.changed[0])
    change = replace(
        LOAD,
        may_move=("vibration", "temperature"),
        start=at - timedelta(seconds=30),
        end=at + timedelta(seconds=60),
    )
    return replace(story, announced=change)


@pytest.mark.long
@pytest.mark.parametrize(
    ("cell", "learnt"),
    [
        ("new load and speed on all", True),
        ("imbalance, abrupt, on 90 %", False),
        ("bearing wear, slow, on 60 %", False),
        ("temperature +6 on 80 %", True),
    ],
)
def test_in_an_announced_hour_the_load_is_learnt_and_no_fault(cell, learnt):
    history = SimulatedLoop(announced_story(cell, 101)).run()
    assert bool(history.signed) is learnt
    by_name = [r.finding.announced for r in history.runs if r.finding and r.finding.retrain]
    assert np.all([bool(name) is (cell == "new load and speed on all") for name in by_name])

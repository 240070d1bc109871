"""Laws of excerpts on the device: nothing is followed but a permit that is whole, within limits, and new.

The service here is a list: what it hands out is real, signed bytes, and the device has no reason to trust it.
"""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from edge_producer.excerpts.consent import ConsentFile
from edge_producer.excerpts.excerpt_desk import ExcerptDesk, OfferOutcome
from edge_producer.excerpts.permit_ledger import PermitLedger
from edge_producer.excerpts.raw_ring import RawRing
from edge_producer.trust import TrustedTime
from edge_producer.updates.permit_follower import PermitFollower
from edge_producer.window import Window
from schemas.durable import DISK
from schemas.errors import RejectedError, ServiceUnavailableError
from schemas.excerpt_event import Excerpt
from schemas.excerpt_permit import SignedPermit
from schemas.excerpt_words import PermitRefusal, PermitState
from schemas.proto import delivery_pb2 as pb
from schemas.row_schemas import TimeQuality
from schemas.updates import Role
from tests.simulators.excerpt_permits import POLICY, People, with_excerpts

PROFILE = with_excerpts()
RATE, HOP = PROFILE.sampling.rate_hz, PROFILE.sampling.hop_samples
BUILD = datetime(2026, 1, 1, tzinfo=UTC)


class Service:
    """Hands out what it is given, and says what it was told."""

    def __init__(self):
        self.handed, self.claims, self.told = [], [], []
        self.grants = lambda _permit_id: (True, "")
        self.now = datetime.now(UTC)
        self.down = False

    def hand(self, *signed):
        self.handed += [pb.HandedPermit(permit_id=s.permit.permit_id, signed=s.to_bytes()) for s in signed]

    def fetch_permits(self, outcomes, changes, *, consent):
        if self.down:
            raise ServiceUnavailableError("away")
        self.told += [(o.permit_id, o.state, o.refusal) for o in outcomes]
        return self.handed, self.now

    def claim_permit(self, permit_id):
        self.claims.append(permit_id)
        return self.grants(permit_id)


class Rig:
    """One device with samples of the last 60 s, consent, and a service."""

    def __init__(self, folder, people):
        self.folder, self.people, self.service = folder, people, Service()
        self.end = datetime.now(UTC)
        self.profile = PROFILE
        self.start()
        self.consent(True)
        self.sense(60)

    def start(self):
        """As after a restart of the process: the folder is what there is."""
        self.time = TrustedTime(self.folder / "time.json", BUILD)
        self.time.learn(self.service.now, "server")
        self.desk = ExcerptDesk(self.folder, ["m-1"], lambda _: self.profile)
        self.ledger = PermitLedger(self.folder, DISK, self.time.now())
        self.follower = PermitFollower("m-1", self.desk, self.ledger, lambda: self.profile, self.time)

    def consent(self, given):
        ConsentFile(self.folder, "m-1").change(datetime.now(UTC), given=given)

    def sense(self, seconds, end=None, boot=7):
        end = end or self.end
        n = int(seconds * RATE)
        for last in range(HOP, n + 1, HOP):
            values = np.arange(last - HOP, last, dtype=np.float32)
            samples = np.column_stack([values] * len(PROFILE.channels))
            at = end - timedelta(seconds=(n - last) / RATE)
            self.desk.add(Window("m-1", samples, at, 0, TimeQuality.SYNCHRONISED), boot)

    def step(self, *signed):
        self.service.hand(*signed)
        return self.follower.step(self.service, self.people.ca_pem)

    def refusals(self):
        """What the device tells the service at its next contact."""
        self.service.handed, self.service.told = [], []
        self.follower.step(self.service, self.people.ca_pem)
        return [refusal for _, _, refusal in self.service.told]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return People(tmp_path_factory.mktemp("people"))


@pytest.fixture
def rig(tmp_path, people):
    return Rig(tmp_path, people)


def events(offers):
    return [Excerpt.model_validate_json(event) for offer in offers for event, _ in offer.parts()]


def test_exactly_the_permitted_span_and_channels_are_offered_once_and_claimed_before(rig, people):
    signed = people.permit(start=rig.end - timedelta(seconds=30), seconds=10)
    rig.step(signed)
    assert rig.service.claims == [signed.permit.permit_id]
    found = events(rig.desk.take_offers())
    assert {name for e in found for name in e.samples} == {"vibration"}
    values = np.concatenate([e.values()["vibration"] for e in found])
    first = round((60 - 30) * RATE) - 1  # the sample at an instant is numbered from the first, at 1/rate
    assert values.tolist() == list(np.arange(first, first + round(10 * RATE) + 1, dtype=float))
    assert abs(found[0].event_time - signed.permit.start) < timedelta(microseconds=3)
    assert {(e.permit_id, e.approver, e.boot_id) for e in found} == {(signed.permit.permit_id, "anna", 7)}
    rig.step(signed)  # the service hands it out again
    assert rig.desk.take_offers() == []


@pytest.mark.parametrize(
    ("given", "refusal"),
    [
        ({"device_id": "m-2"}, PermitRefusal.OTHER_DEVICE),
        ({"profile": "traffic"}, PermitRefusal.BEYOND_LIMITS),
        ({"purpose": "curiosity"}, PermitRefusal.BEYOND_LIMITS),
        ({"channels": ("vibration", "current")}, PermitRefusal.BEYOND_LIMITS),
        ({"seconds": 21}, PermitRefusal.BEYOND_LIMITS),
        ({"seconds": 10, "max_seconds": 9}, PermitRefusal.BEYOND_LIMITS),
        ({"expires_at": datetime.now(UTC) + timedelta(days=3)}, PermitRefusal.BEYOND_LIMITS),
        ({"issued_at": BUILD, "expires_at": BUILD + timedelta(hours=1)}, PermitRefusal.EXPIRED),
        ({"start": datetime.now(UTC) - timedelta(hours=2)}, PermitRefusal.NOT_HELD),
    ],
)
def test_what_a_permit_may_not_say_is_refused_reported_and_never_claimed(rig, people, given, refusal):
    rig.step(people.permit(**given))
    assert rig.desk.take_offers() == []
    assert rig.service.claims == []
    assert rig.refusals() == [refusal]
    assert rig.follower.status()["permits"]["refused"] == 1
    assert rig.follower.status()["last"]["refusal"] == refusal


def forged(people):
    """Permits that no approver has signed as they are."""
    right, last = people.permit(), people.permit()
    wider = right.permit.model_copy(update={"end": right.permit.end + timedelta(seconds=5)})
    other = People(people.settings.root / "elsewhere")
    old = datetime.now(UTC) - timedelta(days=9)
    yield "widened span", replace(right, permit=wider), PermitRefusal.NOT_SIGNED
    yield "operator", people.permit(people.person(Role.OPERATOR)), PermitRefusal.NOT_AN_APPROVER
    yield "device", people.permit(people.person(Role.DEVICE)), PermitRefusal.NOT_AN_APPROVER
    yield (
        "expired approver",
        people.permit(people.person(Role.APPROVER, at=old)),
        PermitRefusal.NOT_AN_APPROVER,
    )
    yield "other authority", other.permit(), PermitRefusal.NOT_SIGNED
    approver = people.person(Role.APPROVER)[1]
    yield (
        "another's key",
        people.permit((people.person(Role.OPERATOR)[0], approver)),
        PermitRefusal.NOT_SIGNED,
    )
    yield "the authority's", replace(last, certificate_pem=people.ca_pem.encode()), PermitRefusal.NOT_SIGNED


def test_forged_permits_are_refused(rig, people):
    expected = []
    for _, signed, refusal in forged(people):
        expected.append((signed.permit.permit_id, refusal))
        rig.step(signed)
    assert rig.desk.take_offers() == []
    assert rig.service.claims == []
    rig.step()
    assert {(i, r) for i, s, r in rig.service.told if s == "refused"} == set(expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw | {"format": 2},
        lambda raw: raw | {"permit": raw["permit"].replace(":", ": ", 1)},
        lambda raw: raw | {"permit": raw["permit"][:-1] + ',"more":1}'},
        lambda raw: {k: v for k, v in raw.items() if k != "signature"},
        lambda raw: raw | {"certificate": 7},
        lambda _: [],
    ],
)
def test_what_is_no_permit_is_refused_and_reported(rig, people, change):
    signed = people.permit()
    data = json.dumps(change(json.loads(signed.to_bytes()))).encode()
    rig.service.handed = [pb.HandedPermit(permit_id=signed.permit.permit_id, signed=data)]
    rig.step()
    assert rig.desk.take_offers() == []
    assert rig.refusals() == [PermitRefusal.MALFORMED]


def test_a_permit_survives_its_own_bytes(people):
    signed = people.permit()
    assert SignedPermit.from_bytes(signed.to_bytes()) == signed


def test_a_restart_does_not_forget_what_was_followed_nor_the_day(rig, people):
    first = people.permit(start=rig.end - timedelta(seconds=40), seconds=20)
    rig.step(first)
    rig.desk.finish("m-1", OfferOutcome(first.permit.permit_id, PermitState.TAKEN, samples=5))
    rig.follower.refresh()
    rig.start()
    rig.sense(60)
    rig.service.handed = []
    rig.step(first)
    assert rig.desk.take_offers() == []
    rig.step(people.permit(start=rig.end - timedelta(seconds=40), seconds=11))  # 31 of 30 s of the day
    assert rig.refusals() == [PermitRefusal.DAY_SPENT]


def test_a_clock_set_back_brings_neither_the_day_nor_a_life_back(rig, people):
    rig.step(people.permit(start=rig.end - timedelta(seconds=40), seconds=20))
    assert len(rig.desk.take_offers()) == 1
    gone = people.permit(
        start=rig.end - timedelta(seconds=40), seconds=5, expires_at=rig.service.now + timedelta(seconds=1)
    )
    rig.service.now += timedelta(seconds=60)
    rig.step(gone)
    assert rig.refusals() == [PermitRefusal.EXPIRED]
    rig.service.now -= timedelta(days=30)
    rig.start()
    rig.sense(60)
    rig.step(people.permit(start=rig.end - timedelta(seconds=40), seconds=11))
    assert rig.refusals() == [PermitRefusal.DAY_SPENT]


def test_a_clock_that_went_ahead_and_came_back_revives_no_permit_that_was_forgotten(rig, people):
    first = people.permit(start=rig.end - timedelta(seconds=40), seconds=20)
    rig.step(first)
    assert len(rig.desk.take_offers()) == 1
    rig.desk.finish("m-1", OfferOutcome(first.permit.permit_id, PermitState.TAKEN, samples=5))
    rig.service.handed = []
    for days in (60, 0, -60):
        rig.service.now += timedelta(days=days)
        rig.step()
    assert rig.ledger.known(first.permit.permit_id) is None
    rig.step(first)
    rig.start()
    rig.sense(60)
    rig.step()
    assert rig.desk.take_offers() == []


def test_a_process_that_ends_between_claim_and_seal_loses_the_excerpt_and_never_sends_it(rig, people):
    signed = people.permit(start=rig.end - timedelta(seconds=30))
    rig.step(signed)
    rig.start()  # the offer was in memory only
    rig.sense(60)
    assert rig.desk.take_unknown() == {"m-1": {signed.permit.permit_id}}
    rig.service.handed = []
    rig.step(signed)
    assert rig.desk.take_offers() == []


def test_without_consent_nothing_is_held_offered_or_claimed(rig, people):
    rig.step(people.permit(start=rig.end - timedelta(seconds=30)))  # fetched, claimed, offered
    rig.consent(False)
    assert rig.desk.take_offers() == []
    assert rig.desk.reach("m-1") is None
    rig.follower.refresh()
    rig.sense(5)
    assert rig.desk.reach("m-1") is None
    rig.step(people.permit(start=rig.end - timedelta(seconds=3), seconds=1))
    assert len(rig.service.claims) == 1
    rig.step()
    assert {(state, refusal) for _, state, refusal in rig.service.told} == {
        ("withdrawn", ""),
        ("refused", PermitRefusal.NO_CONSENT),
    }
    assert rig.follower.status()["permits"] == {"taken": 0, "refused": 1, "withdrawn": 1, "lost": 0}
    assert rig.follower.status()["changes"] == 2


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b'{"given": "true"}', b'{"given":true,"changes":1,"history":[],"digest":"0"}']
)
def test_a_damaged_switch_is_no_consent(tmp_path, damage):
    file = ConsentFile(tmp_path, "m-1")
    file.change(datetime.now(UTC), given=True)
    assert file.read().given
    file.path.write_bytes(damage)
    assert not file.read().given


def test_a_damaged_ledger_refuses_all_permits_of_before_and_spends_the_day(rig, people):
    rig.step(people.permit(start=rig.end - timedelta(seconds=30)))
    early = people.permit(start=rig.end - timedelta(seconds=20), seconds=1)
    (rig.folder / "permits.json").write_bytes(b"{")
    rig.service.now += timedelta(seconds=5)
    rig.start()
    rig.sense(60)
    rig.service.handed = []
    late = datetime.now(UTC) + timedelta(seconds=30)
    rig.step(early, people.permit(start=rig.end - timedelta(seconds=20), seconds=1, issued_at=late))
    assert rig.desk.take_offers() == []
    assert rig.refusals() == [PermitRefusal.REPLAYED, PermitRefusal.DAY_SPENT]


def test_a_permit_whose_span_is_not_over_waits_and_one_revoked_meanwhile_is_not_followed(rig, people):
    signed = people.permit(start=rig.end - timedelta(seconds=5), seconds=10)
    assert rig.step(signed) is not None
    assert rig.follower.status()["waiting"].keys() == {signed.permit.permit_id}
    assert (rig.service.claims, rig.desk.take_offers()) == ([], [])
    rig.sense(6, end=rig.end + timedelta(seconds=6))
    rig.service.handed = []  # revoked: the service does not hand it out any more
    assert rig.step() is None
    assert rig.desk.take_offers() == []
    rig.service.grants = lambda _: (False, "it is revoked")
    rig.step(signed)
    assert rig.desk.take_offers() == []
    assert rig.refusals() == [PermitRefusal.NOT_GRANTED]


@pytest.mark.parametrize("kind", ["another boot", "a gap", "a clock set back"])
def test_a_span_across_a_break_is_not_held(rig, people, kind):
    step = {"another boot": 5, "a gap": 7, "a clock set back": -20}[kind]
    rig.sense(5, end=rig.end + timedelta(seconds=step), boot=8 if kind == "another boot" else 7)
    newest = rig.end + timedelta(seconds=step)
    rig.step(people.permit(start=newest - timedelta(seconds=10), seconds=9))
    assert rig.desk.take_offers() == []
    assert rig.refusals() == [PermitRefusal.NOT_HELD]
    rig.step(people.permit(start=newest - timedelta(seconds=4), seconds=3))
    assert len(rig.desk.take_offers()) == 1


def test_a_ring_holds_what_the_profile_says_and_no_more():
    ring = RawRing(PROFILE, POLICY)
    end = datetime(2026, 5, 1, tzinfo=UTC)
    for k in range(int(3 * POLICY.held_s * RATE / HOP)):
        samples = np.full((HOP, len(PROFILE.channels)), k, dtype=np.float32)
        at = end + timedelta(seconds=k * HOP / RATE)
        ring.add(Window("m-1", samples, at, 0, TimeQuality.SYNCHRONISED), 1)
    assert ring.seconds == POLICY.held_s
    oldest, newest = ring.reach()
    assert (newest - oldest) / 1e6 == pytest.approx(POLICY.held_s - 1 / RATE, abs=1e-4)
    ring.clear()
    assert (ring.seconds, ring.reach()) == (0, None)


def test_samples_that_cannot_be_held_stop_no_sensing(rig):
    samples = np.zeros((HOP, 1), dtype=np.float32)  # not the profile's channels
    rig.profile = rig.profile.model_copy(update={"channels": rig.profile.channels[::-1]})
    rig.desk.add(Window("m-1", samples, rig.end, 0, TimeQuality.SYNCHRONISED), 7)
    assert rig.desk.reach("m-1") is None


def test_a_profile_without_excerpts_holds_and_asks_nothing(rig, people):
    rig.profile = with_excerpts(policy=POLICY).model_copy(update={"excerpts": None})
    rig.sense(5)
    assert rig.desk.reach("m-1") is None
    rig.service.down = True  # a call would raise
    assert rig.step(people.permit()) is None
    assert rig.follower.status() == {}


def test_a_service_of_an_earlier_release_is_told_apart(rig, people):
    def unknown(*_args, **_more):
        raise RejectedError("cannot fetch permits: UNIMPLEMENTED")

    rig.service.fetch_permits = unknown
    assert rig.step(people.permit()) is None
    assert "UNIMPLEMENTED" in rig.follower.status()["error"]


def test_an_outcome_is_told_until_the_service_has_answered(rig, people):
    rig.step(people.permit(purpose="curiosity"))
    rig.service.down, rig.service.handed = True, []
    with pytest.raises(ServiceUnavailableError):
        rig.step()
    rig.service.down = False
    assert rig.refusals() == [PermitRefusal.BEYOND_LIMITS]
    assert rig.refusals() == []

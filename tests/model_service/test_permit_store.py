"""Laws of permits in the registry: stored, handed to their device, claimed once, revocable until then."""

from datetime import UTC, datetime, timedelta

import grpc
import pytest
from sqlalchemy import select

from feature_store.lake import Lake
from feature_store.lake_registry import ProfileRegistry
from infra.excerpt_request import ExcerptWish, permit_of, signed_by_approver
from model_service.fleet import certificate_ledger, permit_store
from model_service.fleet.devices import put_device
from model_service.identity.certificates import read_holder
from model_service.registry.database import Registry
from model_service.registry.registry_tables import outbox
from model_service.service.fleet_reads import list_permits
from model_service.service.lake_lookup import LakeLookup
from model_service.service.permit_check import checked_permit
from schemas.errors import AccessError, PermitError, RegistryError
from schemas.proto.delivery_pb2 import (
    ClaimPermitRequest,
    FetchPermitsRequest,
    PermitOutcome,
    WatchRequest,
)
from schemas.updates import Role
from tests.simulators.excerpt_permits import POLICY, People, with_excerpts
from tests.simulators.model_service import ModelService, refusal

NOW = datetime.now(UTC).timestamp()
BEFORE = datetime.fromtimestamp(NOW - 60, UTC)


@pytest.fixture(autouse=True)
def _as_it_begins(monkeypatch):
    """Certificates and permits are made when a test runs, which may be long after this module was read."""
    now = datetime.now(UTC).timestamp()
    monkeypatch.setitem(globals(), "NOW", now)
    monkeypatch.setitem(globals(), "BEFORE", datetime.fromtimestamp(now - 60, UTC))


class Store:
    """A registry with two devices, and people."""

    def __init__(self, folder):
        self.people = People(folder)
        settings = self.people.settings
        self.registry = Registry.open(settings.database_url, settings.root)
        with self.registry.transaction() as connection:
            for name in ("m-1", "m-2"):
                put_device(
                    connection,
                    {
                        "device_id": name,
                        "profile": "machine",
                        "site": "s",
                        "grp": "default",
                        "hardware": "sim",
                        "key_id": name,
                        "public_key": "",
                        "gateway": None,
                    },
                    NOW,
                )

    def do(self, work, *args, **more):
        with self.registry.transaction() as connection:
            return work(connection, *args, **more)

    def grant(self, signer=None, **given):
        signed = self.people.permit(signer, **given)
        self.do(permit_store.grant, signed, "anna", "why not", NOW)
        return signed.permit.permit_id

    def state(self, permit_id):
        return self.do(permit_store.get, permit_id)["state"]

    def handed(self, device="m-1", now=None):
        now = NOW if now is None else now
        return [i for i, _ in self.do(permit_store.handed_to, device, now)]

    def told(self, permit_id, device="m-1", **given):
        outcome = PermitOutcome(permit_id=permit_id, **given)
        assert permit_store.check_outcome(outcome) == ""
        self.do(permit_store.take_outcomes, device, [outcome], NOW)

    def steps(self, permit_id):
        query = select(outbox.c.step).where(outbox.c.subject == f"permit/{permit_id}")
        with self.registry.reading() as connection:
            return set(connection.execute(query).scalars())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = Store(tmp_path_factory.mktemp("store"))
    yield made
    made.registry.close()


def test_a_permit_goes_to_its_device_alone_until_that_settles_it(store):
    permit_id = store.grant()
    assert permit_id not in store.handed("m-2")
    assert permit_id in store.handed()
    assert store.do(permit_store.claim, "m-2", permit_id, NOW) != ""
    assert store.do(permit_store.claim, "m-1", permit_id, NOW) == ""
    assert store.do(permit_store.claim, "m-1", permit_id, NOW) == ""  # the answer was lost: it asks again
    assert permit_id in store.handed()
    store.told(permit_id, "m-2", state="refused", refusal="expired")
    assert store.state(permit_id) == "claimed"
    store.told(permit_id, state="taken", samples=77)
    assert permit_id not in store.handed()
    assert store.do(permit_store.claim, "m-1", permit_id, NOW) == "it is taken"
    store.told(permit_id, state="refused", refusal="replayed")
    assert store.state(permit_id) == "taken"
    store.told(permit_id, state="withdrawn", detail="1 message was deleted")
    assert store.state(permit_id) == "withdrawn"
    [shown] = store.do(list_permits, "", permit_id, 1)
    assert (shown["samples"], shown["approver"], shown["purpose"]) == (77, "anna", "review")
    assert store.steps(permit_id) == {
        f"excerpt_{step}" for step in ("permitted", "permit_fetched", "claimed", "taken", "withdrawn")
    }


def test_a_permit_is_revoked_until_it_is_claimed_and_not_after(store):
    early, late = store.grant(), store.grant()
    store.do(permit_store.revoke, early, "anna", "a mistake", NOW)
    assert early not in store.handed()
    assert store.do(permit_store.claim, "m-1", early, NOW) == "it is revoked"
    assert store.do(permit_store.claim, "m-1", late, NOW) == ""
    with pytest.raises(RegistryError, match="only one that is open"):
        store.do(permit_store.revoke, late, "anna", "", NOW)
    with pytest.raises(RegistryError, match="no permit"):
        store.do(permit_store.revoke, "f" * 16, "anna", "", NOW)


def test_an_expired_permit_and_one_of_a_revoked_approver_are_not_handed_out(store):
    signer = store.people.person(Role.APPROVER, name="otto")
    held = store.grant(signer)
    old = store.grant(expires_at=datetime.fromtimestamp(NOW + 5, UTC))
    holder = read_holder(signer[1])
    store.do(certificate_ledger.record_if_absent, holder, NOW)
    store.do(certificate_ledger.revoke_certificate, holder.serial, NOW, "anna", "stolen")
    assert not {held, old} & set(store.handed(now=NOW + 6))
    assert (store.state(held), store.state(old)) == ("revoked", "expired")


def test_what_cannot_be_followed_is_not_stored(store):
    signed = store.people.permit()
    store.do(permit_store.grant, signed, "anna", "", NOW)
    for given, why in (
        ({"device_id": "m-9"}, "has joined"),
        ({"profile": "traffic"}, "runs profile machine"),
        ({"expires_at": datetime.fromtimestamp(NOW - 1, UTC), "issued_at": BEFORE}, "expired"),
    ):
        with pytest.raises(RegistryError, match=why):
            store.grant(**given)
    with pytest.raises(RegistryError, match="known already"):
        store.do(permit_store.grant, signed, "anna", "", NOW)


def test_consent_is_noted_as_the_device_says_and_each_change_is_an_event(store):
    for changes, given in ((1, True), (1, True), (2, False)):
        store.do(permit_store.note_consent, "m-2", changes, NOW + changes, given=given)
    found = store.do(permit_store.consents)["m-2"]
    assert (found["given"], found["changes"]) == (False, 2)
    with store.registry.reading() as connection:
        steps = list(connection.execute(select(outbox.c.step).where(outbox.c.subject == "m-2")).scalars())
    assert sorted(steps) == ["excerpt_consent_given", "excerpt_consent_withdrawn"]


def test_the_service_stores_what_an_approver_brings_within_the_limits_of_the_profile(store):
    people, settings = store.people, store.people.settings
    ProfileRegistry(Lake.open(settings.lake_root)).register(with_excerpts())
    lookup, key = LakeLookup(settings.lake_root), people.person(Role.APPROVER)

    def check(signed, caller=key):
        holder = read_holder(caller[1])
        return checked_permit(signed.to_bytes(), settings.pki / "ca.pem", holder.key, lookup, NOW)[1]

    assert check(people.permit(key)) == "anna"
    with pytest.raises(AccessError, match="must bring it"):
        check(people.permit())
    for given in ({"seconds": 21}, {"channels": ("current",)}, {"purpose": "fun"}, {"profile": "traffic"}):
        with pytest.raises(PermitError):
            check(people.permit(key, **given))
    operator = people.person(Role.OPERATOR)
    with pytest.raises(PermitError, match="no approver"):
        check(people.permit(operator), operator)


@pytest.mark.long
def test_people_permit_list_and_revoke_over_grpc_and_the_device_fetches_and_claims(tmp_path):
    with ModelService(tmp_path) as service:
        profile = with_excerpts()
        ProfileRegistry(service.lake).register(profile)
        with service.joined("m-1") as device, service.person("approver") as approver:
            wish = ExcerptWish("m-1", "review", datetime.now(UTC) - timedelta(seconds=20), 5.0)
            signed = signed_by_approver(permit_of(wish, profile, datetime.now(UTC)), service.settings)
            hints = device.delivery().Watch(WatchRequest(device_id="m-1"), timeout=30)
            first = next(hints)
            made = approver.grant_permit(signed.to_bytes(), "a complaint")
            assert next(hints) == first  # nothing was published: it hints at what waits for this device
            hints.cancel()
            assert (made["state"], made["channels"]) == ("open", list(POLICY.channels))
            stub = device.delivery()
            answer = stub.FetchPermits(FetchPermitsRequest(device_id="m-1", consent=True, consent_changes=1))
            [handed] = answer.permits
            assert handed.signed == signed.to_bytes()
            with pytest.raises(grpc.RpcError) as caught:
                stub.ClaimPermit(ClaimPermitRequest(device_id="m-2", permit_id=handed.permit_id))
            assert refusal(caught.value)[0] == "PERMISSION_DENIED"
            claim = stub.ClaimPermit(ClaimPermitRequest(device_id="m-1", permit_id=handed.permit_id))
            assert claim.granted
            [listed] = approver.permits()
            assert (listed["state"], listed["consent"]["given"]) == ("claimed", True)
            with pytest.raises(RegistryError):
                approver.revoke_permit(handed.permit_id)
            bad = PermitOutcome(permit_id=handed.permit_id, state="free")
            with pytest.raises(grpc.RpcError) as caught:
                stub.FetchPermits(FetchPermitsRequest(device_id="m-1", outcomes=[bad]))
            assert refusal(caught.value)[0] == "INVALID_ARGUMENT"
        with service.person("viewer") as viewer, pytest.raises(AccessError):
            viewer.grant_permit(signed.to_bytes())

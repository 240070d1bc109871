"""Laws of who sends for which device, from the registry to the lake, without a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric import ec

from feature_store.device_registry import await_assigned
from feature_store.lake import Lake
from model_service.fleet.device_assignments import assign, assigned
from model_service.identity.issuer import Issuer
from model_service.identity.tokens import Invitation, create_token, invitation_of_gateway
from model_service.registry.database import Registry, migrate
from schemas.boot_ids import gateway_tag
from schemas.errors import RegistryError
from tests.model_service.test_identity import NOW, Deployment

GATE, DEVICE = "g-1", "m-1"


class Site(Deployment):
    """A deployment whose devices join behind gateways."""

    def token(self, invitation: Invitation) -> str:
        with self.registry.transaction() as connection:
            return create_token(connection, invitation, 60.0, NOW)

    def join_as(self, invitation: Invitation):
        key = ec.generate_private_key(ec.SECP256R1())
        request = self.ask(invitation.device_id, self.token(invitation), key)
        self.issuer.step()
        return self.answer(request)

    def assign(self, *devices: str, gateway: str = "") -> None:
        with self.registry.transaction() as connection:
            assign(connection, devices, gateway, NOW, "test")

    def senders(self) -> dict[str, str | None]:
        """Gateway of each device, as the lake has it after the issuer's next step."""
        self.issuer.step()
        return {r.device_id: r.gateway for r in self.lake.keys().values()}


def device(name: str = DEVICE, gateway: str = "") -> Invitation:
    return Invitation(name, "machine", "a", "default", "sim", gateway)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    assert made.join_as(invitation_of_gateway(GATE, "a"))["certificate_pem"]
    return made


def test_a_device_is_assigned_to_a_gateway_and_back_to_itself(site):
    site.join_as(device())
    assert site.senders() == {GATE: None, DEVICE: None}
    site.assign(DEVICE, gateway=GATE)
    assert site.senders() == {GATE: None, DEVICE: GATE}
    assert await_assigned(Lake.open(site.settings.lake_root), [DEVICE], GATE, 0.0)
    site.assign(DEVICE)
    assert site.senders() == {GATE: None, DEVICE: None}
    assert list(site.lake.history().former[DEVICE]) == [GATE]
    assert not await_assigned(Lake.open(site.settings.lake_root), [DEVICE], GATE, 0.0)


def test_a_device_may_join_behind_a_gateway_that_joins_later(tmp_path):
    site = Site(tmp_path)
    site.token(invitation_of_gateway(GATE, "a"))
    assert site.join_as(device(gateway=GATE))["certificate_pem"]
    assert site.senders() == {DEVICE: GATE}
    site.join_as(invitation_of_gateway(GATE, "a"))
    assert site.senders() == {DEVICE: GATE, GATE: None}


def test_a_device_that_joins_again_stays_behind_its_gateway(site):
    site.join_as(device(gateway=GATE))
    site.join_as(device())
    assert site.senders()[DEVICE] == GATE
    assert site.lake.history().former == {}


def test_an_issuer_that_starts_anew_passes_on_what_changed_while_it_was_away(site):
    site.join_as(device())
    site.assign(DEVICE, gateway=GATE)
    site.issuer = Issuer(site.settings, site.registry, site.lake)
    assert site.senders()[DEVICE] == GATE


def test_only_a_gateway_sends_for_others_and_nobody_sends_for_a_gateway(site):
    for name in (DEVICE, "m-2"):
        site.join_as(device(name))
    for devices, gateway, why in [
        ([DEVICE], "m-2", "no gateway m-2 was invited"),
        ([DEVICE], "g-9", "no gateway g-9 was invited"),
        ([GATE], GATE, "gateways are not assigned"),
        (["m-9"], GATE, "no device m-9 has joined"),
    ]:
        with pytest.raises(RegistryError, match=why):
            site.assign(*devices, gateway=gateway)
    with pytest.raises(RegistryError, match="no gateway g-9"):
        site.token(device("m-3", gateway="g-9"))
    site.revoke(GATE)
    with pytest.raises(RegistryError, match=f"no gateway {GATE}"):
        site.assign(DEVICE, gateway=GATE)
    with site.registry.reading() as connection:
        assert assigned(connection) == {}


def test_one_bad_device_of_many_changes_none(site):
    site.join_as(device())
    with pytest.raises(RegistryError):
        site.assign(DEVICE, "m-9", gateway=GATE)
    assert site.senders()[DEVICE] is None


def test_a_device_does_not_become_a_gateway_nor_a_gateway_a_device(site):
    site.join_as(device())
    with pytest.raises(RegistryError, match="is a device, and cannot be a gateway"):
        site.token(invitation_of_gateway(DEVICE, "a"))
    with pytest.raises(RegistryError, match="is a gateway, and cannot be a device"):
        site.token(device(GATE))


def test_two_gateways_whose_boots_look_alike_are_not_both_invited(site):
    names = (f"h-{n}" for n in range(10**7))
    alike = next(n for n in names if gateway_tag(n) == gateway_tag(GATE))
    with pytest.raises(RegistryError, match=f"boots of {alike} would look like those of {GATE}"):
        site.token(invitation_of_gateway(alike, "a"))


def test_a_registry_from_before_there_were_gateways_gets_the_column(tmp_path):
    url = f"sqlite:///{tmp_path / 'registry.db'}"
    migrate(url)
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE join_tokens DROP COLUMN gateway"))
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    registry = Registry.open(url, tmp_path)
    with registry.transaction() as connection:
        create_token(connection, replace(device(), gateway=""), 60.0, NOW)
    registry.close()

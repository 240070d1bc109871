"""Laws of a device's certificate: what a hostile or broken service issues never replaces a good one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_producer.device_identity import load_or_create
from edge_producer.trust import SERVER, TrustedTime
from edge_producer.updates.membership import Membership
from edge_producer.updates.service_client import DeliveryClient
from model_service.identity.authority import Authority, init_pki
from model_service.settings import ModelSettings
from schemas.durable import Disk
from schemas.errors import AccessError, ServiceUnavailableError
from schemas.updates import Role

BUILT = datetime(2026, 1, 1, tzinfo=UTC)


def membership(folder, join) -> Membership:
    folder.mkdir(exist_ok=True)
    device = load_or_create(folder / "keys", "m-1")
    return Membership(folder, join, device, TrustedTime(folder / "time.json", BUILT), Disk())


def certified(authority: Authority, name: str, key: ec.EllipticCurvePublicKey) -> bytes:
    made = authority.certify_client(name, [Role.DEVICE], key, datetime.now(UTC), timedelta(days=1))
    return made.public_bytes(serialization.Encoding.PEM)


def wrong(kind: str, service, folder) -> bytes:
    if kind in ("", "-----nothing-----"):
        return kind.encode()
    own = serialization.load_pem_public_key(load_or_create(folder, "m-1").public_pem.encode())
    if kind == "another key":
        return certified(service.authority, "m-1", ec.generate_private_key(ec.SECP256R1()).public_key())
    if kind == "another device":
        return certified(service.authority, "m-2", own)
    other = ModelSettings(root=folder / "other", lake_root=folder / "lake")
    init_pki(other)
    return certified(Authority.load(other), "m-1", own)


KINDS = ["", "-----nothing-----", "another key", "another device", "another authority"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_certificate_of_ours_never_replaces_a_good_one(service, tmp_path, kind):
    folder, join = tmp_path / "m-1", service.join(tmp_path / "join", "m-1")
    subject = membership(folder, join)
    good = subject.credentials()
    bad = wrong(kind, service, folder / "keys")
    service.certificate_filter = lambda _pem: bad
    with pytest.raises(ServiceUnavailableError, match="no certificate of ours"):
        subject.credentials(renew=True)
    service.certificate_filter = lambda pem: pem
    assert membership(folder, join).credentials() == good
    assert subject.credentials(renew=True) != good, "an honest answer is taken again"


@pytest.mark.parametrize("kind", KINDS)
def test_a_certificate_damaged_in_both_copies_is_as_good_as_none(service, tmp_path, kind):
    folder, join = tmp_path / "m-1", service.join(tmp_path / "join", "m-1")
    good = membership(folder, join).credentials()
    (folder / "certificate.pem").write_bytes(wrong(kind, service, folder / "keys"))
    assert membership(folder, join).credentials() == good, "one copy is whole"
    (folder / "certificate.copy.pem").write_bytes(wrong(kind, service, folder / "keys"))
    service.let_tokens_lapse()
    with pytest.raises(AccessError, match="used up"):
        membership(folder, join).credentials()
    join = service.join(tmp_path / "join", "m-1")
    credentials = membership(folder, join).credentials()
    delivery = DeliveryClient(join, credentials)
    assert delivery.fetch_metadata({}, {}).metadata
    delivery.close()


def test_a_certificate_that_was_lost_right_after_joining_comes_by_the_same_token(service, tmp_path):
    folder, join = tmp_path / "m-1", service.join(tmp_path / "join", "m-1")
    membership(folder, join).credentials()
    for name in ("certificate.pem", "certificate.copy.pem", "joined.json"):
        (folder / name).unlink()
    membership(folder, join).credentials()
    assert service.enrolled == ["m-1", "m-1"]


def test_what_follows_the_certificate_is_not_kept(service, tmp_path):
    service.certificate_filter = lambda pem: pem + b"-----BEGIN CERTIFICATE-----\n"
    subject = membership(tmp_path / "m-1", service.join(tmp_path / "join", "m-1"))
    assert subject.credentials().certificate_pem.count(b"BEGIN") == 1


def test_a_join_bundle_without_an_authority_is_refused_before_anything_is_asked(service, tmp_path):
    join = service.join(tmp_path / "join", "m-1").model_copy(update={"ca_pem": ""})
    with pytest.raises(AccessError, match="authority"):
        membership(tmp_path / "m-1", join)


def test_a_certificate_is_looked_at_again_once_a_file_of_it_changes_and_renewed_when_it_is_due(
    service, tmp_path
):
    folder, join = tmp_path / "m-1", service.join(tmp_path / "join", "m-1")
    folder.mkdir()
    time = TrustedTime(folder / "time.json", BUILT)
    device = load_or_create(folder / "keys", "m-1")
    subject = Membership(folder, join, device, time, Disk())
    good = subject.credentials()
    assert subject.credentials() == good
    for name in ("certificate.pem", "certificate.copy.pem"):
        (folder / name).write_bytes(wrong("another device", service, folder / "keys"))
    again = subject.credentials()
    assert (again != good, service.enrolled) == (True, ["m-1", "m-1"])
    held = x509.load_pem_x509_certificate(again.certificate_pem)
    time.learn(held.not_valid_after_utc - timedelta(seconds=1), SERVER)
    renewed = subject.credentials()
    assert renewed.certificate_pem not in (again.certificate_pem, good.certificate_pem)
    assert service.enrolled == ["m-1", "m-1"], "renewed with the key, not by the token"

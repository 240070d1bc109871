"""Laws of certificates, tokens and the issuer, without a network."""

import stat
import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from sqlalchemy import insert, select, update

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry
from model_service.fleet.devices import revoke_device
from model_service.identity import certificates as certs
from model_service.identity.authority import ca_path, init_pki, issued_by, person_paths, server_paths
from model_service.identity.certificate_requests import (
    PROOF,
    EnrolmentRequest,
    answered_requests,
    request_enrolment,
    request_renewal,
)
from model_service.identity.issuer import Issuer
from model_service.identity.people import record_people
from model_service.identity.tokens import Invitation, create_token, hash_of
from model_service.registry.database import Registry
from model_service.registry.registry_tables import certificate_requests, certificates, devices, join_tokens
from model_service.settings import ModelSettings
from schemas.errors import AccessError, DamagedFileError, LakeConflictError, RegistryError
from schemas.possession import enrolment_text

NOW = time.time()


class Deployment:
    """Authority, registry, lake and issuer of one deployment."""

    def __init__(self, folder):
        self.settings = ModelSettings(root=folder / "model", lake_root=folder / "lake")
        init_pki(self.settings)
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.lake = DeviceRegistry(Lake.open(self.settings.lake_root))
        self.issuer = Issuer(self.settings, self.registry, self.lake)

    def invite(self, device_id, valid_s=60.0, now=NOW):
        with self.registry.transaction() as connection:
            return create_token(
                connection, Invitation(device_id, "machine", "a", "default", "sim"), valid_s, now
            )

    def ask(self, device_id, token, key, csr=None, signing=None, now=NOW, proof=None):
        csr, signing = csr or csr_of(device_id, key), signing or key
        if proof is None:
            proof = proof_by(signing, device_id, csr, token)
        request = EnrolmentRequest(device_id, token, csr, public_pem(signing), proof)
        with self.registry.transaction() as connection:
            return request_enrolment(connection, request, now)

    def renew(self, certificate_pem, csr, now=NOW):
        with self.registry.transaction() as connection:
            return request_renewal(connection, certificate_pem, csr, now, 60.0)

    def answer(self, request_id):
        with self.registry.reading() as connection:
            [row] = answered_requests(connection, [request_id])
        return row

    def join(self, device_id, key):
        request_id = self.ask(device_id, self.invite(device_id), key)
        self.issuer.step()
        return self.answer(request_id)["certificate_pem"]

    def revoke(self, device_id):
        with self.registry.transaction() as connection:
            revoke_device(connection, device_id, NOW, "test")

    def rows(self, table):
        with self.registry.reading() as connection:
            return list(connection.execute(select(table)).mappings())


@pytest.fixture
def deployment(tmp_path):
    made = Deployment(tmp_path)
    yield made
    made.registry.close()


def new_key():
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(name, key):
    request = x509.CertificateSigningRequestBuilder().subject_name(certs.subject(name))
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def public_pem(key):
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, spki).decode()


def proof_by(key, device_id, csr, token):
    return key.sign(enrolment_text(device_id, csr, hash_of(token)), ec.ECDSA(hashes.SHA256()))


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_making_the_pki_again_changes_nothing(deployment):
    before = content(deployment.settings.pki)
    init_pki(deployment.settings)
    assert content(deployment.settings.pki) == before


def test_only_their_owner_may_read_private_keys(deployment):
    keys = list(deployment.settings.pki.rglob("*.key"))
    assert len(keys) == 4
    assert {stat.S_IMODE(k.stat().st_mode) for k in keys} == {0o600}


@pytest.mark.parametrize(
    "lost", ["ca.pem", "server.pem", "server.key", "people/operator.pem", "ca.key ca.pem server.pem"]
)
def test_a_pki_that_a_crash_left_in_part_becomes_whole(deployment, lost):
    for name in lost.split():
        (deployment.settings.pki / name).unlink()
    init_pki(deployment.settings)
    ca = certs.read_certificate(ca_path(deployment.settings).read_bytes())
    pairs = [
        server_paths(deployment.settings),
        *(person_paths(deployment.settings, r) for r in ("operator", "viewer")),
    ]
    for key_path, path in pairs:
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        found = certs.read_certificate(path.read_bytes())
        assert issued_by(found, ca)
        assert found.public_key() == key.public_key()


def test_where_the_authoritys_key_was_moved_away_nothing_is_made(deployment):
    (deployment.settings.pki / "ca.key").unlink()
    (deployment.settings.pki / "server.pem").unlink()
    before = content(deployment.settings.pki)
    init_pki(deployment.settings)
    assert content(deployment.settings.pki) == before
    deployment.issuer = Issuer(deployment.settings, deployment.registry, deployment.lake)
    with pytest.raises(DamagedFileError, match="private key"):
        deployment.join("m-1", new_key())


def test_a_server_certificate_follows_the_names_and_is_renewed_before_it_expires(deployment):
    path = server_paths(deployment.settings)[1]
    first = path.read_bytes()
    renamed = deployment.settings.model_copy(update={"names": ("edge.example", "10.0.0.7")})
    init_pki(renamed)
    second = path.read_bytes()
    assert first != second
    init_pki(renamed, datetime.now(UTC) + timedelta(days=200))
    assert path.read_bytes() == second
    init_pki(renamed, datetime.now(UTC) + timedelta(days=300))
    assert path.read_bytes() != second


def test_the_issuer_renews_the_servers_certificate_in_time(deployment):
    path = server_paths(deployment.settings)[1]
    first, days = path.read_bytes(), [0]
    issuer = Issuer(deployment.settings, deployment.registry, deployment.lake, lambda: NOW + days[0] * 86400)
    days[0] = 200
    issuer.step()
    assert path.read_bytes() == first
    days[0] = 300
    issuer.step()
    assert path.read_bytes() != first


def test_a_device_whose_clock_is_at_1970_can_still_trust_the_server(deployment):
    for path in (ca_path(deployment.settings), server_paths(deployment.settings)[1]):
        assert certs.read_certificate(path.read_bytes()).not_valid_before_utc.timestamp() == 0


def test_a_person_has_every_role_of_the_certificate_and_no_other(deployment):
    _, path = person_paths(deployment.settings, "approver")
    assert certs.read_holder(path.read_bytes()).roles == {"operator", "approver"}
    _, path = person_paths(deployment.settings, "viewer")
    assert certs.read_holder(path.read_bytes()).roles == {"viewer"}
    with pytest.raises(AccessError):
        person_paths(deployment.settings, "device")


def test_people_are_on_record_once_and_a_damaged_file_stops_nobody(deployment):
    (deployment.settings.pki / "people" / "broken.pem").write_text("no certificate")
    assert [record_people(deployment.settings, deployment.registry) for _ in range(2)] == [2, 0]
    by_name = {row["subject"]: row for row in deployment.rows(certificates)}
    assert {name: row["role"] for name, row in by_name.items()} == {
        "operator": "approver,operator",
        "viewer": "viewer",
    }
    _, path = person_paths(deployment.settings, "viewer")
    assert by_name["viewer"]["serial"] == certs.read_holder(path.read_bytes()).serial


def test_a_device_certificate_names_device_role_and_a_day(deployment):
    certificate = x509.load_pem_x509_certificate(deployment.join("m-1", new_key()))
    assert certificate.subject.rfc4514_string() == "OU=device,CN=m-1"
    life = certificate.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < life <= timedelta(days=1)
    use = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(use) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert basic.critical
    assert not basic.value.ca
    [entry] = deployment.rows(certificates)
    assert (entry["serial"], entry["subject"]) == (f"{certificate.serial_number:x}", "m-1")


def test_joining_makes_the_device_known_to_registry_and_lake(deployment):
    key = new_key()
    deployment.join("m-1", key)
    [row] = deployment.rows(devices)
    [record] = deployment.lake.keys().values()
    assert (row["device_id"], row["active"], row["grp"]) == ("m-1", True, "default")
    assert (record.key_id, record.public_key) == (row["key_id"], public_pem(key))


class BusyLake(DeviceRegistry):
    """A lake whose next registrations lose against other writers."""

    failures = 1

    def register(self, records):
        if self.failures:
            self.failures -= 1
            raise LakeConflictError("busy")
        super().register(records)


def test_no_certificate_is_issued_before_the_lake_knows_the_device(deployment):
    lake = BusyLake(Lake.open(deployment.settings.lake_root))
    issuer = Issuer(deployment.settings, deployment.registry, lake)
    request_id = deployment.ask("m-1", deployment.invite("m-1"), new_key())
    with pytest.raises(LakeConflictError):
        issuer.step()
    assert deployment.rows(certificates) == []
    assert issuer.step() == 1
    assert deployment.answer(request_id)["state"] == "issued"
    assert len(lake.keys()) == 1


def test_a_token_is_never_stored(deployment):
    token = deployment.invite("m-1")
    deployment.join("m-2", new_key())
    assert token not in str(deployment.rows(join_tokens))
    for path in deployment.settings.root.glob("registry.db*"):
        assert token.encode() not in path.read_bytes()


def test_a_token_serves_one_key_and_the_same_key_again(deployment):
    token, key = deployment.invite("m-1"), new_key()
    request_id = deployment.ask("m-1", token, key)
    assert deployment.ask("m-1", token, key) == request_id
    deployment.issuer.step()
    assert deployment.ask("m-1", token, key) == request_id
    with pytest.raises(AccessError, match="used already, with another key"):
        deployment.ask("m-1", token, new_key())
    with pytest.raises(AccessError, match="used already, with another key"):
        deployment.ask("m-1", token, key, signing=new_key())
    with pytest.raises(AccessError, match="expired since"):
        deployment.ask("m-1", token, key, now=NOW + 61)


@pytest.mark.parametrize(
    ("device_id", "later_s", "message"), [("m-1", 61, "expired"), ("m-2", 0, "another device")]
)
def test_a_token_is_valid_for_its_device_and_its_time(deployment, device_id, later_s, message):
    token = deployment.invite("m-1")
    with pytest.raises(AccessError, match=message):
        deployment.ask(device_id, token, new_key(), now=NOW + later_s)
    assert deployment.rows(certificate_requests) == []


def test_an_unknown_token_opens_nothing(deployment):
    with pytest.raises(AccessError, match="unknown"):
        deployment.ask("m-1", "guess", new_key())


def test_a_refused_request_leaves_the_token_unused(deployment):
    token, key = deployment.invite("m-1"), new_key()
    with pytest.raises(AccessError, match="asks for 'm-9'"):
        deployment.ask("m-1", token, key, csr=csr_of("m-9", key))
    assert [row["used_at"] for row in deployment.rows(join_tokens)] == [None]
    assert deployment.ask("m-1", token, key) > 0


def rsa_csr(name):
    return csr_of(name, rsa.generate_private_key(public_exponent=65537, key_size=2048))


def p384_csr(name):
    return csr_of(name, ec.generate_private_key(ec.SECP384R1()))


def forged_csr(name):
    """A request that carries a key which did not sign it."""
    der = x509.load_pem_x509_csr(csr_of(name, new_key())).public_bytes(serialization.Encoding.DER)
    broken = x509.load_der_x509_csr(der[:-1] + bytes([der[-1] ^ 1]))
    return broken.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (rsa_csr, "P-256"),
        (p384_csr, "P-256"),
        (forged_csr, "not signed by the key"),
        (lambda name: csr_of("m-2", new_key()), "asks for 'm-2'"),
        (lambda name: b"no request", "not a certificate signing request"),
    ],
)
def test_the_issuer_itself_refuses_invalid_requests(deployment, make, message):
    """The public process may be taken over: what it lets through is checked again."""
    deployment.ask("m-1", deployment.invite("m-1"), new_key())
    changed = update(certificate_requests).values(csr_pem=make("m-1"))
    with deployment.registry.transaction() as connection:
        connection.execute(changed)
    deployment.issuer.step()
    [row] = deployment.rows(certificate_requests)
    assert (row["state"], row["certificate_pem"]) == ("refused", None)
    assert message in row["reason"]


@pytest.mark.parametrize(
    "device",
    [
        None,
        {},
        {"key_id": "x", "public_key": "", "profile": "p"},
        {"site": None},
        {"grp": 7},
        {"key_id": "0" * 16},
    ],
)
def test_rows_that_a_hostile_process_leaves_stop_nobody_else(deployment, device):
    key = new_key()
    deployment.join("m-0", key)
    whole = dict(deployment.rows(certificate_requests)[0]["device"])
    row = {
        "kind": "enroll", "subject": "m-1", "role": "device", "csr_pem": csr_of("m-1", new_key()),
        "device": {**whole, **device} if device else device, "state": "waiting", "created_at": NOW,
    }  # fmt: skip
    with deployment.registry.transaction() as connection:
        connection.execute(insert(certificate_requests).values(**row))
    assert deployment.join("m-2", new_key())
    states = {r["subject"]: r["state"] for r in deployment.rows(certificate_requests)}
    assert states == {"m-0": "issued", "m-1": "refused", "m-2": "issued"}


@pytest.mark.parametrize(
    ("role", "message"), [("operator", "not issued over the network"), ("device", "join again")]
)
def test_the_issuer_renews_nothing_for_another_key_or_role(deployment, role, message):
    deployment.join("m-1", new_key())
    columns = {
        "kind": "renew", "subject": "m-1", "role": role, "csr_pem": csr_of("m-1", new_key()),
        "state": "waiting", "created_at": NOW,
    }  # fmt: skip
    with deployment.registry.transaction() as connection:
        connection.execute(insert(certificate_requests).values(**columns))
    deployment.issuer.step()
    assert message in deployment.rows(certificate_requests)[-1]["reason"]


def test_nobody_joins_with_the_signing_key_of_another_device(deployment):
    key = new_key()
    deployment.join("m-1", key)
    request_id = deployment.ask("m-2", deployment.invite("m-2"), new_key(), signing=key)
    deployment.issuer.step()
    assert "already that of m-1" in deployment.answer(request_id)["reason"]
    assert {r.device_id for r in deployment.lake.keys().values()} == {"m-1"}


def test_of_two_devices_that_ask_at_once_with_one_signing_key_one_joins(deployment):
    victim, other = new_key(), new_key()
    first = deployment.ask("victim", deployment.invite("victim"), victim)
    second = deployment.ask("mallory", deployment.invite("mallory"), other, signing=victim)
    deployment.issuer.step()
    assert deployment.answer(first)["state"] == "issued"
    assert (
        deployment.answer(second)["state"],
        "already that of victim" in deployment.answer(second)["reason"],
    ) == (
        "refused",
        True,
    )


def test_a_renewal_keeps_the_key_and_the_old_certificate_stays_valid(deployment):
    key = new_key()
    first = deployment.join("m-1", key)
    request_id = deployment.renew(first, csr_of("m-1", key))
    deployment.issuer.step()
    second = deployment.answer(request_id)["certificate_pem"]
    assert certs.read_holder(second).key == certs.read_holder(first).key
    assert [row["revoked_at"] for row in deployment.rows(certificates)] == [None, None]
    with pytest.raises(AccessError, match="another key"):
        deployment.renew(first, csr_of("m-1", new_key()))


def test_the_same_renewal_again_is_answered_once_while_it_is_fresh(deployment):
    key = new_key()
    first, csr = deployment.join("m-1", key), csr_of("m-1", key)
    request_id = deployment.renew(first, csr)
    assert deployment.renew(first, csr) == request_id
    assert deployment.renew(first, csr, now=NOW + 61) > request_id


def test_old_renewals_are_deleted(deployment):
    key = new_key()
    certificate = deployment.join("m-1", key)
    for days in range(5, 0, -1):
        deployment.renew(certificate, csr_of("m-1", key), now=NOW - days * 86400)
        deployment.issuer.step()
    kinds = [row["kind"] for row in deployment.rows(certificate_requests)]
    assert kinds == ["enroll", "renew"]


def test_joining_again_revokes_what_the_device_held(deployment):
    key = new_key()
    first = deployment.join("m-1", key)
    deployment.join("m-1", new_key())
    revoked = {row["serial"]: row["revoked_at"] is not None for row in deployment.rows(certificates)}
    assert revoked[certs.read_holder(first).serial]
    assert sorted(revoked.values()) == [False, True]
    with pytest.raises(AccessError, match="was revoked"):
        deployment.renew(first, csr_of("m-1", key))


def test_a_revoked_device_gets_no_token_no_certificate_no_renewal(deployment):
    key = new_key()
    first, token = deployment.join("m-1", key), deployment.invite("m-1")
    waiting = deployment.renew(first, csr_of("m-1", key))
    deployment.revoke("m-1")
    deployment.issuer.step()
    assert "was revoked" in deployment.answer(waiting)["reason"]
    with pytest.raises(AccessError, match="m-1 was revoked"):
        deployment.renew(first, csr_of("m-1", key))
    with pytest.raises(AccessError, match="m-1 was revoked"):
        deployment.ask("m-1", token, key)
    with pytest.raises(RegistryError, match="new id"):
        deployment.invite("m-1")


def test_the_lake_learns_of_a_revocation_whoever_is_alive(deployment):
    deployment.join("m-1", new_key())
    deployment.revoke("m-1")
    Issuer(deployment.settings, deployment.registry, deployment.lake).step()
    assert [record.active for record in deployment.lake.keys().values()] == [False]


def test_a_device_id_must_fit_a_certificate(deployment):
    for bad in ("", "../m-1", "a" * 65, "m 1", "-m"):
        with pytest.raises(RegistryError, match="cannot be a device id"):
            deployment.invite(bad)


def test_a_telemetry_key_is_enrolled_by_whoever_holds_it_alone(deployment):
    mine, theirs, token = new_key(), new_key(), deployment.invite("m-1")
    csr = csr_of("m-1", mine)
    wrong = {
        "none": b"",
        "by another key": proof_by(mine, "m-1", csr, token),
        "for another device": proof_by(theirs, "m-2", csr, token),
        "for another request": proof_by(theirs, "m-1", csr_of("m-1", theirs), token),
        "for another token": proof_by(theirs, "m-1", csr, "another"),
        "garbage": b"\x30\x00",
    }
    for name, proof in wrong.items():
        with pytest.raises(AccessError, match="signing_proof"):
            deployment.ask("m-1", token, mine, csr=csr, signing=theirs, proof=proof)
        assert deployment.rows(certificate_requests) == [], name
    assert [row["used_at"] for row in deployment.rows(join_tokens)] == [None]
    deployment.ask("m-1", token, mine, csr=csr, signing=theirs)
    deployment.issuer.step()
    assert deployment.rows(devices)[0]["public_key"] == public_pem(theirs)


def test_a_device_of_0_2_0_enrols_without_a_proof_by_its_only_key(deployment):
    request_id = deployment.ask("m-1", deployment.invite("m-1"), new_key(), proof=b"")
    deployment.issuer.step()
    assert deployment.answer(request_id)["certificate_pem"]


@pytest.mark.parametrize("tampered", ["removed", "another's", "no hex", "no proof"])
def test_the_issuer_checks_the_proof_by_itself(deployment, tampered):
    mine, theirs = new_key(), new_key()
    request_id = deployment.ask("m-1", deployment.invite("m-1"), mine, signing=theirs)
    [row] = deployment.rows(certificate_requests)
    stored = dict(row["device"])
    proof = stored.pop(PROOF)
    stored |= {
        "removed": {},
        "another's": {PROOF: {**proof, "signature": proof_by(mine, "m-1", row["csr_pem"], "x").hex()}},
        "no hex": {PROOF: {**proof, "signature": "zz"}},
        "no proof": {PROOF: None},
    }[tampered]
    with deployment.registry.transaction() as connection:
        connection.execute(update(certificate_requests).values(device=stored))
    deployment.issuer.step()
    answer = deployment.answer(request_id)
    assert (answer["state"], answer["certificate_pem"]) == ("refused", None)
    assert deployment.rows(devices) == []


def test_a_request_that_0_2_0_stored_is_still_answered(deployment):
    request_id = deployment.ask("m-1", deployment.invite("m-1"), new_key())
    [row] = deployment.rows(certificate_requests)
    stored = {name: value for name, value in row["device"].items() if name != PROOF}
    with deployment.registry.transaction() as connection:
        connection.execute(update(certificate_requests).values(device=stored))
    deployment.issuer.step()
    assert deployment.answer(request_id)["certificate_pem"]

"""Files of the model service by damage: each cell of the table in docs/reliability.md is a test."""

import hashlib
import logging
import re
import shutil
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from edge_producer.trust import TrustedTime, TrustVerifier
from infra.settings import StackSettings
from infra.stack.model_processes import prepare
from infra.stack.model_settings import model_settings
from infra.stack.stack_status import collect_status
from model_service import trust_catch_up
from model_service.address import read_address
from model_service.fleet.devices import revoke_device, revoked_devices
from model_service.fleet.revocation_copies import RevocationCopies
from model_service.identity import authority
from model_service.refusal_counts import read_refusals
from model_service.registry.database import Registry, note
from model_service.registry.registry_tables import rollouts
from model_service.service.access import AccessList
from model_service.service.artifact_files import ArtifactFiles
from model_service.service.connections.known_ports import read_ports
from model_service.trust import ceremony
from model_service.trust.keyring import Keyring
from model_service.trust.online import OnlineSigner
from model_service.trust.roles import TOP_LEVEL
from schemas.errors import DamagedFileError, PipelineError
from schemas.instants import utc_now
from tests.golden.archives import unpack
from tests.infra.cli import EdgeloopHere
from tests.simulators.promises import DAMAGES, damaged, promises, word

CELLS = promises("damage: model service")
METADATA = "models/repository/metadata"
FILES = {
    "registry": ("models/registry.db", "registry"),
    "newest change of the registry": ("models/registry.db.moment", "registry"),
    "seal of the registry": ("models/registry.db.seal", "registry"),
    "copy of a revocation": ("models/revoked/device-*.json", "registry"),
    "timestamp": (f"{METADATA}/timestamp.json", "trust"),
    "snapshot": (f"{METADATA}/*.snapshot.json", "trust"),
    "metadata of a role": (f"{METADATA}/*.channels-canary.json", "trust"),
    "root": (f"{METADATA}/[0-9]*.root.json", "trust"),
    "`root.json`": (f"{METADATA}/root.json", "trust"),
    "published document": ("models/repository/targets/channels/probes/*.canary.json", "trust"),
    "copy of a published file": ("models/repository-copies/metadata/*.snapshot.json", "trust"),
    "published bundle": ("models/repository/targets/models/machine/*.bundle", "artifacts"),
    "artifact": ("models/artifacts/*", "artifacts"),
    "artifact and published bundle, both": ("models/artifacts/*", "artifacts"),
    "key of the authority": ("models/pki/ca.key", "authority"),
    "certificate of the authority": ("models/pki/ca.pem", "certificates"),
    "key of the server": ("models/pki/server.key", "certificates"),
    "certificate of the server": ("models/pki/server.pem", "certificates"),
    "key of a person": ("models/pki/people/operator.key", "certificates"),
    "certificate of a person": ("models/pki/people/operator.pem", "certificates"),
    "online signing key": ("models/keys/engine/timestamp.pem", "signing"),
    "offline key, one of three": ("models/offline-keys/root-1.pem", "offline"),
    "passphrase": ("models/offline-keys/PASSPHRASE", "offline"),
    "address file": ("models/address.json", "descriptions"),
    "ports file": ("models/ports.json", "descriptions"),
    "counts of refusals": ("models/refusals.json", "descriptions"),
}
"""Where each file of the table is, and the part of the service that needs it."""


class Service:
    """One folder of a model service, and each of its parts as a process starts and uses it."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.settings = model_settings(StackSettings(state_dir=state_dir))
        self.parts = {
            "registry": self.registry, "trust": self.trust, "artifacts": self.artifacts,
            "authority": self.authority, "certificates": self.certificates, "signing": self.signing,
            "offline": self.offline, "descriptions": self.descriptions,
        }  # fmt: skip

    def newest(self, pattern: str) -> Path:
        def number(path: Path) -> tuple[int, str]:
            found = re.match(r"(\d+)\.", path.name)
            return (int(found[1]) if found else 0), path.name

        if pattern.endswith(".canary.json") and "targets" in pattern:
            repo = ceremony.open_repository(self.settings)
            return repo.target_file(
                "channels/probes/canary.json", repo.target("channels/probes/canary.json").sha256
            )
        return max(self.state_dir.glob(pattern), key=number)

    def registry(self):
        with closing(Registry.open(self.settings.database_url, self.settings.root)) as registry:
            copies = RevocationCopies(self.settings.root)
            copies.reconcile(registry)
            access = AccessList(copies=copies.all)
            with registry.reading() as connection:
                access.refresh(connection)
                known = connection.execute(select(func.count()).select_from(rollouts)).scalar_one()
                return sorted(revoked_devices(connection)), known

    def trust(self):
        repo = ceremony.open_repository(self.settings)
        repo.check_files()
        reply = repo.reply({}, {}, "probes")
        folder = self.state_dir.parent / "device"
        shutil.rmtree(folder, ignore_errors=True)
        time = TrustedTime(folder / "time.json", datetime(2026, 1, 1, tzinfo=UTC))
        root = dict(reply.metadata)["1.root.json"]
        state = TrustVerifier(folder / "metadata", root, time, group="probes").apply(
            reply.metadata, reply.documents
        )
        newest = (repo.metadata / "root.json").read_bytes()
        return dict(state.versions), sorted(state.targets), state.policy, hashlib.sha256(newest).hexdigest()

    def artifacts(self):
        ceremony.open_repository(self.settings).check_bundles()
        files = ArtifactFiles(self.settings.artifacts, self.settings.repository / "targets")
        found = {}
        for target in (
            ceremony.open_repository(self.settings).published().roles["models-machine"].targets.values()
        ):
            digest = target.hashes["sha256"]
            file = files.open(digest, 0)
            found[digest] = hashlib.sha256(file.read(0, file.size)).hexdigest()
            file.close()
        assert all(name == digest for name, digest in found.items())
        return found

    def authority(self):
        prepare(self.settings, lambda _line: None)
        return authority.Authority.load(self.settings).certificate.subject

    def certificates(self):
        authority.init_pki(self.settings)
        pairs = [authority.server_paths(self.settings), authority.person_paths(self.settings, "operator")]
        own = authority.certs.read_certificate(authority.read_ca(self.settings))
        for pair in pairs:
            _, pem = authority.read_pair(*pair)
            assert authority.issued_by(authority.certs.read_certificate(pem), own)
        return own.public_key().public_numbers()

    def signing(self):
        repo = ceremony.open_repository(self.settings)
        with repo.locked() as published:
            OnlineSigner.load(self.settings).publish(repo, published, {})
        return "signed"

    def offline(self):
        root, plan = ceremony.open_repository(self.settings).published().root, TOP_LEVEL[0]
        assert plan.name == "root"
        return len(Keyring(self.settings).quorum(root, plan.name, plan.keys)) >= 2

    def descriptions(self):
        read_address(self.settings), read_ports(self.settings.ports_file), read_refusals(self.settings)
        return "read"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A model service of 0.2.0 with today's files; what it held before; and what each part answers."""
    state_dir = unpack("0.2.0", "state", tmp_path_factory.mktemp("base") / "state")
    shutil.rmtree(state_dir / "kafka"), shutil.rmtree(state_dir / "lake")
    EdgeloopHere(state_dir).json("trust", "renew", "--all")
    service = Service(state_dir)
    authority.init_pki(service.settings)
    for name, content in (("ports.json", b'{"enrollment":[5001]}'), ("refusals.json", b"{}")):
        (service.settings.root / name).write_bytes(content)
    with closing(Registry.open(service.settings.database_url, service.settings.root)) as registry:
        for number in range(3):
            with registry.transaction() as connection:
                note(connection, f"e-{number}", "somebody", "something_happened", {})
    repo = ceremony.open_repository(service.settings)
    repo.check_files()
    earlier = state_dir.parent / "earlier"
    shutil.copytree(state_dir, earlier)
    EdgeloopHere(state_dir).json("trust", "renew", "--all")
    with closing(Registry.open(service.settings.database_url, service.settings.root)) as registry:
        with registry.transaction() as connection:
            revoke_device(connection, "machine-00", 1.0, "test")
        RevocationCopies(service.settings.root).reconcile(registry)
    repo.check_files()
    return state_dir, earlier


@pytest.fixture
def service(told, tmp_path):
    shutil.copytree(told[0], tmp_path / "state")
    return Service(tmp_path / "state")


def test_each_cell_of_the_table_has_its_case():
    assert {file for file, _, _ in CELLS} == set(FILES)
    assert len(CELLS) == len(FILES) * len(DAMAGES)


@pytest.mark.sliced(one_of=2)
@pytest.mark.parametrize(("file", "damage", "promise"), CELLS, ids=[f"{f}: {d}" for f, d, _ in CELLS])
def test_a_damaged_file_is_healed_or_named_and_the_other_parts_go_on(
    told, service, tmp_path, caplog, file, damage, promise
):
    pattern, part = FILES[file]
    whole = {name: look() for name, look in service.parts.items() if name != "signing"}
    path = service.newest(pattern)
    if file == "passphrase":
        path.write_text(path.read_text().partition("\n")[0])  # the lines below are advice
    held = path.read_bytes()
    damaged(path, damage, older(told, service, path))
    if file.endswith("both"):
        [other] = service.state_dir.glob(f"models/repository/targets/models/machine/{path.name}.*")
        damaged(other, damage, b"another bundle")
    caplog.clear()
    caplog.set_level(logging.WARNING)
    if word(promise) in ("healed", "harmless"):
        for _ in range(2):
            assert service.parts[part]() == whole.get(part, "signed")
        if part in ("trust", "artifacts"):
            assert path.read_bytes() == held, "the file itself is whole again"
    else:
        with pytest.raises(PipelineError) as caught:
            service.parts[part]()
        line = str(caught.value)
        if part == "registry":
            assert line in collect_status(StackSettings(state_dir=service.state_dir))["problems"]
        assert path.name.partition(".")[0] in line, line
        assert "\n" not in line
        assert re.search(r"restore|rotate|put the file back", line), line
    assert not any(record.exc_info for record in caplog.records)
    skipped = {part, "certificates" if part == "authority" else "", "signing" if part == "trust" else ""}
    for name in sorted(service.parts.keys() - skipped, key="signing".__eq__):  # signing makes new versions
        assert service.parts[name]() == whole.get(name, "signed"), name


def older(told, service, path: Path) -> bytes:
    """What the file held at another moment; where it never changed, what another file of its kind holds."""
    if path.name == "PASSPHRASE":
        return b"another one"
    before = told[1] / path.relative_to(service.state_dir)
    if before.exists() and before.read_bytes() != path.read_bytes():
        return before.read_bytes()
    others = [
        p for p in sorted(path.parent.iterdir()) if p != path and p.is_file() and p.suffix == path.suffix
    ]
    return others[0].read_bytes() if others else b"of another moment"


def test_a_registry_that_was_set_back_is_taken_as_it_is_by_the_trust_step_and_lets_nobody_in_again(
    told, service
):
    path = service.state_dir / "models" / "registry.db"
    path.write_bytes((told[1] / "models" / "registry.db").read_bytes())
    with pytest.raises(DamagedFileError, match="of another moment"):
        service.registry()
    assert trust_catch_up.accept_registry(service.settings)
    assert service.registry()[0] == ["machine-00"]
    assert not trust_catch_up.accept_registry(service.settings)


def test_a_lost_registry_can_be_begun_anew_and_what_was_revoked_stays_out(service):
    path = service.state_dir / "models" / "registry.db"
    path.unlink()
    with pytest.raises(DamagedFileError, match="is missing"):
        service.registry()
    assert not path.exists(), "looking makes none"
    assert trust_catch_up.accept_registry(service.settings)
    assert service.registry() == ([], 0)
    assert RevocationCopies(service.settings.root).all().devices == {"machine-00"}


def test_a_restore_revokes_again_what_only_the_copies_of_the_replaced_state_know(told, service, caplog):
    (service.settings.root / "registry.db").write_bytes(b"no database")
    assert trust_catch_up.look_at_replaced(service.settings.root / "registry.db") is None
    assert trust_catch_up.revoked_beside(service.settings.root).devices == {"machine-00"}


def test_a_registry_that_is_replaced_or_removed_while_it_is_open_is_noticed(told, service):
    path = service.state_dir / "models" / "registry.db"
    with closing(Registry.open(service.settings.database_url, service.settings.root)) as registry:
        with registry.transaction() as connection:
            note(connection, "e-9", "somebody", "something_happened", {})
        path.unlink()
        with pytest.raises(DamagedFileError, match="removed or replaced"), registry.reading():
            pass
        path.write_bytes((told[1] / "models" / "registry.db").read_bytes())
        with pytest.raises(DamagedFileError, match="removed or replaced"), registry.transaction():
            pass


def test_a_log_of_the_registry_that_is_lost_after_a_crash_is_noticed(service, tmp_path):
    path, crashed = service.state_dir / "models" / "registry.db", tmp_path / "crashed"
    with closing(Registry.open(service.settings.database_url, service.settings.root)) as registry:
        with registry.transaction() as connection:
            note(connection, "e-9", "somebody", "something_happened", {})
        shutil.copytree(service.state_dir, crashed)
    (crashed / "models" / "registry.db-shm").unlink()
    whole = Service(crashed)
    (crashed / "models" / path.with_name("registry.db-wal").name).unlink()
    with pytest.raises(DamagedFileError, match="earlier moment"):
        whole.registry()


def test_the_key_or_the_certificate_of_another_authority_is_refused_and_nothing_is_made(service, tmp_path):
    other = Service(tmp_path / "other")
    authority.init_pki(other.settings)
    for name in ("ca.key", "ca.pem"):
        path = service.settings.pki / name
        own = path.read_bytes()
        path.write_bytes((other.settings.pki / name).read_bytes())
        with pytest.raises(DamagedFileError, match="is not that of"):
            authority.init_pki(service.settings)
        path.write_bytes(own)
    assert service.authority()


def test_where_certificate_and_key_of_the_authority_are_lost_no_second_one_is_made(service):
    for name in ("ca.key", "ca.pem"):
        (service.settings.pki / name).unlink()
    with pytest.raises(DamagedFileError, match="no certificate can be made"):
        prepare(service.settings, lambda _line: None)
    assert not (service.settings.pki / "ca.pem").exists()


def start(service):
    prepare(service.settings, lambda _line: None)
    service.trust()


@pytest.mark.parametrize("lost", [("timestamp.json",), ("",)])
def test_a_repository_that_lost_files_and_copies_is_never_founded_a_second_time(service, lost):
    keys = {p: p.read_bytes() for p in service.settings.keys.rglob("*.pem")}
    for folder in ("repository", "repository-copies"):
        for name in lost:
            path = service.settings.root / folder / "metadata" / name
            path.unlink() if name else shutil.rmtree(service.settings.root / folder)
    with pytest.raises(DamagedFileError, match="trust repository"):
        start(service)
    assert {p: p.read_bytes() for p in service.settings.keys.rglob("*.pem")} == keys


def test_a_repository_of_which_only_the_copies_are_left_is_whole_again(service):
    before = service.trust()
    shutil.rmtree(service.settings.repository / "metadata")
    prepare(service.settings, lambda _line: None)
    assert service.trust() == before


def test_a_bundle_that_0_2_0_linked_becomes_two_files_that_restore_each_other(service):
    repo, path = ceremony.open_repository(service.settings), service.newest("models/artifacts/*")
    [target] = repo.targets.glob(f"models/machine/{path.name}.*")
    target.unlink()
    target.hardlink_to(path)
    held = path.read_bytes()
    repo.check_bundles()
    assert not target.samefile(path)
    path.write_bytes(held[:-9])
    repo.check_bundles()
    assert path.read_bytes() == target.read_bytes() == held


def test_a_file_that_is_damaged_while_the_service_runs_is_answered_from_its_copy(service):
    repo = ceremony.open_repository(service.settings)
    before = repo.reply({}, {}, "probes")
    for path in (*repo.metadata.glob("*.json"), *repo.targets.rglob("*.json")):
        path.write_bytes(path.read_bytes()[:20])
    assert repo.reply({}, {}, "probes") == before
    assert ceremony.open_repository(service.settings).reply({}, {}, "probes") == before


def test_a_signing_key_that_is_damaged_is_replaced_by_a_rotation(service):
    path = service.settings.keys / "engine" / "timestamp.pem"
    path.write_bytes(b"torn")
    ceremony.rotate(service.settings, "timestamp", "engine", now=utc_now)
    assert service.signing() == "signed"
    assert service.trust()

"""A real serving process in a folder of its own, the issuer in a thread, and clients that call it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from feature_store.lake import Lake
from feature_store.lake_registry import DeviceRegistry, ProfileRegistry
from infra.fleet_client import FleetClient
from infra.process.child import ChildProcess
from model_service.address import Address, read_address
from model_service.identity import certificates as certs
from model_service.identity.authority import init_pki
from model_service.identity.invitation import invite
from model_service.identity.issuer import Issuer
from model_service.identity.tokens import Invitation, hash_of
from model_service.registry.database import Registry
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from model_service.trust.channel_targets import publish_canary
from model_service.trust.keys import load_online_key
from model_service.trust.online import OnlineSigner
from model_service.trust.repository import TrustRepository
from schemas.channel_documents import CANARY, CANARY_ROLE, ChannelDocument, Release
from schemas.cohorts import EVERYBODY
from schemas.join import JoinBundle
from schemas.possession import enrolment_text
from schemas.proto.delivery_pb2 import EnrollRequest, RenewRequest, ReportRequest
from schemas.proto.delivery_pb2_grpc import EnrollmentStub, ModelDeliveryStub
from tests.simulators.messages import MACHINE
from tests.waiting import wait_until

TIMEOUT_S = 30.0


class ModelService:
    """The process ``serve`` with registry, lake and authority; the issuer runs in a thread of the test.

    Ends what it started. Further ``ModelSettings`` fields are keywords; ``descriptors`` is the hard limit of
    file descriptors that the process gets, with a lower soft one.
    """

    def __init__(self, folder: Path, descriptors: int | None = None, **given) -> None:
        self.descriptors = descriptors
        self.settings = ModelSettings(root=folder / "models", lake_root=folder / "lake", **given)
        self.folder = folder
        self.child: ChildProcess | None = None
        init_pki(self.settings)
        self.registry = Registry.open(self.settings.database_url, self.settings.root)
        self.lake = Lake.open(self.settings.lake_root)
        self.lake.ensure_fixed_tables()
        ProfileRegistry(self.lake).register(MACHINE)
        self.devices = DeviceRegistry(self.lake)
        self.issuer = Issuer(self.settings, self.registry, self.devices)
        self._stop, self._thread = threading.Event(), None
        self._starts = 0

    def __enter__(self):
        self.start()
        self.start_issuing()
        return self

    def __exit__(self, *_):
        self.stop_issuing()
        if self.child is not None:
            self.child.kill()
        self.registry.close()

    def start(self) -> None:
        """Start the process and wait until it listens."""
        values = self.settings.model_dump(mode="json", exclude_unset=True)
        given = {f"MODEL_{k.upper()}": v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
        self._starts += 1
        log_path = self.folder / f"serve-{self._starts}.log"
        command = [sys.executable, "-m", "model_service", "serve"]
        if self.descriptors is not None:
            limits = f"ulimit -Sn {self.descriptors // 4} && ulimit -Hn {self.descriptors}"
            command = ["/bin/sh", "-c", f'{limits} && exec "$@"', "sh", *command]
        self.child = ChildProcess("serve", command, log_path, {**os.environ, **given})
        wait_until(self._is_up, TIMEOUT_S, "the service to listen")

    def _is_up(self) -> bool:
        assert self.child.exit_code is None, self.child.log_tail()
        return (found := read_address(self.settings)) is not None and found.pid == self.child.pid

    @property
    def log(self) -> str:
        """What the process has logged."""
        return self.child.log_path.read_text(errors="replace")

    def start_issuing(self) -> None:
        """Answer requests for certificates from now on."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._issue, daemon=True)
        self._thread.start()

    def stop_issuing(self) -> None:
        """Answer no requests until ``start_issuing``."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _issue(self) -> None:
        while not self._stop.wait(0.02):
            self.issuer.step()

    @property
    def address(self) -> Address:
        return read_address(self.settings)

    def create_repository(self, *groups: str) -> TrustRepository:
        """Make a real TUF repository with these groups."""
        ceremony.init(self.settings, ["machine"], dict.fromkeys(groups, EVERYBODY))
        return ceremony.open_repository(self.settings)

    def publish_canary(self, group: str, seq: int) -> ChannelDocument:
        """Publish a canary channel that keeps the group on its factory set."""
        factory, now = {"machine": Release(version="machine-0.00000000")}, datetime.now(UTC)
        channel = ChannelDocument(
            group=group, ring=CANARY, seq=seq, rollout_id="r", target=factory, baseline=factory,
            cohort=EVERYBODY, issued=now, expires=now + timedelta(days=1),
        )  # fmt: skip
        signer = load_online_key(self.settings.keys / "engine", CANARY_ROLE)
        repository = ceremony.open_repository(self.settings)
        publish_canary(repository, channel, signer, OnlineSigner.load(self.settings))
        return channel

    def publish_timestamp(self, version: int) -> None:
        """Write a timestamp of this version: enough of a publication where only hints matter."""
        path = self.settings.repository / "metadata" / "timestamp.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"signed": {"version": version}}))
        beside.replace(path)

    def put_artifact(self, data: bytes) -> str:
        """Store bytes under their digest, which it returns."""
        digest = hashes.Hash(hashes.SHA256())
        digest.update(data)
        sha256 = digest.finalize().hex()
        self.settings.artifacts.mkdir(parents=True, exist_ok=True)
        (self.settings.artifacts / sha256).write_bytes(data)
        return sha256

    def invite(self, device_id: str, group: str = "default", families=("machine",)) -> JoinBundle:
        """A join bundle."""
        if not any((self.settings.repository / "metadata").glob("*.root.json")):
            self.create_repository()
        invitation = Invitation(device_id, "machine", "test", group, "sim")
        return invite(self.settings, self.registry, invitation, families)

    def joined(self, device_id: str, group: str = "default") -> SimClient:
        """A device that has enrolled."""
        client = SimClient(self.invite(device_id, group))
        client.enroll()
        return client

    def person(self, role: str = "operator", **given) -> FleetClient:
        return FleetClient(self.settings, role, **given)


class SimClient:
    """The device's side of identity and transport: a key, a bundle, certificates. Close it."""

    def __init__(self, bundle: JoinBundle, key: ec.EllipticCurvePrivateKey | None = None) -> None:
        self.bundle, self.device_id = bundle, bundle.device_id
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.certificate_pem = b""
        self._channels = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def csr(self, name: str | None = None, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
        key = key or self.key
        builder = x509.CertificateSigningRequestBuilder().subject_name(certs.subject(name or self.device_id))
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def public_pem(self) -> str:
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.key.public_key().public_bytes(serialization.Encoding.PEM, spki).decode()

    def enroll_request(self, **given) -> EnrollRequest:
        fields = {
            "device_id": self.device_id, "token": self.bundle.token, "csr_pem": self.csr(),
            "signing_key_pem": self.public_pem(), **given,
        }  # fmt: skip
        fields.setdefault("signing_proof", self.signing_proof(self.key, fields))
        return EnrollRequest(**fields)

    def signing_proof(self, key: ec.EllipticCurvePrivateKey, fields) -> bytes:
        """What the holder of a telemetry key signs for these fields of a request."""
        text = enrolment_text(fields["device_id"], fields["csr_pem"], hash_of(fields["token"]))
        return key.sign(text, ec.ECDSA(hashes.SHA256()))

    def enroll(self, timeout_s: float = TIMEOUT_S, *, wait: bool = False, **given):
        """Enrol; with ``wait`` connections that fail are tried again, as a device would."""
        request = self.enroll_request(**given)
        reply = self.enrollment().Enroll(request, timeout=timeout_s, wait_for_ready=wait)
        self.certificate_pem = reply.certificate_pem
        return reply

    def renew_request(self, certificate_pem: bytes | None = None, at_ms: int | None = None, **given):
        at_ms = round(time.time() * 1e3) if at_ms is None else at_ms
        csr = given.pop("csr_pem", None) or self.csr()
        key = given.pop("key", self.key)
        proof = key.sign(certs.renewal_text(at_ms, csr), ec.ECDSA(hashes.SHA256()))
        fields = {
            "certificate_pem": certificate_pem or self.certificate_pem, "csr_pem": csr, "at_ms": at_ms,
            "proof": proof, **given,
        }  # fmt: skip
        return RenewRequest(**fields)

    def renew(self, **given):
        reply = self.enrollment().Renew(self.renew_request(**given), timeout=TIMEOUT_S)
        self.certificate_pem = reply.certificate_pem
        return reply

    def enrollment(self) -> EnrollmentStub:
        return EnrollmentStub(self.channel(self.bundle.enrollment, mutual=False))

    def delivery(self) -> ModelDeliveryStub:
        return ModelDeliveryStub(self.channel(self.bundle.delivery))

    def channel(self, target: str, *, mutual: bool = True) -> grpc.Channel:
        pair = (self.key_pem(), self.certificate_pem) if mutual else (None, None)
        credentials = grpc.ssl_channel_credentials(self.bundle.ca_pem.encode(), *pair)
        options = [
            ("grpc.ssl_target_name_override", self.bundle.server_name),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = grpc.secure_channel(target, credentials, options)
        self._channels.append(channel)
        return channel

    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def report(self, number: int, nonce: str = "n", **given) -> ReportRequest:
        fields = {"state": "idle", "result": "", **given}
        return ReportRequest(device_id=self.device_id, report_no=number, nonce=nonce, **fields)


def refusal(error: grpc.RpcError) -> tuple[str, str]:
    """Code and ErrorInfo.reason of a refused call."""
    return error.code().name, details(error)["ErrorInfo"].reason


def details(error: grpc.RpcError) -> dict:
    """Rich details of a refused call, by type name."""
    found = {}
    for packed in rpc_status.from_call(error).details:
        message = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        assert packed.Unpack(message)
        found[type(message).__name__] = message
    return found

"""A small real delivery service: gRPC over real TLS before a real TUF repository, with faults to order.

Answers in the process of the test. Trust, artifacts and channels are made by the same code as in production;
what is made up is only how this server misbehaves when a test orders it.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from google.protobuf.message import Message

from edge_producer.bundle import BUNDLES, open_bundle
from model_service.identity.authority import Authority, init_pki, issued_by, server_paths
from model_service.identity.certificates import public_der
from model_service.models.bundle_files import BundleFiles, build_bundle
from model_service.settings import ModelSettings
from model_service.trust import ceremony
from model_service.trust.channel_targets import (
    countersign_broad,
    propose_broad,
    publish_broad,
    publish_canary,
)
from model_service.trust.keys import load_online_key
from model_service.trust.model_targets import countersign_model, propose_model, publish_model
from model_service.trust.online import OnlineSigner
from schemas.bundle_archive import pack
from schemas.channel_documents import (
    BROAD_ROLE,
    CANARY_ROLE,
    ChannelDocument,
    Release,
    TargetCustom,
    model_role,
)
from schemas.cohorts import EVERYBODY, SaltedShare
from schemas.excerpt_permit import SignedPermit
from schemas.join import JoinBundle
from schemas.proto import delivery_pb2 as pb
from schemas.proto import delivery_pb2_grpc as rpc
from schemas.updates import Role

FAMILY = "machine"
LIFE = timedelta(days=1)


def candidate(number: int = 1, *, model: bytes | None = None, golden: bytes | None = None) -> BundleFiles:
    """A machine model of major ``number``: the factory's graph unless another is given."""
    factory = open_bundle(BUNDLES / FAMILY)
    training = factory.manifest.training.model_copy(update={"seed": number})
    manifest = factory.manifest.model_copy(update={"training": training})
    return build_bundle(manifest, model or factory.model, golden or factory.golden, number)


class ModelPublisher:
    """What trainer, gate, engine and guard do together: sign a bundle, instruct a group."""

    def __init__(self, settings: ModelSettings, group: str = "default") -> None:
        self.settings = settings
        self.group = group
        ceremony.init(settings, [FAMILY], {group: EVERYBODY})
        self.repo = ceremony.open_repository(settings)
        self.online = OnlineSigner.load(settings)
        self.seq = 0

    def sign(self, bundle: BundleFiles, hardware: tuple[str, ...] = (), data: bytes | None = None) -> Release:
        """Have both keys of the family sign a bundle, and publish it."""
        version = bundle.manifest.version
        data = data or pack(bundle.files)
        custom = TargetCustom(family=FAMILY, version=version, hardware=hardware, opset=bundle.manifest.opset)
        role = model_role(FAMILY)
        propose_model(self.repo, load_online_key(self.settings.keys / "trainer", role), data, custom)
        record = _sha256(data)
        countersign_model(self.repo, load_online_key(self.settings.keys / "gate", role), record, custom)
        publish_model(self.repo, FAMILY, self.online)
        return Release(version=version, sha256=record)

    def instruct(
        self,
        target: Release,
        *,
        ring: str = "canary",
        cohort: SaltedShare = EVERYBODY,
        reason: str = "normal",
    ) -> ChannelDocument:
        """Publish a channel document that has the cohort run ``target``, and hint to the watchers."""
        self.seq += 1
        now = datetime.now(UTC)
        channel = ChannelDocument(
            group=self.group,
            ring=ring,
            seq=self.seq,
            rollout_id=f"r-{self.seq}",
            target={FAMILY: target},
            baseline={FAMILY: self.factory},
            cohort=cohort,
            reason=reason,
            issued=now,
            expires=now + timedelta(days=7),
        )
        keys = self.settings.keys
        if ring == "canary":
            publish_canary(self.repo, channel, load_online_key(keys / "engine", CANARY_ROLE), self.online)
        else:
            propose_broad(self.repo, channel, load_online_key(keys / "engine", BROAD_ROLE))
            countersign_broad(self.repo, channel, load_online_key(keys / "guard", BROAD_ROLE))
            publish_broad(self.repo, self.group, self.online)
        self.hint()
        return channel

    @property
    def factory(self) -> Release:
        return Release(version=open_bundle(BUNDLES / FAMILY).manifest.version)

    def hint(self) -> None:
        """Hint to the watchers; a real service notices by itself."""


class _RequestKeeper(grpc.ServerInterceptor):
    """Keeps every request: method, its bytes as they came, and what they are."""

    def __init__(self, kept: list[tuple[str, bytes, Message]]) -> None:
        self._kept = kept

    def intercept_service(self, continuation, details):
        handler = continuation(details)
        if handler is None:
            return None

        def read(data: bytes) -> Message:
            request = handler.request_deserializer(data)
            self._kept.append((details.method.rpartition("/")[2], data, request))
            return request

        return handler._replace(request_deserializer=read)


class UpdateService(ModelPublisher, rpc.EnrollmentServicer, rpc.ModelDeliveryServicer):
    """Context manager. Attributes below are faults to switch on."""

    def __init__(self, folder: Path, group: str = "default") -> None:
        super().__init__(ModelSettings(root=folder / "model", lake_root=folder / "lake"), group)
        init_pki(self.settings)
        self.authority = Authority.load(self.settings)
        self._numbers = count()
        self.tokens: dict[str, str] = {}
        self._spent: dict[str, tuple[str, bytes]] = {}
        self.revoked: set[str] = set()
        self.reports: dict[str, list[pb.ReportRequest]] = defaultdict(list)
        self.offsets: list[int] = []
        self.checked_at_s: list[float] = []
        self.calls: Counter[str] = Counter()  # by method, those it refused too
        self.requests: list[tuple[str, bytes, Message]] = []
        self.enrolled: list[str] = []
        self.permits: list[bytes] = []  # signed, for whoever asks
        self.outcomes: list[pb.PermitOutcome] = []
        self.renewed: list[str] = []
        self.certificate_life = LIFE
        self.chunk_bytes = 64 * 1024
        # Faults.
        self.down = False
        self.unknown: set[str] = set()
        self.false_hints: Iterator[int] = iter(())
        self.hints_at_once = True
        self.refuses_reports: grpc.StatusCode | None = None
        self.refusal_details = b""
        self.certificate_filter = lambda pem: pem
        self.artifact_filter = lambda data: data
        self.reply_filter = lambda metadata, documents: (metadata, documents)
        self.chunk_pause_s = 0.0
        self.break_after: int | None = None
        self._watchers: set[queue.SimpleQueue] = set()
        self._server: grpc.Server | None = None
        self.enrollment = self.delivery = ""

    def __enter__(self) -> UpdateService:
        self._server = grpc.server(
            futures.ThreadPoolExecutor(64), interceptors=[_RequestKeeper(self.requests)]
        )
        rpc.add_EnrollmentServicer_to_server(self, self._server)
        rpc.add_ModelDeliveryServicer_to_server(self, self._server)
        key, certificate = (path.read_bytes() for path in self.server_files())
        ca = self._ca_pem()
        open_door = grpc.ssl_server_credentials([(key, certificate)])
        closed_door = grpc.ssl_server_credentials([(key, certificate)], ca, require_client_auth=True)
        self.enrollment = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', open_door)}"
        self.delivery = f"127.0.0.1:{self._server.add_secure_port('127.0.0.1:0', closed_door)}"
        self._server.start()
        return self

    def __exit__(self, *_) -> None:
        for watcher in list(self._watchers):
            watcher.put(None)
        self._server.stop(0).wait()

    def server_files(self) -> tuple[Path, Path]:
        """Key and certificate that it shows."""
        paths = server_paths(self.settings)
        key = next(p for p in paths if b"PRIVATE KEY" in p.read_bytes())
        return key, next(p for p in paths if p != key)

    def _ca_pem(self) -> bytes:
        return self.authority.certificate.public_bytes(serialization.Encoding.PEM)

    # What people and processes of the cloud side do.

    def let_tokens_lapse(self) -> None:
        """End the life of all tokens, used or not."""
        self.tokens.clear()
        self._spent.clear()

    def join(self, folder: Path, device_id: str, hardware: str = "sim") -> JoinBundle:
        """A join bundle, written to the join folder."""
        token = f"token-{device_id}-{next(self._numbers)}"
        self.tokens[token] = device_id
        bundle = JoinBundle(
            device_id=device_id,
            token=token,
            enrollment=self.enrollment,
            delivery=self.delivery,
            ca_pem=self._ca_pem().decode(),
            root_json=self.repo.root().decode(),
            group=self.group,
            hardware=hardware,
            families=(FAMILY,),
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{device_id}.json").write_text(bundle.model_dump_json())
        return bundle

    def hint(self) -> None:
        """Hint to every watcher."""
        for watcher in list(self._watchers):
            watcher.put(self.repo.versions()["timestamp"])

    # What devices ask.

    def Enroll(self, request, context):  # noqa: N802
        self._check(context, "Enroll")
        csr = x509.load_pem_x509_csr(request.csr_pem)
        spent_by = (request.device_id, public_der(csr.public_key()))
        # As the real service: a device whose power went before it kept its certificate asks again.
        if self._spent.get(request.token) != spent_by:
            if self.tokens.pop(request.token, None) != request.device_id:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token is used up or another's")
            self._spent[request.token] = spent_by
        self.enrolled.append(request.device_id)
        return self._issued(csr)

    def Renew(self, request, context):  # noqa: N802
        self._check(context, "Renew")
        if not issued_by(x509.load_pem_x509_certificate(request.certificate_pem), self.authority.certificate):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "another authority's certificate")
        csr = x509.load_pem_x509_csr(request.csr_pem)
        name = csr.subject.rfc4514_string().removeprefix("CN=")
        if name in self.revoked:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{name} is revoked")
        self.renewed.append(name)
        return self._issued(csr)

    def Watch(self, request, context):  # noqa: N802
        self._check(context, "Watch")
        mine: queue.SimpleQueue = queue.SimpleQueue()
        self._watchers.add(mine)
        context.add_callback(lambda: mine.put(None))
        try:
            for version in self.false_hints:
                yield pb.Hint(timestamp_version=version)
            if self.hints_at_once:
                yield pb.Hint(timestamp_version=self.repo.versions()["timestamp"])
            while (version := mine.get()) is not None:
                yield pb.Hint(timestamp_version=version)
        finally:
            self._watchers.discard(mine)

    def FetchMetadata(self, request, context):  # noqa: N802
        self._check(context, "FetchMetadata")
        if request.device_id in self.unknown:
            context.abort(grpc.StatusCode.UNAVAILABLE, "as if its certificate had expired")
        self.checked_at_s.append(time.monotonic())
        reply = self.repo.reply(dict(request.versions), dict(request.documents), self.group)
        metadata, documents = self.reply_filter(list(reply.metadata), list(reply.documents))
        return pb.FetchMetadataResponse(
            metadata=[pb.File(name=n, data=d) for n, d in metadata],
            documents=[pb.File(name=n, data=d) for n, d in documents],
            server_time_ms=_now_ms(),
        )

    def FetchArtifact(self, request, context):  # noqa: N802
        self._check(context, "FetchArtifact")
        self.offsets.append(request.offset)
        path = self.repo.artifact(request.sha256)
        if path is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such artifact")
        data, sent = self.artifact_filter(path.read_bytes()), 0
        for offset in range(request.offset, len(data), self.chunk_bytes):
            if self.break_after is not None and sent >= self.break_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the line broke")
            chunk = data[offset : offset + self.chunk_bytes]
            yield pb.ArtifactChunk(offset=offset, data=chunk)
            sent += len(chunk)
            until = time.monotonic() + self.chunk_pause_s
            while (left := until - time.monotonic()) > 0 and context.is_active():
                threading.Event().wait(min(left, 0.05))

    def Report(self, request, context):  # noqa: N802
        self._check(context, "Report")
        if self.refuses_reports is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self.refusal_details),))
            context.abort(self.refuses_reports, "ordered to take none")
        known = self.reports[request.device_id]
        if request.report_no not in {r.report_no for r in known}:
            known.append(request)
        return pb.ReportResponse(server_time_ms=_now_ms())

    def FetchPermits(self, request, context):  # noqa: N802
        self._check(context, "FetchPermits")
        self.outcomes += request.outcomes
        found = [SignedPermit.from_bytes(data) for data in self.permits]
        handed = [pb.HandedPermit(permit_id=s.permit.permit_id, signed=s.to_bytes()) for s in found]
        return pb.FetchPermitsResponse(permits=handed, server_time_ms=_now_ms())

    def ClaimPermit(self, request, context):  # noqa: N802
        self._check(context, "ClaimPermit")
        return pb.ClaimPermitResponse(granted=True, server_time_ms=_now_ms())

    def results(self, device_id: str) -> list[str]:
        """Results that the device reported, in order."""
        return [r.result for r in self.reports[device_id] if r.result]

    def attacks(self, device_id: str) -> list[str]:
        """Attacks that the device reported, in order."""
        return [r.attack for r in self.reports[device_id] if r.attack]

    def _check(self, context, method: str) -> None:
        self.calls[method] += 1
        if self.down:
            context.abort(grpc.StatusCode.UNAVAILABLE, "ordered away")

    def _issued(self, csr: x509.CertificateSigningRequest) -> pb.EnrollResponse:
        name = csr.subject.rfc4514_string().removeprefix("CN=")
        now = datetime.now(UTC)
        certificate = self.authority.certify_client(
            name, [Role.DEVICE], csr.public_key(), now, self.certificate_life
        )
        pem = self.certificate_filter(certificate.public_bytes(serialization.Encoding.PEM))
        return pb.EnrollResponse(certificate_pem=pem, ca_pem=self._ca_pem(), server_time_ms=_now_ms())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _now_ms() -> int:
    return round(time.time() * 1e3)
